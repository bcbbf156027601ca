"""What the commands are measured on: cores and processes that the bench makes itself."""

import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from machine import GDB, ROOT, WORK, BenchError, run

NEEDLE = "needle in a haystack"


@dataclass(frozen=True)
class Target:
    """A program, a core that was made of it, and the process where it still runs."""

    program: Path
    core: Path
    pid: Optional[int]


@dataclass(frozen=True)
class Subject(Target):
    """Memory to go over."""

    start: int
    size: int
    needles: int

    @property
    def end(self) -> int:
        """The address after the last byte."""
        return self.start + self.size


@dataclass(frozen=True)
class Heap(Target):
    """A heap to list."""

    gib: float
    #: Blocks that the program holds, of those it ever had.
    held: int


@contextmanager
def big(gib: float) -> Iterator[Subject]:
    """Yield a running process with GIB gibibytes of what a heap holds, and its core."""
    program, core = _compiled("big"), WORK / "core.big"
    with _running(program, str(gib)) as process:
        said = _said(process)
        _take_core(process.pid, core)
        start, size = said["memory"].split()
        yield Subject(program, core, process.pid, int(start, 16), int(size), int(said["needles"]))


@contextmanager
def heap_process(gib: float) -> Iterator[Heap]:
    """Yield a running program with GIB gibibytes of small blocks, whose core is not made yet."""
    program, core = _compiled("heap_big"), WORK / f"core.heap-{gib:g}"
    with _running(program, str(gib)) as process:
        yield Heap(program, core, process.pid, gib, int(_said(process)["held"].split()[0]))


@contextmanager
def heap(gib: float) -> Iterator[Heap]:
    """Yield the core of a program with GIB gibibytes of small blocks."""
    with heap_process(gib) as live:
        assert live.pid is not None
        _take_core(live.pid, live.core)
    try:
        yield replace(live, pid=None)
    finally:
        # Of several gibibytes, so not kept until all is done. With it goes
        # what others write beside a core.
        for path in WORK.glob(f"{live.core.name}*"):
            path.unlink()


@dataclass(frozen=True)
class Graph(Target):
    """A heap whose blocks hold each other, and how many of them are lost."""

    #: What graph_big was asked for.
    words: "tuple[str, ...]"
    held: int
    lost: int
    #: Of those that are lost, the ones that nothing leads to.
    leaders: int


@contextmanager
def graph(*words: str) -> Iterator[Graph]:
    """Yield the core of a graph_big that was given WORDS."""
    program, core = _compiled("graph_big"), WORK / f"core.graph-{'-'.join(words)}"
    with _running(program, *words) as process:
        said = _said(process)
        _take_core(process.pid, core)
    try:
        counts = (int(said[name]) for name in ("held", "lost", "leaders"))
        yield Graph(program, core, None, words, *counts)
    finally:
        for path in WORK.glob(f"{core.name}*"):
            path.unlink()


@contextmanager
def sample() -> Iterator[Subject]:
    """Yield the sample of the demo when its heap has grown, and its core.

    The range is the upper half of its heap: what a person looks into by hand.
    """
    program, core = _compiled("sample"), WORK / "core.sample"
    with _running(program) as process:
        while "called 1 times" not in _line(process):
            pass
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        while "called 101 times" not in _line(process):
            pass
        _take_core(process.pid, core)
        maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
        heap = re.search(r"^(\w+)-(\w+) .*\[heap\]$", maps, re.MULTILINE)
        if heap is None:
            raise BenchError(f"{program}: has no heap")
        start, end = (int(address, 16) for address in heap.groups())
        size = (end - start) // 2
        yield Subject(program, core, process.pid, start + size, size, 0)


def sparse(program: Path, gib: int) -> Subject:
    """Return a core of GIB gibibytes that takes no room on the disk: zeros, and 64 needles."""
    core, start, size, needles = WORK / "core.sparse", 0x7F00_0000_0000, gib << 30, 64
    page = 4096
    # ELF64, little-endian, ET_CORE, x86-64; program headers follow the header.
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    # PT_LOAD, readable and writable.
    load = struct.pack("<IIQQQQQQ", 1, 6, page, start, 0, size, size, page)
    with core.open("wb") as file:
        file.write(header + load)
        file.truncate(page + size)
        for index in range(needles):
            file.seek(page + index * (size // needles) + 12345)
            file.write(NEEDLE.encode())
    return Subject(program, core, None, start, size, needles)


def warm(path: Path) -> None:
    """Bring a file into the page cache, and what was written of it onto the disk."""
    run("sync", path)
    with path.open("rb", buffering=0) as file:
        piece = bytearray(1 << 20)
        while file.readinto(piece):
            pass


def remove() -> None:
    """Remove everything that was made here."""
    shutil.rmtree(WORK, ignore_errors=True)


def allocating(*options: str) -> Path:
    """Return the program that allocates much from many places, compiled with OPTIONS as well."""
    hard = ("-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-pthread")
    return _compiled("recorded", *hard, *options)


def holding() -> Path:
    """Return the program of `graph`."""
    return _compiled("graph_big")


def _compiled(name: str, *options: str) -> Path:
    WORK.mkdir(parents=True, exist_ok=True)
    program = WORK / "".join([name, *options])
    run("gcc", "-O2", "-g", *options, "-o", program, ROOT / f"tests/fixtures/{name}.c")
    return program


@contextmanager
def _running(program: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# What the program prints, word and rest of each line, until it says READY.
def _said(process: "subprocess.Popen[str]") -> "dict[str, str]":
    said: dict[str, str] = {}
    while "READY" not in said:
        key, _, rest = _line(process).partition(" ")
        said[key] = rest.strip()
    return said


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise BenchError(f"{process.args}: ended early")
    return line


def _take_core(pid: int, core: Path) -> None:
    core.unlink(missing_ok=True)
    run(GDB, "-nx", "-batch", "-p", pid, "-ex", f"gcore {core.relative_to(ROOT)}")
    if not core.exists():
        raise BenchError(f"gdb made no core of process {pid}: see .venv/bin/gdb-leak doctor")
