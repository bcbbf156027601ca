"""Checking heaps for leaks: each function returns rows of the table.

Beside chap where the environment names it: CHAP a built chap.
"""

import json
import os
import re
import shutil
from typing import Optional

import subjects
from machine import GDB_LEAK, ROOT, BenchError, Watched, Word, available_memory
from measure import Samples, in_gdb, whole_process
from subjects import Graph, Subject
from table import Row, figure

# Of chap's processor time, and of its memory for a block.
_PART_OF_TIME, _PART_OF_MEMORY = 1 / 10, 1 / 2
# What glibc has for itself in this heap: a tcache struct, and stdout's buffer.
_OWN = 2
_NODES = 1_000_000
_SHAPES = ("single-head", "single-tail", "double-head", "double-tail")
_SAMPLE_SECONDS = 0.15


def checking_heaps(gib: float, runs: int) -> list[Row]:
    """Compare whole checks of heaps of GIB gibibytes, and of four times that, with chap's."""
    found: list[Row] = []
    each: list[tuple[Graph, Samples]] = []
    for size, times in ((gib, runs), (4 * gib, min(runs, 3))):
        what = f"{size:g} GiB of trees, lists and tables"
        # The process and its core at once; then the core and what chap makes of it.
        if available_memory() < 2.5 * size * (1 << 30):
            return [*found, Row(what, f"left out: less memory than {2.5 * size:g} GiB")]
        if shutil.disk_usage(ROOT).free < 1.5 * size * (1 << 30):
            return [*found, Row(what, f"left out: less room on the disk than {1.5 * size:g} GiB")]
        with subjects.graph(f"{size:g}") as graph:
            subjects.warm(graph.core)
            taken = Samples()
            found.extend(_whole(graph, what, taken, times))
            found.extend(_inside_gdb(graph, what, min(times, 3)))
        each.append((graph, taken))
    (small, first), (large, second) = each
    blocks, seconds = large.held / small.held, second.least / first.least
    ratio = f"{seconds / blocks:.2f}x the cpu a block"
    found.append(Row(f"{blocks:.1f} times the blocks", f"{seconds:.1f} times the cpu", ratio=ratio))
    return found


def checking_lists(runs: int) -> list[Row]:
    """Compare what a block costs in a long list with what it costs in other heaps."""
    # As many blocks in trees, short lists and tables.
    mixed = _per_block((str(_NODES / 8_000_000),), runs)
    rows = [Row(f"gdb-leak check, {_NODES:,} blocks in trees, lists and tables", _micro(mixed))]
    for shape in _SHAPES:
        cost = _per_block((shape, str(_NODES)), runs)
        rows.append(
            Row(
                f"gdb-leak check, a list of {_NODES:,}, {shape}",
                _micro(cost),
                ratio=f"{cost / mixed:.2f}x the cpu a block",
                goal="<= 1x",
                met=cost <= mixed,
            )
        )
    return rows


def checking_the_sample(sample: Subject, runs: int) -> list[Row]:
    """Take how long ``gdb-leak check`` lasts on the sample, from start to end."""
    taken = Samples()
    for _ in range(3 * runs):
        whole_process(taken, GDB_LEAK, "check", sample.core)
    goal, met = f"< {_SAMPLE_SECONDS:g} s", taken.best < _SAMPLE_SECONDS
    return [Row("gdb-leak check, the sample", taken.text(), goal=goal, met=met)]


def _whole(graph: Graph, what: str, taken: Samples, runs: int) -> list[Row]:
    for _ in range(runs):
        _judge(graph, taken)
    # Python itself, and the headers of the core.
    without = min(Watched(GDB_LEAK, "regions", graph.core).peak for _ in range(2))
    memory = (Watched(*_check(graph)).peak - without) / graph.held
    theirs = _chap(graph)
    row = Row(f"gdb-leak check, {what}", taken.text())
    room = Row(f"gdb-leak check, {what}: memory", _bytes(memory))
    if theirs is None:
        told = "chap: left out: CHAP=FILE names the program"
        return [Row(row.what, row.ours, told), room]
    other = Samples([theirs.seconds], [theirs.processor])
    part, most = taken.least / theirs.processor, theirs.peak / graph.held
    told = f"chap count leaked (one run): {other.text()}"
    return [
        Row(row.what, row.ours, told, f"{part:.3f}x the cpu", "<= 0.1x", part <= _PART_OF_TIME),
        Row(
            room.what,
            room.ours,
            f"chap: {_bytes(most)}",
            f"{memory / most:.2f}x the memory",
            "<= 0.5x",
            memory <= _PART_OF_MEMORY * most,
        ),
        Row(
            f"lost blocks, {what}",
            f"{graph.lost:,} of {graph.held:,}",
            f"chap: {_leaked(theirs):,}",
        ),
    ]


# In a gdb that stays, the second answer comes from what the first one kept.
def _inside_gdb(graph: Graph, what: str, runs: int) -> list[Row]:
    first, again, growth = Samples(), Samples(), 0
    for _ in range(runs):
        steps = in_gdb(graph, ["leak-regions -in brk", "leak-check -top 10", "leak-check -top 10"])
        for samples, step in zip((first, again), steps[1:]):
            samples.add(step.seconds, step.processor)
        growth = max(growth, sum(step.memory for step in steps[1:]))
    kept = Row(f"leak-check, {what}: kept", _bytes(growth / graph.held))
    title = f"leak-check, {what}"
    return [figure(f"{title}, first time", first), figure(f"{title}, again", again), kept]


# Seconds of processor time for each block, without those that a small core takes too.
def _per_block(words: "tuple[str, ...]", runs: int) -> float:
    taken, without = Samples(), Samples()
    with subjects.graph(*words) as graph:
        subjects.warm(graph.core)
        for _ in range(runs):
            _judge(graph, taken)
            whole_process(without, GDB_LEAK, "regions", graph.core)
    return (taken.least - without.least) / graph.held


def _check(graph: Graph) -> list[Word]:
    return [GDB_LEAK, "check", graph.core, "-json", "-top", "10"]


def _judge(graph: Graph, taken: Samples) -> None:
    said = json.loads(whole_process(taken, *_check(graph)))["summary"]
    definite, indirect, reachable = (
        said[name]["blocks"] for name in ("definitely_lost", "indirectly_lost", "still_reachable")
    )
    known = (graph.leaders, graph.lost - graph.leaders)
    if (definite, indirect) != known or not 0 <= reachable + graph.lost - graph.held <= _OWN:
        raise BenchError(f"{said} where {known} are lost of {graph.held}")


def _chap(graph: Graph) -> "Optional[Watched]":
    program = os.environ.get("CHAP")
    # It lasts for tens of seconds: once, and looked at less often.
    return (
        Watched(program, graph.core, typed="count leaked\n", seconds_between=0.02)
        if program
        else None
    )


def _leaked(theirs: Watched) -> int:
    found = re.search(r"^(\d+) allocations use ", theirs.output, re.MULTILINE)
    if found is None:
        raise BenchError(f"chap: no count in {theirs.output[-200:]!r}")
    return int(found[1])


def _bytes(per_block: float) -> str:
    return f"{per_block:.1f} bytes a block"


def _micro(seconds: float) -> str:
    return f"{seconds * 1e9:.0f} ns cpu a block"
