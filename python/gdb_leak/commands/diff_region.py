"""``leak-diff-region``: which regions grew, and what is in the new bytes."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from gdb_leak import _native, heaps, operands, rows, units
from gdb_leak.errors import UsageError
from gdb_leak.layout import Block, Column, Columns, Span, line
from gdb_leak.options import Command, Operand, Option
from gdb_leak.target import Request, Result, Step, Target, Value
from gdb_leak.words import Word

if TYPE_CHECKING:
    from gdb_leak._native import Change, Contents, Difference, Group, Groups

    Content = tuple[str, str, int, int, int, Optional[int], int]

_MINIMUM = 4
_TOP = 20
#: The sources whose bytes can be read.
_WITH_BYTES = ("core", "process", "remote")
#: What to call the others.
_WITHOUT_BYTES = {"snapshot": "a snapshot", "maps": "a list of regions"}

_NAME = Column("<", rank=2, least=12, tail=True)
_CHANGES = (
    Column("<"),
    Column("<", rank=5),
    Column("<"),
    Column(">", rank=3),
    Column(">", rank=1),
    Column(">"),
    Column("<", rank=4),
    Column("<"),
    _NAME,
)
_RANGES = (Column("<"), Column("<"), Column(">"), Column("<"), _NAME)
_CONTENTS = (
    Column("<"),
    Column(">"),
    Column(">"),
    Column("<", rank=1),
    Column("<", least=20),
)

COMMAND = Command(
    name="diff-region",
    summary="Show which regions changed, and what is in the new bytes.",
    operands=(
        Operand(
            "BEFORE",
            "a core file, a snapshot (file or @1), or a file with the output of pmap -x or "
            "the text of /proc/PID/maps; in a shell also a pid; in gdb, where it is left out, the "
            "latest snapshot of the session.",
            "file",
            least=0,
            shell_least=1,
        ),
        Operand(
            "AFTER",
            "the same; in gdb, where it is left out, the target.",
            "file",
            least=0,
            shell_least=1,
        ),
    ),
    options=(
        Option(
            "min",
            f"Leave strings shorter than N characters out of the contents (default {_MINIMUM}).",
            "number",
            "N",
        ),
        Option(
            "top",
            f"Show the COUNT most frequent strings, and so many groups of blocks (default {_TOP}).",
            "count",
            "COUNT",
        ),
    ),
    description=(
        "Contents are shown of new bytes that are writable, and where AFTER has bytes: a "
        "core file or the target. Strings that differ only in digits, hex or UUIDs are one, with # "
        "for each number that differs. The last line is the net growth of writable memory; "
        "reserves, "
        "which have no permissions and hold no byte, have a line of their own. Blocks are not "
        "compared: a heap may fill up before its region grows (leak-heap, leak-check)."
    ),
    example=("leak-diff-region core.before", "gdb-leak diff-region core.before core.after"),
    target=False,
    files=True,
)


class _Data(NamedTuple):
    difference: "Difference"
    # What is in the new bytes, None where no bytes are new or can be read.
    found: "Optional[Contents]"
    groups: "Optional[Groups]"
    # Of the groups those that are listed.
    shown: "Sequence[Group]"

    @property
    def contents(self) -> "Sequence[Content]":
        return self.found.rows if self.found is not None else []

    @property
    def limited(self) -> bool:
        more = self.found is not None and len(self.found.rows) < self.found.distinct
        return more or (self.groups is not None and len(self.shown) < len(self.groups))


def run(request: Request) -> Result:
    """Return the difference between two targets, and the contents of what is new."""
    before, after = _sides(request)
    difference = _native.diff(before.memory, after.memory)
    both = [note for note in after.all_notes() if note in before.all_notes()]
    notes = [note for note in after.all_notes() if note not in both]
    notes.extend(difference.notes)
    notes.extend(f"BEFORE: {note}" for note in before.all_notes() if note not in both)
    notes.extend(f"BEFORE and AFTER: {note}" for note in both)
    found = _contents(request, difference, after, notes)
    groups = _groups(request, difference, after)
    shown = groups.rows(request.parsed.count("top", _TOP)) if groups is not None else []
    data = _Data(difference, found, groups, shown)
    sizes = _sizes(shown)
    values: dict[str, Value] = {
        "grown": [_value(change) for change in difference.grown],
        "shrunk": [_value(change) for change in difference.shrunk],
        "new": [_value(change) for change in difference.new],
        "gone": [_value(change) for change in difference.gone],
        "growth": difference.growth,
        "reserved": difference.reserved,
        "same_program": difference.same_program,
        "contents": [_content_value(content, sizes) for content in data.contents],
        "distinct": found.distinct if found is not None else 0,
        "total": found.total if found is not None else 0,
        "blocks": [rows.group_value(group) for group in shown],
        "groups": len(groups) if groups is not None else 0,
        "limited": data.limited,
    }
    result = Result(
        COMMAND.name,
        after.describe(),
        values,
        list(dict.fromkeys(notes)),
        data,
        after.memory.word_size,
    )
    result.reworded = both
    result.steps.extend(_next(request, after, difference, data.contents))
    return result


# Which of the new texts are lost; without texts which blocks are; without growth what the heap has.
def _next(
    request: Request, after: Target, difference: "Difference", contents: "Sequence[Content]"
) -> Iterator[Step]:
    words = request.parsed.operands
    if after.memory.source not in _WITH_BYTES or (not request.session.shell and len(words) > 1):
        return
    target = [operands.typed_word(request, words[1])] if request.session.shell else []
    typed = request.session.typed
    needle = operands.typed_needle(request, contents[0][0]) if contents else None
    if needle is not None:
        yield Step(
            "which of the first of these are lost", typed("find", *target, "-verdict", needle)
        )
    elif difference.growth > 0:
        yield Step("which blocks are lost", typed("check", *target))
    else:
        yield Step("whether the heap filled up within", typed("heap", *target))


def text(result: Result) -> Iterator[Block]:
    """Yield the changed regions, the contents of the new bytes, and the net growth."""
    data: _Data = result.data
    difference, contents, shown = data.difference, data.contents, data.shown
    listed = [
        *(("grew", change) for change in difference.grown),
        *(("new", change) for change in difference.new),
        *(("shrank", change) for change in difference.shrunk),
        *(("gone", change) for change in difference.gone),
    ]
    if listed:
        yield Columns(_CHANGES, _change_rows(listed, result.word_size), batch=len(listed) + 1)
    fresh = [
        (span, change)
        for change in [*difference.grown, *difference.new]
        for span in change.new_ranges
    ]
    if fresh:
        yield line("")
        yield line("new bytes:")
        yield Columns(_RANGES, _range_rows(fresh, result.word_size), batch=len(fresh))
    if contents:
        yield line("")
        yield line("in the new bytes:")
        yield Columns(_CONTENTS, _content_rows(contents, result.word_size), batch=len(contents) + 1)
        if data.found is not None and len(contents) < data.found.distinct:
            total = f"{units.counted(data.found.total, 'string')}, {data.found.distinct} different"
            yield line(f"{total}, {_listed(len(contents))}")
    if shown:
        yield line("")
        yield line("blocks in use in the new bytes:")
        lines = rows.group_rows(shown, result.word_size)
        yield Columns(rows.group_columns(), lines, batch=len(shown) + 1)
        if data.groups is not None and len(shown) < len(data.groups):
            total = units.counted(data.groups.blocks, "block")
            of = units.counted(len(data.groups), "group")
            yield line(f"{total} in {of}, {_listed(len(shown))}")
    if listed:
        yield line("")
    if difference.growth:
        yield line(_more(difference.growth))
    else:
        yield line(f"{_no_growth(difference)}; blocks were not compared")
    if difference.reserved:
        yield line(f"reserves: {_more(difference.reserved)}")


def _listed(count: int) -> str:
    return f"{count} listed (-top unlimited lists all)"


def _more(growth: int) -> str:
    return f"{units.size_text(abs(growth))} {'more' if growth > 0 else 'less'}"


# A heap may be full of leaks before its region grows.
def _no_growth(difference: "Difference") -> str:
    grown = [*difference.grown, *difference.new]
    if any(change.writable for change in grown):
        return "no growth: what is writable grew and shrank by the same"
    return "no region grew" if not grown else "no growth: no writable region grew"


def _sides(request: Request) -> tuple[Target, Target]:
    words = request.parsed.operands
    session = request.session
    if session.shell and len(words) < 2:
        raise UsageError(f"{'AFTER' if words else 'BEFORE'} is missing")
    if words:
        before = _side(request, words[0])
    else:
        latest = session.snapshots.latest()
        before = Target(latest.memory, latest.path)
    after = _side(request, words[1]) if len(words) > 1 else session.target()
    return before, after


def _side(request: Request, word: Word) -> Target:
    named = not word.quoted and not request.session.shell
    kept = request.session.snapshots.named(word.raw) if named else None
    if kept is not None:
        return Target(kept.memory, kept.path)
    return request.session.open(operands.file_path(word))


# What a library that was loaded in between brought is not a leak.
def _new_ranges(difference: "Difference") -> list[tuple[int, int]]:
    return [
        span
        for change in [*difference.grown, *difference.new]
        if "w" in change.permissions or "?" in change.permissions
        for span in change.new_ranges
    ]


# The blocks in use that fill the new bytes, those with the most bytes first.
def _groups(request: Request, difference: "Difference", after: Target) -> "Optional[Groups]":
    ranges = _new_ranges(difference)
    if not ranges or after.memory.source not in _WITH_BYTES:
        return None
    heap = heaps.covering(request, after, [start for start, _ in ranges])
    if heap is None:
        return None
    progress = request.session.progress("reading blocks")
    return heap.groups("all", free=False, within=ranges, progress=progress)


# The size of the blocks that hold a text, where it is one size.
def _sizes(groups: "Sequence[Group]") -> dict[str, Optional[int]]:
    sizes: dict[str, Optional[int]] = {}
    for group in groups:
        if group.text is not None:
            sizes[group.text] = group.size if group.text not in sizes else None
    return sizes


def _contents(
    request: Request, difference: "Difference", after: Target, notes: list[str]
) -> "Optional[Contents]":
    minimum = request.parsed.count("min", _MINIMUM)
    if minimum is None or not 0 < minimum < 1 << 31:
        raise UsageError(f"-min {minimum}: not a number from 1 up")
    ranges = _new_ranges(difference)
    if not ranges:
        return None
    if after.memory.source not in _WITH_BYTES:
        notes.append(
            f"no contents: AFTER is {_WITHOUT_BYTES[after.memory.source]}, which has no bytes of "
            "memory"
        )
        return None
    if after.memory.source == "remote":
        for span in ranges:
            request.session.prepare(span)
    top = request.parsed.count("top", _TOP)
    found = _native.contents(
        after.memory, ranges, minimum, top, request.session.progress("reading")
    )
    if found.unreadable:
        missing = sum(end - start for start, end in found.unreadable)
        notes.append(f"{units.size_text(missing)} of the new bytes could not be read")
    if found.untracked:
        lost = units.counted(found.untracked, "string")
        notes.append(f"{lost} exceed the limit of distinct strings and are in no row")
    return found


def _change_rows(
    listed: "Sequence[tuple[str, Change]]", word_size: int
) -> Iterator[Sequence[Union[Span, str]]]:
    yield ["START", "END", "", "BEFORE", "AFTER", "GROWTH", "PERM", "KIND", "NAME"]
    for what, change in listed:
        growth = change.after - change.before
        yield [
            Span(units.address_text(change.start, word_size), "address"),
            Span(units.address_text(change.end, word_size), "address"),
            what,
            units.size_text(change.before),
            units.size_text(change.after),
            f"{'+' if growth >= 0 else ''}{units.size_text(growth)}",
            change.permissions,
            Span(change.kind, "kind"),
            units.name_text(change.name),
        ]


def _range_rows(
    fresh: "Sequence[tuple[tuple[int, int], Change]]", word_size: int
) -> Iterator[Sequence[Union[Span, str]]]:
    for (start, end), change in fresh:
        yield [
            Span(units.address_text(start, word_size), "address"),
            Span(units.address_text(end, word_size), "address"),
            units.size_text(end - start),
            Span(change.kind, "kind"),
            rows.region_label(change, word_size),
        ]


def _content_rows(
    contents: "Sequence[Content]", word_size: int
) -> Iterator[Sequence[Union[Span, str]]]:
    yield ["FIRST AT", "COUNT", "BYTES", "REPEATS", "TEXT"]
    for spelled, example, count, size, first, stride, strided in contents:
        repeats = Span("")
        if stride:
            every = f"every {stride:#x}"
            repeats = Span(f"{every} bytes, {strided} times", short=every)
        yield [
            Span(units.address_text(first, word_size), "address"),
            str(count),
            units.size_text(size),
            repeats,
            rows.spelled_span(spelled, example),
        ]


def _content_value(content: "Content", sizes: dict[str, Optional[int]]) -> Value:
    spelled, example, count, size, first, stride, strided = content
    return {
        "text": spelled,
        "example": example,
        "count": count,
        "bytes": size,
        "block_size": sizes.get(spelled),
        "first": hex(first),
        "stride": stride,
        "strided": strided,
    }


# A region may have grown at both ends: `new_range` is the larger part, and
# `new_ranges` has all.
def _value(change: "Change") -> Value:
    largest = max(change.new_ranges, key=lambda span: span[1] - span[0], default=None)
    return {
        "start": hex(change.start),
        "end": hex(change.end),
        "before": change.before,
        "after": change.after,
        "growth": change.after - change.before,
        "new_range": rows.range_values([largest])[0] if largest else None,
        "new_ranges": rows.range_values(change.new_ranges),
        "gone_ranges": rows.range_values(change.gone_ranges),
        "permissions": change.permissions,
        "kind": change.kind,
        "name": change.name,
    }
