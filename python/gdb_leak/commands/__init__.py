"""The commands, one file each; none imports gdb or sys.

A command file has ``COMMAND``, its declaration; ``run(request)``, which
answers; and ``text(result)``, which yields the answer as lines of spans.
"""

from collections.abc import Iterator
from typing import Callable, NamedTuple

from gdb_leak.commands import (
    blocks,
    check,
    decode,
    diff_region,
    dump,
    find,
    heap,
    overview,
    refs,
    regions,
    snapshot,
    strings,
    whatis,
)
from gdb_leak.layout import Block
from gdb_leak.options import Command
from gdb_leak.target import Request, Result

__all__ = ["TABLE", "Entry"]


class Entry(NamedTuple):
    """One command: what it takes, how it answers, how the answer looks as text."""

    command: Command
    run: Callable[[Request], Result]
    text: Callable[[Result], Iterator[Block]]


#: The commands of both doors, in the order in which help lists them. Those about the
#: machine, `doctor` and `gdbinit`, are the shell's alone.
TABLE = tuple(
    Entry(module.COMMAND, module.run, module.text)
    for module in (
        overview,
        regions,
        find,
        dump,
        decode,
        strings,
        snapshot,
        diff_region,
        heap,
        blocks,
        check,
        refs,
        whatis,
    )
)
