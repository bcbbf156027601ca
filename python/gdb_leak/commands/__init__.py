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
    doctor,
    dump,
    find,
    gdbinit,
    heap,
    overview,
    record,
    refs,
    regions,
    run,
    snapshot,
    strings,
    whatis,
)
from gdb_leak.errors import Error, UsageError
from gdb_leak.layout import Block
from gdb_leak.options import Command
from gdb_leak.target import Request, Result

__all__ = ["CHECK", "SHELL_ONLY", "TABLE", "Entry"]


class Entry(NamedTuple):
    """One command: what it takes, how it answers, how the answer looks as text."""

    command: Command
    run: Callable[[Request], Result]
    text: Callable[[Result], Iterator[Block]]

    def answer(self, request: Request) -> Result:
        """Return the answer to REQUEST, or raise if a process that was read ended or changed.

        :raises Error: what the command raises; where a process is gone, only that it is.
        """
        try:
            result = self.run(request)
        except UsageError:
            raise
        except Error:
            # Half of a process looks like many things.
            request.session.verify()
            raise
        request.session.verify()
        target = request.session.current
        if target is not None:
            # Answers are made while they are written: more may be missing by then.
            result.later.append(lambda: target.late_notes(result))
        return result


#: The commands of both doors, in the order in which help lists them.
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

#: What `run` answers with, about each process that ends.
CHECK = Entry(check.COMMAND, check.run, check.text)

#: The commands that start a program, and those about the machine.
SHELL_ONLY = (
    Entry(run.declared(check.COMMAND), run.run, run.text),
    *(Entry(module.COMMAND, module.run, module.text) for module in (record, doctor, gdbinit)),
)
