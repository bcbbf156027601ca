"""What is true of a process or a core, found the naive way: by Python's own bytes.find."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.cores import loads


@dataclass(frozen=True)
class Mapping:
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    name: str

    @property
    def span(self) -> tuple[int, int]:
        """Start and end."""
        return self.start, self.end


def parse_maps(text: str) -> list[Mapping]:
    """Return the mappings that TEXT, as of /proc/PID/maps, lists."""
    found = []
    for line in text.splitlines():
        fields = line.split(None, 5)
        start, _, end = fields[0].partition("-")
        name = fields[5] if len(fields) > 5 else ""
        found.append(Mapping(int(start, 16), int(end, 16), fields[1][:3], name))
    return found


def maps(pid: int) -> list[Mapping]:
    """Return the mappings of the process PID."""
    return parse_maps(Path(f"/proc/{pid}/maps").read_text())


def process_runs(
    pid: int, wanted: Callable[[Mapping], bool] = lambda _: True
) -> Iterator[tuple[int, bytes]]:
    """Yield the WANTED memory of PID: start and bytes, mappings that touch joined."""
    joined: list[tuple[int, bytearray]] = []
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for mapping in maps(pid):
            if not wanted(mapping) or "r" not in mapping.permissions:
                continue
            try:
                memory.seek(mapping.start)
                data = memory.read(mapping.end - mapping.start)
            except (OSError, ValueError, OverflowError):
                continue  # [vvar], [vsyscall]
            if joined and joined[-1][0] + len(joined[-1][1]) == mapping.start:
                joined[-1][1].extend(data)
            else:
                joined.append((mapping.start, bytearray(data)))
    for start, data in joined:
        yield start, bytes(data)


def core_runs(core: Path, writable: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield the saved memory of CORE: start and bytes, segments that touch joined."""
    joined: list[tuple[int, bytearray]] = []
    data = core.read_bytes()
    for address, _, saved, offset, permissions in sorted(loads(core)):
        if writable and "w" not in permissions:
            continue
        piece = data[offset : offset + saved]
        if joined and joined[-1][0] + len(joined[-1][1]) == address:
            joined[-1][1].extend(piece)
        else:
            joined.append((address, bytearray(piece)))
    for start, piece in joined:
        yield start, bytes(piece)


def places(runs: Iterator[tuple[int, bytes]], needle: bytes) -> list[int]:
    """Return every address in RUNS that holds NEEDLE, overlapping ones too."""
    found = []
    for start, data in runs:
        at = data.find(needle)
        while at >= 0:
            found.append(start + at)
            at = data.find(needle, at + 1)
    return found


def writable(mapping: Mapping) -> bool:
    """Whether the mapping can be written."""
    return "w" in mapping.permissions


def heap(mapping: Mapping) -> bool:
    """Whether the mapping is the brk heap."""
    return mapping.name == "[heap]"


def region_of(found: list[Mapping], address: int) -> Mapping:
    """Return the mapping that ADDRESS lies in."""
    return next(mapping for mapping in found if mapping.start <= address < mapping.end)


def pmap_sizes(text: str) -> dict[int, tuple[int, str]]:
    """Return size in bytes and name by start, of what ``pmap -x`` printed."""
    lines = re.findall(r"^([0-9a-f]{16})\s+(\d+)\s+\d+\s+\d+\s+\S+\s+(.*)$", text, re.MULTILINE)
    return {int(start, 16): (int(kib) * 1024, name.strip()) for start, kib, name in lines}
