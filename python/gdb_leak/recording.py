"""Starting programs with the recorder: its options, its library, its variables."""

from gdb_leak.errors import FileError, UsageError
from gdb_leak.options import Option, Parsed

__all__ = ["ENVIRONMENT", "ONLY", "OPTIONS", "library", "preloaded", "settings"]

_MOST_DEPTH = 255

#: The variable that names the one process that is recorded, with whatever it executes.
ONLY = "GDB_LEAK_RECORD_ONLY"
_SAMPLE = "GDB_LEAK_RECORD_SAMPLE"
_DEPTH = "GDB_LEAK_RECORD_DEPTH"
_MEMORY = "GDB_LEAK_RECORD_MEMORY"

#: The options that the recorder has.
OPTIONS = (
    Option(
        "sample",
        "Record one allocation per N bytes on average, as 512K, and estimate the rest "
        "(default 0: every allocation).",
        "number",
        "N",
    ),
    Option(
        "depth",
        f"Keep at most N frames of a stack, 1 to {_MOST_DEPTH} (default 64).",
        *("number", "N"),
    ),
    Option(
        "memory",
        "Let the recorder take at most N bytes of memory, as 512M (default 2G); what does not "
        "fit is counted and not recorded.",
        "number",
        "N",
    ),
)

#: What a program is recorded by that is started in another way.
ENVIRONMENT = (
    "A program that is started in another way is recorded when its environment has the recorder's "
    f"library first in LD_PRELOAD; {_SAMPLE}, {_DEPTH} and {_MEMORY} are these options in bytes "
    f"and frames, and {ONLY}=PID leaves out all processes but that one."
)


def library() -> str:
    """Return the path of the recorder's library.

    :raises FileError: where this installation has none.
    """
    # Here, because it would cost every command 3 ms.
    from gdb_leak.recorder import installed

    found = installed()
    if found.missing:
        raise FileError(f"{found.path}: the recorder is not there: {found.missing}")
    return str(found.path)


def settings(parsed: Parsed) -> dict[str, str]:
    """Return the recorder's variables that the options in PARSED ask for.

    :raises UsageError: where a number is out of its range.
    """
    ranges = {
        "sample": (_SAMPLE, 0, (1 << 62) - 1),
        "depth": (_DEPTH, 1, _MOST_DEPTH),
        "memory": (_MEMORY, 1, (1 << 62) - 1),
    }
    found: dict[str, str] = {}
    for name, (variable, least, most) in ranges.items():
        number = parsed.count(name, None)
        if number is None:
            continue
        if not least <= number <= most:
            raise UsageError(f"-{name} {number}: not a number from {least} to {most}")
        found[variable] = str(number)
    return found


def preloaded(library: str, others: str) -> str:
    """Return LD_PRELOAD with LIBRARY first, then what it had: OTHERS.

    Its items stand between colons or blanks, and it has no way to quote.

    >>> preloaded("/r.so", "/a.so /b.so:/r.so")
    '/r.so:/a.so:/b.so'
    """
    kept = [item for item in others.replace(":", " ").split() if item != library]
    return ":".join([library, *kept])
