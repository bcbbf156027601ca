"""``gdb-leak run``: the program runs as it would alone, and is judged where it ends."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

import pytest
from harness.debuggers import DOOR, Answer, environment, shell
from harness.terminal import Terminal

#: What lose() in the fixture loses, and its usable bytes.
LOST = {"blocks": 10, "bytes": 1000}


def run(*words: Union[str, int, Path], **options: Any) -> Answer:
    return shell("run", *words, **options)


def reports(answer: Answer) -> list[dict[str, Any]]:
    lines = answer.stderr.splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"schema"')]


def report(answer: Answer) -> dict[str, Any]:
    (found,) = reports(answer)
    return found


def wait_until(happened: Any, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def waiting(runs: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run a program that waits for a signal; with its process."""
    with subprocess.Popen(
        [str(DOOR), "run", "-json", "--", str(runs), "wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as door:
        assert door.stdout is not None
        assert door.stdout.readline() == "READY\n"
        children = Path(f"/proc/{door.pid}/task/{door.pid}/children").read_text().split()
        yield door, int(children[0])
        door.kill()


@pytest.mark.parametrize("status", [0, 3, 255])
def test_the_status_is_the_programs(runs: Path, status: int) -> None:
    answer = run("-json", "--", runs, "status", status)
    assert answer.status == status
    found = report(answer)
    assert found["schema"] == "gdb-leak/check/1"
    assert found["end"] == {"status": status, "signal": None}
    assert found["summary"]["definitely_lost"] == LOST


def test_words_after_the_program_are_its_own(runs: Path) -> None:
    answer = run(runs, "arguments", "-json", "--", "-x", "--help")
    assert answer.stdout == "arguments\n-json\n--\n-x\n--help\n"
    assert not reports(answer)


def test_the_report_is_text_on_standard_error_after_a_line_on_the_process(runs: Path) -> None:
    answer = run(runs, "arguments", "a")
    assert answer.stdout == "arguments\na\n"
    assert re.search(r"^== \d+: .*/runs arguments a ends with status 0$", answer.stderr, re.M)
    assert re.search(r"^definitely lost: +1,000 bytes +in 10 blocks$", answer.stderr, re.M)


def test_the_report_begins_a_line_of_its_own(runs: Path, tmp_path: Path) -> None:
    piped = run("-json", runs, "half-line")
    assert piped.stderr.startswith("no end\n")
    assert report(piped)["summary"]["definitely_lost"] == LOST
    with (tmp_path / "err").open("wb") as out:
        subprocess.run([str(DOOR), "run", "-json", str(runs), "half-line"], stderr=out, check=True)
        subprocess.run([str(DOOR), "run", "-json", str(runs)], stderr=out, check=True)
    first, second, third = (tmp_path / "err").read_text().splitlines()
    assert first == "no end"
    assert json.loads(second)["command"] == json.loads(third)["command"] == "check"


@pytest.mark.parametrize(
    ("words", "status"), [(("status", "3"), 9), (("raise", "15"), 9), (("arguments",), 9)]
)
def test_error_exitcode_comes_first_where_something_is_lost(
    runs: Path, words: tuple[str, ...], status: int
) -> None:
    assert run("-error-exitcode", 9, "--", runs, *words).status == status


def test_error_exitcode_leaves_the_status_where_nothing_is_lost() -> None:
    assert run("-error-exitcode", 9, "sh", "-c", "exit 3").status == 3


def test_options_of_the_check_are_taken(runs: Path) -> None:
    found = report(run("-show", "all", "-top", 1, "-json", runs, "threads", 0))
    assert len(found["records"]) == 1
    assert "blocks" not in found


def test_a_log_file_gets_the_report_and_standard_error_does_not(runs: Path, tmp_path: Path) -> None:
    log = tmp_path / "a log.%p %%"
    answer = run("-json", "-log-file", log, runs, "status", 4)
    assert (answer.status, answer.stderr) == (4, "")
    (written,) = tmp_path.iterdir()
    found = json.loads(written.read_text())
    assert written.name == f"a log.{found['target']['pid']} %"
    assert found["summary"]["definitely_lost"] == LOST


@pytest.mark.parametrize("log", ["no/such/log", "."])
def test_a_log_file_that_cannot_be_written_is_said_before_the_program_runs(
    runs: Path, tmp_path: Path, log: str
) -> None:
    answer = run("-log-file", log, runs, "arguments", cwd=tmp_path)
    assert (answer.status, answer.stdout) == (1, "")
    assert answer.error.startswith(f"gdb-leak: run: -log-file {log}: ")


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (("crash",), signal.SIGSEGV),
        (("crash-threads",), signal.SIGSEGV),
        (("raise", "6"), signal.SIGABRT),
        (("raise", "9"), signal.SIGKILL),
        (("raise", str(signal.SIGRTMIN + 6)), signal.SIGRTMIN + 6),
        (("pipe",), signal.SIGPIPE),
    ],
)
def test_a_program_that_dies_by_a_signal_is_judged_and_the_signal_is_passed_on(
    runs: Path, tmp_path: Path, words: tuple[str, ...], number: int
) -> None:
    answer = run("-json", runs, *words, cwd=tmp_path)
    assert answer.status == -number
    found = report(answer)
    assert found["end"] == {"status": None, "signal": number}
    assert found["summary"]["definitely_lost"] == LOST


def test_threads_that_are_busy_when_the_process_exits_hold_their_blocks(runs: Path) -> None:
    for _ in range(5):
        answer = run("-json", runs, "threads", 8)
        assert answer.status == 8
        found = report(answer)
        assert found["summary"]["definitely_lost"] == LOST
        # Two of 4000 bytes and three of 3000, in registers and on stacks.
        assert found["summary"]["still_reachable"] == {"blocks": 5, "bytes": 17000}


@pytest.mark.parametrize("status", [0, 9])
def test_a_process_outlives_its_main_thread_and_is_judged_once(runs: Path, status: int) -> None:
    answer = run("-json", runs, "main-first", status)
    assert answer.status == status
    assert report(answer)["summary"]["definitely_lost"] == LOST


def test_threads_that_end_alone_are_let_go(runs: Path) -> None:
    answer = run("-json", runs, "many-threads")
    assert answer.status == 0
    assert report(answer)["summary"]["definitely_lost"] == LOST


@pytest.mark.parametrize(("way", "status"), [("exec", 4), ("exec-thread", 4)])
def test_a_program_that_executes_another_one_is_followed(runs: Path, way: str, status: int) -> None:
    answer = run("-json", runs, way, status)
    assert answer.status == status
    assert report(answer)["summary"]["definitely_lost"] == LOST


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_children_are_left_alone(runs: Path, way: str) -> None:
    answer = run("-json", runs, way)
    assert (answer.stdout, answer.status) == ("child 5\n", 6)
    assert report(answer)["end"]["status"] == 6


def test_children_are_judged_where_that_is_asked_for(runs: Path) -> None:
    answer = run("-json", "-trace-children", runs, "fork")
    assert (answer.stdout, answer.status) == ("child 5\n", 6)
    child, parent = reports(answer)
    assert (child["end"]["status"], parent["end"]["status"]) == (5, 6)
    # It has what its parent lost, too.
    assert child["summary"]["definitely_lost"] == {"blocks": 20, "bytes": 2000}
    assert child["target"]["pid"] != parent["target"]["pid"]


def test_a_child_without_memory_of_its_own_is_not_judged(runs: Path) -> None:
    answer = run("-json", "-trace-children", runs, "spawn")
    assert (answer.stdout, answer.status) == ("child 5\n", 6)
    assert [found["end"]["status"] for found in reports(answer)] == [5, 6]


def test_the_recorder_is_told_about_children(runs: Path) -> None:
    line = ("sh", "-c", 'echo "$$ $GDB_LEAK_RECORD_ONLY"; env | grep -c LD_PRELOAD=; exec env')
    own, children, *after = run(*line).stdout.splitlines()
    # The shell and what it becomes are recorded, and what it starts beside is not.
    assert len(set(own.split())) == 1
    assert children == "0"
    assert any(item.startswith("LD_PRELOAD=") for item in after)
    own, children, *after = run("-trace-children", *line).stdout.splitlines()
    assert len(own.split()) == 1
    assert children == "1"


def test_a_log_file_for_children_needs_the_process_in_its_name(runs: Path) -> None:
    answer = run("-trace-children", "-log-file", "log", runs)
    assert answer.status == 2
    assert "%p" in answer.error


def test_real_time_signals_are_delivered(runs: Path) -> None:
    answer = run("-json", runs, "signals")
    assert answer.stdout == "handled 300\n"
    assert report(answer)["summary"]["definitely_lost"] == LOST


def test_a_program_can_be_stopped_and_goes_on(
    waiting: tuple["subprocess.Popen[str]", int],
) -> None:
    door, pid = waiting
    for _ in range(3):
        os.kill(pid, signal.SIGSTOP)
        # A tracee that is stopped with its group shows as traced.
        wait_until(lambda: state(pid) in "tT")
        time.sleep(0.05)
        assert state(pid) in "tT"
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: state(pid) == "S")
    os.kill(pid, signal.SIGINT)
    assert door.wait(30) == 21


def test_signals_for_gdb_leak_reach_the_program(
    waiting: tuple["subprocess.Popen[str]", int],
) -> None:
    door, _ = waiting
    door.terminate()
    assert door.wait(30) == 21
    assert door.stderr is not None
    assert '"status": 21' in door.stderr.read()


def test_a_program_goes_on_where_gdb_leak_is_killed(
    waiting: tuple["subprocess.Popen[str]", int],
) -> None:
    door, pid = waiting
    door.kill()
    door.wait(30)
    try:
        wait_until(lambda: state(pid) == "S")
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("way", "status"), [("wait", 21), ("wait-plain", -signal.SIGINT)])
def test_the_program_decides_what_ctrl_c_does(runs: Path, way: str, status: int) -> None:
    terminal = Terminal([str(DOOR), "run", "--", str(runs), way])
    try:
        terminal.read_until("READY")
        terminal.interrupt()
        terminal.read_until("definitely lost:")
        assert terminal.wait() == status
    finally:
        terminal.end()


def test_a_program_is_judged_at_a_function_and_runs_on(runs: Path) -> None:
    answer = run("-json", "-at", "start", runs, "threads", 8)
    assert answer.status == 8
    found = report(answer)
    assert found["end"] == {"status": None, "signal": None}
    # No thread was there yet.
    assert found["summary"]["definitely_lost"] == LOST
    assert found["summary"]["still_reachable"]["blocks"] == 0


def test_a_function_of_a_library_and_of_another_thread_is_waited_for(runs: Path) -> None:
    for function, words in (("exit", ("threads", "5")), ("brief", ("many-threads",))):
        answer = run("-at", function, runs, *words)
        assert answer.status == (5 if words[0] == "threads" else 0)
        assert re.search(rf"^== \d+: .* calls {function}$", answer.stderr, re.M), answer.stderr
        assert len(re.findall("^== ", answer.stderr, re.M)) == 1


def test_a_function_that_is_not_there_keeps_the_program_from_running(runs: Path) -> None:
    answer = run("-at", "nonesuch", runs, "arguments")
    assert (answer.status, answer.stdout) == (1, "")
    assert "-at nonesuch: no function of this name" in answer.error


def test_a_function_that_is_never_called_is_noted_at_the_end(runs: Path) -> None:
    answer = run("-json", "-at", "brief", runs, "status", 3)
    assert answer.status == 3
    found = report(answer)
    assert "brief was not called: this is the end of the program" in found["notes"]
    assert found["summary"]["definitely_lost"] == LOST


def test_wrong_usage_is_status_2(runs: Path) -> None:
    for words in ((), ("-at", "f", "-trace-children", runs), ("-error-exitcode", 300, runs)):
        assert run(*words).status == 2
