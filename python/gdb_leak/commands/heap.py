"""``leak-heap``: where the memory went, and whether it is a leak at all."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from gdb_leak import coverage, heaps, units, unjoined
from gdb_leak.heaps import Count, States
from gdb_leak.layout import Block, Column, Columns, Line, Span, line
from gdb_leak.options import Command
from gdb_leak.target import Request, Result, Step, Value

if TYPE_CHECKING:
    from gdb_leak._native import Arena, Heap, HeapSummary

#: How free memory is kept, for people.
_KEPT = {
    "tcache": "in threads' caches (tcache)",
    "fast": "in fastbins",
    "unsorted": "on the unsorted list",
    "small": "in small bins",
    "large": "in large bins",
    "unlisted": "on no list",
}
#: What writable memory outside of malloc's is, by the kind of its region.
_OTHER = {
    "heap": "brk heap beyond malloc's",
    "arena": "arenas beyond their heaps",
    "stack": "main stack",
    "thread-stack": "thread stacks",
    "anon": "other anonymous memory",
    "data": "data of the program and its libraries",
    "file": "writable file mappings",
    "vdso": "vdso",
    "special": "the kernel's own mappings",
}
#: Arenas that are listed one by one.
_ARENAS = 16

_ACCOUNT = (Column(">", rank=1), Column(">"), Column(">"), Column("<", least=16, wrap=True))
_CHECKS = (Column("<"), Column("<"), Column("<", least=16, wrap=True))
_ARENA = (
    *(Column("<"), Column("<"), Column(">"), Column(">"), Column(">")),
    *(Column(">"), Column(">", rank=1), Column(">", rank=2)),
)

COMMAND = Command(
    name="heap",
    summary="Show what the heap holds: in use, free, and what is not malloc's.",
    description=(
        "Answers whether growth is a leak at all: memory that malloc keeps on its lists is none. "
        "Bytes are those of whole chunks, so that all parts add up to the writable bytes that "
        "leak-regions shows. Checks hold the heap's structures against each other; where one "
        "fails, the places that break a rule are named. The first line says how much of the "
        "writable memory a check would judge."
    ),
    example=("leak-heap", "gdb-leak heap core"),
)


class _Data(NamedTuple):
    heap: "Optional[Heap]"
    summary: "HeapSummary"
    by_arena: list[States]
    arenas: States
    mapped: States
    unjoined: list[unjoined.Unjoined]


def run(request: Request) -> Result:
    """Return the account of all writable memory."""
    target = heaps.held(request)
    notes = target.all_notes()
    heap = heaps.opened(request, target, notes, damage=False)
    threads = request.session.registers(vector=False)
    covered = coverage.of_heap(request, target, heap, threads)
    if request.parsed.flag("json"):
        notes.extend(covered.notes())
    ended = unjoined.found(request, target, threads)
    data = _Data(heap, *heaps.summarised(request, target, heap), ended)
    summary = data.summary
    mapped = Count(data.mapped.of("used", "tcache").blocks, _all_bytes(data.mapped))
    values: dict[str, Value] = {
        **covered.values(),
        "allocator": None
        if heap is None
        else {"name": heap.name, "version": heap.version, "found_by": heap.found_by},
        "arenas": [
            _arena_value(arena, states) for arena, states in zip(summary.arenas, data.by_arena)
        ],
        "mmapped": {
            **_count(mapped),
            "in_use": heaps.count_value(data.mapped.in_use),
            "free": heaps.count_value(data.mapped.free),
            "counted": _counted(heap),
        },
        "total": {
            "system": sum(arena.system for arena in summary.arenas),
            **_parts(data.arenas),
            "other": sum(size for _, size in summary.other),
            "writable": summary.writable,
            "unwritable": summary.unwritable,
        },
        "other": dict(summary.other),
        "trim": {
            "bytes": summary.trim,
            "returned": summary.returned,
            "pinned_by": None
            if summary.pin is None
            else heaps.block_value(summary.pin, summary.pin.address),
        },
        "checks": [
            {"rule": rule, "holds": holds, "detail": detail}
            for rule, holds, detail in (heap.checks if heap else [])
        ],
        "damage": [
            {"address": hex(address), "value": hex(value), "rule": rule, "skipped": skipped}
            for address, value, rule, skipped in (heap.damage if heap else [])
        ],
        "damages": heap.damages if heap else 0,
        "unjoined": unjoined.value(ended),
    }
    result = Result(COMMAND.name, target.describe(), values, notes, data, target.memory.word_size)
    result.heading = covered.line()
    typed = request.session.typed
    if covered.lacking and covered.found.unknown:
        regions = typed("regions", "-in", "writable", "-sort", "rss")
        result.steps.append(Step("where the memory is that belongs to no known heap", regions))
    else:
        result.steps.append(Step("which blocks are lost", typed("check")))
    return result


def text(result: Result) -> Iterator[Block]:
    """Yield the whole account, arenas, checks and damage."""
    data: _Data = result.data
    heap, summary = data.heap, data.summary
    if heap is not None:
        yield line(f"{heap.name} {heap.version}, found by {heap.found_by}")
        yield line("")
    account = list(_account(data))
    yield Columns(_ACCOUNT, account, batch=len(account))
    yield from unjoined.lines(data.unjoined)
    if heap is not None:
        yield line("")
        yield line(_share(data))
        yield from _trim(summary, heap, result.word_size)
        if len(summary.arenas) > 1:
            yield line("")
            yield from _arenas(data, result.word_size)
        yield line("")
        checks = list(_checks(heap))
        yield Columns(_CHECKS, checks, batch=len(checks))
        yield from _damage(heap, result.word_size)
    yield line("")
    yield line(f"{units.size_text(summary.writable)} writable ({summary.writable} bytes)")


def _all_bytes(states: States) -> int:
    return states.in_use.bytes + states.free.bytes + states.overhead + states.of("top").bytes


def _count(count: Count) -> dict[str, Value]:
    return {"blocks": count.blocks, "bytes": count.bytes}


# What malloc itself says of mapped blocks. glibc 2.43 counts two words too many for
# each that realloc moved, so that its sum is not that of the mappings.
def _counted(heap: "Optional[Heap]") -> Value:
    counted = heap.mapped_by_count if heap is not None else None
    return None if counted is None else heaps.count_value(Count(*counted))


# What the chunks of arenas add up to.
def _parts(states: States) -> dict[str, Value]:
    free = {name: heaps.count_value(states.of(name)) for name in heaps.LISTS}
    free["unlisted"] = heaps.count_value(states.of("unlisted"))
    return {
        "in_use": heaps.count_value(states.in_use),
        "free": free,
        "top": states.of("top").bytes,
        "overhead": states.overhead,
    }


def _arena_value(arena: "Arena", states: States) -> Value:
    return {
        "address": hex(arena.address),
        "kind": arena.kind,
        "system": arena.system,
        **_parts(states),
        "heaps": [{"start": hex(start), "end": hex(end)} for start, end in arena.heaps],
        "locked": arena.locked,
        "in_call": list(arena.in_call),
    }


def _account(data: _Data) -> "Iterator[Sequence[Union[Span, str]]]":
    summary, arenas, mapped = data.summary, data.arenas, data.mapped
    yield ["BYTES", "", "BLOCKS", ""]
    if data.heap is not None:
        used = arenas.of("used")
        yield _row(used.bytes, used.blocks, "in use")
        own = arenas.of("allocator")
        if own.blocks:
            yield _row(own.bytes, own.blocks, "in use by malloc itself (caches of threads)")
        for name, told in _KEPT.items():
            kept = arenas.of(name)
            if kept.blocks:
                yield _row(kept.bytes, kept.blocks, f"free, {told}")
        yield _row(arenas.of("top").bytes, None, "free, not cut yet (top)")
        for name, told in (
            ("overhead", "headers of malloc's own"),
            ("foreign", "taken by other callers of sbrk"),
            ("damaged", "damaged, cannot be told"),
            ("unreadable", "not judged: headers cannot be read"),
        ):
            size = arenas.of(name).bytes
            if size:
                yield _row(size, None, told)
        large = mapped.of("used")
        if large.blocks:
            yield _row(large.bytes, large.blocks, "in use, mapped on their own (mmap)")
        if mapped.free.blocks:
            kept = mapped.free
            yield _row(kept.bytes, kept.blocks, "free, mapped on their own, in threads' caches")
        if mapped.overhead:
            yield _row(mapped.overhead, None, "padding of mapped blocks, for their alignment")
    for kind, size in summary.other:
        yield _row(size, None, _OTHER.get(kind, kind))
    if summary.unwritable:
        yield _row(-summary.unwritable, None, "of these in regions that are not writable")


def _row(size: int, blocks: Optional[int], told: str) -> list[Union[Span, str]]:
    return [str(size), units.size_text(size), "" if blocks is None else str(blocks), told]


# The answer to "is it a leak at all": what malloc keeps for later is none.
def _share(data: _Data) -> str:
    used = data.arenas.in_use.bytes + data.mapped.in_use.bytes
    whole = _all_bytes(data.arenas) + _all_bytes(data.mapped)
    share = f" ({100 * used / whole:.0f}%)" if whole else ""
    return (
        f"{units.size_text(used)} of the {units.size_text(whole)} that malloc has is in use{share}"
    )


def _trim(summary: "HeapSummary", heap: "Heap", word_size: int) -> Iterator[Line]:
    back = f"malloc_trim could give back {units.size_text(summary.trim)} at most"
    if summary.returned:
        gone = units.size_text(summary.returned)
        back = f"{back}; {gone} already returned or never touched"
    yield line(back)
    pin = summary.pin
    if pin is None:
        return
    kind, spelled = heap.content(pin.index)
    holds = f", holds {kind}" if kind else ""
    spans: list[Union[Span, str]] = [
        "the last block before the end of the main heap is ",
        Span(units.address_text(pin.address, word_size), "address"),
        f", {units.counted(pin.size, 'byte')}{holds}",
    ]
    if spelled:
        spans.extend([" ", Span(spelled, "match")])
    yield line(*spans)


def _arenas(data: _Data, word_size: int) -> Iterator[Block]:
    def rows() -> Iterator[Sequence[Union[Span, str]]]:
        yield ["ARENA", "", "SYSTEM", "IN USE", "BLOCKS", "FREE", "TOP", "HEAPS"]
        pairs = list(zip(data.summary.arenas, data.by_arena))
        for arena, states in pairs[:_ARENAS]:
            yield [
                Span(units.address_text(arena.address, word_size), "address"),
                arena.kind,
                units.size_text(arena.system),
                units.size_text(states.in_use.bytes),
                str(states.in_use.blocks),
                units.size_text(states.free.bytes),
                units.size_text(states.of("top").bytes),
                str(len(arena.heaps)),
            ]

    yield Columns(_ARENA, rows(), batch=_ARENAS + 1)
    more = len(data.summary.arenas) - _ARENAS
    if more > 0:
        yield line(f"and {units.counted(more, 'arena')} more (-json lists all)")


def _checks(heap: "Heap") -> "Iterator[Sequence[Union[Span, str]]]":
    for rule, holds, detail in heap.checks:
        verdict: Union[Span, str] = "holds" if holds else Span("FAILS", "note")
        yield [rule, verdict, detail]


def _damage(heap: "Heap", word_size: int) -> Iterator[Line]:
    if not heap.damage:
        return
    yield line("")
    yield line("broken rules:")
    for address, value, rule, skipped in heap.damage:
        lost = f" ({units.size_text(skipped)} skipped)" if skipped else ""
        yield line(
            Span(units.address_text(address, word_size), "address"),
            f"  {value:#x}  ",
            Span(f"{rule}{lost}", "note"),
        )
    more = heap.damages - len(heap.damage)
    if more > 0:
        yield line(f"and {more} more")
