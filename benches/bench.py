"""``make bench``: gdb-leak beside gdb, ripgrep and the machine's own limit.

Everything runs on this machine, one thing at a time and in turns, on a core of
1 GiB that is made here and lies in the page cache. Each figure is the best of
several runs, with the median and the processor time beside it: where these
three differ much, something else ran on the machine.

Exit status 0 also where a goal is missed (the table says so): a figure is no
test. Not 0 where something does not work, or an answer is wrong.
"""

import argparse
import datetime
import sys

import rows
import subjects
from machine import ROOT, WORK, BenchError, facts
from table import Row, as_markdown, as_text

_NOTE = (
    "Each figure: the best of several runs (the median; user and system time of all threads).\n"
    "Ours and theirs take turns; the cores are in the page cache. Inside gdb the time is that\n"
    "of the command, after the core's headers are read; `first time` is in a fresh gdb."
)


def main() -> int:
    """Take all figures, print them, and write them down if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write benches/record/DATE.md")
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
        _record(found, told)
    return 0


def _rows(gib: float, runs: int, only: str) -> "list[Row]":
    found: list[Row] = []

    def take(title: str, measured: object, *arguments: object) -> None:
        assert callable(measured)
        if only in measured.__name__:
            sys.stderr.write(f"bench: {title}\n")
            found.extend(measured(*arguments))

    sys.stderr.write(f"bench: making a core of {gib:g} GiB\n")
    with subjects.big(gib) as big:
        subjects.warm(big.core)
        take("searching a core", rows.searching_a_core, big, runs)
        take("searching a process", rows.searching_a_process, big, runs)
        take("searching from a shell", rows.searching_from_a_shell, big, runs)
        take("writing", rows.writing, big, runs)
        take("other needles", rows.others, big, runs)
        if only in rows.searching_a_sparse_core.__name__:
            sparse = subjects.sparse(big.program, 4)
            take("searching a sparse core", rows.searching_a_sparse_core, sparse)
    with subjects.sample() as sample:
        take("dumping", rows.dumping, sample, runs)
        take("starting", rows.starting, sample, runs)
    return found


def _record(found: "list[Row]", told: "list[str]") -> None:
    today = datetime.datetime.now(datetime.timezone.utc).date()
    path = ROOT / "benches" / "record" / f"{today}.md"
    path.parent.mkdir(exist_ok=True)
    listed = "\n".join(f"- {fact}" for fact in told)
    text = f"# {today}\n\n`make bench`.\n\n{as_markdown(found)}\n\n{_NOTE}\n\n{listed}\n"
    path.write_text(text, encoding="utf-8")
    print(f"\nwritten to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
