"""A process that ends, or starts another program, at each step of those who read it.

An answer is whole, or says that the process ended: never that it does not exist, which is
for a number that no process had when it was first looked at, and never half of it.
"""

import itertools
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import soak
from harness.debuggers import Answer, gdb, shell
from harness.followed import Step, changed_at, steps
from harness.processes import compile_fixture

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="system calls are known by their numbers on x86-64"
)

Json = dict[str, Any]
#: How many times as long a long run takes (`make soak`).
SOAK = soak.TIMES
_BLOCKS = 1000
_NEEDLE = "the needle of a page"
#: Of the program as it was started, and as it starts itself anew.
_PAGES, _PAGES_AFTER = 256, 512
#: The first look at a process: before it nothing is known of it.
_FIRST = Step("openat", "", 1)


def whole_find(answer: Json) -> bool:
    # A program that has just begun has not written all of its own.
    return bool(answer["count"] in (_PAGES, _PAGES_AFTER) or answer["searched"] >= 1 << 16)


def whole_strings(answer: Json) -> bool:
    return bool(answer["searched"] >= 1 << 12)


def whole_regions(answer: Json) -> bool:
    names = {region["name"].rpartition("/")[2] for region in answer["regions"]}
    return {"[stack]", "changes"} <= names


def whole_heap(answer: Json) -> bool:
    return bool(answer["total"]["in_use"]["blocks"] >= _BLOCKS and not answer["damages"])


def whole_blocks(answer: Json) -> bool:
    return bool(answer["count"] >= _BLOCKS)


def whole_check(answer: Json) -> bool:
    return sum(kind["blocks"] or 0 for kind in answer["summary"].values()) >= _BLOCKS


def whole_snapshot(answer: Json) -> bool:
    return bool(answer["regions"] > 5) if "regions" in answer else True


def whole_comparison(answer: Json) -> bool:
    return answer["growth"] is not None


#: What is asked, and when the answer is whole.
_ASKED: dict[str, tuple[tuple[str, ...], Callable[[Json], bool]]] = {
    "find": (("find", _NEEDLE), whole_find),
    "find -stop": (("find", _NEEDLE, "-stop"), whole_find),
    "strings": (("strings", "-in", "anon"), whole_strings),
    "regions": (("regions",), whole_regions),
    "heap": (("heap",), whole_heap),
    "blocks": (("blocks",), whole_blocks),
    "check": (("check",), whole_check),
    "snapshot": (("snapshot",), whole_snapshot),
    "diff-region": (("diff-region",), whole_comparison),
}


def asked(name: str, program: Any, tmp_path: Path) -> tuple[str, ...]:
    """Return the words that ask for NAME."""
    words = _ASKED[name][0]
    if name == "snapshot":
        words = (*words, str(tmp_path / f"taken.{program.pid}"))
    if name == "diff-region":
        before = tmp_path / f"before.{program.pid}"
        before.write_text(Path(f"/proc/{program.pid}/maps").read_text())
        words = (*words, str(before))
    return (*words, "-json")


def chosen(name: str, seen: list[Step]) -> list[Step]:
    """Return the first step of each sort in SEEN; those that list threads for `find` only."""
    if SOAK > 1:
        last = {step[:2]: step for step in seen}
        return [step for step in seen if step.time <= SOAK or step == last[step[:2]]]
    small = ("lseek", "fstat")
    first = [step for step in seen if step.time == 1 and step.call not in small]
    return [step for step in first if name == "find" or not step.about.startswith("/task")]


def hold_to(name: str, answer: Answer, step: Step, *reasons: str) -> None:
    """Hold ANSWER to being whole, or to one line with one of REASONS."""
    if answer.status == 0:
        assert _ASKED[name][1](answer.json()), (step, answer.stdout[:1000])
        return
    assert answer.status == 1, (step, answer.status, answer.stderr)
    if step == _FIRST:
        reasons = (*reasons, "does not exist")
    assert any(text in answer.error for text in reasons), (step, answer.error)


def kill(program: Any) -> None:
    """Kill PROGRAM, and wait until that shows: one that is held is not reaped by its parent."""
    program.signal(signal.SIGKILL)
    until = time.monotonic() + 60
    while program.alive():
        state = Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        assert time.monotonic() < until


def leave_a_zombie(program: Any) -> None:
    """Kill PROGRAM without waiting for it."""
    program.signal(signal.SIGKILL)
    until = time.monotonic() + 60
    while Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until


def executes(program: Any) -> None:
    """Have PROGRAM start itself anew and wait; one that is held cannot before it is let go."""
    program.press_key()
    folder = Path(f"/proc/{program.pid}")
    until = time.monotonic() + 60
    while True:
        held = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "t"
        anew = b"execs" not in (folder / "cmdline").read_bytes()
        # It reads its standard input.
        if held or (anew and (folder / "syscall").read_text().startswith("0 0x0 ")):
            return
        assert time.monotonic() < until


def each_step(
    start: Any,
    tmp_path: Path,
    name: str,
    how: str,
    changes: tuple[Callable[[Any], None], ...],
    *reasons: str,
) -> Iterator[tuple[Step, Answer]]:
    """Have a program do one of CHANGES at each step of NAME; yield the answers, all held to."""
    program = start("changes", how, "1")
    answer, seen = steps(asked(name, program, tmp_path), program.pid)
    assert answer.status == 0, answer.stderr
    program.end()
    assert seen[0] == _FIRST
    all_changes = itertools.cycle(changes)
    # Twice, so that the changes take turns at a step that has few neighbours.
    for step in chosen(name, seen) * (len(changes) if SOAK > 1 else 1):
        program, change = start("changes", how, "1"), next(all_changes)
        words = asked(name, program, tmp_path)
        answer = changed_at(words, program.pid, step, lambda p=program, c=change: c(p))  # type: ignore[misc]
        program.end()
        hold_to(name, answer, step, *reasons)
        yield step, answer


@pytest.mark.parametrize("name", sorted(_ASKED))
def test_a_process_that_is_killed_at_a_step_of_its_reader_has_ended(
    start: Any, tmp_path: Path, name: str
) -> None:
    ends = (kill, leave_a_zombie)
    answers = list(each_step(start, tmp_path, name, "waits", ends, "ended"))
    errors = [step for step, answer in answers if answer.status == 1]
    # What is read last may be whole; a comparison of lists has no memory to read.
    assert len(errors) > len(answers) // 2


@pytest.mark.parametrize("name", ["find", "strings", "heap", "blocks", "check"])
def test_a_process_that_executes_at_a_step_of_its_reader_is_read_as_one_program_or_not_at_all(
    start: Any, tmp_path: Path, name: str
) -> None:
    reasons = ("has started another program", "is about to start a program")
    answers = list(each_step(start, tmp_path, name, "execs", (executes,), *reasons))
    assert any(answer.status == 0 for _, answer in answers)


@pytest.fixture(scope="module")
def reborn(
    tmp_path_factory: pytest.TempPathFactory, programs: Any
) -> Iterator[Callable[[int], Any]]:
    """Start the program with the number of one that ended."""
    helper = compile_fixture("reborn", tmp_path_factory.mktemp("reborn") / "reborn")
    started = []

    def again(pid: int) -> None:
        words = [str(helper), str(pid), str(programs["changes"]), "waits", "2"]
        made = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(made)
        assert made.stdout is not None
        line = made.stdout.readline()
        if not line:
            if made.wait() == 77:
                pytest.skip("the number of a process can be chosen by CAP_CHECKPOINT_RESTORE only")
            pytest.fail("no process with the number of one that ended")
        assert line.split() == [b"READY", str(pid).encode()]

    yield again
    for made in started:
        made.kill()
        made.wait()
        for pipe in (made.stdin, made.stdout):
            assert pipe is not None
            pipe.close()


def test_the_next_process_with_the_same_number_is_another_one(
    start: Any, tmp_path: Path, reborn: Callable[[int], None]
) -> None:
    def change(program: Any) -> None:
        program.signal(signal.SIGKILL)
        program.wait()
        reborn(program.pid)

    for step, answer in each_step(start, tmp_path, "find", "waits", (change,), "ended"):
        if answer.status == 0:
            assert answer.json()["count"] == (_PAGES_AFTER if step == _FIRST else _PAGES)
        else:
            assert step != _FIRST


def test_a_process_that_gdb_read_before_has_ended(start: Any) -> None:
    program = start("changes", "waits", "1")
    answer = gdb(
        f"attach {program.pid}",
        "leak-regions -json",
        f"shell kill -KILL {program.pid}",
        f"python import os; os.waitpid({program.pid}, 0x40000000)",
        "leak-regions -json",
    )
    assert answer.error == f"leak-regions: process {program.pid}: ended while it was read"


def test_a_process_that_ended_before_and_was_not_waited_for_has_ended(start: Any) -> None:
    program = start("changes", "waits", "1")
    leave_a_zombie(program)
    for words in (("find", "x"), ("find", "x", "-stop"), ("heap",), ("snapshot",)):
        answer = shell(words[0], program.pid, *words[1:])
        assert answer.status == 1
        assert f"process {program.pid}: has ended" in answer.error


def test_a_number_without_a_process_does_not_exist() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    for words in (("find", "x"), ("find", "x", "-stop"), ("heap",), ("snapshot",)):
        answer = shell(words[0], gone.pid, *words[1:])
        assert answer.status == 1
        assert answer.error.endswith(f"process {gone.pid}: does not exist")
