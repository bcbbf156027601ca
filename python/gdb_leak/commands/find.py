"""``leak-find``: every place that holds the bytes looked for."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Optional, Union

from gdb_leak import _native, heaps, leaks, operands, recorded, rows, units
from gdb_leak.errors import NeedleError, RequestError, UsageError
from gdb_leak.layout import Block, Column, Columns, Span, line
from gdb_leak.options import Command, Operand, Option
from gdb_leak.recorded import Recorded
from gdb_leak.target import Pieces, Request, Result, Step, Target, Value
from gdb_leak.words import Word

if TYPE_CHECKING:
    from gdb_leak._native import Check, Heap, Matches, Needle

_LISTED = 200
_PIECE = 1000
_SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
_MATCHES = (Column("<"), Column("<", rank=1), Column("<", least=24), Column("<", least=16))
_ALLOCATED = Column("<", rank=2, least=24)
_FORMS = ("hex", "u8", "u16", "u32", "u64", "pointer", "utf16", "regex")

COMMAND = Command(
    name="find",
    summary="Find every place in memory that holds some bytes.",
    operands=(
        Operand(
            "NEEDLE",
            "text, in quotes where it has blanks, with C escapes (\\x00, \\n, \\\\) and without a "
            "terminator; or what one of the options below makes of it.",
            most=None,
        ),
    ),
    options=(
        Option("hex", "NEEDLE is bytes in memory order, as 6c6561 or 6c 65 61."),
        Option("u8", "NEEDLE is a number of one byte, negative ones too."),
        Option("u16", "NEEDLE is a number of two bytes, in the byte order of the target."),
        Option("u32", "NEEDLE is a number of four bytes."),
        Option("u64", "NEEDLE is a number of eight bytes."),
        Option(
            "pointer",
            "NEEDLE is an address: find the aligned words equal to it, or with START,END those "
            "that point into the range.",
        ),
        Option("utf16", "NEEDLE is text, in memory as UTF-16 in the byte order of the target."),
        Option(
            "regex", "NEEDLE is a regular expression over bytes; a match has at most 4096 bytes."
        ),
        Option("z", "Add a terminator to the text."),
        Option("i", "Ignore the case of the text or the regular expression."),
        Option(
            "in",
            "Search in a place: all, writable (default), heap, stack, anon, brk, a kind's "
            "name, or START,END.",
            "place",
            "WHERE",
        ),
        Option(
            "state",
            "Leave out matches in free memory of the heap (used), or all others (free).",
            "choice",
            choices=("used", "free"),
        ),
        Option(
            "verdict",
            "Show whether the block of each match is lost (shown anyway once leak-check was run "
            "on this stop).",
        ),
        Option("align", "Find only matches at an address that is a multiple of N.", "number", "N"),
        Option(
            "limit",
            f"List at most COUNT matches (default {_LISTED}); all are counted.",
            "count",
            "COUNT",
        ),
    ),
    description=(
        "All places count, overlapping ones too; the matches of a regular expression do "
        "not overlap."
    ),
    variables=(
        "Sets $_ to the address of the last match (void where there is none) and "
        "$numfound to the number of matches."
    ),
    example=('leak-find -in heap "leaked memory"', "gdb-leak find core -in heap 'leaked memory'"),
)


def run(request: Request) -> Result:
    """Return the matches of a needle in a place."""
    session = request.session
    state = request.parsed.choice("state", "")
    wanted = request.parsed.flag("verdict")
    judged = state or wanted
    target = heaps.held(request) if judged else session.target()
    needle = _needle(request, target)
    align = request.parsed.count("align", None)
    if align is not None and not 0 < align < 1 << 63:
        raise UsageError(f"-align {align}: not a number from 1 up")
    limit = request.parsed.count("limit", _LISTED)
    notes = target.all_notes()
    place = operands.prepared_place(request, "writable")
    heap = None
    if judged:
        heap = heaps.opened(request, target, notes)
    elif operands.of_heap(request):
        heap = heaps.in_place(request, target, notes)
    notes.extend(rows.empty_place(target.memory, place, heap))
    if state and heap is None:
        raise RequestError(f"-state {state}: {notes[-1]}")
    free = {"free": True, "used": False}.get(state)
    matches = _native.find(
        target.memory, needle, place, align, limit, heap, free, session.progress("searching")
    )
    if heap is None and len(matches):
        heap = heaps.covering(request, target, matches.addresses)
    known = recorded.opened(request, target, heap, notes, whole=False) if len(matches) else None
    check = leaks.given(target, heap)
    if wanted and check is None and heap is not None:
        check = leaks.found(request, target, heap, notes)
    if wanted and check is not None:
        notes = [*check.notes, *notes]
    session.set_variable("_", matches.last, pointer=True)
    session.set_variable("numfound", matches.count)
    values: dict[str, Value] = {
        "needle": needle.hex_bytes,
        "searched": matches.searched,
        "count": matches.count,
        "matches": Pieces(lambda: _values(matches, heap, check, known)),
        "unreadable": rows.range_values(matches.unreadable),
        "limited": len(matches) < matches.count,
    }
    data = (matches, heap, check, known)
    result = Result(COMMAND.name, target.describe(), values, notes, data, target.memory.word_size)
    for address, _, _, _ in matches.rows(0, min(1, len(matches))):
        first = hex(address)
        result.steps.append(Step("what the first one is in", session.typed("whatis", first)))
    return result


def text(result: Result) -> Iterator[Block]:
    """Yield one line a match, and the total."""
    matches, heap, check, known = result.data

    def listed() -> Iterator[Sequence[Union[Span, str]]]:
        for address, _, excerpt, region in _rows(matches):
            block = heap.block_at(address) if heap is not None else None
            place = rows.region_label(region, result.word_size) if region else ""
            row: list[Union[Span, str]] = [
                Span(units.address_text(address, result.word_size), "address"),
                Span(region.kind if region else "", "kind"),
                _label(block, address, result.word_size, check) if block else _place(place),
                Span(excerpt, "match"),
            ]
            yield row if known is None else [*row, _allocated(known, block)]

    yield Columns(_MATCHES if known is None else (*_MATCHES, _ALLOCATED), listed())
    yield from rows.unreadable_lines(matches.unreadable, result.word_size)
    searched = f"{units.size_text(matches.searched)} searched"
    total = f"{units.counted(matches.count, 'match', 'matches')} in {searched}"
    if len(matches) < matches.count:
        total += f", {len(matches)} listed (-limit unlimited lists all)"
    yield line(total)


def _allocated(known: Recorded, block: "Optional[_native.Block]") -> str:
    callers = known.callers(known.of(block.index)) if block is not None else ""
    return f"allocated by {callers}" if callers else ""


# In short form the last part of a path.
def _place(label: str) -> Span:
    return Span(label, short=label.rsplit("/", 1)[-1])


# In short form without the start of the block, which the offset leads to.
def _label(block: "_native.Block", address: int, word_size: int, check: "Optional[Check]") -> Span:
    label = heaps.block_label(block, address, word_size)
    short = heaps.block_label(block, address)
    verdict = check.verdict(block.index) if check is not None else None
    if verdict is None:
        return Span(label, short=short)
    return Span(f"{label}, {leaks.verdict_text(verdict)}", short=f"{short}, {leaks.SHORT[verdict]}")


def _rows(matches: "Matches") -> Iterator[tuple[int, int, str, Optional[_native.Region]]]:
    for start in range(0, len(matches), _PIECE):
        yield from matches.rows(start, min(start + _PIECE, len(matches)))


def _values(
    matches: "Matches",
    heap: "Optional[Heap]",
    check: "Optional[Check]",
    known: Optional[Recorded],
) -> Iterator[Sequence[Value]]:
    def value(address: int, excerpt: str, region: Optional[_native.Region]) -> Value:
        block = heap.block_at(address) if heap is not None else None
        verdict = check.verdict(block.index) if check is not None and block is not None else None
        allocation = known.of(block.index) if known is not None and block is not None else None
        requested = allocation.size if allocation is not None else None
        return {
            "address": hex(address),
            "region": rows.region_value(region),
            "block": heaps.block_value(block, address, requested),
            "verdict": verdict,
            "stack": known.stack_value(allocation.stack) if known and allocation else None,
            "text": excerpt,
        }

    for start in range(0, len(matches), _PIECE):
        found = matches.rows(start, min(start + _PIECE, len(matches)))
        yield [value(address, excerpt, region) for address, _, excerpt, region in found]


def _needle(request: Request, target: Target) -> "Needle":
    parsed = request.parsed
    forms = [form for form in _FORMS if parsed.flag(form)]
    if len(forms) > 1:
        raise UsageError(f"-{forms[0]} and -{forms[1]} exclude each other")
    form = forms[0] if forms else "text"
    for flag, allowed in (("z", ("text", "utf16")), ("i", ("text", "utf16", "regex"))):
        if parsed.flag(flag) and form not in allowed:
            raise UsageError(f"-{flag} does not go with -{form}")
    words = parsed.operands
    if form == "hex":
        return _native.Needle.hex(operands.needle_text(Word(" ".join(word.raw for word in words))))
    if len(words) > 1 and form in _SIZES:
        raise UsageError(f"several words for one number (-hex takes bytes): {len(words)}")
    if len(words) > 1:
        option = f"-{form} " if forms else ""
        quoted = _quoted(request, words, option)
        raise UsageError(f"several words for one needle; quote them: {quoted}")
    word = words[0]
    if form in _SIZES:
        return _integer(request, target, word, _SIZES[form])
    if form == "pointer":
        return _pointer(request, target, word)
    ignore_case = parsed.flag("i")
    if form == "regex":
        return _native.Needle.regex(operands.needle_text(word), ignore_case)
    if form == "utf16":
        return _utf16(request, target, word)
    return _native.Needle.text(_unescaped(request, word), parsed.flag("z"), ignore_case)


def _unescaped(request: Request, word: Word) -> bytes:
    return _native.unescape(request.session.encode(word.raw))


def _quoted(request: Request, words: list[Word], option: str) -> str:
    joined = " ".join(word.raw for word in words)
    if request.session.shell:
        return f"gdb-leak find TARGET {option}'{joined}'"
    return f'leak-find {option}"{joined}"'


def _integer(request: Request, target: Target, word: Word, size: int) -> "Needle":
    value = request.session.integer(word.raw)
    # The native module takes 128 bits.
    if not -(1 << 127) <= value < 1 << 127:
        raise NeedleError(f"{value:#x} does not fit in {units.counted(size, 'byte')}")
    return _native.Needle.integer(value, size, target.memory.byte_order)


def _pointer(request: Request, target: Target, word: Word) -> "Needle":
    parts = operands.split_range(word.raw)
    if parts is None:
        return _native.Needle.pointer(operands.address(request, word.raw), target.memory)
    start, end = operands.range_of(request, parts)
    return _native.Needle.pointers_into(start, end, target.memory)


def _utf16(request: Request, target: Target, word: Word) -> "Needle":
    raw = _unescaped(request, word)
    try:
        decoded = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise NeedleError(f"not valid UTF-8, so it has no UTF-16: {raw!r}") from None
    parsed = request.parsed
    return _native.Needle.utf16(
        decoded, target.memory.byte_order, parsed.flag("z"), parsed.flag("i")
    )
