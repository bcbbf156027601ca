"""Tables: columns that line up, and fit the terminal that they are shown on."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Optional, Union

from gdb_leak.layout import Column, Columns, Span
from gdb_leak.render.style import Style, columns_of, escape

__all__ = ["Size", "fitted", "lines"]

#: In a file a text longer than this pushes its own line out, and no other.
_WIDEST = 48
#: Blanks between two columns.
_GAP = 2
_ADDRESS = re.compile(r"0x0+(?=[0-9a-f])")
_WORD = re.compile(r" *[^ ]+")


class Size(NamedTuple):
    """A column that is shown: its number, its width, and whether texts are in short form."""

    column: int
    width: int
    short: bool = False


class _Cell(NamedTuple):
    text: str
    role: str
    short: str


def lines(table: Columns, style: Style) -> Iterator[str]:
    """Yield TABLE as text, some whole lines at a time."""
    rows = iter(table.rows)
    shown: Optional[list[Size]] = None
    while True:
        batch = [_cells(row, style) for row in islice(rows, table.batch)]
        if not batch:
            return
        if shown is None:
            widest = [max(columns_of(cell.text) for cell in cells) for cells in zip(*batch)]
            if style.width is None:
                shown = [Size(at, min(width, _WIDEST)) for at, width in enumerate(widest)]
            else:
                shown = _shown(batch, widest, table.columns, style.width)
        yield "".join(_row(row, shown, table.columns, style) for row in batch)


def _shown(
    batch: Sequence[Sequence[_Cell]], widest: Sequence[int], columns: Sequence[Column], width: int
) -> list[Size]:
    last = len(columns) - 1
    # What is wider than its column takes its room from the last one, as long as that is shown.
    for absorbs in (columns[last].least is not None, False):
        short = [_short(cells, absorbs) for cells in zip(*batch)]
        shown = fitted(widest, short, columns, width, _empty(batch))
        if not absorbs or shown[-1].column == last:
            break
    return shown


def fitted(
    widest: Sequence[int],
    short: Sequence[int],
    columns: Sequence[Column],
    width: int,
    empty: Sequence[int] = (),
) -> list[Size]:
    """Return which columns are shown on WIDTH columns of a terminal, and how wide.

    Where there is not enough room, texts are shown in their short form, the columns that save
    most first; then EMPTY columns are left out; then texts that may be cut are cut, the widest
    first; then columns are left out in the order of their rank. What has to be shown is shown,
    even where it is wider.

    :param widest: of each column, the width of its widest text; SHORT likewise in short form.
    :param empty: the numbers of columns that hold nothing below their heads.

    >>> fitted([18, 30], [14, 30], [Column("<"), Column("<", least=8)], 32)
    [Size(column=0, width=14, short=True), Size(column=1, width=16, short=False)]
    >>> fitted([9, 9, 30], [9, 9, 30], [Column("<"), Column("<", 1), Column("<", least=20)], 32)
    [Size(column=0, width=9, short=False), Size(column=2, width=21, short=False)]
    """
    shown = list(range(len(widest)))
    spare = [at for at in empty if columns[at].rank]
    while True:
        sizes = {at: Size(at, widest[at]) for at in shown}
        excess = sum(size.width for size in sizes.values()) + _GAP * (len(shown) - 1) - width
        for at in sorted(shown, key=lambda at: short[at] - widest[at]):
            if excess > 0 and short[at] < widest[at]:
                sizes[at] = Size(at, short[at], True)
                excess -= widest[at] - short[at]
        if excess > 0 and spare:
            shown.remove(spare.pop())
            continue
        excess = _cut(sizes, columns, excess)
        rank = max((columns[at].rank for at in shown), default=0)
        if excess <= 0 or rank == 0:
            return list(sizes.values())
        shown.remove(next(at for at in reversed(shown) if columns[at].rank == rank))


# The width of CELLS in short form. One address that has none, as that of the page vsyscall, does
# not keep all others long where a later column gives way to it.
def _short(cells: Sequence[_Cell], absorbs: bool) -> int:
    widths = [columns_of(cell.short) for cell in cells]
    if absorbs and any(cell.role == "address" and cell.short != cell.text for cell in cells):
        pairs = zip(cells, widths)
        return max(width for cell, width in pairs if cell.role == "" or cell.short != cell.text)
    return max(widths)


# The columns that hold nothing below their heads.
def _empty(batch: Sequence[Sequence[_Cell]]) -> list[int]:
    columns = enumerate(zip(*batch))
    return [at for at, cells in columns if not any(cell.text for cell in cells[1:])]


# Takes EXCESS columns from SIZES where texts may be cut, and returns how many are left.
def _cut(sizes: dict[int, Size], columns: Sequence[Column], excess: int) -> int:
    while excess > 0:
        room = {
            at: size.width - least
            for at, size in sizes.items()
            if (least := columns[at].least) is not None and size.width > least
        }
        if not room:
            break
        at = max(room, key=lambda at: sizes[at].width)
        width = sizes[at].width
        others = [sizes[other].width for other in room if other != at]
        step = min(excess, room[at], max(1, width - max(others, default=0)))
        sizes[at] = sizes[at]._replace(width=width - step)
        excess -= step
    return excess


def _cells(row: Sequence[Union[Span, str]], style: Style) -> list[_Cell]:
    return [_cell(cell if isinstance(cell, Span) else Span(cell), style) for cell in row]


# The short form of an address has no leading zeros.
def _cell(span: Span, style: Style) -> _Cell:
    text = escape(span.text, style.encoding)
    if style.width is None:
        return _Cell(text, span.role, text)
    if span.short is not None:
        return _Cell(text, span.role, escape(span.short, style.encoding))
    return _Cell(text, span.role, _ADDRESS.sub("0x", text) if span.role == "address" else text)


def _row(
    row: Sequence[_Cell], shown: Sequence[Size], columns: Sequence[Column], style: Style
) -> str:
    cells: list[str] = []
    last = max((size.column for size in shown if row[size.column].text), default=0)
    used = 0
    # By how much this row is ahead of its columns.
    over = 0
    for size in shown:
        cell, column = row[size.column], columns[size.column]
        room = size.width - over
        if over and size is shown[-1] and style.width is not None:
            room = max(room, style.width - used - over)
        text = cell.short if size.short or columns_of(cell.text) > room else cell.text
        if style.width is not None and column.wrap:
            made = _wrapped(text, room, used + over)
        elif style.width is not None and column.least is not None:
            made = style.cut(text, room, column.tail)
        else:
            made = text
        padding = " " * (room - columns_of(made))
        over = 0 if style.width is None else max(0, columns_of(made) - room)
        coloured = style.show(made, cell.role)
        if column.align == ">":
            cells.append(padding + coloured)
        else:
            cells.append(coloured if size.column == last else coloured + padding)
        if size.column == last:
            break
        used += size.width + _GAP
    return (" " * _GAP).join(cells) + "\n"


# TEXT on lines of WIDTH columns, the further ones indented by INDENT. No word is broken.
def _wrapped(text: str, width: int, indent: int) -> str:
    made: list[str] = []
    used = 0
    for found in _WORD.finditer(text):
        word = found.group()
        if used and used + columns_of(word) > width:
            word = word.lstrip(" ")
            made.append("\n" + " " * indent)
            used = 0
        made.append(word)
        used += columns_of(word)
    return "".join(made)
