"""``make bench``: gdb-leak beside gdb, ripgrep, valgrind and the machine's own limit.

Everything runs on this machine, one thing at a time and in turns, on a core of
1 GiB that is made here and lies in the page cache. Each figure is the best of
several runs, with the median and the processor time beside it: where these
three differ much, something else ran on the machine.

Heaps are counted beside other people's tools where the environment names them:
CHAP a built chap, GEF a gef.py. BASE names the gdb-leak of another build, beside which
checks are timed.

Exit status 0 also where a goal is missed (the table says so): a figure is no
test. Not 0 where something does not work, or an answer is wrong.
"""

import argparse
import datetime
import sys
from typing import TYPE_CHECKING

import base_rows
import heap_rows
import leak_rows
import record_rows
import rows
import subjects
from machine import ROOT, WORK, BenchError, facts
from table import Row, as_markdown, as_text

if TYPE_CHECKING:
    from collections.abc import Callable

_NOTE = (
    "Each figure: the best of several runs (the median; user and system time of all threads).\n"
    "Ours and theirs take turns; the cores are in the page cache. Inside gdb the time is that\n"
    "of the command, after the core's headers are read; `first time` is in a fresh gdb.\n"
    "Bytes a block: the most memory of its own at one time, over that of `gdb-leak regions`\n"
    "(inside gdb: what it has kept), for each block in use or free; the core is mapped.\n"
    "Recording: whole programs, all ways in turns; the ratio is to the same program alone, by\n"
    "processor time (user and system, of all processes started) and by time. Each run's lost\n"
    "blocks were counted and are the same ones."
)


def main() -> int:
    """Take all figures, print them, and write them down if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--record",
        action="store_true",
        help="write benches/record/DATE.md, with --only DATE-ONLY.md",
    )
    parser.add_argument("--gib", type=float, default=1, help="size of the large core (1)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each figure (5)")
    parser.add_argument("--keep", action="store_true", help=f"leave {WORK.relative_to(ROOT)}")
    parser.add_argument("--only", default="", help="rows whose function's name has this in it")
    options = parser.parse_args()
    try:
        found = list(_rows(options.gib, options.runs, options.only))
        told = facts()
    except BenchError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    finally:
        if not options.keep:
            subjects.remove()
    print(f"{as_text(found)}\n\n{_NOTE}\n\n" + "\n".join(told))
    if options.record:
        _record(found, told, options.only)
    return 0


def _rows(gib: float, runs: int, only: str) -> "list[Row]":
    found: list[Row] = []

    def take(title: str, measured: object, *arguments: object) -> None:
        assert callable(measured)
        if only in measured.__name__:
            sys.stderr.write(f"bench: {title}\n")
            found.extend(measured(*arguments))

    _over_a_core(take, gib, runs, only)
    with subjects.sample() as sample:
        take("dumping", rows.dumping, sample, runs)
        take("starting", rows.starting, sample, runs)
        take("checking the sample", leak_rows.checking_the_sample, sample, runs)
    take("counting the blocks of a heap", heap_rows.heap_as_a_whole, gib, runs)
    # Four times a small part would tell nothing more.
    if gib >= 1:
        take("and of four such heaps", heap_rows.heap_as_a_whole, 4 * gib, min(runs, 3))
    elif only in heap_rows.heap_as_a_whole.__name__:
        found.append(Row(f"{4 * gib:g} GiB of blocks", "left out: --gib is less than 1"))
    take("counting those of a process", heap_rows.heap_of_a_process, gib, runs)
    take("listing the blocks of a heap", heap_rows.heap_in_lines, runs)
    take("checking a heap", leak_rows.checking_heaps, gib, runs)
    take("checking lists", leak_rows.checking_lists, runs)
    take("checking beside another build", base_rows.checking_beside, runs)
    take("frames by what is known", base_rows.frames_known)
    for millions in (4, 20):
        take(f"recording {millions} million pairs", record_rows.recording, millions, runs)
    take("the recorder's own memory", record_rows.recording_memory)
    take("ways to walk a stack", record_rows.recording_unwind)
    return found


def _over_a_core(take: "Callable[..., None]", gib: float, runs: int, only: str) -> None:
    measured = {
        "searching a core": rows.searching_a_core,
        "searching a process": rows.searching_a_process,
        "searching from a shell": rows.searching_from_a_shell,
        "writing": rows.writing,
        "other needles": rows.others,
    }
    sparse = rows.searching_a_sparse_core
    if not any(only in row.__name__ for row in (*measured.values(), sparse)):
        return
    sys.stderr.write(f"bench: making a core of {gib:g} GiB\n")
    with subjects.big(gib) as big:
        subjects.warm(big.core)
        for title, row in measured.items():
            take(title, row, big, runs)
        if only in sparse.__name__:
            take("searching a sparse core", sparse, subjects.sparse(big.program, 4))


# A part of the rows has a file of its own, so that it does not take the place of all.
def _record(found: "list[Row]", told: "list[str]", only: str) -> None:
    today = datetime.datetime.now(datetime.timezone.utc).date()
    name = f"{today}-{only}" if only else f"{today}"
    path = ROOT / "benches" / "record" / f"{name}.md"
    path.parent.mkdir(exist_ok=True)
    listed = "\n".join(f"- {fact}" for fact in told)
    command = " ".join(["benches/bench.py", *sys.argv[1:]])
    text = f"# {today}\n\n`{command}`\n\n{as_markdown(found)}\n\n{_NOTE}\n\n{listed}\n"
    path.write_text(text, encoding="utf-8")
    print(f"\nwritten to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
