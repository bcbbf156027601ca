"""An answer as text for a terminal or a file."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Optional, Union

from gdb_leak.layout import Block, Columns, Made, Span, line, notes
from gdb_leak.target import Result

__all__ = ["Style", "escape", "escape_lines", "pieces"]

#: SGR codes by role: gdb's own styles for addresses, and light ones.
_COLOURS = {"address": "34", "kind": "36", "match": "1", "note": "33"}
#: A name longer than this pushes its line out, and no other.
_WIDEST = 48


class Style:
    """How spans are shown: in colour or not, and in which encoding."""

    def __init__(self, colour: bool = False, encoding: Optional[str] = None) -> None:
        """Show in COLOUR where asked, and only what ENCODING has."""
        self.colour = colour
        self.encoding = encoding or "ascii"

    def show(self, text: str, role: str) -> str:
        """Return TEXT, printable already, in the colour of ROLE."""
        code = _COLOURS.get(role)
        return f"\033[{code}m{text}\033[m" if self.colour and code and text else text


def escape(text: str, encoding: str = "utf-8") -> str:
    r"""Return TEXT with whatever is not printable in ENCODING as escapes.

    ``\xHH`` that the text has already stays as it is. Never raises.

    >>> escape("a\x1b[31m")
    'a\\x1b[31m'
    """
    # Nearly every string of a target is this, and it is the fast way.
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape_one(character, encoding) for character in text)


def escape_lines(text: str, encoding: str) -> str:
    """Return TEXT with each line escaped for ENCODING, the line ends kept."""
    return "\n".join(escape(line, encoding) for line in text.split("\n"))


def pieces(result: Result, blocks: Iterable[Block], style: Style) -> Iterator[str]:
    """Yield RESULT as text in pieces of whole lines: heading, notes, BLOCKS, later notes."""
    known = len(result.notes)
    if result.heading is not None:
        yield from _lines([line(result.heading)], style)
    yield from _lines(notes(result.notes), style)
    for block in blocks:
        if isinstance(block, Made):
            yield block.text if block.text.isascii() else escape_lines(block.text, style.encoding)
        elif isinstance(block, Columns):
            yield from _columns(block, style)
        else:
            yield from _lines([block], style)
    result.finish()
    yield from _lines(notes(result.notes[known:]), style)


def _lines(lines: Iterable[Sequence[Span]], style: Style) -> Iterator[str]:
    for spans in lines:
        shown = (style.show(escape(span.text, style.encoding), span.role) for span in spans)
        yield "".join(shown) + "\n"


def _columns(columns: Columns, style: Style) -> Iterator[str]:
    rows = iter(columns.rows)
    widths: list[int] = [0] * len(columns.align)
    first = True
    while True:
        batch = [_escaped(row, style) for row in islice(rows, columns.batch)]
        if not batch:
            return
        if first:
            for row in batch:
                widths = [
                    max(width, min(len(text), _WIDEST)) for width, (text, _) in zip(widths, row)
                ]
            first = False
        yield "".join(_row(row, widths, columns.align, style) for row in batch)


def _escaped(row: Sequence[Union[Span, str]], style: Style) -> list[tuple[str, str]]:
    spans = (cell if isinstance(cell, Span) else Span(cell) for cell in row)
    return [(escape(span.text, style.encoding), span.role) for span in spans]


def _row(row: Sequence[tuple[str, str]], widths: Sequence[int], align: str, style: Style) -> str:
    cells: list[str] = []
    last = max((at for at, (text, _) in enumerate(row) if text), default=0)
    for at, (text, role) in enumerate(row[: last + 1]):
        padding = " " * (widths[at] - len(text))
        shown = style.show(text, role)
        if align[at] == ">":
            cells.append(padding + shown)
        else:
            cells.append(shown if at == last else shown + padding)
    return "  ".join(cells) + "\n"


def _escape_one(character: str, encoding: str) -> str:
    if character.isprintable():
        try:
            character.encode(encoding)
        except (UnicodeEncodeError, LookupError):
            pass
        else:
            return character
    # A lone surrogate stands for the byte that was no UTF-8 (PEP 383).
    raw = character.encode(
        "utf-8", "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    )
    return "".join(f"\\x{byte:02x}" for byte in raw)
