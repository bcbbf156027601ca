"""Threads that ended and were never joined, in answers: glibc keeps their stacks for ever."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from gdb_leak import _native, units
from gdb_leak.layout import Line, Span, line
from gdb_leak.target import Request, Target, ThreadRegisters, Value

__all__ = ["Unjoined", "found", "lines", "value"]


#: How many functions a text names.
_LISTED = 3


class Unjoined(NamedTuple):
    """Threads that ended, were neither joined nor detached, and began with the same function."""

    #: The address of the function, None where it is not known.
    start: Optional[int]
    #: Its name with its source, where known.
    function: Optional[str]
    threads: int
    #: The bytes of their stacks.
    size: int
    #: How many of these hold anything, None where that is not known.
    held: Optional[int]


def found(
    request: Request, target: Target, registers: Optional[Sequence[ThreadRegisters]] = None
) -> list[Unjoined]:
    """Return the threads of TARGET that ended and were not joined, most bytes first.

    :param registers: of its threads as the session gives them, where they were asked for already.
    """
    if target.memory.source not in ("core", "process", "remote"):
        return []
    progress = request.session.progress("looking at threads")
    groups = _native.unjoined_threads(target.memory, registers, progress)
    return [
        Unjoined(one.start, _named(request, one.start), one.threads, one.size, one.held)
        for one in groups
    ]


def value(some: Sequence[Unjoined]) -> Value:
    """Return the JSON of SOME: ``[{start, function, threads, size, held}]``."""
    return [
        {
            "start": None if one.start is None else hex(one.start),
            "function": one.function,
            "threads": one.threads,
            "size": one.size,
            "held": one.held,
        }
        for one in some
    ]


def lines(some: Sequence[Unjoined]) -> Iterator[Line]:
    """Yield what a text says of SOME, which have the most bytes first; nothing without any."""
    for one in some[:_LISTED]:
        ended = f"{units.counted(one.threads, 'thread')} ended and"
        never = "was never joined" if one.threads == 1 else "were never joined"
        size = units.size_text(one.size if one.held is None else one.held)
        mapped = "" if one.held is None else f" of {units.size_text(one.size)} mapped"
        begun = f"; begun in {one.function}" if one.function else ""
        yield line(Span(f"{ended} {never}: stacks hold {size}{mapped}{begun}", "note"))
    rest = some[_LISTED:]
    if rest:
        threads = units.counted(sum(one.threads for one in rest), "thread")
        others = units.counted(len(rest), "other function")
        yield line(Span(f"and {threads} that began in {others} (-json lists all)", "note"))


def _named(request: Request, start: Optional[int]) -> Optional[str]:
    if start is None:
        return None
    known = request.session.lines(start)
    if known and known[-1].function is not None:
        called = known[-1]
        source = "" if called.file is None else called.file.rsplit("/", 1)[-1]
        at = f"{source}:{called.line}" if source and called.line is not None else source
        return f"{called.function} ({at})" if at else called.function
    symbol = request.session.symbol(start)
    return hex(start) if symbol is None else symbol.partition(" in section ")[0]
