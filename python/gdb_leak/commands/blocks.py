"""``leak-blocks``: the blocks of the heap, in groups or one by one."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Optional, Union

from gdb_leak import heaps, leaks, recorded, rows, units
from gdb_leak.errors import RequestError, UsageError
from gdb_leak.layout import Block, Column, Columns, Span, line
from gdb_leak.options import Command, Option
from gdb_leak.recorded import AGE, Recorded
from gdb_leak.target import Pieces, Request, Result, Step, Value

if TYPE_CHECKING:
    from gdb_leak._native import Check, Group, Groups, Heap, Listed

_LISTED = 200
_GROUPS = 50
_PIECE = 1000
_LIST = (Column("<"), Column(">"), Column("<"), Column("<"), Column("<", rank=1))
_STATES = {"used": False, "free": True, "all": None, "lost": False}

COMMAND = Command(
    name="blocks",
    summary="Show the blocks of the heap, in groups or one by one.",
    options=(
        Option(
            "state",
            "Take blocks in use (default), free ones, all, or those that leak-check calls lost.",
            "choice",
            choices=("used", "free", "all", "lost"),
        ),
        Option(
            "by",
            "Group by size, kind, text or arena alone, or by the stack that allocated, where that "
            "was recorded; without it by size, kind and text together.",
            "choice",
            choices=("size", "kind", "text", "arena", "stack"),
        ),
        AGE,
        Option("size", "Take blocks of N usable bytes.", "number", "N"),
        Option(
            "kind",
            "Take blocks that hold text, zeros, pointers, other data, or the allocator's tables.",
            "choice",
            choices=("text", "zero", "pointers", "data", "allocator"),
        ),
        Option("list", "List the blocks one by one, in address order."),
        Option(
            "limit",
            f"List at most COUNT blocks (default {_LISTED}) or groups (default {_GROUPS}); all "
            "are counted.",
            "count",
            "COUNT",
        ),
    ),
    description=(
        "Sizes are usable bytes, as malloc_usable_size gives them; with -by stack the bytes that "
        "were asked for, where they were recorded. A block's kind and text are "
        "told from its first 256 bytes; the text is the first string there of four characters "
        "or more. Texts that differ only in digits, hex or UUIDs are one group, with # for each "
        "number that differs. Groups of one block with equal size and kind share a row; if more "
        "than 100 groups of that size and kind remain, those of the fewest blocks share it too "
        "(-by text has them one by one)."
    ),
    example=("leak-blocks -size 2056", "gdb-leak blocks core -by size -limit 10"),
)


def run(request: Request) -> Result:
    """Return the groups of blocks, or the blocks."""
    parsed = request.parsed
    if parsed.flag("list") and parsed.flag("by"):
        raise UsageError("-list and -by exclude each other")
    size = parsed.count("size", None)
    if size is not None and not 0 <= size < 1 << 63:
        raise UsageError(f"-size {size}: not a number of bytes")
    target = heaps.held(request)
    notes = target.all_notes()
    heap = heaps.opened(request, target, notes)
    state = parsed.choice("state", "used")
    free = _STATES[state]
    lost: Optional[Check] = None
    if state == "lost" and heap is not None:
        lost = leaks.found(request, target, heap, notes)
        if lost is None:
            raise RequestError(f"-state lost: {_reason(notes)}")
        notes = [*lost.notes, *notes]
    kind = parsed.choice("kind", "") or None
    by = parsed.choice("by", "all")
    known: Optional[Recorded] = None
    if parsed.flag("list") or parsed.flag("age") or by == "stack":
        known = recorded.opened(request, target, heap, notes, whole=not parsed.flag("list"))
    if by == "stack":
        recorded.required(known, "-by stack")
    newest = recorded.newest(request, known, notes)
    recording = known.recording if known is not None else None
    progress = request.session.progress("reading blocks")
    values: dict[str, Value]
    listed: Optional[Listed] = None
    groups: Optional[Groups] = None
    shown: list[Group] = []
    if parsed.flag("list"):
        limit = parsed.count("limit", _LISTED)
        if heap is not None:
            listed = heap.listed(limit, free, size, kind, lost, recording, newest, progress)
        values = {
            "blocks": Pieces(lambda: _values(listed)),
            "count": listed.count if listed else 0,
            "bytes": listed.bytes if listed else 0,
            "limited": listed is not None and len(listed) < listed.count,
        }
    else:
        limit = parsed.count("limit", _GROUPS)
        if heap is not None:
            groups = heap.groups(by, free, size, kind, None, lost, recording, newest, progress)
        shown = groups.rows(limit) if groups else []
        values = {
            "groups": [
                rows.group_value(group, known.stack_value(group.stack) if known else None)
                for group in shown
            ],
            "count": groups.blocks if groups else 0,
            "bytes": groups.bytes if groups else 0,
            "limited": groups is not None and len(shown) < len(groups),
        }
        if groups is not None and groups.untracked:
            notes.append(
                "more than 1,048,576 distinct texts: "
                f"{units.counted(groups.untracked, 'block')} are grouped by size and kind only"
            )
    data = (heap, listed, groups, shown, by, known)
    result = Result(COMMAND.name, target.describe(), values, notes, data, target.memory.word_size)
    if heap is not None:
        result.steps.extend(_next(request, state, heap, shown))
    if listed is not None:
        # Of the process nothing more is read: however long the list is, it runs on.
        released = request.session.let_go()
        result.later.append(lambda: released)
    return result


# Of the largest group whose blocks the program has: why it is alive, or what was lost.
def _next(request: Request, state: str, heap: "Heap", shown: "Sequence[Group]") -> Iterator[Step]:
    if state not in ("used", "lost"):
        return
    samples = (_own(heap, group) for group in shown)
    for address in islice((sample for sample in samples if sample is not None), 1):
        first = hex(address)
        if state == "lost":
            purpose, typed = "what was lost", request.session.typed("whatis", first)
        else:
            typed = request.session.typed("refs", first, "-path")
            purpose = "what holds one of the largest group"
        yield Step(purpose, typed)


# Groups by text or arena hold blocks of malloc's own beside the program's.
def _own(heap: "Heap", group: "Group") -> Optional[int]:
    for address in group.sample:
        block = heap.block_at(address)
        if block is not None and block.list == "used":
            return address
    return None


def _reason(notes: Sequence[str]) -> str:
    return next(note for note in notes if note.startswith("no verdict"))


def text(result: Result) -> Iterator[Block]:
    """Yield one line a group or a block, and the total."""
    heap, listed, groups, shown, by, known = result.data
    if heap is None:
        yield line("no blocks")
    elif listed is not None:
        yield Columns(_LIST, _rows(listed, result.word_size))
        total = f"{units.counted(listed.count, 'block')}, {units.size_text(listed.bytes)} usable"
        if len(listed) < listed.count:
            total += f", {len(listed)} listed (-limit unlimited lists all)"
        yield line(total)
    elif groups is not None:
        if by == "stack":
            yield from _by_stack(shown, known, result.word_size)
        elif shown:
            lines = rows.group_rows(shown, result.word_size, by)
            yield Columns(rows.group_columns(by), lines, batch=_PIECE)
        told = units.counted(len(groups), "group")
        total = f"{units.counted(groups.blocks, 'block')} in {told}, "
        total += units.size_text(groups.bytes)
        total += " asked for, usable where not recorded" if by == "stack" else " usable"
        if len(shown) < len(groups):
            total += f", {len(shown)} listed (-limit unlimited lists all)"
        yield line(total)


# The largest first, as groups come; a stack each.
def _by_stack(groups: "Sequence[Group]", known: Recorded, word_size: int) -> Iterator[Block]:
    for group in groups:
        told = f"{group.bytes:,} bytes in {units.counted(group.blocks, 'block')}"
        yield line(told if group.stack else f"{told}, whose stack is not known")
        yield from known.stack_lines(group.stack)
        if group.sample:
            start = Span(units.address_text(group.sample[0], word_size), "address")
            yield line("   first block at ", start)
        yield line("")


def _rows(listed: "Listed", word_size: int) -> "Iterator[Sequence[Union[Span, str]]]":
    for start in range(0, len(listed), _PIECE):
        for block, kind, _ in listed.rows(start, start + _PIECE):
            state = block.state if block.list in ("used", "allocator") else f"free, {block.list}"
            yield [
                Span(units.address_text(block.address, word_size), "address"),
                str(block.size),
                state,
                Span(kind or "", "kind"),
                "mmapped" if block.arena is None else hex(block.arena),
            ]


def _values(listed: "Optional[Listed]") -> "Iterator[Sequence[Value]]":
    if listed is None:
        return
    for start in range(0, len(listed), _PIECE):
        yield [
            {
                "address": hex(block.address),
                "size": block.size,
                "state": block.state,
                "arena": None if block.arena is None else hex(block.arena),
                "kind": kind,
                "requested": requested,
            }
            for block, kind, requested in listed.rows(start, start + _PIECE)
        ]
