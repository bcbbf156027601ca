"""Ctrl-C in a real terminal, while a gigabyte is searched, or a large heap is judged."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from harness import cores
from harness.debuggers import DOOR, environment, gdb_line
from harness.processes import Program, compile_fixture, wait_until_it_sleeps
from harness.terminal import PROMPT, Terminal

GIB = 1 << 30
#: 0.2 s is the goal on a quiet machine. What others had of the processors meanwhile is not counted.
MOST_SECONDS = 1.0
#: Every byte begins a candidate: about two seconds a GiB.
SLOW = ("-regex", r"[^a](\x00|b){3,60}c")
#: One that counts far: seconds for each MiB.
SLOWEST = ("-regex", r"\x00{2000}c")
#: The search has begun when gdb has used this much processor time.
BEGUN = 0.5
#: Looking through a GiB for a heap takes about 0.6 s of it.
WITHIN_HEAP = 0.15
#: Opening a core of four million segments takes about 3 s of it.
WITHIN_OPENING = 0.3
#: Writing a GiB takes about 0.6 s of it.
WITHIN_DUMP = 0.25
#: A check of half a GiB takes about 0.9 s of it: reading the heap, pointers, tracing, records.
WITHIN_CHECK = (0.05, 0.15, 0.25, 0.35)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Have a core of a GiB, nearly all zeros, none of them in a hole: holes take no time."""
    made = cores.full_core(tmp_path_factory.mktemp("full") / "core", GIB)
    yield made
    made.unlink()


@pytest.fixture
def open_terminal() -> Iterator[Callable[[list[str]], Terminal]]:
    opened: list[Terminal] = []

    def begin(line: list[str]) -> Terminal:
        opened.append(Terminal(line, environment(TERM="xterm")))
        return opened[-1]

    yield begin
    for terminal in opened:
        terminal.end()


def interrupted_after(
    terminal: Terminal, awaited: Callable[[], object], used: float = BEGUN
) -> float:
    """Press Ctrl-C once the search has begun, by time USED; return the seconds until AWAITED.

    Without those in which its threads were ready and had no processor.
    """
    begun = terminal.used_seconds() + used
    until = time.monotonic() + 30
    while terminal.used_seconds() < begun:
        assert time.monotonic() < until, "the search did not begin"
        time.sleep(0.01)
    pressed, waited = time.monotonic(), terminal.waited_seconds()
    terminal.interrupt()
    awaited()
    seconds = time.monotonic() - pressed
    return max(seconds - (terminal.waited_seconds() - waited), 0)


# Before that Python itself starts, which a key ends by the signal.
def wait_until_held(pid: int) -> None:
    until = time.monotonic() + 30
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < until, f"process {pid} is not held"
        time.sleep(0.001)


def quit_and_prompt(terminal: Terminal) -> None:
    said = terminal.read_until("Quit") + terminal.read_until(PROMPT)
    assert "Traceback" not in said


def test_ctrl_c_in_gdb_brings_the_prompt_back_and_the_next_command_works(
    core: Path, open_terminal: Callable[[list[str]], Terminal]
) -> None:
    terminal = open_terminal(gdb_line((), core=core, batch=False))
    terminal.read_until(PROMPT)
    terminal.type(f"leak-find {' '.join(SLOW)}\n")
    seconds = interrupted_after(terminal, lambda: quit_and_prompt(terminal))
    print(f"prompt back after {seconds:.3f} s")  # noqa: T201 the figure is the point
    assert seconds < MOST_SECONDS
    answer = terminal.command("leak-find -in 0x1000000000,0x1000001000 -u64 0 -limit 1")
    assert "4088 matches" in answer


def test_ctrl_c_ends_the_search_for_a_heap(
    core: Path, open_terminal: Callable[[list[str]], Terminal]
) -> None:
    # Of a core that names no files all memory is looked through for arenas.
    terminal = open_terminal(gdb_line((), core=core, batch=False))
    terminal.read_until(PROMPT)
    terminal.type("leak-heap\n")
    seconds = interrupted_after(terminal, lambda: quit_and_prompt(terminal), WITHIN_HEAP)
    print(f"prompt back after {seconds:.3f} s")  # noqa: T201
    assert seconds < MOST_SECONDS
    # What was interrupted is not kept as an answer.
    terminal.type("leak-heap\n")
    interrupted_after(terminal, lambda: quit_and_prompt(terminal), WITHIN_HEAP)


def test_ctrl_c_can_be_pressed_again_and_again(
    core: Path, open_terminal: Callable[[list[str]], Terminal]
) -> None:
    terminal = open_terminal(gdb_line((), core=core, batch=False))
    terminal.read_until(PROMPT)
    for _ in range(3):
        terminal.type(f"leak-find {' '.join(SLOW)}\n")
        interrupted_after(terminal, lambda: quit_and_prompt(terminal))
    assert "0 matches" in terminal.command('leak-find -in 0x1000000000,+4096 "leaked"')


def test_ctrl_c_in_a_shell_ends_with_status_130(
    core: Path, open_terminal: Callable[[list[str]], Terminal]
) -> None:
    terminal = open_terminal([str(DOOR), "find", str(core), *SLOW])
    statuses: list[int] = []
    seconds = interrupted_after(terminal, lambda: statuses.append(terminal.wait()))
    print(f"ended after {seconds:.3f} s")  # noqa: T201
    assert statuses == [130]
    assert seconds < MOST_SECONDS
    assert "Traceback" not in terminal.said


def test_ctrl_c_ends_the_opening_of_a_core(
    open_terminal: Callable[[list[str]], Terminal], tmp_path: Path
) -> None:
    many = cores.core_of_segments(tmp_path / "core", 4_000_000)
    terminal = open_terminal([str(DOOR), "dump", str(many), "0x1000000000", "-json"])
    seconds = interrupted_after(terminal, terminal.wait, WITHIN_OPENING)
    many.unlink()
    print(f"ended after {seconds:.3f} s")  # noqa: T201
    assert terminal.wait() == 130
    assert seconds < MOST_SECONDS
    assert "Traceback" not in terminal.said


def test_an_interrupted_dump_leaves_no_file(
    core: Path, open_terminal: Callable[[list[str]], Terminal], tmp_path: Path
) -> None:
    line = [str(DOOR), "dump", str(core), "0x1000000000", f"+{GIB}", "-out"]
    terminal = open_terminal([*line, str(tmp_path / "out")])
    # The file has no name until it is whole.
    interrupted_after(terminal, terminal.wait, WITHIN_DUMP)
    assert terminal.wait() == 130
    assert list(tmp_path.iterdir()) == []


def test_progress_is_shown_in_a_terminal(
    core: Path, open_terminal: Callable[[list[str]], Terminal]
) -> None:
    terminal = open_terminal([str(DOOR), "find", str(core), *SLOWEST])
    terminal.read_until("searching")
    terminal.interrupt()
    assert terminal.wait() == 130


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Have a process with four million blocks, which knows what it lost of them."""
    folder = tmp_path_factory.mktemp("graph")
    program = Program(compile_fixture("graph_big", folder / "graph_big", "-O2"), "0.5")
    try:
        program.wait_for("READY")
        yield program
    finally:
        program.end()


def counted(program: Program, name: str) -> int:
    """Return what the program printed as NAME."""
    (line,) = [line for line in program.lines if line.startswith(name)]
    return int(line.split()[1])


def lost_in(text: str) -> tuple[int, int]:
    """Return how many blocks TEXT has as definitely, and as indirectly lost."""
    found = re.findall(r"(?:definitely|indirectly) lost: +[\d,]+ bytes +in +([\d,]+) block", text)
    definitely, indirectly = (int(count.replace(",", "")) for count in found)
    return definitely, indirectly


def test_ctrl_c_ends_a_check_wherever_it_is_and_the_next_one_is_right(
    graph: Program, open_terminal: Callable[[list[str]], Terminal]
) -> None:
    line = gdb_line(("set pagination off",), pid=graph.pid, batch=False)
    terminal = open_terminal(line)
    terminal.read_until(PROMPT)
    for used in WITHIN_CHECK:
        terminal.type("leak-check -top 1\n")
        seconds = interrupted_after(terminal, lambda: quit_and_prompt(terminal), used)
        print(f"prompt back after {seconds:.3f} s")  # noqa: T201
        assert seconds < MOST_SECONDS
        # What was read of the heap by then is dropped, for the next round to begin anew.
        terminal.command("set var *(char *)$sp = *(char *)$sp")
    leaders, lost = counted(graph, "leaders"), counted(graph, "lost")
    assert lost_in(terminal.command("leak-check -top 1")) == (leaders, lost - leaders)
    terminal.command("detach")
    assert graph.alive()


def test_ctrl_c_while_a_shell_holds_a_process_lets_it_run_on(
    graph: Program, open_terminal: Callable[[list[str]], Terminal]
) -> None:
    for used in WITHIN_CHECK:
        terminal = open_terminal([str(DOOR), "check", str(graph.pid)])
        wait_until_held(graph.pid)
        seconds = interrupted_after(terminal, terminal.wait, used)
        print(f"ended after {seconds:.3f} s")  # noqa: T201
        assert terminal.wait() == 130
        assert seconds < MOST_SECONDS
        wait_until_it_sleeps(graph.pid)
        assert graph.alive()
        assert "TracerPid:\t0\n" in Path(f"/proc/{graph.pid}/status").read_text()
