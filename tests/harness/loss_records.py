"""Records of lost blocks, valgrind's and gdb-leak's, in one form: blocks by verdict and stack.

A stack is the calls that led to the allocation, from the caller of the allocation function
to where the program begins. Both read the same debug information, so functions, files and
lines are compared as they are, but for what :func:`_function` makes alike.
"""

import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Optional

from harness import valgrind
from harness.valgrind import VERDICTS, Sum

#: Frames that valgrind keeps.
CALLERS = 50
_KINDS = {
    "Leak_DefinitelyLost": "definitely_lost",
    "Leak_IndirectlyLost": "indirectly_lost",
    "Leak_PossiblyLost": "possibly_lost",
    "Leak_StillReachable": "still_reachable",
}
_OPTIONS = ("--leak-resolution=high", f"--num-callers={CALLERS}", "--xml=yes")
# What a program calls, and libstdc++'s functions between it and malloc: valgrind has one of its
# own in the place of each.
_ALLOCATION = re.compile(
    r"(malloc|calloc|realloc|reallocarray|posix_memalign|aligned_alloc|memalign|valloc|pvalloc"
    r"|operator new(\[\])?\(.*\))"
)
# Where a program, a thread and the constructors of libraries begin. What calls these is libc's,
# or the loader's: valgrind cuts what is below main, knows no clone3, which threads start by
# since glibc 2.34, and no name for where the loader begins.
_BEGIN = ("main", "start_thread", "_dl_init")


class Frame(NamedTuple):
    """A call in a stack; what is not known is None."""

    function: Optional[str]
    file: Optional[str]
    line: Optional[int]

    def __str__(self) -> str:
        """Return the call as both tools write it."""
        return f"{self.function or '???'} ({self.file}:{self.line})"


Stack = tuple[Frame, ...]
#: Blocks and bytes of each verdict and stack.
Records = dict[tuple[str, Stack], Sum]


def theirs(program: Path, report: Path) -> Records:
    """Return the records of valgrind's check of PROGRAM at its end, by way of the file REPORT."""
    valgrind.check(program, options=(*_OPTIONS, f"--xml-file={report}"))
    errors = ElementTree.parse(report).getroot().iter("error")  # noqa: S314 valgrind wrote it
    return added(_theirs(error) for error in errors if error.findtext("kind", "") in _KINDS)


def ours(answer: dict[str, Any]) -> Records:
    """Return the records of ANSWER, the JSON of a check with ``-show all``."""
    return added(_ours(record) for record in answer["records"])


def sums(records: Records) -> dict[str, Sum]:
    """Return blocks and bytes by verdict."""
    made = added((verdict, (), total) for (verdict, _), total in records.items())
    return {verdict: made.get((verdict, ()), Sum(0, 0)) for verdict in VERDICTS}


def shown(records: Records) -> list[str]:
    """Return a line for each of RECORDS, in order."""
    return sorted(
        f"{verdict}: {total.bytes} bytes in {total.blocks} blocks: {' < '.join(map(str, stack))}"
        for (verdict, stack), total in records.items()
    )


def added(rows: Iterable[tuple[str, Stack, Sum]]) -> Records:
    """Return the sums of ROWS that have one verdict and one stack."""
    made: Records = {}
    for verdict, stack, total in rows:
        before = made.get((verdict, stack), Sum(0, 0))
        made[verdict, stack] = Sum(before.blocks + total.blocks, before.bytes + total.bytes)
    return made


def _theirs(error: ElementTree.Element) -> tuple[str, Stack, Sum]:
    # Of "80 (40 direct, 40 indirect) bytes in 1 blocks" the direct ones.
    direct = re.match(r"[\d,]+ \(([\d,]+) direct, ", error.findtext("xwhat/text", ""))
    size = direct.group(1) if direct else error.findtext("xwhat/leakedbytes", "")
    total = Sum(int(error.findtext("xwhat/leakedblocks", "")), int(size.replace(",", "")))
    frames = [
        Frame(
            frame.findtext("fn"),
            frame.findtext("file"),
            int(frame.findtext("line", "0")) or None,
        )
        for frame in error.iterfind("stack/frame")
        # valgrind's own functions: it has a setenv that calls libc's.
        if _ALLOCATION.fullmatch(frame.findtext("fn", ""))
        or "/vgpreload_" not in frame.findtext("obj", "")
    ]
    return _KINDS[error.findtext("kind", "")], _callers(frames), total


def _ours(record: dict[str, Any]) -> tuple[str, Stack, Sum]:
    frames = [
        Frame(frame["function"], frame["file"], frame["line"]) for frame in record["stack"] or ()
    ]
    return record["verdict"], _callers(frames), Sum(record["blocks"], record["bytes"])


def _callers(frames: list[Frame]) -> Stack:
    kept: list[Frame] = []
    for frame in frames[:CALLERS]:
        if kept or not _ALLOCATION.fullmatch(frame.function or ""):
            kept.append(frame._replace(function=frame.function and _function(frame.function)))
            if frame.function in _BEGIN:
                break
    return tuple(kept)


# Of several names for one function of libc each tool has another: valgrind the shortest with
# a version, if one has one, gdb-leak that of the debug information. Parts that the compiler made
# of a function have no name there. Of C++ the last part of a name is compared: valgrind has no
# more of a function that was inlined, and two demanglers write the rest. gdb-leak's has
# `std::string` for its long form, leaves out the first parameter of a constructor that is a
# template, and leaves names that it cannot read as they are (std::make_shared). The line that
# is compared as well tells overloads apart.
def _function(name: str) -> str:
    name = re.sub(r"@@?[A-Z_]+[\d.]+$", "", name)
    name = re.sub(r"\.(part|isra|constprop)\.\d+", "", name)
    name = name.replace("_IO_new_file_", "_IO_file_")
    if name.startswith("_Z"):
        told = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True)
        name = told.stdout.strip()
    shorter = re.sub(r"<[^<>]*>", "", name)
    while shorter != name:
        name, shorter = shorter, re.sub(r"<[^<>]*>", "", shorter)
    name = re.sub(r"\([^()]*\)( const)?( \[clone [^]]*\])?$", "", name)
    name = name.rpartition("::")[2].rpartition(" ")[2]
    return "basic_string" if name == "string" else name
