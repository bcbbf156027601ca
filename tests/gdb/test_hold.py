"""Holding a process from a shell: it is left as it was found."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gdb_leak import _native, manual, options
from gdb_leak.commands import CHECK, TABLE, Entry
from gdb_leak.doors.shell import ShellSession, main
from gdb_leak.render import text as as_text
from gdb_leak.render.style import Style
from gdb_leak.target import Request
from gdb_leak.words import Word
from harness.debuggers import DOOR, shell
from harness.processes import compile_fixture

BLOCKS = next(entry for entry in TABLE if entry.command.name == "blocks")
REGIONS = next(entry for entry in TABLE if entry.command.name == "regions")
_STOP = manual.options_of(REGIONS.command, from_shell=True)


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


def threads(pid: int) -> dict[str, tuple[str, str]]:
    """Return the state and the tracer of each thread of the process."""
    found = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = (folder / "status").read_text().splitlines()
            status = dict(line.split(":\t", 1) for line in lines)
            found[folder.name] = (status["State"][0], status["TracerPid"])
    return found


def wait_until_the_others_are_held(pid: int, asked: "subprocess.Popen[bytes]") -> None:
    """Return once ASKED holds all threads but the main one, which cannot be held."""
    while True:
        others = [state for name, (state, _) in threads(pid).items() if name != str(pid)]
        if others and all(state == "t" for state in others):
            return
        assert asked.poll() is None, "it ended first"


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[int]:
    """Start a process whose main thread cannot be held, and give its number."""
    program = compile_fixture("holds", tmp_path / "holds")
    with subprocess.Popen([program, "vfork"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"READY\n"
        yield process.pid
        process.kill()


def test_all_threads_are_interrupted_before_one_is_waited_for(waiting: int) -> None:
    line = [str(DOOR), "regions", str(waiting), "-stop"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as asked:
        # The main thread, which is listed first, is being waited for all the time.
        wait_until_the_others_are_held(waiting, asked)
        assert asked.stderr is not None
        assert b"did not stop within 5 s: it is in uninterruptible sleep" in asked.stderr.read()
    assert {tracer for _, tracer in threads(waiting).values()} == {"0"}


def test_an_interrupt_while_a_process_is_being_held_lets_it_go(waiting: int) -> None:
    line = [str(DOOR), "regions", str(waiting), "-stop"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as asked:
        wait_until_the_others_are_held(waiting, asked)
        asked.send_signal(signal.SIGINT)
        assert asked.wait(timeout=60) == 130
    assert {tracer for _, tracer in threads(waiting).values()} == {"0"}


def test_threads_that_are_started_while_a_process_is_being_held_are_held(start: Any) -> None:
    program = start("holds", "starts")
    for _ in range(20):
        stop = _native.stop_process(program.pid)
        held = threads(program.pid)
        stop.release()
        # One that has ended is listed until it is let go.
        running = [state for state, _ in held.values() if state not in "tZX"]
        assert not running
        let_go = [tracer for state, tracer in threads(program.pid).values() if state not in "ZX"]
        assert set(let_go) == {"0"}


def test_a_process_goes_on_before_its_snapshot_is_written(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = start("sample")
    tracers = []
    save = _native.save_snapshot

    def written(*arguments: Any) -> None:
        tracers.extend(tracer for _, tracer in threads(program.pid).values())
        save(*arguments)

    monkeypatch.setattr(_native, "save_snapshot", written)
    file = tmp_path / "one.snapshot"
    assert main(["snapshot", str(program.pid), str(file), "-json"]) == 0
    assert set(tracers) == {"0"}
    assert file.read_text().startswith("gdb-leak snapshot 1\n")


def test_a_snapshot_is_written_in_pieces_that_hold_many_regions(start: Any, tmp_path: Path) -> None:
    def writes() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("syscw")).split()[1])

    snapshot = _native.take_snapshot(_native.open_process(start("sample").pid))
    before = writes()
    _native.save_snapshot(snapshot, str(tmp_path / "one.snapshot"))
    assert writes() - before < len(snapshot.regions("all"))


@pytest.mark.parametrize("command", [CHECK, BLOCKS])
def test_a_process_goes_on_before_the_rows_of_its_list_are_made(start: Any, command: Entry) -> None:
    program = start("sample")
    taken = manual.options_of(command.command, from_shell=True)
    parsed = options.parse(taken, (), [Word("-list")])
    session = ShellSession(str(program.pid), parsed)
    try:
        result = command.answer(Request(parsed, session))
        assert not session.holds
        assert state(program.pid) not in "tT"
    finally:
        session.release()
    said = "".join(as_text.pieces(result, command.text(result), Style()))
    assert "0x" in said
    assert "stopped for" in said


#: Holds a process until a line comes, as every command does that holds one.
_HOLDS = """
import sys
from gdb_leak import manual, options
from gdb_leak.commands import TABLE
from gdb_leak.doors.shell import ShellSession
from gdb_leak.words import Word

regions = next(entry.command for entry in TABLE if entry.command.name == "regions")
taken = manual.options_of(regions, from_shell=True)
session = ShellSession(sys.argv[1], options.parse(taken, (), [Word("-stop")]))
session.target()
print("held", flush=True)
sys.stdin.readline()
session.release()
print("released", flush=True)
"""


def test_suspension_waits_until_the_process_was_let_go(start: Any) -> None:
    program = start("sample")
    child = subprocess.Popen(
        [DOOR.parent / "python", "-c", _HOLDS, str(program.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # The signals of a terminal do not stop what no shell could continue.
        preexec_fn=os.setpgrp,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "held\n"
        # Ctrl-Z, and writing to a terminal from the background (stty tostop).
        os.kill(child.pid, signal.SIGTSTP)
        os.kill(child.pid, signal.SIGTTOU)
        time.sleep(0.2)
        assert state(child.pid) not in "tT"
        assert state(program.pid) == "t"
        child.stdin.write("\n")
        child.stdin.flush()
        until = time.monotonic() + 60
        while state(child.pid) != "T":
            assert time.monotonic() < until, "it was not suspended"
        assert state(program.pid) not in "tT"
        os.kill(child.pid, signal.SIGCONT)
        assert child.stdout.readline() == "released\n"
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def test_ctrl_c_while_modules_are_loaded_is_no_traceback() -> None:
    # The import that is interrupted is the first of all.
    script = (
        "import os, signal, sys, importlib.abc\n"
        "class Interrupts(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'gdb_leak.doors':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from gdb_leak.__main__ import main\n"
        "main()\n"
    )
    python = DOOR.parent / "python"
    done = subprocess.run([python, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")
