"""A recording read anew for tests, by docs/recording.md alone."""

import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

import gdb_leak

LIBRARY = Path(gdb_leak.__file__).parent / "recorder" / "libgdb_leak_recorder.so"

FUNCTIONS = (
    *("malloc", "calloc", "realloc", "reallocarray", "posix_memalign"),
    *("aligned_alloc", "memalign", "valloc", "pvalloc"),
)
#: Marks a frame that a signal interrupted.
EXACT = 1 << 63


class Block(NamedTuple):
    """A live block, as it was recorded."""

    size: int
    stack: int
    thread: int
    time: int


class Module(NamedTuple):
    """A module that stacks lead through."""

    start: int
    end: int
    bias: int
    path: str
    build_id: str
    since: int
    until: int


class Recording:
    """The recording of a process that stands still, or at least does not allocate."""

    def __init__(self, pid: int) -> None:
        """Find and read the recording of the process PID."""
        with Path(f"/proc/{pid}/mem").open("rb") as memory:
            self.base = _base(pid, memory)
            header = _read(memory, self.base, 4096)
            (version, size) = struct.unpack_from("<II", header, 16)
            assert (version, size) == (1, 4096)
            (own, self.reserved) = struct.unpack_from("<QQ", header, 24)
            assert own == self.base
            (self.pid, self.depth, self.sample) = struct.unpack_from("<IIQ", header, 40)
            (self.started, self.started_real) = struct.unpack_from("<QQ", header, 56)
            (self.time_shift, self.generation) = struct.unpack_from("<II", header, 72)
            counters = struct.unpack_from("<QQQQQ", header, 80)
            (self.dropped, self.missed, self.stale, self.cut, self.state) = counters
            self.functions = dict(zip(struct.unpack_from("<9Q", header, 288), FUNCTIONS))
            words = struct.unpack_from("<20Q", header, 360)
            self.parts = list(zip(words[::2], words[1::2]))
            areas = [_area(memory, self.base, header, number) for number in range(5)]
        blocks, nodes, modules, names, threads = areas
        self.blocks: dict[int, Block] = {}
        for key, *rest in _entries("<QQIIII", blocks, 32):
            if key:
                address = key ^ 0xFFFF_FFFF_FFFF_FFFF
                assert address not in self.blocks, hex(address)
                self.blocks[address] = Block(*rest[:4])
        self.entries = len(blocks) // 32
        self.nodes = [(pc, parent) for pc, parent, _ in _entries("<QII", nodes, 16)]
        self.modules = [
            Module(start, end, bias, names[at : at + length].decode(), build_id.hex(), since, until)
            for start, end, bias, at, length, build_id, _, since, until in _entries(
                "<QQQII20sIII", modules, 64
            )
        ]
        self.thread_entries = len(threads) // 16384
        self._names: dict[int, list[str]] = {}
        self.threads = [number for (number,) in _entries("<I16380x", threads, 16384) if number]

    def frames(self, stack: int) -> list[int]:
        """Return the frames of a stack: the function called, then return addresses."""
        found = []
        pc, parent = self.nodes[stack]
        while parent:
            found.append(pc)
            pc, parent = self.nodes[parent]
        return found

    def generation_of(self, stack: int) -> int:
        """Return how often modules had been unloaded when a stack was seen."""
        pc, parent = self.nodes[stack]
        while parent:
            pc, parent = self.nodes[parent]
        return pc

    def names(self, stack: int) -> list[str]:
        """Return the functions of a stack, the innermost first, as addr2line knows them."""
        function, *rest = self.frames(stack)
        names = [self.functions[function]]
        for pc in rest:
            names.extend(self.functions_at(pc))
        return names

    def by_stack(self) -> Counter[tuple[str, ...]]:
        """Return how many live blocks there are of each stack, by its functions."""
        counted: Counter[tuple[str, ...]] = Counter()
        for stack, count in Counter(block.stack for block in self.blocks.values()).items():
            counted[tuple(self.names(stack))] += count
        return counted

    def functions_at(self, pc: int) -> list[str]:
        """Return the functions at the frame PC, the innermost of inlined ones first."""
        if pc not in self._names:
            self._names[pc] = self._functions(pc)
        return self._names[pc]

    def _functions(self, pc: int) -> list[str]:
        address = pc ^ EXACT if pc & EXACT else pc - 1
        module = self.module(address)
        if module is None or not Path(module.path).exists():
            return ["?"]
        answer = subprocess.run(
            ["addr2line", "-if", "-e", module.path, hex(address - module.bias)],
            capture_output=True,
            text=True,
            check=True,
        )
        return answer.stdout.splitlines()[::2]

    def module(self, address: int) -> Optional[Module]:
        """Return the module that holds ADDRESS, the one that was there last."""
        for module in reversed(self.modules):
            if module.start <= address < module.end:
                return module
        return None


def _read(memory: "object", address: int, size: int) -> bytes:
    memory.seek(address)  # type: ignore[attr-defined]
    data: bytes = memory.read(size)  # type: ignore[attr-defined]
    return data


def _base(pid: int, memory: "object") -> int:
    for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
        span, permissions, *_, last = line.split()
        start, end = (int(word, 16) for word in span.split("-"))
        if permissions.startswith("rw") and "/" not in last:
            for page in range(start, end, 4096):
                if _read(memory, page, 16) == b"gdb-leak record\0":
                    return page
    raise AssertionError(f"process {pid} has no recording")


def _area(memory: "object", base: int, header: bytes, number: int) -> bytes:
    offset, entry, capacity, used = struct.unpack_from("<4Q", header, 128 + 32 * number)
    assert used <= capacity
    (part, mapped) = struct.unpack_from("<2Q", header, 360 + 16 * number)
    assert part == offset
    assert entry * used <= mapped
    return _read(memory, base + offset, entry * used)


def _entries(form: str, data: bytes, size: int) -> Iterator[tuple[int, ...]]:
    assert struct.calcsize(form) == size
    return struct.iter_unpack(form, data[: len(data) // size * size])
