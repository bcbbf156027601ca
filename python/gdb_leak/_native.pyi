"""The native module: reads, searches, decodes and compares memory.

Addresses, sizes and counts are integers, sizes in bytes. Every function that
goes over memory lets other Python threads run, answers Ctrl-C within a few
hundredths of a second with ``KeyboardInterrupt``, and calls ``progress(done,
total)`` with bytes about ten times a second once it has worked for a second.
Errors are those of :mod:`gdb_leak.errors`.
"""

from collections.abc import Sequence
from typing import Callable, Final, Literal, Optional, Union, final

__all__ = [
    "Allocation",
    "Arena",
    "Block",
    "Change",
    "Check",
    "Contents",
    "Coverage",
    "Difference",
    "Dump",
    "Follow",
    "Frame",
    "Group",
    "Groups",
    "Heap",
    "HeapSummary",
    "Listed",
    "Matches",
    "Memory",
    "Needle",
    "NotJoined",
    "Record",
    "Recording",
    "Records",
    "Reference",
    "Region",
    "StackFrame",
    "Stop",
    "Strings",
    "__version__",
    "check",
    "contents",
    "coverage",
    "diff",
    "dump",
    "find",
    "frames",
    "heap_kept",
    "heap_summary",
    "judged",
    "linked_allocators",
    "may_hold_blocks",
    "open_file",
    "open_heap",
    "open_process",
    "open_remote",
    "other_allocators",
    "output_place",
    "recordable",
    "recorder_ranges",
    "recording",
    "references",
    "refused_heap",
    "remove_file",
    "save_snapshot",
    "shortest_path",
    "stop_process",
    "strings",
    "take_snapshot",
    "text_to_words",
    "unescape",
    "unjoined_threads",
    "words_to_text",
    "write_range",
    "write_text",
]

__version__: Final[str]

_ByteOrder = Literal["little", "big"]
_Place = Union[str, tuple[int, int]]
_Progress = Optional[Callable[[int, int], None]]
_Registers = list[tuple[str, int]]
# Function, source file, line, the module's file.
_Called = tuple[Optional[str], Optional[str], Optional[int], Optional[str]]
# Number, stack pointer, thread pointer, then names and values of general and of vector registers.
_ThreadRegisters = tuple[int, Optional[int], Optional[int], _Registers, _Registers]

@final
class Region:
    """One mapping of a target."""

    start: Final[int]
    end: Final[int]
    size: Final[int]
    saved: Final[int]
    permissions: Final[str]
    kind: Final[str]
    name: Final[str]
    rss: Final[Optional[int]]
    dirty: Final[Optional[int]]
    reserve: Final[bool]

@final
class Memory:
    """An opened target: a core, a process, a remote target, or a list of regions."""

    source: Final[Literal["core", "process", "remote", "snapshot", "maps"]]
    arch: Final[Optional[str]]
    word_size: Final[int]
    byte_order: Final[_ByteOrder]
    complete: Final[bool]
    notes: Final[list[str]]
    program: Final[Optional[str]]
    pid: Final[Optional[int]]
    threads: Final[list[int]]
    taken: Final[Optional[str]]
    def regions(self, place: _Place, heap: Optional[Heap] = None) -> list[Region]: ...
    def region_at(self, address: int) -> Optional[Region]: ...
    def read(self, start: int, length: int) -> bytes: ...
    def thread_registers(self) -> list[_ThreadRegisters]: ...
    def symbol(self, address: int) -> Optional[tuple[str, int, str, Optional[str]]]: ...
    def lines(self, address: int) -> list[_Called]: ...
    def lines_of_file(self, path: str, build_id: bytes, address: int) -> list[_Called]: ...
    def recheck(self) -> None: ...
    def fetch(self, place: _Place, read: Callable[[int, int], Optional[bytes]]) -> None: ...
    def fetch_roots(
        self,
        threads: Optional[Sequence[_ThreadRegisters]],
        read: Callable[[int, int], Optional[bytes]],
    ) -> None: ...

@final
class Stop:
    """All threads of a process held by ptrace until :meth:`release`."""

    threads: Final[int]
    def registers(self) -> list[_ThreadRegisters]: ...
    def register_notes(self, vector: bool) -> list[str]: ...
    def release(self) -> float: ...

def open_file(
    path: str, executable: Optional[str] = None, sysroot: Optional[str] = None
) -> Memory: ...
def open_process(pid: int, usage: bool = False) -> Memory: ...
def open_remote(
    word_size: int,
    byte_order: _ByteOrder,
    arch: Optional[str],
    maps: Optional[bytes],
    sections: Sequence[tuple[int, int, str, str]],
    stack_pointers: Sequence[int],
    read: Callable[[int, int], Optional[bytes]],
) -> Memory: ...
def stop_process(pid: int) -> Stop: ...

@final
class Follow:
    """A program that is followed from its start to its end, and held there."""

    status: Final[Optional[int]]
    def __new__(
        cls, pid: int, function: Optional[str] = None, children: bool = False
    ) -> Follow: ...
    def next(self) -> Optional[tuple[int, Optional[int], Stop]]: ...

def recordable(path: str, search: Sequence[str]) -> tuple[str, list[str], str]: ...
def take_snapshot(memory: Memory) -> Memory: ...
def save_snapshot(snapshot: Memory, path: str, force: bool = False) -> None: ...

@final
class Needle:
    """What is looked for."""

    @staticmethod
    def text(raw: bytes, terminated: bool = False, ignore_case: bool = False) -> Needle: ...
    @staticmethod
    def hex(digits: str) -> Needle: ...
    @staticmethod
    def integer(value: int, size: int, byte_order: _ByteOrder) -> Needle: ...
    @staticmethod
    def utf16(
        text: str, byte_order: _ByteOrder, terminated: bool = False, ignore_case: bool = False
    ) -> Needle: ...
    @staticmethod
    def pointer(value: int, memory: Memory) -> Needle: ...
    @staticmethod
    def pointers_into(start: int, end: int, memory: Memory) -> Needle: ...
    @staticmethod
    def regex(pattern: str, ignore_case: bool = False) -> Needle: ...
    hex_bytes: Final[str]

def unescape(raw: bytes) -> bytes: ...

@final
class Matches:
    """The places found; rows are made when asked for."""

    count: Final[int]
    last: Final[Optional[int]]
    searched: Final[int]
    unreadable: Final[list[tuple[int, int]]]
    addresses: Final[list[int]]
    def __len__(self) -> int: ...
    def rows(self, start: int, stop: int) -> list[tuple[int, int, str, Optional[Region]]]: ...

def find(
    memory: Memory,
    needle: Needle,
    place: _Place,
    align: Optional[int] = None,
    limit: Optional[int] = None,
    heap: Optional[Heap] = None,
    free: Optional[bool] = None,
    progress: _Progress = None,
) -> Matches: ...

@final
class Dump:
    """Lines of memory, made in pieces."""

    missing: Final[int]
    def piece(self, most: int = 65536) -> str: ...

def dump(memory: Memory, start: int, length: int, style: str, fold: bool = True) -> Dump: ...
def write_range(
    memory: Memory,
    start: int,
    length: int,
    path: str,
    force: bool = False,
    progress: _Progress = None,
) -> int: ...
def output_place(path: str) -> tuple[Literal["file", "stream", "descriptor"], Optional[int]]: ...
def write_text(path: str, text: bytes) -> None: ...
def remove_file(path: str) -> None: ...
def words_to_text(words: Sequence[int], size: int, byte_order: _ByteOrder) -> str: ...
def text_to_words(text: bytes, size: int, byte_order: _ByteOrder) -> list[int]: ...

@final
class Strings:
    """Printable strings of a target, most frequent first."""

    rows: Final[list[tuple[str, str, int, int, int]]]
    distinct: Final[int]
    total: Final[int]
    untracked: Final[int]
    addresses: Final[int]
    searched: Final[int]
    unreadable: Final[list[tuple[int, int]]]

def strings(
    memory: Memory,
    place: _Place,
    minimum: int = 4,
    top: Optional[int] = None,
    heap: Optional[Heap] = None,
    free: Optional[bool] = None,
    addresses: bool = False,
    progress: _Progress = None,
) -> Strings: ...

@final
class Contents:
    """The strings in some ranges, most frequent first, with the distance at which each repeats."""

    rows: Final[list[tuple[str, str, int, int, int, Optional[int], int]]]
    distinct: Final[int]
    total: Final[int]
    untracked: Final[int]
    unreadable: Final[list[tuple[int, int]]]

def contents(
    memory: Memory,
    ranges: Sequence[tuple[int, int]],
    minimum: int = 4,
    top: Optional[int] = None,
    progress: _Progress = None,
) -> Contents: ...

@final
class Change:
    """A region that grew, shrank, appeared or went."""

    start: Final[int]
    end: Final[int]
    before: Final[int]
    after: Final[int]
    new_ranges: Final[list[tuple[int, int]]]
    gone_ranges: Final[list[tuple[int, int]]]
    permissions: Final[str]
    reserve: Final[bool]
    writable: Final[bool]
    kind: Final[str]
    name: Final[str]

@final
class Difference:
    """What changed between two lists of regions."""

    grown: Final[list[Change]]
    shrunk: Final[list[Change]]
    new: Final[list[Change]]
    gone: Final[list[Change]]
    growth: Final[int]
    reserved: Final[int]
    same_program: Final[bool]
    notes: Final[list[str]]

def diff(before: Memory, after: Memory) -> Difference: ...

@final
class Arena:
    """One arena: its own structure, what it says it has, its heaps.

    ``in_call`` says what a call of malloc that was under way left half done. ``states`` has
    the blocks and bytes in each state.
    """

    address: Final[int]
    kind: Final[str]
    system: Final[int]
    locked: Final[bool]
    in_call: Final[list[str]]
    heaps: Final[list[tuple[int, int]]]
    states: Final[list[tuple[str, int, int]]]

@final
class Block:
    """One block, or what else the allocator keeps there."""

    index: Final[int]
    address: Final[int]
    size: Final[int]
    state: Final[str]
    list: Final[str]
    start: Final[int]
    end: Final[int]
    arena: Final[Optional[int]]

@final
class HeapSummary:
    """Where all writable bytes are.

    ``trim`` is how much ``malloc_trim`` could give back, of pages that are resident (of a core:
    not all zeros); ``returned`` is the rest of the same free memory, which was given back already
    or never touched. ``pin`` is the block that keeps the end of the main arena.
    """

    arenas: Final[list[Arena]]
    mapped: Final[list[tuple[str, int, int]]]
    writable: Final[int]
    other: Final[list[tuple[str, int]]]
    unwritable: Final[int]
    trim: Final[int]
    returned: Final[int]
    pin: Final[Optional[Block]]

@final
class Group:
    """Blocks that are alike."""

    size: Final[Optional[int]]
    kind: Final[Optional[str]]
    text: Final[Optional[str]]
    example: Final[Optional[str]]
    texts: Final[int]
    more_texts: Final[bool]
    arena: Final[Optional[int]]
    blocks: Final[int]
    bytes: Final[int]
    sample: Final[list[int]]
    stack: Final[Optional[int]]

@final
class Groups:
    """Groups of blocks, those with the most bytes first; rows are made when asked for."""

    blocks: Final[int]
    bytes: Final[int]
    untracked: Final[int]
    def __len__(self) -> int: ...
    def rows(self, limit: Optional[int] = None) -> list[Group]: ...

@final
class Listed:
    """Blocks one by one; rows are made when asked for."""

    count: Final[int]
    bytes: Final[int]
    def __len__(self) -> int: ...
    def rows(self, start: int, stop: int) -> list[tuple[Block, Optional[str], Optional[int]]]: ...

@final
class Heap:
    """The heap of a target, taken apart into units in address order."""

    name: Final[str]
    version: Final[str]
    found_by: Final[str]
    notes: Final[list[str]]
    checks: Final[list[tuple[str, bool, str]]]
    damage: Final[list[tuple[int, int, str, int]]]
    damages: Final[int]
    mapped_by_count: Final[Optional[tuple[int, int]]]
    units: Final[int]
    used: Final[bool]
    broken: Final[bool]
    own_bytes: Final[int]
    def unit_at(self, address: int) -> Optional[Block]: ...
    def block_at(self, address: int) -> Optional[Block]: ...
    def unit(self, index: int) -> Optional[Block]: ...
    def reason(self, index: int) -> str: ...
    def header(self, address: int) -> Optional[tuple[int, int, int, list[str]]]: ...
    def content(self, index: int) -> tuple[Optional[str], Optional[str]]: ...
    def groups(
        self,
        by: str,
        free: Optional[bool] = None,
        size: Optional[int] = None,
        kind: Optional[str] = None,
        within: Optional[Sequence[tuple[int, int]]] = None,
        lost: Optional[Check] = None,
        recording: Optional[Recording] = None,
        newest: Optional[int] = None,
        progress: _Progress = None,
    ) -> Groups: ...
    def listed(
        self,
        limit: Optional[int] = None,
        free: Optional[bool] = None,
        size: Optional[int] = None,
        kind: Optional[str] = None,
        lost: Optional[Check] = None,
        recording: Optional[Recording] = None,
        newest: Optional[int] = None,
        progress: _Progress = None,
    ) -> Listed: ...

def open_heap(
    memory: Memory,
    threads: Optional[Sequence[_ThreadRegisters]] = None,
    progress: _Progress = None,
) -> Optional[Heap]: ...
def heap_kept(memory: Memory) -> bool: ...
def may_hold_blocks(
    memory: Memory, addresses: Sequence[int], progress: _Progress = None
) -> bool: ...
def other_allocators(memory: Memory) -> list[str]: ...
def linked_allocators(
    memory: Memory, places: Sequence[tuple[int, int]], progress: _Progress = None
) -> list[str]:
    """Return the allocators that are part of a module of the target, besides glibc's.

    :param places: memory that belongs to no known heap, as in :class:`Coverage`.
    """

def refused_heap(memory: Memory, progress: _Progress = None) -> Optional[str]:
    """Return why the heap of a glibc is not read that is there; None where none is refused."""

def heap_summary(
    memory: Memory, heap: Optional[Heap] = None, progress: _Progress = None
) -> HeapSummary: ...

@final
class Allocation:
    """What was recorded of a block: the bytes asked for, the thread, when, the stack.

    ``time`` is in the recording's own units; ``stack`` is 0 where it is not known.
    """

    size: Final[int]
    thread: Final[int]
    time: Final[int]
    stack: Final[int]

@final
class StackFrame:
    """A frame of a stack that allocated a block.

    ``address`` lies in the instruction that the frame is at. ``unloaded`` is the path, the
    build-id and the address in the file, where the module is there no more. ``function`` is
    the allocation function, of the innermost frame.
    """

    pc: Final[int]
    address: Final[int]
    unloaded: Final[Optional[tuple[str, bytes, int]]]
    function: Final[Optional[str]]

@final
class Recording:
    """What the recorder kept of the blocks of a heap."""

    pid: Final[int]
    sample: Final[Optional[int]]
    live: Final[int]
    stale: Final[int]
    notes: Final[list[str]]
    def of(self, index: int) -> Optional[Allocation]: ...
    def now(self, clock: Optional[int] = None) -> int: ...
    def before(self, now: int, nanoseconds: int) -> int: ...
    def nanoseconds(self, units: int) -> int: ...
    def stack(self, number: int) -> list[StackFrame]: ...

def recorder_ranges(memory: Memory, progress: _Progress = None) -> list[tuple[int, int]]: ...
def recording(
    memory: Memory, heap: Heap, progress: _Progress = None
) -> tuple[Optional[Recording], list[str]]: ...

@final
class Coverage:
    """How much of the writable memory was judged, in resident bytes where these are known."""

    judged: Final[int]
    writable: Final[int]
    resident: Final[Optional[int]]
    unknown: Final[list[tuple[str, int]]]
    broken: Final[int]
    missing: Final[int]
    lacking: Final[bool]
    places: Final[list[tuple[int, int]]]

def coverage(
    memory: Memory,
    heap: Optional[Heap] = None,
    threads: Optional[Sequence[_ThreadRegisters]] = None,
    possible: bool = True,
    progress: _Progress = None,
) -> Coverage: ...

@final
class Check:
    """The verdicts on all blocks in use, by valgrind's rules."""

    summary: Final[list[tuple[str, int, int]]]
    saved: Final[list[tuple[str, int, int]]]
    roots: Final[list[tuple[str, int, int]]]
    only_vector: Final[Optional[tuple[int, int, list[int]]]]
    recorded: Final[int]
    references: Final[int]
    own_bytes: Final[int]
    untouched: Final[int]
    frames: Final[list[tuple[str, int]]]
    coverage: Final[Coverage]
    notes: Final[list[str]]
    def verdict(self, index: int) -> Optional[str]: ...
    def saved_by(self, index: int) -> Optional[str]: ...
    def cluster(self, index: int, limit: int) -> tuple[list[int], int]: ...
    def aged(
        self, newest: int, progress: _Progress = None
    ) -> tuple[list[tuple[str, int, int]], list[tuple[str, int, int]], int, int]: ...
    def records(
        self, shown: Sequence[str], newest: Optional[int] = None, progress: _Progress = None
    ) -> Records: ...
    def rows(
        self, start: int, stop: int, newest: Optional[int] = None
    ) -> list[tuple[int, int, str, Optional[str]]]: ...

@final
class Records:
    """Lost blocks that are alike, the largest record last; rows are made when asked for."""

    def __len__(self) -> int: ...
    untracked: Final[int]
    def rows(self, start: int, stop: int) -> list[Record]: ...

@final
class Record:
    """A group of blocks with one verdict."""

    verdict: Final[str]
    blocks: Final[int]
    bytes: Final[int]
    indirect_blocks: Final[int]
    indirect_bytes: Final[int]
    size: Final[Optional[int]]
    kind: Final[Optional[str]]
    text: Final[Optional[str]]
    example: Final[Optional[str]]
    texts: Final[int]
    more_texts: Final[bool]
    sample: Final[list[int]]
    stack: Final[Optional[int]]
    estimate: Final[Optional[tuple[float, float, float, float]]]

@final
class Reference:
    """A word that points at a block: where it stands, and where it leads."""

    address: Final[Optional[int]]
    kind: Final[str]
    thread: Final[Optional[int]]
    register: Final[Optional[str]]
    within: Final[Optional[int]]
    block: Final[int]
    offset: Final[int]

@final
class Frame:
    """A call that has not returned, and the words of its frame that nothing reads again.

    ``escaped`` says that an address of its locals escaped: only words that were never written
    and saved registers are dead then. ``unclear`` says why all of it counts as alive.
    """

    pc: Final[int]
    stack_pointer: Final[int]
    cfa: Final[int]
    dead: Final[list[tuple[int, int]]]
    unclear: Final[Optional[str]]
    escaped: Final[bool]

# Number, frames, and the general registers that nothing reads again.
def frames(
    memory: Memory,
    threads: Optional[Sequence[_ThreadRegisters]] = None,
    progress: _Progress = None,
) -> list[tuple[int, list[Frame], list[str]]]: ...

@final
class NotJoined:
    """Threads that ended, were not joined, and began with the same function.

    ``size`` is the bytes of their stacks, ``held`` how many of these hold anything.
    """

    start: Final[Optional[int]]
    threads: Final[int]
    size: Final[int]
    held: Final[Optional[int]]

def unjoined_threads(
    memory: Memory,
    threads: Optional[Sequence[_ThreadRegisters]] = None,
    progress: _Progress = None,
) -> list[NotJoined]: ...
def check(
    memory: Memory,
    heap: Heap,
    threads: Optional[Sequence[_ThreadRegisters]] = None,
    heuristics: str = "all",
    red_zone: int = 0,
    vector: bool = False,
    progress: _Progress = None,
) -> Check: ...
def judged(memory: Memory, heap: Heap) -> Optional[Check]: ...
def references(
    memory: Memory,
    heap: Heap,
    index: int,
    limit: int,
    threads: Optional[Sequence[_ThreadRegisters]] = None,
    progress: _Progress = None,
) -> tuple[tuple[list[Reference], int], tuple[list[Reference], int]]: ...
def shortest_path(
    memory: Memory,
    heap: Heap,
    index: int,
    threads: Optional[Sequence[_ThreadRegisters]] = None,
    progress: _Progress = None,
) -> Optional[list[Reference]]: ...
