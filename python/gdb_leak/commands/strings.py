"""``leak-strings``: the printable strings, most frequent first."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Union

from gdb_leak import _native, heaps, operands, rows, units
from gdb_leak.errors import UsageError
from gdb_leak.layout import Block, Column, Columns, Span, line
from gdb_leak.options import Command, Option
from gdb_leak.target import Request, Result, Value

if TYPE_CHECKING:
    from gdb_leak._native import Strings

_MINIMUM = 4
_TOP = 50

_SHOWN = (Column("<"), Column(">"), Column(">"), Column("<", least=16))

COMMAND = Command(
    name="strings",
    summary="Show the printable strings in memory, each with how often and how many bytes.",
    options=(
        Option(
            "in",
            "Look in a place: all, writable (default), heap, stack, anon, brk, a kind's name,"
            " or START,END.",
            "place",
            "WHERE",
        ),
        Option(
            "min",
            f"Leave out strings shorter than N characters (default {_MINIMUM}).",
            "number",
            "N",
        ),
        Option("top", f"Show the COUNT most frequent (default {_TOP}).", "count", "COUNT"),
    ),
    example=("leak-strings -in heap -top 10", "gdb-leak strings core -in heap -top 10"),
)


def run(request: Request) -> Result:
    """Return the most frequent strings of a place."""
    session = request.session
    target = session.target()
    minimum = request.parsed.count("min", _MINIMUM)
    if minimum is None or not 0 < minimum < 1 << 31:
        raise UsageError(f"-min {minimum}: not a number from 1 up")
    top = request.parsed.count("top", _TOP)
    place = operands.prepared_place(request, "writable")
    notes = target.all_notes()
    of_heap = operands.of_heap(request)
    heap = heaps.in_place(request, target, notes) if of_heap else None
    notes.extend(rows.empty_place(target.memory, place, heap))
    progress = session.progress("reading")
    found = _native.strings(target.memory, place, minimum, top, heap, progress)
    values: dict[str, Value] = {
        "strings": [
            {"text": spelled, "count": count, "bytes": size, "first": hex(first)}
            for spelled, count, size, first in found.rows
        ],
        "distinct": found.distinct,
        "total": found.total,
        "untracked": found.untracked,
        "searched": found.searched,
        "unreadable": rows.range_values(found.unreadable),
    }
    if found.untracked:
        lost = units.counted(found.untracked, "string")
        notes.append(
            f"{lost} more were seen than can be told apart; only frequent ones are counted in full"
        )
    return Result(COMMAND.name, target.describe(), values, notes, found, target.memory.word_size)


def text(result: Result) -> Iterator[Block]:
    """Yield one line a string, and the total."""
    found: Strings = result.data
    listed = found.rows

    def lines() -> Iterator[Sequence[Union[Span, str]]]:
        yield ["FIRST AT", "COUNT", "BYTES", "TEXT"]
        for spelled, count, size, first in listed:
            yield [
                Span(units.address_text(first, result.word_size), "address"),
                str(count),
                units.size_text(size),
                Span(spelled, "match"),
            ]

    if listed:
        yield Columns(_SHOWN, lines(), batch=len(listed) + 1)
    yield from rows.unreadable_lines(found.unreadable, result.word_size)
    total = f"{units.counted(found.total, 'string')}, {found.distinct} different"
    total += f", in {units.size_text(found.searched)} searched"
    if len(listed) < found.distinct:
        total += f", {len(listed)} listed (-top unlimited lists all)"
    yield line(total)
