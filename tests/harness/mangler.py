"""Cores with other segment tables and notes than the kernel writes: read, changed, written.

For little-endian cores with words of 8 bytes, by the ELF specification's figures.
"""

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

_HEADER = "<16sHHIQQQIHHHHHH"
_ENTRY = "<IIQQQQQQ"
LOAD, NOTE = 1, 4
PRSTATUS, AUXV, FILE = 1, 6, 0x46494C45
PAGE = 4096


@dataclass(frozen=True)
class Segment:
    """A program header, with the bytes that it saves."""

    kind: int
    flags: int
    address: int
    size: int
    data: bytes
    align: int = PAGE
    physical: int = 0

    @property
    def writable(self) -> bool:
        """Whether it is loaded and may be written to."""
        return self.kind == LOAD and bool(self.flags & 2)

    @property
    def whole(self) -> bool:
        """Whether all of it is saved."""
        return self.kind == LOAD and 0 < self.size == len(self.data)

    def part(self, start: int, end: int) -> "Segment":
        """Return the bytes START to END of a whole segment as one of their own."""
        data = self.data[start:end]
        return replace(self, address=self.address + start, size=end - start, data=data)


@dataclass(frozen=True)
class Note:
    """One note."""

    owner: bytes
    kind: int
    data: bytes


@dataclass(frozen=True)
class Core:
    """A core's header and segments."""

    header: tuple[int, ...]
    segments: tuple[Segment, ...]

    @classmethod
    def read(cls, path: Path) -> "Core":
        """Return the core in PATH."""
        data = path.read_bytes()
        header = struct.unpack_from(_HEADER, data)
        segments = []
        for index in range(header[10]):
            kind, flags, offset, address, physical, saved, size, align = struct.unpack_from(
                _ENTRY, data, header[5] + 56 * index
            )
            saved_bytes = data[offset : offset + saved]
            segments.append(Segment(kind, flags, address, size, saved_bytes, align, physical))
        return cls(header, tuple(segments))

    def write(self, path: Path, align: int = PAGE) -> Path:
        """Write the core to PATH, what is saved at multiples of ALIGN, and return PATH."""
        header = list(self.header)
        header[5:7] = [64, 0]
        header[10:14] = [len(self.segments), 0, 0, 0]
        at = 64 + 56 * len(self.segments)
        table, blobs = b"", []
        for segment in self.segments:
            if segment.kind == LOAD:
                at = -(-at // align) * align
            saved = len(segment.data)
            table += struct.pack(
                _ENTRY,
                segment.kind,
                segment.flags,
                at,
                segment.address,
                segment.physical,
                saved,
                segment.size,
                segment.align,
            )
            blobs.append((at, segment.data))
            at += saved
        with path.open("wb") as file:
            file.write(struct.pack(_HEADER, *header) + table)
            for place, blob in blobs:
                file.seek(place)
                file.write(blob)
            file.truncate(at)
        return path

    def loads(self, change: Callable[[list[Segment]], list[Segment]]) -> "Core":
        """Return the core with other loaded segments."""
        loaded = [segment for segment in self.segments if segment.kind == LOAD]
        others = [segment for segment in self.segments if segment.kind != LOAD]
        return replace(self, segments=tuple(others + change(loaded)))

    def each(self, change: Callable[[Segment], list[Segment]]) -> "Core":
        """Return the core with other segments in the place of each loaded one."""
        return self.loads(lambda loaded: [made for segment in loaded for made in change(segment)])

    def notes(self, change: Callable[[list[Note]], list[Note]]) -> "Core":
        """Return the core with other notes."""

        def changed(segment: Segment) -> Segment:
            if segment.kind != NOTE:
                return segment
            data = b"".join(_note(note) for note in change(_notes(segment.data)))
            return replace(segment, data=data)

        return replace(self, segments=tuple(changed(segment) for segment in self.segments))

    def note(self, kind: int, change: Callable[[bytes], bytes]) -> "Core":
        """Return the core with other contents of its notes of KIND."""

        def changed(note: Note) -> Note:
            return replace(note, data=change(note.data)) if note.kind == kind else note

        return self.notes(lambda notes: [changed(note) for note in notes])

    def without_notes(self, *kinds: int) -> "Core":
        """Return the core without its notes of KINDS."""
        return self.notes(lambda notes: [note for note in notes if note.kind not in kinds])


def _notes(data: bytes) -> list[Note]:
    found, at = [], 0
    while at + 12 <= len(data):
        owner, length, kind = struct.unpack_from("<III", data, at)
        body = at + 12 + -(-owner // 4) * 4
        found.append(Note(data[at + 12 : at + 12 + owner], kind, data[body : body + length]))
        at = body + -(-length // 4) * 4
    return found


def _note(note: Note) -> bytes:
    head = struct.pack("<III", len(note.owner), len(note.data), note.kind)
    padded = [part + bytes(-len(part) % 4) for part in (note.owner, note.data)]
    return head + b"".join(padded)


def _flagged(segment: Segment) -> list[Segment]:
    # The kernel's own flags: VM_READ 1, VM_WRITE 2, VM_EXEC 4. As ELF's they mean other rights.
    bits = {4: 1, 2: 2, 1: 4}
    flags = sum(own for elf, own in bits.items() if segment.flags & elf)
    return [replace(segment, flags=flags | 0x70)]


def _with_flags(flags: int) -> Callable[[Segment], list[Segment]]:
    return lambda segment: [replace(segment, flags=flags)]


def _overlapping(segment: Segment) -> list[Segment]:
    if not (segment.writable and segment.whole and segment.size >= 4 * PAGE):
        return [segment]
    half = segment.size // 2 // PAGE * PAGE
    return [segment.part(0, half + PAGE), segment.part(half, segment.size)]


def _cut(segment: Segment) -> list[Segment]:
    if not (segment.writable and segment.whole and segment.size >= 4 * PAGE):
        return [segment]
    half = segment.size // 2 + 0x123
    return [segment.part(0, half), segment.part(half, segment.size)]


def _pages(segment: Segment) -> list[Segment]:
    if not (segment.writable and segment.whole):
        return [segment]
    return [segment.part(at, at + PAGE) for at in range(0, segment.size, PAGE)]


def _stale(segment: Segment) -> list[Segment]:
    old = replace(segment, data=b"\xaa" * len(segment.data))
    return [segment, old] if segment.writable and segment.data else [segment]


def _page_size(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:8] + struct.pack("<Q", size) + data[16:]


def _count(data: bytes) -> bytes:
    return struct.pack("<Q", (len(data) - 16) // 24) + data[8:]


def _names_cut(data: bytes) -> bytes:
    (count,) = struct.unpack_from("<Q", data)
    return data[: 16 + 24 * count + 40]


def _names_empty(data: bytes) -> bytes:
    (count,) = struct.unpack_from("<Q", data)
    return data[: 16 + 24 * count] + bytes(count)


def _empty(segment: Segment) -> Segment:
    return replace(segment, data=b"")


def _absurd(address: int, size: int) -> Callable[[list[Segment]], list[Segment]]:
    made = Segment(LOAD, 4, address, size, b"")
    return lambda loaded: [made, *loaded]


#: Changes after which gdb reads the same bytes, and what is lost is the same.
VARIANTS: dict[str, Callable[[Core], Core]] = {
    "as it is": lambda core: core,
    "backwards": lambda core: core.loads(lambda loaded: loaded[::-1]),
    "a reservation before each": lambda core: core.each(lambda one: [_empty(one), one]),
    "all reservations first": lambda core: core.loads(
        lambda loaded: [*map(_empty, loaded), *loaded]
    ),
    "twice": lambda core: core.loads(lambda loaded: loaded + loaded),
    "stale copies behind": lambda core: core.each(_stale),
    "overlapping by a page": lambda core: core.each(_overlapping),
    "pages, backwards": lambda core: core.loads(
        lambda loaded: [page for one in loaded for page in _pages(one)][::-1]
    ),
    "cut at odd addresses": lambda core: core.each(_cut),
    "the kernel's flags": lambda core: core.each(_flagged),
    "no flags": lambda core: core.each(_with_flags(0)),
    "no flags, no NT_FILE": lambda core: core.each(_with_flags(0)).without_notes(FILE),
    "no flags, no NT_FILE, no NT_AUXV": lambda core: core.each(_with_flags(0)).without_notes(
        FILE, AUXV
    ),
    "all flagged r--": lambda core: core.each(_with_flags(4)),
    "all flagged r-x": lambda core: core.each(_with_flags(5)),
    "size in memory 0": lambda core: core.each(
        lambda one: [replace(one, size=0) if one.data else one]
    ),
    "a segment of 2^63 bytes": lambda core: core.loads(_absurd(0x1_0000_0000, 1 << 63)),
    "a segment that wraps": lambda core: core.loads(_absurd((1 << 64) - 0x10000, 0x20000)),
    "no NT_FILE": lambda core: core.without_notes(FILE),
    "no NT_FILE, no NT_AUXV": lambda core: core.without_notes(FILE, AUXV),
    "NT_FILE with pages of 0": lambda core: core.note(FILE, _page_size(0)),
    "NT_FILE with pages of 2^62": lambda core: core.note(FILE, _page_size(1 << 62)),
    "NT_FILE with too large a count": lambda core: core.note(FILE, _count),
    "NT_FILE with names cut": lambda core: core.note(FILE, _names_cut),
    "NT_FILE with empty names": lambda core: core.note(FILE, _names_empty),
}
