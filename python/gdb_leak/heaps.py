"""The heap of a target, as commands ask for it, and the shapes of its blocks in answers."""

from typing import TYPE_CHECKING, NamedTuple, Optional

from gdb_leak import _native, units
from gdb_leak.errors import RequestError
from gdb_leak.target import Request, Target, Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gdb_leak._native import Block, Heap, HeapSummary

__all__ = [
    "LISTS",
    "MOVING",
    "Count",
    "States",
    "block_label",
    "block_value",
    "chunk_rows",
    "chunk_value",
    "count_value",
    "covering",
    "held",
    "in_place",
    "neighbours",
    "opened",
    "summarised",
]

#: Why the heap of a process that gdb lets run is not looked at.
MOVING = "threads are running and change the heap while it is read: interrupt -a first"
#: The lists that a free block can be on, as JSON names them.
LISTS = ("tcache", "fast", "unsorted", "small", "large")


class Count(NamedTuple):
    """A number of blocks, and their bytes with headers."""

    blocks: int
    bytes: int


class States:
    """Units by state, of one arena or of several."""

    def __init__(self, rows: "Sequence[tuple[str, int, int]]") -> None:
        """Take ROWS of the native module: state, units, bytes."""
        self._counts = {name: Count(blocks, size) for name, blocks, size in rows}

    def of(self, *names: str) -> Count:
        """Return the units of the states NAMES together."""
        found = [self._counts.get(name, Count(0, 0)) for name in names]
        return Count(sum(count.blocks for count in found), sum(count.bytes for count in found))

    @property
    def in_use(self) -> Count:
        """Blocks in use, the allocator's own included."""
        return self.of("used", "allocator")

    @property
    def free(self) -> Count:
        """Free blocks, on lists or not."""
        return self.of(*LISTS, "unlisted")

    @property
    def overhead(self) -> int:
        """Bytes that are neither in blocks nor in the top chunk."""
        return self.of("overhead", "foreign", "damaged", "unreadable").bytes

    @staticmethod
    def sum(all_states: "Sequence[States]") -> "States":
        """Return the units of ALL_STATES together."""
        names = list(dict.fromkeys(name for states in all_states for name in states._counts))
        return States([(name, *States._total(all_states, name)) for name in names])

    @staticmethod
    def _total(all_states: "Sequence[States]", name: str) -> Count:
        found = [states.of(name) for states in all_states]
        return Count(sum(count.blocks for count in found), sum(count.bytes for count in found))


def held(request: Request, moving: bool = False) -> Target:
    """Return the target with its heap at rest: a process is held for the command.

    :param moving: whether a process that gdb lets run is taken too.
    :raises RequestError: where the target has no bytes, or changes while it is read.
    """
    session = request.session
    session.hold()
    target = session.target()
    if not moving and not session.at_rest(target):
        raise RequestError(MOVING)
    if target.memory.source in ("snapshot", "maps"):
        raise RequestError(f"{target.path} lists regions and holds no byte of them")
    session.prepare("writable")
    return target


def in_place(request: Request, target: Target, notes: list[str]) -> "Optional[Heap]":
    """Return the heap of TARGET where ``-in heap`` asks what allocators own; else None.

    A process that runs is read as it runs: what the heap spans changes slowly, and what looks
    like damage then may be none.
    """
    request.session.prepare("writable")
    return opened(request, target, notes, damage=request.session.at_rest(target))


def opened(
    request: Request, target: Target, notes: list[str], damage: bool = True
) -> "Optional[Heap]":
    """Return the heap of TARGET, None where it has none that is known.

    NOTES get what it lacks, with the first of its DAMAGE where the answer has no
    list of it.
    """
    heap = _opened(request, target)
    others = _native.other_allocators(target.memory)
    if others:
        named = ", ".join(others)
        notes.append(f"{named} is there: blocks that it gave out are not listed")
    if heap is None:
        refused = _native.refused_heap(target.memory, request.session.progress("reading the heap"))
        notes.append(
            refused
            or "no heap of glibc's malloc was found: it was never used, another allocator took its "
            "place, or the data of libc is not there to read"
        )
        return None
    notes.extend(heap.notes)
    if not damage:
        return heap
    for address, value, rule, skipped in heap.damage[:_DAMAGE_NOTES]:
        lost = f"; {units.size_text(skipped)} skipped" if skipped else ""
        notes.append(f"damaged heap: at {address:#x} stands {value:#x}: {rule}{lost}")
    if heap.damages > _DAMAGE_NOTES:
        notes.append(
            f"{heap.damages - _DAMAGE_NOTES} more broken rules in the heap (leak-heap counts them)"
        )
    return heap


_DAMAGE_NOTES = 3


def covering(request: Request, target: Target, addresses: "Sequence[int]") -> "Optional[Heap]":
    """Return the heap, if one of ADDRESSES may lie in a block and nothing moves there.

    Where none of them may, the heap is not read at all.
    """
    session = request.session
    if not addresses or not session.at_rest(target):
        return None
    if target.memory.source == "remote":
        session.prepare("writable")
    progress = session.progress("reading the heap")
    if not _native.may_hold_blocks(target.memory, addresses, progress):
        return None
    return _opened(request, target)


# The registers tell whose a cache is, and that it is one where it is empty. A file has
# its own; it need not be what the session is about.
def _opened(request: Request, target: Target) -> "Optional[Heap]":
    session, memory = request.session, target.memory
    known = _native.heap_kept(memory) or memory.source not in ("process", "remote")
    threads = None if known else session.registers(vector=False)
    return _native.open_heap(memory, threads, session.progress("reading the heap"))


def count_value(count: Count) -> Value:
    """Return the JSON of COUNT."""
    return {"blocks": count.blocks, "bytes": count.bytes}


def block_value(block: "Optional[Block]", address: int, requested: Optional[int] = None) -> Value:
    """Return the JSON of BLOCK, which holds ADDRESS: ``{address, size, offset, state}``.

    With the bytes that were REQUESTED, where they are known.
    """
    if block is None or block.state not in ("used", "free"):
        return None
    value: dict[str, Value] = {
        "address": hex(block.address),
        "size": block.size,
        "offset": address - block.address,
        "state": block.state,
    }
    if requested is not None:
        value["requested"] = requested
    return value


def block_label(block: "Block", address: int, word_size: Optional[int] = None) -> str:
    """Return what a line says of BLOCK, which holds ADDRESS.

    :param word_size: of the address of its start, which is left out without one.
    """
    offset = address - block.address
    start = "" if word_size is None else units.address_text(block.address, word_size)
    place = f"+{offset:#x}" if offset else ""
    state = block.state if block.list in ("used", "unlisted") else f"{block.state}, {block.list}"
    if block.list == "allocator":
        state = "malloc's own"
    named = f"block {start}{place}".rstrip()
    return f"{named} of {block.size}, {state}"


def chunk_value(heap: "Heap", block: "Block") -> Value:
    """Return the JSON of the header of BLOCK's chunk, with its neighbours."""
    header = heap.header(block.start)
    if header is None:
        return None
    address, size, previous_size, flags = header
    return {
        "address": hex(address),
        "size": size,
        "previous_size": previous_size,
        "flags": flags,
        "block": hex(block.address) if block.state in ("used", "free") else None,
        "state": block.state,
        "previous": _neighbour(heap, block, -1),
        "next": _neighbour(heap, block, 1),
    }


def chunk_rows(heap: "Heap", block: "Block", word_size: int) -> "Iterator[Sequence[str]]":
    """Yield what people want to know of the header of BLOCK's chunk and of its neighbours."""
    header = heap.header(block.start)
    if header is None or block.state in ("overhead", "foreign", "damaged", "unreadable"):
        return
    address, size, _, flags = header
    told = " ".join(flags) or "no flags"
    yield ["chunk", f"{units.address_text(address, word_size)}  size {size:#x}  {told}"]
    for name, other in neighbours(heap, block):
        start = units.address_text(other.start, word_size)
        yield [name, f"{start}  size {other.end - other.start:#x}  {other.state}"]


def neighbours(heap: "Heap", block: "Block") -> "Iterator[tuple[str, Block]]":
    """Yield the units before and after BLOCK, where they touch it."""
    for name, step in (("previous", -1), ("next", 1)):
        other = heap.unit(block.index + step) if block.index + step >= 0 else None
        if other is not None and (other.end == block.start or other.start == block.end):
            yield name, other


def _neighbour(heap: "Heap", block: "Block", step: int) -> Value:
    wanted = "previous" if step < 0 else "next"
    for name, other in neighbours(heap, block):
        if name == wanted:
            return {
                "address": hex(other.start),
                "size": other.end - other.start,
                "state": other.state,
            }
    return None


def summarised(
    request: Request, target: Target, heap: "Optional[Heap]"
) -> "tuple[HeapSummary, list[States], States, States]":
    """Return the account of all writable bytes: whole, by arena, of arenas, of mapped blocks."""
    summary = _native.heap_summary(target.memory, heap, request.session.progress("counting"))
    by_arena = [States(arena.states) for arena in summary.arenas]
    return summary, by_arena, States.sum(by_arena), States(summary.mapped)
