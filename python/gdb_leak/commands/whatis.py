"""``leak-whatis``: everything that is known of an address."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from gdb_leak import heaps, leaks, operands, recorded, rows, units
from gdb_leak.layout import Block, Column, Columns, Span, line
from gdb_leak.options import Command, Operand
from gdb_leak.recorded import Recorded
from gdb_leak.target import Request, Result, Step, Value

if TYPE_CHECKING:
    from gdb_leak._native import Allocation, Heap, Region
    from gdb_leak._native import Block as HeapBlock

#: References in a JSON answer, and in text.
_REFERENCES = 200
_SHOWN = 5

COMMAND = Command(
    name="whatis",
    summary="Show what is known of an address: region, symbol, block.",
    operands=(Operand("ADDRESS", "any address; in gdb an expression ($sp, &table).", "address"),),
    description="An address inside of a block will do.",
    example=("leak-whatis 0x5555555592a0", "gdb-leak whatis core 0x5555555592a0"),
)


class _Known(NamedTuple):
    address: int
    region: "Optional[Region]"
    symbol: Optional[str]
    heap: "Optional[Heap]"
    unit: "Optional[HeapBlock]"
    kind: Optional[str]
    text: Optional[str]
    why: Optional[str]
    verdict: Optional[str]
    saved_by: Optional[str]
    pointers: Optional[leaks.Pointers]
    recorded: Optional[Recorded]
    allocation: "Optional[Allocation]"


def run(request: Request) -> Result:
    """Return what is known of an address."""
    target = heaps.held(request, moving=True)
    address = operands.address(request, request.parsed.operands[0].raw)
    notes = target.all_notes()
    if not request.session.at_rest(target):
        notes.append(f"no block and no verdict: {heaps.MOVING}")
    memory = target.memory
    region = memory.region_at(address)
    heap = unit = kind = spelled = why = None
    if region is not None and heaps.covering(request, target, [address]) is not None:
        heap = heaps.opened(request, target, notes)
    if heap is not None:
        unit = heap.block_at(address) or heap.unit_at(address)
    if heap is not None and unit is not None:
        why = heap.reason(unit.index)
        if unit.state in ("used", "free"):
            kind, spelled = heap.content(unit.index)
    kept = allocation = None
    if heap is not None and unit is not None and unit.list == "used":
        kept = recorded.opened(request, target, heap, notes, whole=False)
        allocation = kept.of(unit.index) if kept is not None else None
    symbol = request.session.symbol(address)
    verdict = saved_by = found = None
    if heap is not None and unit is not None and unit.list == "used":
        roots = leaks.rooted(request, target, heap, notes, vector=True)
        check = None
        if roots is not None:
            found = leaks.pointers(request, target, roots, unit, _REFERENCES)
            check = leaks.judged(request, target, roots)
        if check is not None:
            verdict, saved_by = check.verdict(unit.index), check.saved_by(unit.index)
            notes = [*check.notes, *notes]
    known = _Known(
        address,
        region,
        symbol,
        heap,
        unit,
        kind,
        spelled,
        why,
        verdict,
        saved_by,
        found,
        kept,
        allocation,
    )
    values: dict[str, Value] = {
        "address": hex(address),
        "region": rows.region_value(region),
        "symbol": symbol,
        "block": heaps.block_value(unit, address),
        "chunk": None if heap is None or unit is None else heaps.chunk_value(heap, unit),
        "arena": None if unit is None or unit.arena is None else hex(unit.arena),
        "list": unit.list if unit is not None and unit.state == "free" else None,
        "why": why,
        "kind": kind,
        "text": spelled,
        "allocated": kept.value(allocation) if kept is not None else None,
        "verdict": verdict,
        "heuristic": saved_by,
        "references": None if found is None else [leaks.word_value(word) for word in found.words],
        "count": found.total if found is not None else 0,
    }
    result = Result(COMMAND.name, target.describe(), values, notes, known, memory.word_size)
    if found is not None and found.total:
        alive = verdict in ("still_reachable", "possibly_lost")
        purpose = "why it is alive" if alive else "all that points at it"
        words = (hex(address), *(["-path"] if alive else []))
        result.steps.append(Step(purpose, request.session.typed("refs", *words)))
    return result


def text(result: Result) -> Iterator[Block]:
    """Yield one line a thing that is known."""
    known: _Known = result.data
    facts = list(_facts(known, result.word_size))
    yield Columns((Column("<"), Column("<", least=20, wrap=True)), facts, batch=len(facts))
    if known.region is None:
        yield line("no region holds this address")


def _facts(known: _Known, word_size: int) -> "Iterator[Sequence[Union[Span, str]]]":
    yield ["address", Span(units.address_text(known.address, word_size), "address")]
    region = known.region
    if region is not None:
        start, end = (units.address_text(at, word_size) for at in (region.start, region.end))
        name = units.name_text(region.name)
        label = f"{start}-{end}  {region.permissions}  {region.kind}  {name}"
        yield ["region", label.rstrip()]
    if known.symbol:
        yield ["symbol", units.symbol_text(known.symbol)]
    unit, heap = known.unit, known.heap
    if unit is None or heap is None:
        return
    if unit.state in ("used", "free"):
        offset = known.address - unit.address
        inside = f"+{offset:#x}" if offset >= 0 else f"-{-offset:#x}, in the header before it"
        start = units.address_text(unit.address, word_size)
        yield [
            "block",
            f"{start}  {units.counted(unit.size, 'usable byte')}, this address is {inside}",
        ]
    yield ["state", unit.state if unit.list in ("used", unit.state) else _state(unit.list)]
    yield ["why", known.why or ""]
    yield from heaps.chunk_rows(heap, unit, word_size)
    yield ["arena", "none: mapped on its own" if unit.arena is None else hex(unit.arena)]
    if known.kind:
        yield ["holds", Span(known.kind, "kind")]
    if known.text:
        yield ["text", Span(known.text, "match")]
    yield from _allocated(known)
    if known.verdict is not None:
        yield ["verdict", leaks.verdict_text(known.verdict, known.saved_by)]
    found = known.pointers
    if found is None:
        return
    yield ["referred", f"by {units.counted(found.total, 'word')} (leak-refs lists them)"]
    for word in found.words[:_SHOWN]:
        yield ["", f"{leaks.leads(word)} from {word.owner.text(word_size)}"]
    if found.dead_total:
        yield [
            "",
            f"{units.counted(found.dead_total, 'word')} that no code reads again not counted",
        ]


# Who asked for the block, and for how much.
def _allocated(known: _Known) -> "Iterator[Sequence[Union[Span, str]]]":
    kept, allocation = known.recorded, known.allocation
    if kept is None or allocation is None:
        return
    asked = units.counted(allocation.size, "byte")
    age = units.age_text(kept.age(allocation))
    yield ["allocated", f"{asked} asked for by thread {allocation.thread}, {age} ago"]
    for spans in kept.stack_lines(allocation.stack):
        yield ["", "".join(span.text for span in spans).strip()]


def _state(kept: str) -> str:
    if kept == "allocator":
        return "used, by malloc itself"
    return "free" if kept == "unlisted" else f"free, {kept}"
