"""Listing a heap: each function returns rows of the table.

Beside other people's tools where the environment names them: CHAP a built chap,
GEF a gef.py.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Optional

import subjects
from machine import GDB_LEAK, ROOT, BenchError, Watched, Word, available_memory
from measure import PRINTED, Samples, in_gdb, printed, whole_process
from subjects import Heap
from table import Row, faster, figure

# Seconds of processor time for a GiB, and bytes of memory for a block.
_GOAL_SECONDS = 1.0
_GOAL_BYTES = 16
# What glibc has for itself in the heap: a tcache struct.
_OWN_BLOCKS = 1
# As much of a GiB as heap_big fills with 100,000 chunks.
_GIB_OF_100_000 = 0.012426


def heap_as_a_whole(gib: float, runs: int) -> list[Row]:
    """Compare whole processes that count the blocks of GIB gibibytes, and their memory."""
    what = _size(gib)
    # The process and its core at once; then the core and what chap makes of it.
    if available_memory() < 2.5 * gib * (1 << 30):
        return [Row(what, f"left out: less memory than {2.5 * gib:g} GiB")]
    if shutil.disk_usage(ROOT).free < 1.5 * gib * (1 << 30):
        return [Row(what, f"left out: less room on the disk than {1.5 * gib:g} GiB")]
    with subjects.heap(gib) as heap:
        subjects.warm(heap.core)
        blocks = _Blocks(heap)
        theirs = _chap(heap)
        return [
            *_commands(heap, blocks, runs, theirs),
            *_inside_gdb(heap, blocks, runs),
            _agreement(heap, blocks, theirs),
        ]


def heap_of_a_process(gib: float, runs: int) -> list[Row]:
    """Measure what ``gdb-leak heap`` takes while a process is held for it."""
    what = f"gdb-leak heap, {_size(gib)} of a process"
    if available_memory() < 1.5 * gib * (1 << 30):
        return [Row(what, f"left out: less memory than {1.5 * gib:g} GiB")]
    taken = Samples()
    with subjects.heap_process(gib) as heap:
        assert heap.pid is not None
        for _ in range(runs):
            said = json.loads(whole_process(taken, GDB_LEAK, "heap", heap.pid, "-json"))
            _check(said["total"]["in_use"]["blocks"], heap.held)
    return [figure(what, taken)]


def heap_in_lines(runs: int) -> list[Row]:
    """Compare printing 100,000 chunks in gdb, a line or more of each, with GEF."""
    ours = "leak-blocks -list -state all -limit unlimited"
    with subjects.heap(_GIB_OF_100_000) as heap:
        mine, memory, lines = Samples(), 0, 0
        for _ in range(runs):
            _, step = in_gdb(heap, ["leak-regions -in brk", PRINTED + ours])
            mine.add(step.seconds, step.processor)
            memory = max(memory, step.memory)
            lines = len(re.findall(r"^0x", printed(), re.MULTILINE))
        what = f"leak-blocks -list, {lines:,} blocks, printed"
        gef = os.environ.get("GEF")
        if not gef:
            told = "left out: GEF=FILE names gef.py"
            return [Row(what, f"{mine.text()}; {_mib(memory)}", f"heap chunks: {told}")]
        theirs = Samples()
        # GEF looks for the version among the mappings of a live process only.
        version = (os.confstr("CS_GNU_LIBC_VERSION") or "glibc ").split()[-1]
        commands = [f"gef config gef.libc_version {version}", PRINTED + "heap chunks"]
        _, step = in_gdb(heap, commands, script=Path(gef).absolute())
        theirs.add(step.seconds, step.processor)
        chunks = printed().count("Chunk")
    return [
        faster(what, mine, theirs, "heap chunks (one run)", None),
        Row(
            f"{what}: growth of gdb",
            _mib(memory),
            f"heap chunks, {chunks:,}: {_mib(step.memory)}",
        ),
    ]


class _Blocks:
    """How many blocks there are, as ``gdb-leak heap`` says."""

    def __init__(self, heap: Heap) -> None:
        total = json.loads(whole_process(Samples(), GDB_LEAK, "heap", heap.core, "-json"))["total"]
        free = {name: kind["blocks"] for name, kind in total["free"].items() if "blocks" in kind}
        self.used: int = total["in_use"]["blocks"]
        self.in_tcache: int = free["tcache"]
        self.all: int = self.used + sum(free.values())
        _check(self.used, heap.held)


def _check(used: int, held: int) -> None:
    if used != held + _OWN_BLOCKS:
        raise BenchError(f"{used} blocks in use where {held} and glibc's own are")


def _commands(heap: Heap, blocks: _Blocks, runs: int, theirs: "Optional[Watched]") -> list[Row]:
    commands: dict[str, list[Word]] = {
        "heap": ["heap", heap.core],
        "blocks -by size": ["blocks", heap.core, "-by", "size"],
    }
    taken = {name: Samples() for name in commands}
    for _ in range(runs):
        for name, words in commands.items():
            whole_process(taken[name], GDB_LEAK, *words)
    # Python itself, and the headers of the core.
    without = min(Watched(GDB_LEAK, "regions", heap.core).peak for _ in range(2))
    rows = []
    for name, words in commands.items():
        growth = Watched(GDB_LEAK, *words).peak - without
        rows += _rows(f"gdb-leak {name}, {_size(heap.gib)}", taken[name], growth, heap, blocks)
    # By size, kind and text: it looks into every block.
    contents = Samples()
    for _ in range(min(runs, 2)):
        whole_process(contents, GDB_LEAK, "blocks", heap.core)
    rows.append(figure(f"gdb-leak blocks, {_size(heap.gib)}", contents))
    if theirs:
        other = Samples([theirs.seconds], [theirs.processor])
        what = f"gdb-leak heap, {_size(heap.gib)}"
        rows.append(faster(what, taken["heap"], other, "chap count used (one run)", None))
        per_block = theirs.peak / blocks.all
        rows.append(Row(f"chap count used, {_size(heap.gib)}: memory", "", _bytes(per_block)))
    return rows


# In a gdb that stays, the second answer comes from what the first one kept.
def _inside_gdb(heap: Heap, blocks: _Blocks, runs: int) -> list[Row]:
    first, again, growth = Samples(), Samples(), 0
    for _ in range(min(runs, 3)):
        steps = in_gdb(heap, ["leak-regions -in brk", "leak-heap", "leak-heap"])[1:]
        for samples, step in zip((first, again), steps):
            samples.add(step.seconds, step.processor)
        growth = max(growth, sum(step.memory for step in steps))
    what = f"leak-heap, {_size(heap.gib)}"
    return [
        *_rows(f"{what}, first time", first, growth, heap, blocks),
        figure(f"{what}, again", again),
    ]


def _rows(what: str, taken: Samples, growth: int, heap: Heap, blocks: _Blocks) -> list[Row]:
    seconds, per_block = _GOAL_SECONDS * heap.gib, growth / blocks.all
    # Starting Python takes as long over a small heap.
    goal, met = (f"< {seconds:g} s cpu", taken.least < seconds) if heap.gib >= 1 else ("", None)
    most = f"<= {_GOAL_BYTES} bytes a block"
    return [
        Row(what, taken.text(), goal=goal, met=met),
        Row(f"{what}: memory", _bytes(per_block), goal=most, met=per_block <= _GOAL_BYTES),
    ]


def _chap(heap: Heap) -> "Optional[Watched]":
    program = os.environ.get("CHAP")
    # It lasts for tens of seconds: once, and looked at less often.
    return (
        Watched(program, heap.core, typed="count used\n", seconds_between=0.02) if program else None
    )


def _agreement(heap: Heap, blocks: _Blocks, theirs: "Optional[Watched]") -> Row:
    what = f"blocks in use, {_size(heap.gib)}"
    ours = f"{blocks.used:,} of {blocks.all:,}"
    if theirs is None:
        return Row(what, ours, "chap: left out: CHAP=FILE names the program")
    found = re.search(r"^(\d+) allocations use ", theirs.output, re.MULTILINE)
    if found is None:
        raise BenchError(f"chap: no count in {theirs.output[-200:]!r}")
    more = int(found[1]) - blocks.used
    return Row(
        what, ours, f"chap: {int(found[1]):,}", f"{more:+,}; {blocks.in_tcache:,} are in tcache"
    )


def _size(gib: float) -> str:
    return f"{gib:g} GiB of blocks"


def _bytes(per_block: float) -> str:
    return f"{per_block:.1f} bytes a block"


def _mib(growth: int) -> str:
    return f"{growth / (1 << 20):.1f} MiB"
