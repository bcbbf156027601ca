"""Verdicts as commands ask for them, and the names of what points at a block."""

from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from gdb_leak import _native, heaps, units
from gdb_leak.layout import Span
from gdb_leak.target import Request, Target, ThreadRegisters, Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gdb_leak._native import Block, Check, Heap, Reference

__all__ = [
    "ALL",
    "LOST",
    "SHORT",
    "VERDICTS",
    "Owner",
    "Pointers",
    "Roots",
    "Word",
    "checked",
    "found",
    "given",
    "judged",
    "leads",
    "opened",
    "owner",
    "place",
    "pointers",
    "rooted",
    "verdict_text",
    "word",
    "word_row",
    "word_value",
]

#: The verdicts as JSON names them, in the order in which valgrind sums them up.
VERDICTS = ("definitely_lost", "indirectly_lost", "possibly_lost", "still_reachable")
#: Each in one word, as ``leak-check -show`` takes it.
SHORT = dict(zip(VERDICTS, ("definite", "indirect", "possible", "reachable")))
#: Those of blocks that are lost, or may be.
LOST = VERDICTS[:3]

#: Bytes below the stack pointer that a function may use without moving it.
#: System V ABI, AMD64 supplement, 3.2.2; 64-bit PowerPC ELF ABI, 3.2.2.
_RED_ZONES = {"x86_64": 128, "powerpc64": 288}


class Roots(NamedTuple):
    """What a verdict needs beside memory: the heap, and the registers of all threads.

    ``threads`` is None where the target itself knows them; ``lacks`` says why no verdict
    can be given, None where one can.
    """

    heap: "Heap"
    threads: "Optional[Sequence[ThreadRegisters]]"
    lacks: Optional[str]


def opened(
    request: Request, target: Target, notes: list[str], vector: bool = False
) -> Optional[Roots]:
    """Return what verdicts on the blocks of TARGET rest on, None where it has no known heap.

    NOTES get what is lacking, first of all why no verdict can be given.
    """
    about: list[str] = []
    heap = heaps.opened(request, target, about)
    roots = rooted(request, target, heap, notes, vector)
    notes.extend(about)
    return roots


def rooted(
    request: Request, target: Target, heap: "Optional[Heap]", notes: list[str], vector: bool = False
) -> Optional[Roots]:
    """Return what verdicts on HEAP rest on, None without one; NOTES get why none can be given."""
    others = " or ".join(_native.other_allocators(target.memory))
    threads = request.session.registers(vector)
    known = target.memory.thread_registers() if threads is None else threads
    lacks = None
    if others and (heap is None or not heap.used):
        lacks = f"blocks come from {others}"
    elif heap is None:
        lacks = "there is no heap to judge"
    elif not heap.used and heap.broken:
        lacks = "no block of the heap is known: it is damaged or cannot be read"
    elif not request.session.at_rest(target):
        lacks = "threads are running, and their registers may hold pointers"
    elif not any(general for _, _, _, general, _ in known):
        lacks = "the registers of the threads are not known, and may hold pointers"
    if lacks is not None:
        notes.append(f"no verdict: {lacks}")
    else:
        request.session.prepare_roots(threads)
    return None if heap is None else Roots(heap, threads, lacks)


def checked(
    request: Request,
    target: Target,
    roots: Roots,
    heuristics: str = "all",
    red_zone: bool = False,
    vector: bool = False,
) -> "Check":
    """Return the verdicts on all blocks in use."""
    zone = _RED_ZONES.get(target.memory.arch or "", 0) if red_zone else 0
    progress = request.session.progress("following pointers")
    return _native.check(
        target.memory, roots.heap, roots.threads, heuristics, zone, vector, progress
    )


def given(target: Target, heap: "Optional[Heap]") -> "Optional[Check]":
    """Return the verdicts that were given on this stop already, None where none were.

    Those of a leak-check with options of its own are not taken for others.
    """
    return _native.judged(target.memory, heap) if heap is not None else None


def found(request: Request, target: Target, heap: "Heap", notes: list[str]) -> "Optional[Check]":
    """Return the verdicts on HEAP: those given already, else given now, None where none can be."""
    check = given(target, heap)
    if check is None:
        roots = rooted(request, target, heap, notes)
        check = judged(request, target, roots) if roots is not None else None
    return check


def judged(request: Request, target: Target, roots: Roots) -> "Optional[Check]":
    """Return the usual verdicts on the heap of ROOTS, None where none can be given."""
    if roots.lacks is not None:
        return None
    return given(target, roots.heap) or checked(request, target, roots)


def verdict_text(verdict: Optional[str], saved_by: Optional[str] = None) -> str:
    """Return VERDICT as people read it: ``definitely lost``, with the heuristic of SAVED_BY."""
    told = "no verdict" if verdict is None else verdict.replace("_", " ")
    return f"{told} by the heuristic {saved_by}" if saved_by else told


class Owner(NamedTuple):
    """What a word stands in, in the shape of JSON answers."""

    kind: str
    name: str
    thread: Optional[int] = None
    offset: Optional[int] = None

    def value(self) -> Value:
        """Return the JSON: ``{kind, name, thread?, offset?}``."""
        value: dict[str, Value] = {"kind": self.kind, "name": self.name}
        if self.thread is not None:
            value["thread"] = self.thread
        if self.offset is not None:
            value["offset"] = self.offset
        return value

    def text(self, word_size: int) -> str:
        """Return what people read of it."""
        plus = f"+{self.offset:#x}" if self.offset else ""
        thread = f" of thread {self.thread}" if self.thread is not None else ""
        if self.kind == "block":
            return f"block {units.address_text(int(self.name, 16), word_size)}{plus}"
        if self.kind == "register":
            rule = " (counts with -vector-registers)" if "[" in self.name else ""
            return f"register {self.name}{thread}{rule}"
        if self.kind == "frame":
            return f"frame of {self.name}{thread}" if self.name != "stack" else f"stack{thread}"
        return f"{units.name_text(self.name)}{plus}{thread}"


def owner(request: Request, target: Target, heap: "Heap", reference: "Reference") -> Owner:
    """Return what the word of REFERENCE stands in, in the shape of JSON answers."""
    address, thread = reference.address, reference.thread
    if address is None:
        return Owner("register", reference.register or "", thread)
    if reference.within is not None:
        block = heap.unit(reference.within)
        start = block.address if block is not None else address
        return Owner("block", hex(start), None, address - start)
    if reference.kind == "stack" and thread is not None:
        name = request.session.frame(thread, address) or "stack"
        return Owner("frame", name, thread)
    if reference.kind == "tls":
        return Owner("tls", "TLS", thread)
    symbol = _symbol(request.session.symbol(address))
    if symbol is not None:
        return Owner("symbol", symbol[0], None, symbol[1])
    region = target.memory.region_at(address)
    start = region.start if region is not None else address
    name = (region.name if region is not None else "") or hex(start)
    return Owner("region", name, None, address - start)


# "table + 16 in section .data of /usr/bin/program": the name, and how far behind it.
def _symbol(said: Optional[str]) -> Optional[tuple[str, int]]:
    if said is None:
        return None
    name, plus, offset = said.partition(" in section ")[0].rpartition(" + ")
    if plus and offset.isdigit():
        return name, int(offset)
    return said.partition(" in section ")[0], 0


class Word(NamedTuple):
    """A word that points at a block, what it stands in, and the block."""

    reference: "Reference"
    owner: Owner
    block: "Optional[Block]"


def word(request: Request, target: Target, roots: Roots, reference: "Reference") -> Word:
    """Return REFERENCE with the names of both ends."""
    own = owner(request, target, roots.heap, reference)
    return Word(reference, own, roots.heap.unit(reference.block))


class Pointers(NamedTuple):
    """The words that point at a block, as many as were asked for, and how many there are.

    Those of ``dead`` are registers, and words of live frames, that no code reads again: they
    hold nothing.
    """

    words: list[Word]
    total: int
    dead: list[Word]
    dead_total: int


def pointers(
    request: Request, target: Target, roots: Roots, block: "Block", limit: Optional[int]
) -> Pointers:
    """Return the words that point at BLOCK, the first LIMIT of each sort."""
    progress = request.session.progress("looking for pointers")
    most = ALL if limit is None else limit
    (found, count), (dead, dead_count) = _native.references(
        target.memory, roots.heap, block.index, most, roots.threads, progress
    )
    named, left = (
        [word(request, target, roots, reference) for reference in part] for part in (found, dead)
    )
    return Pointers(named, count, left, dead_count)


#: As many as there are.
ALL = 1 << 62


def word_value(word: Word) -> Value:
    """Return the JSON of WORD: ``{from, offset, interior, owner}``."""
    reference = word.reference
    return {
        "from": None if reference.address is None else hex(reference.address),
        "offset": reference.offset,
        "interior": reference.offset > 0,
        "owner": word.owner.value(),
    }


def place(word: Word, word_size: int) -> Span:
    """Return where WORD stands, nothing for a register."""
    address = word.reference.address
    return Span("" if address is None else units.address_text(address, word_size), "address")


def leads(word: Word) -> str:
    """Return how WORD points at its block."""
    offset = word.reference.offset
    if offset < 0:
        return f"to its header, -{-offset:#x}"
    return f"into it, +{offset:#x}" if offset else "to its start"


def word_row(word: Word, word_size: int) -> "Sequence[Union[Span, str]]":
    """Return what a line says of WORD: where it stands, how it points, in what it stands."""
    return [place(word, word_size), leads(word), word.owner.text(word_size)]
