"""What a command shows, before it is known where it will be shown.

A command's text is a sequence of lines of spans; the renderer alone escapes,
pads, fits and colours them. A span may say what it is, so that the renderer can
style it: ``address``, ``kind``, ``match``, ``note``, ``command``.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Optional, Union

__all__ = ["Block", "Column", "Columns", "Line", "Made", "Span", "columns", "line", "notes"]


class Span(NamedTuple):
    """A piece of a line; ``text`` may hold anything that the target held."""

    text: str
    role: str = ""
    #: What a table shows instead, where it is too wide for the terminal.
    short: Optional[str] = None


Line = tuple[Span, ...]


class Column(NamedTuple):
    """How a column is aligned, and what happens to it where a terminal is too narrow."""

    #: ``<`` or ``>``.
    align: str
    #: Which columns are left out first: those with the largest number. 0 is never left out.
    rank: int = 0
    #: The fewest characters that texts may be cut to; None where they are not cut.
    least: Optional[int] = None
    #: Whether texts lose their beginning and not their end, as paths do.
    tail: bool = False
    #: Whether texts go on in further lines; of the last column. Then ``least`` is of a line.
    wrap: bool = False


class Columns(NamedTuple):
    """Rows of one span per column, padded so that the columns line up.

    Nothing is padded after the last column. Rows are taken ``batch`` at a time, and the
    widths hold from the first batch on, so that millions of rows are never held at once.
    """

    columns: Sequence[Column]
    rows: Iterable[Sequence[Union[Span, str]]]
    batch: int = 1000


class Made(NamedTuple):
    """Whole lines that the native module has made already, printable as they are."""

    text: str


Block = Union[Line, Columns, Made]


def columns(align: str) -> Sequence[Column]:
    """Return columns that are always shown whole, one for each ``<`` or ``>`` in ALIGN."""
    return [Column(one) for one in align]


def line(*spans: Union[Span, str]) -> Line:
    """Return one line made of SPANS; plain strings have no role."""
    return tuple(span if isinstance(span, Span) else Span(span) for span in spans)


def notes(texts: Iterable[str]) -> Iterator[Line]:
    """Yield one line for each note."""
    for text in texts:
        yield line(Span(f"note: {text}", "note"))
