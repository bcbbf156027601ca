"""``leak-strings``: the printable strings, most frequent first."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Union

from gdb_leak import _native, heaps, operands, rows, units
from gdb_leak.errors import RequestError, UsageError
from gdb_leak.layout import Block, Column, Columns, Span, line
from gdb_leak.options import Command, Option
from gdb_leak.target import Request, Result, Step, Value

if TYPE_CHECKING:
    from gdb_leak._native import Strings

_MINIMUM = 4
_TOP = 50

_SHOWN = (Column("<"), Column(">"), Column(">"), Column("<", least=16))

COMMAND = Command(
    name="strings",
    summary="Show the printable strings in memory, and how often each occurs.",
    options=(
        Option(
            "in",
            "Look in a place: all, writable (default), heap, stack, anon, brk, a kind's name,"
            " or START,END.",
            "place",
            "WHERE",
        ),
        Option(
            "state",
            "Take strings in used memory (used), or in free blocks (free); by default in both.",
            "choice",
            choices=("used", "free"),
        ),
        Option(
            "min",
            f"Leave out strings shorter than N characters (default {_MINIMUM}).",
            "number",
            "N",
        ),
        Option("top", f"Show the COUNT most frequent (default {_TOP}).", "count", "COUNT"),
        Option("all", "Also count pointers whose bytes happen to be printable."),
    ),
    description=(
        "Strings that differ only in digits, hex or UUIDs are one row, with # for each number that "
        "differs; the first of them is at the address shown. Pointers whose bytes happen to be "
        "printable (fsEV, of 0x564573661000) are not strings. "
        "With -state a string belongs to the block in which it starts, and ends with it; memory "
        "outside the heap counts as used."
    ),
    example=("leak-strings -in heap -top 10", "gdb-leak strings core -in heap -top 10"),
)


def run(request: Request) -> Result:
    """Return the most frequent strings of a place."""
    session = request.session
    state = request.parsed.choice("state", "")
    target = heaps.held(request) if state else session.target()
    minimum = request.parsed.count("min", _MINIMUM)
    if minimum is None or not 0 < minimum < 1 << 31:
        raise UsageError(f"-min {minimum}: not a number from 1 up")
    top = request.parsed.count("top", _TOP)
    place = operands.prepared_place(request, "writable")
    notes = target.all_notes()
    heap = None
    if state:
        heap = heaps.opened(request, target, notes)
        if heap is None:
            raise RequestError(f"-state {state}: {notes[-1]}")
    elif operands.of_heap(request):
        heap = heaps.in_place(request, target, notes)
    notes.extend(rows.empty_place(target.memory, place, heap))
    free = {"free": True, "used": False}.get(state)
    progress = session.progress("reading")
    everything = request.parsed.flag("all")
    found = _native.strings(target.memory, place, minimum, top, heap, free, everything, progress)
    values: dict[str, Value] = {
        "strings": [
            {
                "text": spelled,
                "example": example,
                "count": count,
                "bytes": size,
                "first": hex(first),
            }
            for spelled, example, count, size, first in found.rows
        ],
        "distinct": found.distinct,
        "total": found.total,
        "untracked": found.untracked,
        "addresses": found.addresses,
        "searched": found.searched,
        "unreadable": rows.range_values(found.unreadable),
    }
    if found.untracked:
        lost = units.counted(found.untracked, "string")
        notes.append(
            f"{lost} exceed the limit of distinct strings and are in no row; the total counts them"
        )
    result = Result(COMMAND.name, target.describe(), values, notes, found, target.memory.word_size)
    needle = operands.typed_needle(request, found.rows[0][0]) if found.rows else None
    where = request.parsed.word("in")
    place_words = ["-in", operands.typed_word(request, where)] if where is not None else []
    if needle is not None:
        typed = session.typed("find", *place_words, needle)
        result.steps.append(Step("in which blocks the first one is", typed))
    elif found.rows:
        first = hex(found.rows[0][-1])
        result.steps.append(Step("where the first one is", session.typed("whatis", first)))
    return result


def text(result: Result) -> Iterator[Block]:
    """Yield one line a string, and the total."""
    found: Strings = result.data
    listed = found.rows

    def lines() -> Iterator[Sequence[Union[Span, str]]]:
        yield ["FIRST AT", "COUNT", "BYTES", "TEXT"]
        for spelled, example, count, size, first in listed:
            yield [
                Span(units.address_text(first, result.word_size), "address"),
                str(count),
                units.size_text(size),
                rows.spelled_span(spelled, example),
            ]

    if listed:
        yield Columns(_SHOWN, lines(), batch=len(listed) + 1)
    yield from rows.unreadable_lines(found.unreadable, result.word_size)
    total = f"{units.counted(found.total, 'string')}, {found.distinct} different"
    total += f", in {units.size_text(found.searched)} searched"
    if len(listed) < found.distinct:
        total += f", {len(listed)} listed (-top unlimited lists all)"
    yield line(total)
    if found.addresses:
        what = f"{found.addresses:,} string{'' if found.addresses == 1 else 's'}"
        why = "pointers whose bytes happen to be printable"
        yield line(f"{what} left out: {why} (-all counts them)")
