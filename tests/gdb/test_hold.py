"""Holding a process from a shell: it is left as it was found."""

import signal
import time
from pathlib import Path
from typing import Any

from harness.debuggers import shell


def state(pid: int) -> str:
    """Return the letter of the process's state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_that_was_stopped_before_stays_stopped(start: Any) -> None:
    program = start("sample")
    program.signal(signal.SIGSTOP)
    until = time.monotonic() + 10
    while state(program.pid) != "T":
        assert time.monotonic() < until
    answer = shell("regions", program.pid, "-stop", "-json").json()
    assert any("stopped for" in note for note in answer["notes"])
    assert state(program.pid) == "T"


def test_a_process_whose_main_thread_ended_can_be_held(start: Any) -> None:
    program = start("holds", "leader")
    program.press_key()
    until = time.monotonic() + 10
    while state(program.pid) != "Z":
        assert time.monotonic() < until
    answer = shell("regions", program.pid, "-stop", "-json").json()
    assert any(note.startswith("1 thread stopped for") for note in answer["notes"])
    assert "heap" in [region["kind"] for region in answer["regions"]]


def test_a_real_time_signal_neither_keeps_a_process_from_being_held_nor_is_lost(
    start: Any,
) -> None:
    program = start("holds", "signals")
    for _ in range(20):
        answer = shell("regions", program.pid, "-stop", "-json")
        assert answer.status == 0, answer.stderr
    program.press_key()
    assert program.wait_for("LOST") == "LOST 0"
