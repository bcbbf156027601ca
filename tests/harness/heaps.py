"""Heaps as their own programs know them: the files of tests/fixtures/heap_notes.h."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Held:
    """A block that the program holds: address, and sizes in bytes."""

    address: int
    usable: int
    requested: int


@dataclass(frozen=True)
class ListSizes:
    """Blocks and bytes on one sort of list."""

    blocks: int
    bytes: int


@dataclass(frozen=True)
class ArenaFigures:
    """What malloc_info(3) says of one arena, in bytes."""

    system: int
    #: In fastbins; none since glibc 2.43.
    fast: ListSizes
    #: On the unsorted list and in bins, and top.
    rest: ListSizes
    unsorted: ListSizes
    small: ListSizes
    large: ListSizes
    #: Of its heaps together; 0 for the main arena.
    heaps: int

    @property
    def top(self) -> int:
        """The size of top."""
        return self.rest.bytes - self.unsorted.bytes - self.small.bytes - self.large.bytes


def held(folder: Path) -> list[Held]:
    """Return the blocks that the program that wrote into FOLDER holds, by address."""
    found = []
    for line in (folder / "held").read_text().splitlines():
        address, usable, requested = line.split()
        found.append(Held(int(address, 16), int(usable), int(requested)))
    assert found
    return found


def freed(folder: Path) -> list[int]:
    """Return the addresses that the program freed and that no block it holds covers."""
    return sorted({int(line, 16) for line in (folder / "freed").read_text().splitlines()})


def mallinfo(folder: Path) -> dict[str, int]:
    """Return the fields of mallinfo, over all arenas."""
    lines = (folder / "mallinfo").read_text().splitlines()
    return {name: int(value) for name, value in map(str.split, lines)}


_SIZE = re.compile(r'<(size|unsorted) from="\d+" to="(\d+)" total="(\d+)" count="(\d+)"/>')
_TOTAL = re.compile(r'<total type="(\w+)" count="(\d+)" size="(\d+)"/>')
_SYSTEM = re.compile(r'<system type="current" size="(\d+)"/>')
_SUBHEAPS = re.compile(r'<aspace type="subheaps" size="(\d+)"/>')


def arenas(folder: Path, word: int = 8) -> list[ArenaFigures]:
    """Return the figures of each arena as malloc_info prints them: main, then round the ring.

    Of a program with words of WORD bytes.
    """
    text = (folder / "malloc_info").read_text()
    return [_arena(piece.partition("</heap>")[0], word) for piece in text.split("<heap nr=")[1:]]


def _arena(text: str, word: int) -> ArenaFigures:
    lists = {name: ListSizes(0, 0) for name in ("unsorted", "small", "large")}
    for tag, to, total, count in _SIZE.findall(text):
        flags = int(to) & 7
        if tag == "size" and not flags:
            continue  # a fastbin
        # malloc_info adds up the size fields of chunks in bins as they stand, and
        # PREV_INUSE is set in each of them (glibc 2.17 to 2.43,
        # malloc/malloc.c, __malloc_info, chunksize_nomask).
        assert flags == 1
        # MIN_LARGE_SIZE: 64 small bins, SMALLBIN_WIDTH apart (glibc 2.36,
        # malloc/malloc.c); on 32 bits one less, for SMALLBIN_CORRECTION.
        limit = 64 * 16 if word == 8 else 63 * 16
        name = "unsorted" if tag == "unsorted" else "small" if int(to) < limit else "large"
        before = lists[name]
        lists[name] = ListSizes(before.blocks + int(count), before.bytes + int(total) - int(count))
    totals = {name: (int(count), int(size)) for name, count, size in _TOTAL.findall(text)}
    blocks, size = totals["rest"]
    system = _SYSTEM.search(text)
    subheaps = _SUBHEAPS.search(text)
    assert system
    return ArenaFigures(
        system=int(system[1]),
        fast=ListSizes(*totals.get("fast", (0, 0))),
        # Top is counted among the blocks, and its size comes without flags.
        rest=ListSizes(blocks, size - (blocks - 1)),
        heaps=int(subheaps[1]) if subheaps else 0,
        **lists,
    )
