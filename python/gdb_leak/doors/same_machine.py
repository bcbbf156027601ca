"""The regions of a process that gdb reaches remotely but that runs on this machine.

valgrind's gdbserver answers no ``info proc mappings`` and has no file transfer.
Where the process is on the same machine, ``/proc/PID/maps`` has the regions;
that it is the same process is confirmed by the build-ids in its memory.
"""

import struct
from pathlib import Path
from typing import Callable, NamedTuple, Optional

__all__ = ["Confirmed", "build_id", "confirmed_maps"]

Read = Callable[[int, int], Optional[bytes]]

_PT_NOTE = 4
_NT_GNU_BUILD_ID = 3
#: No program has more; a larger number is garbage.
_MOST_HEADERS = 256
_MOST_NOTES = 1 << 16


class Confirmed(NamedTuple):
    """The text of ``/proc/PID/maps``, and how many of its mappings gdb cannot read."""

    text: bytes
    left_out: int


def confirmed_maps(pid: int, program: Optional[str], read: Read) -> Optional[Confirmed]:
    """Return the mappings of PID, None where it is not the process that READ reads.

    :param program: the path of the program as gdb knows it, if it does.
    :param read: returns bytes of the target, None where they cannot be read.
    """
    try:
        raw = Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return None
    lines = [line for line in raw.decode("utf-8", "surrogateescape").split("\n") if line]
    agreed = False
    for start, path in _first_pages(lines):
        in_memory = build_id(_from(read, start))
        if in_memory is None:
            # valgrind hides its own mappings, among them its tool.
            continue
        if in_memory != _build_id_of_file(pid, path):
            return None
        agreed = agreed or program is None or _same(pid, path, program)
    if not agreed:
        return None
    kept = [line for line in lines if _readable(line, read)]
    text = ("\n".join(kept) + "\n").encode("utf-8", "surrogateescape")
    return Confirmed(text, len(lines) - len(kept))


def build_id(read: Read) -> Optional[bytes]:
    """Return the build-id of the ELF file that READ reads by offset, None without one."""
    head = read(0, 64)
    if (
        head is None
        or len(head) < 64
        or head[:4] != b"\x7fELF"
        or head[4] not in (1, 2)
        or head[5] not in (1, 2)
    ):
        return None
    order = "<" if head[5] == 1 else ">"
    wide = head[4] == 2
    offset = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)[0]
    size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
    if count > _MOST_HEADERS or size != (56 if wide else 32):
        return None
    headers = read(offset, size * count)
    if headers is None or len(headers) < size * count:
        return None
    for at in range(0, size * count, size):
        if struct.unpack_from(order + "I", headers, at)[0] != _PT_NOTE:
            continue
        place = struct.unpack_from(
            order + ("Q" if wide else "I"), headers, at + (8 if wide else 4)
        )[0]
        length = struct.unpack_from(
            order + ("Q" if wide else "I"), headers, at + (32 if wide else 16)
        )[0]
        notes = read(place, min(length, _MOST_NOTES))
        found = _build_id_in(notes or b"", order)
        if found:
            return found
    return None


def _build_id_in(notes: bytes, order: str) -> Optional[bytes]:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from(order + "III", notes, at)
        name = at + 12
        data = name + (name_size + 3) // 4 * 4
        if kind == _NT_GNU_BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            return notes[data : data + size] or None
        at = data + (size + 3) // 4 * 4
    return None


# Where each mapped file's first byte is in memory, in address order.
def _first_pages(lines: list[str]) -> list[tuple[int, str]]:
    first: dict[str, int] = {}
    for line in lines:
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[5].startswith("/") and int(fields[2], 16) == 0:
            # The kernel escapes the end of a line, and nothing else.
            first.setdefault(fields[5].replace("\\012", "\n"), int(fields[0].partition("-")[0], 16))
    return [(start, path) for path, start in first.items()]


def _from(read: Read, start: int) -> Read:
    return lambda offset, length: read(start + offset, length)


def _build_id_of_file(pid: int, path: str) -> Optional[bytes]:
    try:
        with Path(f"/proc/{pid}/root{path}").open("rb") as file:

            def read(offset: int, length: int) -> bytes:
                file.seek(offset)
                return file.read(length)

            return build_id(read)
    except (OSError, OverflowError, ValueError):
        return None


def _same(pid: int, path: str, program: str) -> bool:
    try:
        return Path(f"/proc/{pid}/root{path}").samefile(program)
    except OSError:
        return path == program


def _readable(line: str, read: Read) -> bool:
    span, permissions = line.split(None, 2)[:2]
    start, _, end = span.partition("-")
    if "r" not in permissions:
        return True
    return read(int(start, 16), 1) is not None or read(int(end, 16) - 1, 1) is not None
