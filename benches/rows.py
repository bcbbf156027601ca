"""What is measured: each function returns rows of the table.

Ours and theirs take turns, so that whatever else the machine does meets both.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

from machine import GDB_LEAK, WORK, BenchError, available_memory, run
from measure import (
    PRINTED,
    Samples,
    Step,
    in_gdb,
    limit_of_reading,
    limit_of_writing,
    whole_process,
)
from subjects import NEEDLE, Subject
from table import Row, faster, figure, within

MIB = 1 << 20
_SEARCH = f'leak-find "{NEEDLE}"'
# Makes gdb-leak read the headers of the core, as gdb has when it loaded it.
_HEADERS = "leak-regions -in brk"


def searching_a_core(subject: Subject, runs: int) -> list[Row]:
    """Compare searches inside gdb with gdb's own and with reading the same mapping."""
    ours, theirs, limit = (Samples(), Samples()), (Samples(), Samples()), (Samples(), Samples())
    memory = 0
    for _ in range(runs):
        steps = in_gdb(subject, [_HEADERS, *[_in_range(subject)] * 4])[1:]
        memory = max(memory, sum(step.memory for step in steps))
        _add(subject, ours, steps)
        _add(subject, theirs, in_gdb(subject, [_gdb_find(subject)] * 2))
        for samples, took in zip(limit, limit_of_reading(subject)):
            samples.add(*took)
    rows = []
    for when, pace, goal, a, b, c in zip(
        ("first time", "again"), ("first touch", "mapped read"), (4, 8), ours, theirs, limit
    ):
        rows.append(faster(f"leak-find, core, {when}", a, b, "find", goal))
        rows.append(within(f"leak-find, core, {when}", a, c, pace, 1.3))
    return [*rows, _growth(f"leak-find, core of {subject.size / 2**30:g} GiB", memory)]


def searching_a_process(subject: Subject, runs: int) -> list[Row]:
    """Compare searches of a live process with gdb's own."""
    ours, theirs = (Samples(), Samples()), (Samples(), Samples())
    for _ in range(runs):
        _add(subject, ours, in_gdb(subject, [_HEADERS, *[_in_range(subject)] * 3], live=True)[1:])
        _add(subject, theirs, in_gdb(subject, [_gdb_find(subject)] * 2, live=True))
    return [
        faster(f"leak-find, live, {when}", a, b, "find", 3)
        for when, a, b in zip(("first time", "again"), ours, theirs)
    ]


def searching_a_sparse_core(subject: Subject) -> list[Row]:
    """Take the growth of gdb's own memory over a core that is larger than most."""
    (step,) = in_gdb(subject, [_SEARCH])
    _check(subject, step)
    return [_growth(f"leak-find, sparse core of {subject.size >> 30} GiB", step.memory)]


def searching_from_a_shell(subject: Subject, runs: int) -> list[Row]:
    """Compare whole processes: gdb-leak and ripgrep on one file."""
    if not shutil.which("rg"):
        return [Row("gdb-leak find, whole process", "left out: no rg (ripgrep) here")]
    ours, theirs = Samples(), Samples()
    for _ in range(2 * runs):
        said = whole_process(ours, GDB_LEAK, "find", subject.core, NEEDLE)
        if f"{subject.needles} matches" not in said:
            raise BenchError(f"gdb-leak find: not {subject.needles} matches but {said[-80:]!r}")
        # Counts lines that match, of which there may be fewer.
        whole_process(theirs, "rg", "-c", "-aF", "--mmap", NEEDLE, subject.core)
    return [within("gdb-leak find, whole process", ours, theirs, "rg -c -aF --mmap", 1.5)]


def dumping(subject: Subject, runs: int) -> list[Row]:
    """Compare the new half of a grown heap in words with gdb's x."""
    words = subject.size // 8
    theirs = f"x/{words}xg {subject.start:#x}"
    ours = f"leak-dump {subject.start:#x} +{subject.size}"
    pairs = [
        (f"{door}{ours}{option}", f"{door}{theirs}")
        for door in (PRINTED, "")
        for option in ("", " -all")
    ]
    taken = [(Samples(), Samples()) for _ in pairs]
    for _ in range(runs):
        for (mine, other), samples in zip(pairs, taken):
            for step in in_gdb(subject, [_HEADERS, *[mine] * 5])[1:]:
                samples[0].add(step.seconds, step.processor)
            (step,) = in_gdb(subject, [other])
            samples[1].add(step.seconds, step.processor)
    size = f"{subject.size >> 10} KiB"
    return [
        faster(
            f"leak-dump{' -all' if mine.endswith(' -all') else ''}, {size}, "
            f"{'printed' if mine.startswith(PRINTED) else 'into a string'}",
            *samples,
            f"x/{words}xg",
            100,
        )
        for (mine, _), samples in zip(pairs, taken)
    ]


def writing(subject: Subject, runs: int) -> list[Row]:
    """Compare writing the bytes into a tmpfs with gdb's dump, and with the bare write."""
    what = f"leak-dump -out, {subject.size / 2**30:g} GiB to a tmpfs"
    with _tmpfs(subject.size + 64 * MIB) as folder:
        if folder is None:
            return [Row(what, "left out: no tmpfs with room, or too little memory")]
        file = folder / f"gdb-leak-bench-{os.getpid()}"
        ours, theirs, limit = Samples(), Samples(), Samples()
        span = f"{subject.start:#x} {subject.end:#x}"
        try:
            for _ in range(runs):
                _written(ours, file, subject, f"leak-dump {span} -out {file}", [_HEADERS])
                _written(theirs, file, subject, f"dump binary memory {file} {span}", [])
                limit.add(*limit_of_writing(file, subject.size))
        finally:
            file.unlink(missing_ok=True)
    share = limit.best / ours.best
    return [
        faster(what, ours, theirs, "dump binary memory", 2),
        Row(what, ours.text(), f"bare write: {limit.text()}", f"{share:.0%} of its pace"),
    ]


def others(subject: Subject, runs: int) -> list[Row]:
    """Take figures of the other ways to search, pages mapped already."""
    middle = subject.start + subject.size // 2
    where = f"-in {subject.start:#x},{subject.end:#x}"
    commands = {
        f'leak-find -i "{NEEDLE}"': f'leak-find {where} -i "{NEEDLE}"',
        "leak-find -u64 (16 hits a GiB or fewer)": f"leak-find {where} -u64 0x6120737365727373",
        "leak-find -pointer START,END (a page)": (
            f"leak-find {where} -pointer {middle:#x},{middle + 4096:#x}"
        ),
        "leak-find -regex 'needle in a h[a-z]+'": f"leak-find {where} -regex 'needle in a h[a-z]+'",
        "leak-find -regex '[0-9]{3}[.][0-9]{3}'": (
            f"leak-find {where} -regex '[0-9]{{3}}[.][0-9]{{3}}'"
        ),
        "leak-strings": f"leak-strings {where}",
    }
    taken = {name: Samples() for name in commands}
    for _ in range(runs):
        steps = in_gdb(subject, [_in_range(subject), *commands.values()])[1:]
        for samples, step in zip(taken.values(), steps):
            samples.add(step.seconds, step.processor)
    return [figure(name, samples, subject.size) for name, samples in taken.items()]


def starting(subject: Subject, runs: int) -> list[Row]:
    """Take how long the shell door lasts on a small core, from start to end."""
    regions, version, python = Samples(), Samples(), Samples()
    for _ in range(3 * runs):
        whole_process(regions, GDB_LEAK, "regions", subject.core)
        whole_process(version, GDB_LEAK, "-version")
        whole_process(python, GDB_LEAK.with_name("python"), "-c", "")
    return [
        Row("gdb-leak regions, small core", regions.text(), f"python alone: {python.text()}"),
        Row("gdb-leak -version", version.text(), f"python alone: {python.text()}"),
    ]


def _in_range(subject: Subject) -> str:
    return f'leak-find -in {subject.start:#x},{subject.end:#x} "{NEEDLE}"'


# Its end is the last byte, and text would have a terminator added.
def _gdb_find(subject: Subject) -> str:
    needle = ",".join(f"{byte:#x}" for byte in NEEDLE.encode())
    return f"find /b {subject.start:#x}, {subject.end - 1:#x}, {needle}"


# The first step of a fresh gdb, and the later ones.
def _add(subject: Subject, samples: "tuple[Samples, Samples]", steps: list[Step]) -> None:
    for index, step in enumerate(steps):
        _check(subject, step)
        samples[index > 0].add(step.seconds, step.processor)


def _check(subject: Subject, step: Step) -> None:
    if step.found != subject.needles:
        raise BenchError(f"{step.found} matches in {subject.core} where {subject.needles} are")


def _growth(what: str, growth: int) -> Row:
    goal = 64 * MIB
    text = f"{growth / MIB:.1f} MiB"
    return Row(f"{what}: growth of gdb", text, goal="< 64 MiB", met=growth < goal)


def _written(
    samples: Samples, file: Path, subject: Subject, command: str, before: list[str]
) -> None:
    *_, step = in_gdb(subject, [*before, command])
    if file.stat().st_size != subject.size:
        raise BenchError(f"{command}: wrote {file.stat().st_size} bytes")
    file.unlink()
    samples.add(step.seconds, step.processor)


@contextmanager
def _tmpfs(size: int) -> Iterator[Optional[Path]]:
    # One copy in the tmpfs, one in the memory of the bare write.
    if available_memory() < 3 * size:
        yield None
        return
    shared = Path("/dev/shm")  # noqa: S108 - a tmpfs is what is wanted
    if shared.is_dir() and shutil.disk_usage(shared).free >= size:
        yield shared
        return
    folder = WORK / "tmpfs"
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        run("umount", folder)
