"""``leak-decode``: words to text, and text to words."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Optional, Union

from gdb_leak import _native, heaps, operands, units
from gdb_leak.errors import RequestError, UsageError
from gdb_leak.layout import Block, Columns, Span, columns, line
from gdb_leak.options import Command, Operand, Option
from gdb_leak.target import Request, Result, Target, Value
from gdb_leak.words import Word

if TYPE_CHECKING:
    from gdb_leak._native import _ByteOrder

_WORDS_AT = 8
_MOST_WORDS_AT = 1 << 20
_HEX = re.compile(r"(?:0[xX])?([0-9a-fA-F]+)\Z")
#: Bytes of a word by its digits, where all words have as many: what x/xb,
#: x/xh, x/xw and x/xg print.
_SIZE_BY_DIGITS = {2: 1, 4: 2, 8: 4, 16: 8}

COMMAND = Command(
    name="decode",
    summary="Turn words into the text that they hold, and text into words.",
    operands=(
        Operand(
            "WORD",
            "a word in hexadecimal, as x/xg, leak-dump or od print it; lines pasted with their "
            "addresses are taken too.",
            least=0,
            most=None,
        ),
    ),
    options=(
        Option("text", "Show the words that hold STRING, with C escapes.", "text", "STRING"),
        Option(
            "at",
            "Show the words at ADDRESS in the target (in a shell: decode TARGET -at ADDRESS).",
            "address",
            "ADDRESS",
        ),
        Option("count", f"Show COUNT words at ADDRESS (default {_WORDS_AT}).", "number", "COUNT"),
    ),
    description=(
        "Words have the size and byte order of the target, 8 bytes and little-endian without one."
    ),
    example=(
        "leak-decode 0x6d2064656b61656c 0x00000079726f6d65",
        "gdb-leak decode 0x6d2064656b61656c 0x00000079726f6d65",
    ),
    target=False,
    target_options=("at",),
)


def run(request: Request) -> Result:
    """Return words and the text that they spell."""
    parsed = request.parsed
    given = [f"-{name}" for name in ("text", "at") if parsed.flag(name)]
    if parsed.operands:
        given.append("WORD")
    if len(given) != 1:
        raise UsageError(
            "one of WORD, -text and -at is needed"
            if not given
            else f"{' and '.join(given)} exclude each other"
        )
    if parsed.flag("count") and not parsed.flag("at"):
        raise UsageError("-count goes with -at")
    target = _target(request, needed=parsed.flag("at"))
    size: int = target.memory.word_size if target else 8
    order: _ByteOrder = target.memory.byte_order if target else "little"
    start: Optional[int] = None
    text_word, at = parsed.word("text"), parsed.word("at")
    if text_word is not None:
        words = _native.text_to_words(
            _native.unescape(request.session.encode(text_word.raw)), size, order
        )
    elif at is not None and target is not None:
        start, words = _words_at(request, target, at.raw)
    else:
        words, size = _pasted(
            [piece for word in parsed.operands for piece in word.raw.split()], size
        )
    spelled = [_native.words_to_text([word], size, order) for word in words]
    values: dict[str, Value] = {
        "words": [
            {"value": f"0x{word:0{2 * size}x}", "text": part} for word, part in zip(words, spelled)
        ],
        # The last word is filled up with zeros; a text ends before them.
        "text": _native.words_to_text(words, size, order).rstrip("\0"),
        "chunk": None,
    }
    notes = target.all_notes() if target else []
    header = None
    if start is not None and target is not None:
        heap = heaps.covering(request, target, [start])
        unit = heap.unit_at(start) if heap is not None else None
        if heap is not None and unit is not None:
            values["chunk"] = heaps.chunk_value(heap, unit)
            header = (heap, unit)
    return Result(
        COMMAND.name,
        target.describe() if target else None,
        values,
        notes,
        (start, words, spelled, size, header),
        size,
    )


def text(result: Result) -> Iterator[Block]:
    """Yield one line a word, and the text of all."""
    start, words, spelled, size, header = result.data

    def rows() -> Iterator[Sequence[Union[Span, str]]]:
        for at, (word, part) in enumerate(zip(words, spelled)):
            value = f"0x{word:0{2 * size}x}"
            if start is None:
                yield [value, Span(part, "match")]
            else:
                yield [
                    Span(units.address_text(start + at * size, size), "address"),
                    value,
                    Span(part, "match"),
                ]

    yield Columns(columns("<<" if start is None else "<<<"), rows())
    yield line(str(result.values["text"]))
    if header is not None:
        heap, unit = header
        facts = list(heaps.chunk_rows(heap, unit, size))
        yield Columns(columns("<<"), facts, batch=len(facts) + 1)


# Without a target, or with one that cannot be opened, words are still words.
def _target(request: Request, needed: bool) -> Optional[Target]:
    if needed:
        return request.session.target()
    if request.session.shell:
        return None
    try:
        return request.session.target()
    except RequestError:
        return None


def _words_at(request: Request, target: Target, expression: str) -> tuple[int, list[int]]:
    count = request.parsed.count("count", _WORDS_AT) or 0
    if not 0 < count <= _MOST_WORDS_AT:
        raise UsageError(f"-count {count}: not a number from 1 to {_MOST_WORDS_AT}")
    size = target.memory.word_size
    start, length = operands.span(request, [Word(expression), Word(f"+{count * size}")], 0)
    request.session.prepare((start, start + length))
    data = target.memory.read(start, length)
    order = target.memory.byte_order
    return start, [int.from_bytes(data[at : at + size], order) for at in range(0, len(data), size)]


# The words among PIECES, and their size. Left out is what x/2xg and od print
# around them: `0x5555:`, `0x5555 <table+8>:`, `000010 … >text<`.
def _pasted(pieces: Sequence[str], word_size: int) -> tuple[list[int], int]:
    kept: list[str] = []
    line_start = 0
    in_text = False
    for piece in pieces:
        if in_text:
            in_text = not piece.endswith("<")
        elif piece.startswith(">"):
            # od's text column; the first number of its line is the address.
            in_text = len(piece) == 1 or not piece.endswith("<")
            del kept[line_start : line_start + 1]
            line_start = len(kept)
        elif piece.startswith("<"):
            # `<table+8>:` stands after the address that it names.
            del kept[-1:]
            line_start = len(kept)
        elif piece.endswith(":"):
            line_start = len(kept)
        else:
            kept.append(piece)
    digits = [_digits(piece) for piece in kept]
    widths = {len(word) for word in digits}
    size = _SIZE_BY_DIGITS.get(widths.pop(), word_size) if len(widths) == 1 else word_size
    for word in digits:
        if len(word.lstrip("0")) > 2 * size:
            raise UsageError(f"0x{word} does not fit in a word of {units.counted(size, 'byte')}")
    return [int(word, 16) for word in digits], size


def _digits(piece: str) -> str:
    match = _HEX.match(piece)
    if not match:
        raise UsageError(f"not a word in hexadecimal: {piece!r}")
    return match.group(1)
