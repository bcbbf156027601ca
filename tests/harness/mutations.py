"""Cores damaged at random in their structure: headers, notes, what segments share, holes.

For little-endian cores with words of 8 bytes, by the ELF specification's figures. A seed always
makes the same file of the same core.
"""

import random
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

_ENTRY = "<IIQQQQQQ"
_LOAD, _NOTE = 1, 4
_FILE = 0x46494C45
_PAGE = 4096
#: Where grafted segments begin: no mapping of a small program is there.
_FREE = 0x10_0000_0000


@dataclass
class Image:
    """The bytes of a core that is being changed, and what is appended to them."""

    data: bytearray
    rng: random.Random
    done: list[str] = field(default_factory=list)
    #: How long the file is made: what is beyond the bytes is a hole.
    length: int = 0

    @property
    def table(self) -> int:
        """Where the program headers are."""
        (table,) = struct.unpack_from("<Q", self.data, 32)
        return int(table)

    @property
    def count(self) -> int:
        """How many program headers there are."""
        (count,) = struct.unpack_from("<H", self.data, 56)
        return int(count)

    def headers(self, kind: int = _LOAD) -> list[int]:
        """Return the places of the program headers of a KIND that are in the file."""
        places = (self.table + 56 * index for index in range(self.count))
        inside = (at for at in places if at + 56 <= len(self.data))
        return [at for at in inside if struct.unpack_from("<I", self.data, at) == (kind,)]

    def entry(self, at: int) -> tuple[int, ...]:
        """Return kind, flags, offset, address, physical address, saved, size, alignment."""
        return struct.unpack_from(_ENTRY, self.data, at)

    def put(self, at: int, value: int, size: int = 8) -> None:
        """Write a number, if its place is in the file."""
        if at >= 0 and at + size <= len(self.data):
            number = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            self.data[at : at + size] = number

    def append(self, bytes_: bytes) -> int:
        """Append BYTES at a page, and return where they are."""
        self.data += bytes(-len(self.data) % _PAGE)
        at = len(self.data)
        self.data += bytes_
        return at

    def graft(self, entries: list[tuple[int, ...]]) -> None:
        """Add program headers: the table moves to the end."""
        table = bytes(self.data[self.table : self.table + 56 * self.count])
        table += b"".join(struct.pack(_ENTRY, *entry) for entry in entries)
        count = self.count + len(entries)
        self.put(32, self.append(table))
        self.put(56, count if count < 0xFFFF else 0xFFFE, 2)

    def number(self) -> int:
        """Return a number that is likely to break something."""
        rng = self.rng
        if rng.random() < 0.3:
            return rng.getrandbits(rng.choice((8, 16, 32, 47, 56, 63, 64)))
        near = rng.choice((0, 1, 8, _PAGE, len(self.data), 1 << 31, 1 << 32, 1 << 40, 1 << 47))
        far = rng.choice((0x1200_0000_1000, 1 << 56, 5 << 60, 1 << 63, (1 << 64) - _PAGE))
        return int(rng.choice((near, far)) + rng.choice((0, 0, 0, -1, 1, 8, _PAGE)))


def _header(image: Image) -> None:
    at, size = image.rng.choice(((16, 2), (18, 2), (32, 8), (40, 8), (54, 2), (56, 2), (60, 2)))
    image.put(at, image.number(), size)


def _segments(image: Image) -> None:
    # Flags, offset, address, saved, size, alignment; those that matter most more often.
    places = ((4, 4), (8, 8), (16, 8), (32, 8), (32, 8), (40, 8), (40, 8), (48, 8))
    for at in image.rng.choices(image.headers() or [64], k=image.rng.choice((1, 1, 2, 8))):
        place, size = image.rng.choice(places)
        image.put(at + place, image.number(), size)


def _notes(image: Image) -> list[tuple[int, int, int]]:
    """Return the kind, the place and the length of the contents of each note."""
    found = []
    for header in image.headers(_NOTE):
        _, _, at, _, _, saved, _, _ = image.entry(header)
        end = min(at + saved, len(image.data))
        while at + 12 <= end:
            owner, length, kind = struct.unpack_from("<III", image.data, at)
            body = at + 12 + -(-owner // 4) * 4
            found.append((kind, body, length))
            at = body + -(-length // 4) * 4
    return found


def _note_words(image: Image) -> None:
    notes = _notes(image)
    for _, body, length in image.rng.choices(notes, k=4) if notes else ():
        place = image.rng.randrange(-12, max(length, 1), 4)
        image.put(body + place, image.number(), image.rng.choice((4, 8)))


def _file_words(image: Image) -> None:
    for kind, body, _ in _notes(image):
        if kind != _FILE or body + 16 > len(image.data):
            continue
        (count,) = struct.unpack_from("<Q", image.data, body)
        for _ in range(image.rng.choice((1, 1, 3, 20))):
            entry = image.rng.randrange(max(1, min(count, 1000)))
            image.put(body + 16 + 24 * entry + 8 * image.rng.randrange(3), image.number())
        if image.rng.random() < 0.2:
            image.put(body + 8 * image.rng.randrange(2), image.number())


def _file_list(image: Image) -> None:
    """Name everything by one file with a very long name, or list very many mappings."""
    rng = image.rng
    loads = [image.entry(at) for at in image.headers()]
    name = rng.choice(
        (b"/lib/x86_64-linux-gnu/libc.so.6", b"/" + b"n" * rng.choice((300, 100_000)))
    )
    if rng.random() < 0.5:
        ranges = [(address, address + size, 0) for _, _, _, address, _, _, size, _ in loads]
    else:
        start, step = rng.choice((0x1000, _FREE)), rng.choice((_PAGE, 1 << 30))
        ranges = [
            (start + step * index, start + step * (index + rng.choice((1, 2, 900))), index)
            for index in range(3000)
        ]
    names = b"".join(name[: max(2, 200_000 // len(ranges))] + b"\0" for _ in ranges)
    data = struct.pack("<QQ", len(ranges), _PAGE)
    for start, end, offset in ranges:
        data += struct.pack("<QQQ", start, min(end, (1 << 64) - 1), offset)
    note = struct.pack("<III8s", 5, len(data + names), _FILE, b"CORE\0\0\0\0") + data + names
    image.graft([(_NOTE, 4, image.append(note), 0, 0, len(note), 0, 4)])


def _shared(image: Image) -> None:
    rng = image.rng
    size = rng.choice((_PAGE, 1 << 16, 1 << 20))
    if rng.random() < 0.5 and len(image.data) > size:
        at = rng.randrange(0, len(image.data) - size + 1, _PAGE)
    else:
        words = [
            rng.choice((0, _FREE + 16 * rng.randrange(1 << 20), rng.getrandbits(64)))
            for _ in range(64)
        ]
        at = image.append(struct.pack("<64Q", *words) * (size // 512))
    step = rng.choice((size, size, size + _PAGE, 1 << 26))
    flags = rng.choice((4, 6, 6, 6, 7, 0))
    many = rng.choice((10, 1000, 20_000))
    image.graft(
        [(_LOAD, flags, at, _FREE + step * index, 0, size, size, _PAGE) for index in range(many)]
    )


def _overlapping(image: Image) -> None:
    headers = image.headers()
    for at in image.rng.choices(headers, k=3) if headers else ():
        other = image.entry(image.rng.choice(headers))
        image.put(at + 16, other[3] + image.rng.choice((0, 8, _PAGE, -_PAGE)))
        if image.rng.random() < 0.3:
            image.put(at + 8, other[2])


def _empty(image: Image) -> None:
    """Add segments without bytes, as many and as large as there can be."""
    rng = image.rng
    size = rng.choice((_PAGE, 1 << 26, 1 << 40, 1 << 44))
    many = rng.choice((1, 100, 30_000 if size < 1 << 40 else 100))
    flags = rng.choice((0, 4, 6))
    step = size + rng.choice((0, _PAGE))
    image.graft(
        [(_LOAD, flags, 0, _FREE + step * index, 0, 0, size, _PAGE) for index in range(many)]
    )


def _hole(image: Image) -> None:
    """Save a segment, new or old, in a hole."""
    rng = image.rng
    image.data += bytes(-len(image.data) % _PAGE)
    at = len(image.data)
    size = rng.choice((1 << 24, 1 << 33, 1 << 38))
    image.length = at + size
    if rng.random() < 0.5:
        parts = rng.choice((1, 1000))
        step = size // parts // _PAGE * _PAGE
        entries = [
            (_LOAD, 6, at + step * index, _FREE + step * index, 0, step, step, _PAGE)
            for index in range(parts)
        ]
        image.graft(entries)
        return
    for header in rng.choices(image.headers() or [64], k=1):
        image.put(header + 8, at - rng.choice((0, _PAGE)))
        image.put(header + 32, size)
        image.put(header + 40, size)


def _memory(image: Image) -> None:
    """Change words of what was saved."""
    rng = image.rng
    loads = [image.entry(at) for at in image.headers()]
    saved = [load for load in loads if load[1] & 2 and 0 < load[5] <= len(image.data)]
    for _ in range(rng.choice((1, 4, 50, 1000))):
        if not saved:
            return
        _, _, offset, _, _, length, _, _ = rng.choice(saved)
        at = offset + rng.randrange(0, max(8, length), 8)
        other = rng.choice(loads)
        pointer = other[3] + rng.randrange(0, max(8, min(other[6], 1 << 30)), 8)
        image.put(at, rng.choice((pointer, image.number(), rng.getrandbits(10))))


def _recording(image: Image) -> None:
    """Change the header of a recording, if there is one, or entries of its tables."""
    at = image.data.find(b"gdb-leak record\0")
    if at < 0:
        _memory(image)
        return
    for _ in range(image.rng.choice((1, 1, 3, 10))):
        far = image.rng.choice((288, 288, 1 << 16, 1 << 20))
        image.put(at + image.rng.randrange(16, far, 4), image.number(), image.rng.choice((4, 8)))


def _heap(image: Image) -> None:
    """Change words that look like sizes of chunks or like pointers to lists."""
    rng = image.rng
    loads = [image.entry(at) for at in image.headers()]
    saved = [load for load in loads if load[1] & 2 and 0 < load[5] <= len(image.data)]
    for _ in range(rng.choice((1, 3, 30))):
        if not saved:
            return
        _, _, offset, address, _, length, _, _ = rng.choice(saved)
        for _ in range(200):
            at = offset + 8 * rng.randrange(max(1, length // 8))
            word = int.from_bytes(image.data[at : at + 8], "little")
            size = word & 7 in (1, 5) and 0x20 <= word < 1 << 24
            if size or (word and address <= word < address + length):
                image.put(
                    at, rng.choice((image.number(), word + 16, word ^ 1 << rng.randrange(48)))
                )
                break


def _truncate(image: Image) -> None:
    del image.data[image.rng.randrange(64, len(image.data)) :]


def _repeated(image: Image) -> None:
    """Have the same notes many times."""
    notes = [image.entry(at) for at in image.headers(_NOTE)]
    image.graft([entry for entry in notes for _ in range(image.rng.choice((2, 300)))])


_CHANGES: tuple[Callable[[Image], None], ...] = (
    *(_header, _segments, _segments, _note_words, _file_words, _file_list, _shared, _shared),
    *(_overlapping, _empty, _hole, _memory, _truncate, _repeated, _recording, _recording),
    *(_heap, _heap),
)


def mutate(core: bytes, seed: int, out: Path) -> str:
    """Write CORE, changed as SEED says, to OUT; return what was changed."""
    rng = random.Random(seed)  # noqa: S311
    image = Image(bytearray(core), rng)
    for change in rng.choices(_CHANGES, k=rng.choice((1, 1, 2, 3))):
        if len(image.data) < 64:
            break
        change(image)
        image.done.append(change.__name__.strip("_"))
    with out.open("wb") as file:
        # Zeros are left out, as the kernel does: half of them.
        piece = 1 << 16 if rng.random() < 0.5 else len(image.data) + 1
        for at in range(0, len(image.data), piece):
            bytes_ = image.data[at : at + piece]
            if any(bytes_):
                file.seek(at)
                file.write(bytes_)
        file.truncate(max(image.length, len(image.data)))
    return ", ".join(image.done)
