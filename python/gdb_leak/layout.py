"""What a command shows, before it is known where it will be shown.

A command's text is a sequence of lines of spans; the renderer alone escapes,
pads and colours them. A span may say what it is, so that the renderer can
style it: ``address``, ``kind``, ``match``, ``note``.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Union

__all__ = ["Block", "Columns", "Line", "Made", "Span", "line", "notes"]


class Span(NamedTuple):
    """A piece of a line; ``text`` may hold anything that the target held."""

    text: str
    role: str = ""


Line = tuple[Span, ...]


class Columns(NamedTuple):
    """Rows of one span per column, padded so that the columns line up.

    ``align`` has ``<`` or ``>`` for each column; nothing is padded after the
    last one. Rows are taken ``batch`` at a time, and the widths hold from the
    first batch on, so that millions of rows are never held at once.
    """

    align: str
    rows: Iterable[Sequence[Union[Span, str]]]
    batch: int = 1000


class Made(NamedTuple):
    """Whole lines that the native module has made already, printable as they are."""

    text: str


Block = Union[Line, Columns, Made]


def line(*spans: Union[Span, str]) -> Line:
    """Return one line made of SPANS; plain strings have no role."""
    return tuple(span if isinstance(span, Span) else Span(span) for span in spans)


def notes(texts: Iterable[str]) -> Iterator[Line]:
    """Yield one line for each note."""
    for text in texts:
        yield line(Span(f"note: {text}", "note"))
