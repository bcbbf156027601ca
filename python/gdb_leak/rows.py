"""The shapes that recur in answers, from the native module's objects."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Optional

from gdb_leak import units
from gdb_leak.layout import Column, Line, Span, line
from gdb_leak.target import Place, Value

if TYPE_CHECKING:
    from typing import Union

    from gdb_leak._native import Change, Group, Heap, Memory, Record, Region

__all__ = [
    "empty_place",
    "group_columns",
    "group_rows",
    "group_value",
    "range_values",
    "region_value",
    "spelled_span",
    "text_span",
    "unreadable_lines",
]


def group_columns(by: str = "all") -> Sequence[Column]:
    """Return the columns of :func:`group_rows`; that of the key BY is never left out."""
    key = by == "kind"
    return (
        Column(">"),
        Column(">"),
        Column(">", rank=3 if key else 0),
        Column("<", rank=0 if key else 2),
        Column("<", rank=1),
        Column("<", least=12 if key else 16),
    )


def region_value(region: "Optional[Region]") -> Value:
    """Return the JSON of REGION: ``{start, end, kind, name}``, null without one."""
    if region is None:
        return None
    return {
        "start": hex(region.start),
        "end": hex(region.end),
        "kind": region.kind,
        "name": region.name,
    }


def range_values(ranges: Sequence[tuple[int, int]]) -> list[Value]:
    """Return the JSON of RANGES: ``[{start, end}]``."""
    return [{"start": hex(start), "end": hex(end)} for start, end in ranges]


def empty_place(memory: "Memory", place: Place, heap: "Optional[Heap]") -> list[str]:
    """Return a note if no memory is in PLACE, so that no answer is read as "nothing there"."""
    if any(not region.reserve for region in memory.regions(place, heap)):
        return []
    named = place if isinstance(place, str) else f"{place[0]:#x},{place[1]:#x}"
    lacking = "no memory of the target is there (a reserve holds no byte), so nothing was read"
    return [f"-in {named}: {lacking}"]


def region_label(region: "Union[Region, Change]", word_size: int) -> str:
    """Return the name of REGION, its start where it has none."""
    return units.name_text(region.name) or units.address_text(region.start, word_size)


def unreadable_lines(ranges: Sequence[tuple[int, int]], word_size: int) -> Iterator[Line]:
    """Yield what to say of the RANGES that could not be read."""
    if not ranges:
        return
    size = sum(end - start for start, end in ranges)
    first = units.address_text(ranges[0][0], word_size)
    places = units.counted(len(ranges), "range")
    yield line(
        Span(f"{units.size_text(size)} in {places} could not be read, the first at {first}", "note")
    )


def group_value(group: "Group", stack: Value = None) -> Value:
    """Return the JSON of GROUP, with the STACK that allocated its blocks, null where not known."""
    return {
        "size": group.size,
        "kind": group.kind,
        "text": group.text,
        "example": group.example,
        "texts": group.texts or None,
        "blocks": group.blocks,
        "bytes": group.bytes,
        "sample": [hex(address) for address in group.sample],
        "arena": None if group.arena is None else hex(group.arena),
        "stack": stack,
    }


def text_span(group: "Union[Group, Record]") -> Span:
    """Return the text of GROUP, an example where it has several, nothing where it has none."""
    if group.example is None:
        return Span("")
    example = units.cut_text(group.example)
    if group.texts:
        least = "at least " if group.more_texts else ""
        several = f"{least}{group.texts:,} different texts, for example {example}"
        short = f"{'>' if group.more_texts else ''}{group.texts:,} texts: {example}"
        return Span(several, "match", short=short)
    if group.text is None:
        return Span(f"for example {example}", "match", short=example)
    text = units.cut_text(group.text)
    if group.text == group.example:
        return Span(text, "match")
    short = text if _says(group.text) else example
    return Span(f"{text}, for example {example}", "match", short=short)


def spelled_span(text: str, example: str) -> Span:
    """Return TEXT, with the EXAMPLE of it where it has no letter."""
    shown = units.cut_text(text)
    if text == example or _says(text):
        return Span(shown, "match")
    example = units.cut_text(example)
    return Span(f"{shown}, for example {example}", "match", short=example)


# Where all that texts have in common are numbers and marks, one of them says more.
def _says(text: str) -> bool:
    return any(letter.isalpha() for letter in text)


def group_rows(
    groups: "Sequence[Group]", word_size: int, by: str = "all"
) -> "Iterator[Sequence[Union[Span, str]]]":
    """Yield a row a group: bytes, blocks, size, kind, the first of them, text."""
    yield ["BYTES", "BLOCKS", "SIZE", "KIND", "FIRST AT", "ARENA" if by == "arena" else "TEXT"]
    for group in groups:
        last = text_span(group)
        if by == "arena":
            last = Span("mmapped" if group.arena is None else hex(group.arena), "address")
        yield [
            units.size_text(group.bytes),
            str(group.blocks),
            "" if group.size is None else str(group.size),
            Span(group.kind or "", "kind"),
            Span(units.address_text(group.sample[0], word_size), "address") if group.sample else "",
            last,
        ]
