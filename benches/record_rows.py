"""Recording: each function returns rows of the table.

Beside valgrind, heaptrack and LeakSanitizer where they are there.
"""

import json
import os
import re
import resource
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

import subjects
from machine import GDB_LEAK, ROOT, WORK, BenchError, run
from measure import Samples
from table import Row

_THREADS, _LOST = 2, 100
_SAMPLE = 512 << 10
# Of the time of the program alone.
_EVERY, _EVERY_WISHED, _SAMPLED = 2, 1.5, 1.05
_BYTES = 64
# What the C library has and does not give back: a buffer of stdout, two threads' dtv.
_OWN = 4
# From malloc to the start of the thread: between the two ends a function for each bit.
_LEVELS = ("sixth", "fifth", "fourth", "third", "second", "first")
# Return addresses that a walk must find, in the bench of walks.
_RETURNS = 10
_SEVERAL, _FEW = 1_000_000, 1_000
_MAGIC = b"gdb-leak record\0"
# The variable that leaves out the last steps of recording, and what is done up to each.
_STEPS = "GDB_LEAK_RECORD_STEPS"


class _Lost:
    """The blocks that a program says it lost: how many, how many bytes, and in which groups."""

    def __init__(self, said: "list[str]") -> None:
        groups = [line.split()[2:] for line in said if line.startswith("lost ")]
        self.groups = sorted((int(blocks), int(size)) for blocks, size in groups)
        self.blocks = sum(blocks for blocks, _ in self.groups)
        self.bytes = sum(size for _, size in self.groups)
        if self.blocks != _THREADS * _LOST:
            raise BenchError(f"recorded: lost {self.blocks} blocks where it was told to lose 200")


def recording(millions: int, runs: int) -> list[Row]:
    """Compare MILLIONS of pairs of malloc and free recorded with the program alone and others."""
    program, checked = subjects.allocating(), subjects.allocating("-fsanitize=leak")
    ours = {
        "native": {},
        "every": _recorded(),
        "sampled": _recorded(GDB_LEAK_RECORD_SAMPLE=str(_SAMPLE)),
        "nothing": _recorded(**{_STEPS: "0"}),
        "unwound": _recorded(**{_STEPS: "1"}),
        "named": _recorded(**{_STEPS: "2"}),
    }
    taken = {way: Samples() for way in (*ours, "leak")}
    for _ in range(runs if millions < 10 else min(runs, 3)):
        for way, variables in ours.items():
            _held(taken[way], program, millions, variables, way == "every")
        _sanitized(taken["leak"], checked, millions)
    native, what = taken["native"], f"{millions} million pairs"
    alone = f"alone: {native.text()}"
    every, sampled = (_times(taken[way], native) for way in ("every", "sampled"))
    return [
        Row(
            f"{what}, alone", native.text(), ratio=f"{_a_pair(native, millions):.0f} ns cpu a pair"
        ),
        Row(
            f"{what}, every block recorded",
            taken["every"].text(),
            alone,
            _told(every),
            f"<= {_EVERY}x cpu ({_EVERY_WISHED}x)",
            every[0] <= _EVERY,
        ),
        Row(
            f"{what}, one of {_SAMPLE >> 10} KiB recorded",
            taken["sampled"].text(),
            alone,
            _told(sampled),
            f"<= {_SAMPLED}x cpu",
            sampled[0] <= _SAMPLED,
        ),
        _split(what, taken, millions),
        Row(
            f"{what}, LeakSanitizer (its own malloc; stacks by frame pointers)",
            "",
            taken["leak"].text(),
            _told(_times(taken["leak"], native)),
        ),
        _under_heaptrack(what, program, millions, native),
        _under_valgrind(what, program, millions, native),
    ]


def recording_memory() -> list[Row]:
    """Take what the recorder needs of its own for each live block, and without any."""
    several, few = (_memory_of(count) for count in (_SEVERAL, _FEW))
    each = (several - few) / (_SEVERAL - _FEW)
    return [
        Row(
            f"recorder's own memory, {_SEVERAL:,} live blocks",
            f"{each:.1f} bytes a block",
            goal=f"<= {_BYTES} bytes a block",
            met=each <= _BYTES,
        ),
        Row(f"recorder's own memory, {_FEW:,} live blocks", f"{few / 1024:.0f} KiB in all"),
    ]


def recording_unwind() -> list[Row]:
    """Compare ways to walk a stack through ten functions, built with frame pointers and without."""
    title = "a walk of eleven frames"
    words = ("run", "--release", "--locked", "--quiet", "--target-dir", "target/unwind")
    manifest = ("--manifest-path", "benches/unwind/Cargo.toml")
    try:
        answer = json.loads(run("scripts/with-rust", "cargo", *words, *manifest))
    except BenchError as error:
        return [Row(title, f"left out: {error}")]
    rows = []
    for build in ("with", "without"):
        told = {each["way"]: each for each in answer if each["build"] == build}
        ours, others = told.pop("recorder"), told.values()
        if ours["right"] != _RETURNS:
            raise BenchError(f"the recorder's walk: {ours}")
        theirs = ", ".join(f"{each['way'].replace('_', ' ')}: {_walk(each)}" for each in others)
        ratio = f"{told['framehop']['walk_ns'] / ours['walk_ns']:.1f}x faster"
        rows.append(Row(f"{title}, code {build} frame pointers", _walk(ours), theirs, ratio))
    return rows


# The innermost place is known anyway.
def _walk(told: "dict[str, int | float]") -> str:
    each = f"{told['walk_ns'] / told['frames']:.1f} ns a frame"
    right = f"{told['right']} of {_RETURNS} return addresses right"
    return right if told["frames"] == 1 else f"{each}, {right}"


# What each step costs is what it adds to the steps before.
def _split(what: str, taken: "dict[str, Samples]", millions: int) -> Row:
    ways = ("native", "nothing", "unwound", "named", "every")
    costs = [_a_pair(taken[way], millions) for way in ways]
    added = [f"{after - before:.0f}" for before, after in zip(costs, costs[1:])]
    text = "{} preloaded, {} unwind, {} trie, {} table".format(*added)
    return Row(f"{what}, every block recorded: the split", f"{text} (ns cpu a pair)")


def _under_heaptrack(what: str, program: Path, millions: int, native: Samples) -> Row:
    title = f"{what}, heaptrack"
    if not shutil.which("heaptrack"):
        return Row(title, "left out: no heaptrack here")
    taken = Samples()
    # What it writes is not made smaller by its interpreter, which gives up on more than some
    # million pairs (bad_alloc, heaptrack 1.4.0).
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        words = ("heaptrack", "--raw", "-o", Path(folder) / "out", program)
        said, _ = _to_its_end(taken, words, millions)
        (file,) = Path(folder).iterdir()
        written, found = file.stat().st_size, _kept_of(file)
    lost = _Lost(said).blocks
    if not lost <= found <= lost + _OWN:
        raise BenchError(f"heaptrack: {found} blocks were kept where {lost} are lost")
    told = f"{_told(_times(taken, native))}, {written / millions / 1e6:.1f} bytes written a pair"
    return Row(f"{title} (one run)", "", taken.text(), told)


# Allocations less releases: each is a line.
def _kept_of(file: Path) -> int:
    unpack = "zstd" if file.suffix == ".zst" else "gzip"
    kept, last = 0, b""
    with subprocess.Popen([unpack, "-dc", file], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(1 << 20):
            piece = last + piece
            kept += piece.count(b"\n+") - piece.count(b"\n-")
            last = b"\n" if piece.endswith(b"\n") else b""
    return kept


def _under_valgrind(what: str, program: Path, millions: int, native: Samples) -> Row:
    title = f"{what}, valgrind --leak-check=full"
    if not shutil.which("valgrind"):
        return Row(title, "left out: no valgrind here")
    taken = Samples()
    words = ("valgrind", "--leak-check=full", program)
    said, errors = _to_its_end(taken, words, millions)
    found = re.search(r"definitely lost: ([\d,]+) bytes in ([\d,]+) blocks", errors)
    _same("valgrind", found and (found[2], found[1]), _Lost(said))
    return Row(f"{title} (one run)", "", taken.text(), _told(_times(taken, native)))


def _sanitized(samples: Samples, program: Path, millions: int) -> None:
    # Leaks are no failure of the run.
    variables = {"LSAN_OPTIONS": "exitcode=0"}
    said, errors = _to_its_end(samples, (program,), millions, variables)
    found = re.search(r"SUMMARY: LeakSanitizer: (\d+) byte\(s\) leaked in (\d+) alloc", errors)
    _same("LeakSanitizer", found and (found[2], found[1]), _Lost(said))


def _same(name: str, found: "Optional[tuple[str, str]]", lost: _Lost) -> None:
    numbers = tuple(int(number.replace(",", "")) for number in found or ())
    if numbers != (lost.blocks, lost.bytes):
        raise BenchError(f"{name}: {numbers} where {lost.blocks} of {lost.bytes} bytes are lost")


# One run up to where all is lost that will be, which is when gdb-leak looks at it. What
# that takes is nothing of the program's.
def _held(
    samples: Samples, program: Path, millions: int, variables: "dict[str, str]", exact: bool
) -> None:
    words = [str(program), str(millions * 1_000_000), str(_THREADS), str(_LOST), "hold"]
    begun = time.perf_counter()
    with _started(words, variables) as process:
        said = _until_ready(process)
        seconds = time.perf_counter() - begun
        _judge(process.pid, _Lost(said), exact)
        before = _of_children()
        process.communicate()
        samples.add(seconds, _of_children() - before)


def _judge(pid: int, lost: _Lost, exact: bool) -> None:
    answer = json.loads(run(GDB_LEAK, "check", pid, "-json"))
    found = answer["summary"]["definitely_lost"]
    if found["blocks"] != lost.blocks:
        raise BenchError(f"gdb-leak check: {found} where {lost.blocks} blocks are lost")
    # Which sizes were asked for, and where, is known only of what was recorded.
    if not exact:
        return
    records = [each for each in answer["records"] if each["verdict"] == "definitely_lost"]
    groups = sorted((record["blocks"], record["bytes"]) for record in records)
    if groups != lost.groups:
        raise BenchError(f"gdb-leak check: {groups} where {lost.groups} are lost")
    for record in records:
        functions = [frame["function"] for frame in record["stack"]]
        plain = [re.sub("_(even|odd)$", "", name or "") for name in functions[:11]]
        if plain != ["malloc", "last", "plain", *_LEVELS, "take", "work"]:
            raise BenchError(f"gdb-leak check: a stack of {functions}")


# The lines of standard output, and what was said on the other one.
def _to_its_end(
    samples: Samples,
    words: "tuple[object, ...]",
    millions: int,
    variables: "Optional[dict[str, str]]" = None,
) -> "tuple[list[str], str]":
    before, begun = _of_children(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        said = subprocess.run(
            [*map(str, words), str(millions * 1_000_000), str(_THREADS), str(_LOST)],
            cwd=WORK,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=True,
        ).stdout
        samples.add(time.perf_counter() - begun, _of_children() - before)
        errors.seek(0)
        return said.splitlines(), errors.read()


def _memory_of(blocks: int) -> int:
    words = [str(subjects.holding()), "single-head", str(blocks)]
    with _started(words, _recorded()) as process:
        _until_ready(process)
        return _own_memory(process.pid)


# Bytes in memory of the recorder's reservation, and of the library with its variables.
def _own_memory(pid: int) -> int:
    own, library, start, end, total = range(0), False, 0, 0, 0
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if mapping := re.match(r"(\w+)-(\w+) (....) \w+ \w+:\w+ (\d+)\s*(.*)", line):
            # Variables that begin as zeros stand behind the file, in a mapping of no file.
            behind = end == int(mapping[1], 16) and "r" in mapping[3] and mapping[4] == "0"
            start, end = int(mapping[1], 16), int(mapping[2], 16)
            if not own and mapping[3] == "rw-p":
                own = _reservation(pid, start)
            library = mapping[5] == str(_library()) or (library and behind)
        elif (size := re.match(r"Private_Dirty:\s+(\d+) kB", line)) and (start in own or library):
            total += int(size[1]) * 1024
    if not own:
        raise BenchError(f"process {pid}: no recording in it")
    return total


# The addresses of the recording whose header stands there, as docs/recording.md has it.
def _reservation(pid: int, start: int) -> range:
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        memory.seek(start)
        header = memory.read(40)
    magic, at, size = struct.unpack("<16s8xQQ", header)
    return range(at, at + size) if (magic, at) == (_MAGIC, start) else range(0)


@contextmanager
def _started(words: list[str], variables: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        words,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _until_ready(process: "subprocess.Popen[str]") -> "list[str]":
    said = [""]
    assert process.stdout is not None
    while not said[-1].startswith("READY"):
        said.append(process.stdout.readline())
        if not said[-1]:
            raise BenchError(f"{process.args!r}: ended early")
    return said


def _recorded(**variables: str) -> "dict[str, str]":
    return {"LD_PRELOAD": str(_library()), **variables}


def _library() -> Path:
    name = "lib/python3*/site-packages/gdb_leak/recorder/libgdb_leak_recorder.so"
    for library in (ROOT / ".venv").glob(name):
        return library
    raise BenchError(f".venv/{name}: the recorder is not there")


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _a_pair(samples: Samples, millions: int) -> float:
    return samples.least / millions * 1000


# By processor time, and by time.
def _times(samples: Samples, native: Samples) -> "tuple[float, float]":
    return samples.least / native.least, samples.best / native.best


def _told(times: "tuple[float, float]") -> str:
    return f"{times[0]:.2f}x the cpu, {times[1]:.2f}x the time"
