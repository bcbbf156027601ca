"""Processes that end, or start another program, while they are read.

The reader is watched, not timed: once it has the memory of the process open, the
process gets the word to change. The answer is whole or an error, however much was read by then.
"""

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from harness import ROOT
from harness.debuggers import DOOR, Answer, environment, gdb, shell

Json = dict[str, Any]

#: Of the fixture: reading this much takes long enough to be in the middle of it.
_MIB = "128"
_PAGES = 128 * 256
_NEEDLE = "the needle of a page"
_TRIES = 4
_MOST_TRIES = 60
_GONE = (
    *("ended", "has started another program", "is about to start a program"),
    *("does not exist", "has no memory of its own"),
)


def opens(reader: "subprocess.Popen[bytes]", pid: int, works: Callable[[Any], bool]) -> None:
    """Wait until READER has the memory of PID open and WORKS, or has ended."""
    wanted = f"/proc/{pid}/mem"
    while reader.poll() is None:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{reader.pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if str(link.readlink()) == wanted and works(reader):
                        return


def at_once(_reader: "subprocess.Popen[bytes]") -> bool:
    return True


def in_the_search(reader: "subprocess.Popen[bytes]") -> bool:
    """Whether READER has threads that search."""
    return len(list(Path(f"/proc/{reader.pid}/task").iterdir())) > 2


def asked(
    words: tuple[str, ...],
    pid: int,
    change: Callable[[], None],
    works: Callable[[Any], bool] = at_once,
) -> Answer:
    """Return what the shell's door answers to WORDS on a process that has CHANGE meanwhile.

    :param works: whether the reader has come as far as CHANGE is to meet it.
    """
    reader = subprocess.Popen(
        [str(DOOR), words[0], str(pid), *words[1:]],
        cwd=str(ROOT),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        opens(reader, pid, works)
        change()
        out, err = reader.communicate(timeout=60)
    finally:
        reader.kill()
        reader.wait()
    return Answer(out.decode(), err.decode(), reader.returncode)


def whole_find(answer: Json) -> bool:
    # Else it is of the program that was started, which may not have written its own yet.
    return bool(answer["count"] >= _PAGES or 1 << 16 <= answer["searched"] < 128 << 20)


def whole_strings(answer: Json) -> bool:
    found = any(row["text"] == _NEEDLE and row["count"] >= _PAGES for row in answer["strings"])
    return found or 1 << 12 <= answer["searched"] < 128 << 20


def whole_regions(answer: Json) -> bool:
    names = {region["name"].rpartition("/")[2] for region in answer["regions"]}
    return {"[stack]", "changes"} <= names


def whole_overview(answer: Json) -> bool:
    return bool(answer["writable"] >= 1 << 16)


def whole_heap(answer: Json) -> bool:
    return bool(answer["total"]["in_use"]["blocks"] > 1000 and not answer["damages"])


def whole_blocks(answer: Json) -> bool:
    return bool(answer["count"] > 1000)


def whole_check(answer: Json) -> bool:
    summary = answer["summary"]
    return sum(summary[name]["blocks"] or 0 for name in summary) > 1000


#: What is asked, and when the answer is whole.
_ASKED: dict[str, tuple[tuple[str, ...], Callable[[Json], bool]]] = {
    "find": (("find", _NEEDLE, "-limit", "5"), whole_find),
    "find-all": (("find", _NEEDLE, "-limit", "unlimited"), whole_find),
    "strings": (("strings", "-in", "anon"), whole_strings),
    "regions": (("regions",), whole_regions),
    "overview": (("overview",), whole_overview),
    "heap": (("heap",), whole_heap),
    "blocks": (("blocks",), whole_blocks),
    "check": (("check",), whole_check),
}


def hold_to(name: str, answer: Answer) -> bool:
    """Hold ANSWER to being whole or an error; return whether it is an error."""
    if answer.status == 0:
        assert _ASKED[name][1](answer.json()), answer.stdout[:2000]
        return False
    assert answer.status == 1, (answer.status, answer.stderr)
    assert any(text in answer.error for text in _GONE), answer.error
    return True


@pytest.mark.parametrize("change", ["exits", "execs", "sharing"])
@pytest.mark.parametrize("name", ["find", "find-all", "strings", "regions", "overview"])
def test_a_process_that_changes_when_it_is_opened_gives_a_whole_answer_or_an_error(
    start: Any, name: str, change: str
) -> None:
    for _ in range(_TRIES):
        program = start("changes", change, _MIB)
        answer = asked((*_ASKED[name][0], "-json"), program.pid, program.press_key)
        hold_to(name, answer)
        program.end()


@pytest.mark.parametrize("change", ["exits", "execs", "sharing"])
@pytest.mark.parametrize("name", ["find", "find-all", "strings"])
def test_a_process_that_changes_while_it_is_searched_gives_a_whole_answer_or_an_error(
    start: Any, name: str, change: str
) -> None:
    tries, errors = 0, 0
    # A search that is over before the process changes is met too late.
    while tries < _TRIES or (errors == 0 and tries < _MOST_TRIES):
        program = start("changes", change, _MIB)
        words = (*_ASKED[name][0], "-json")
        answer = asked(words, program.pid, program.press_key, in_the_search)
        errors += hold_to(name, answer)
        program.end()
        tries += 1
    assert errors > 0


@pytest.mark.parametrize("name", sorted(_ASKED))
def test_a_process_that_is_killed_while_it_is_read_or_held_gives_a_whole_answer_or_an_error(
    start: Any, name: str
) -> None:
    for _ in range(_TRIES):
        program = start("changes", "waits", _MIB)
        answer = asked(
            (*_ASKED[name][0], "-stop", "-json") if name == "find" else (*_ASKED[name][0], "-json"),
            program.pid,
            lambda program=program: program.signal(signal.SIGKILL),  # type: ignore[misc]
        )
        hold_to(name, answer)
        program.end()


@pytest.mark.parametrize("change", ["exits", "execs"])
def test_the_bytes_of_a_process_that_changes_are_written_whole_or_not_at_all(
    start: Any, tmp_path: Path, change: str
) -> None:
    for number in range(_TRIES):
        program = start("changes", change, _MIB)
        regions = shell("regions", program.pid, "-in", "anon", "-json").json()["regions"]
        large = max(regions, key=lambda region: int(region["size"]))
        out = tmp_path / f"out.{number}"
        words = ("dump", large["start"], f"+{large['size']}", "-out", str(out), "-json")
        answer = asked(words, program.pid, program.press_key)
        program.end()
        if answer.status == 0:
            assert out.read_bytes().count(_NEEDLE.encode()) == _PAGES
        else:
            assert answer.status == 1
            assert not out.exists()


@pytest.mark.parametrize("change", ["exits", "execs"])
def test_a_snapshot_of_a_process_that_changes_is_whole_or_not_there(
    start: Any, tmp_path: Path, change: str
) -> None:
    for number in range(_TRIES):
        program = start("changes", change, _MIB)
        out = tmp_path / f"out.{number}"
        answer = asked(("snapshot", str(out), "-json"), program.pid, program.press_key)
        program.end()
        assert answer.status in (0, 1)
        assert out.exists() == (answer.status == 0)
        if out.exists():
            assert whole_regions(shell("regions", out, "-json").json())


def test_a_comparison_with_a_process_that_changes_is_whole_or_an_error(
    start: Any, tmp_path: Path
) -> None:
    for number in range(_TRIES):
        program = start("changes", "execs", _MIB)
        before = tmp_path / f"before.{number}"
        assert shell("snapshot", program.pid, before).status == 0
        reader = asked(("diff-region", str(program.pid), "-json"), program.pid, lambda: None)
        assert json.loads(reader.stdout)["growth"] == 0
        answer = asked(("diff-region", str(before), "-json"), program.pid, program.press_key)
        program.end()
        assert answer.status == 0 or any(text in answer.error for text in _GONE)


def test_a_program_that_starts_itself_again_and_again_is_read_as_one_of_them_or_not_at_all(
    start: Any,
) -> None:
    program = start("changes", "loops", "1")
    program.press_key()
    for _ in range(20):
        answer = shell("regions", program.pid, "-json")
        if answer.status == 0:
            assert whole_regions(answer.json())
        else:
            assert answer.status == 1
            assert any(text in answer.error for text in _GONE)


class TestInGdb:
    """gdb with threads that run."""

    MOVING = "threads are running and change the heap while it is read: interrupt -a first"

    @pytest.fixture
    def pid(self, start: Any) -> int:
        pid: int = start("threads").pid
        return pid

    def with_one_running(self, pid: int, *commands: str, end: Optional[str] = None) -> Answer:
        return gdb(
            "set non-stop on",
            f"attach {pid}",
            "continue &",
            *commands,
            end or "interrupt -a",
            "detach",
        )

    @pytest.mark.parametrize(
        "command",
        ["heap", "blocks", "check", "refs $sp", "find x -state used", "find x -verdict"],
    )
    def test_a_command_that_reads_the_heap_says_to_interrupt_and_stops_there(
        self, pid: int, command: str
    ) -> None:
        answer = self.with_one_running(pid, f"leak-{command.replace('$sp', '0x1000')}")
        assert answer.error == f"leak-{command.split()[0]}: {self.MOVING}"

    def test_other_commands_go_on_with_a_note(self, pid: int) -> None:
        answers = self.with_one_running(
            pid, "leak-regions -json", "leak-find ELF -json", "leak-strings -json", "leak -json"
        ).all_json()
        assert len(answers) == 4
        for answer in answers:
            assert any("threads are running" in note for note in answer["notes"])

    def test_whatis_tells_the_region_and_why_there_is_no_block(self, pid: int) -> None:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        heap = next(line.split("-")[0] for line in maps if line.endswith("[heap]"))
        answer = self.with_one_running(pid, f"leak-whatis 0x{heap} -json").json()
        assert answer["region"]["kind"] == "heap"
        assert answer["block"] is None
        assert answer["verdict"] is None
        assert any("no block and no verdict" in note for note in answer["notes"])

    def test_a_process_that_was_killed_under_gdb_is_an_error(self, start: Any) -> None:
        program = start("changes", "waits", "1")
        answer = gdb(
            f"attach {program.pid}",
            "leak-find needle -json",
            f"shell kill -KILL {program.pid}; until grep -q '^State:.Z' /proc/{program.pid}/status;"
            " do sleep 0.01; done",
            "leak-find needle -json",
        )
        assert answer.json()["count"] > 0
        assert any(text in answer.error for text in _GONE)


def test_a_process_that_ended_and_was_not_waited_for_is_an_error(start: Any) -> None:
    program = start("changes", "exits", "1")
    program.press_key()
    until = time.monotonic() + 60
    while ") Z" not in Path(f"/proc/{program.pid}/stat").read_text():
        assert time.monotonic() < until
    for command in (
        ("find", "x"),
        ("regions",),
        ("heap",),
        ("check",),
        ("snapshot",),
        ("overview",),
    ):
        answer = shell(command[0], program.pid, *command[1:])
        assert answer.status == 1
        assert any(text in answer.error for text in _GONE)
