"""Random graphs of blocks as their own program knows them: the files of leaks/graph.c."""

import struct
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from harness.cores import loads


@dataclass(frozen=True)
class Vertex:
    """A block: bytes asked for, its verdict, and who leads it where it is lost indirectly."""

    address: int
    requested: int
    verdict: str
    leader: int


@dataclass(frozen=True)
class Reference:
    """A word at FROM that points OFFSET bytes into the block TO."""

    source: int
    block: int
    offset: int


@dataclass
class Graph:
    """All blocks that the program holds, by address, and all words that point at them."""

    blocks: dict[int, Vertex]
    references: list[Reference]

    def to(self, block: int) -> set[tuple[int, int]]:
        """Return where the words are that point at BLOCK, each with its offset in there."""
        return {(one.source, one.offset) for one in self.references if one.block == block}

    def within(self, address: int) -> int:
        """Return the block that the word at ADDRESS lies in, or 0 when that is a root."""
        return self._owner.get(address, 0)

    def distances(self, starts_alone: bool = False) -> dict[int, int]:
        """Return how many words lead from a root to each block that any lead to."""
        by_owner: dict[int, list[int]] = {}
        for one in self.references:
            if not (starts_alone and one.offset):
                by_owner.setdefault(self.within(one.source), []).append(one.block)
        found: dict[int, int] = {0: 0}
        queue = deque([0])
        while queue:
            owner = queue.popleft()
            for block in by_owner.get(owner, []):
                if block not in found:
                    found[block] = found[owner] + 1
                    queue.append(block)
        return found

    def __post_init__(self) -> None:
        self._owner = {}
        starts = sorted(self.blocks)
        at = 0
        for one in sorted(self.references, key=lambda one: one.source):
            while at < len(starts) and starts[at] + self.blocks[starts[at]].requested <= one.source:
                at += 1
            if at < len(starts) and starts[at] <= one.source:
                self._owner[one.source] = starts[at]


def read(folder: Path) -> Graph:
    """Return the graph that the program wrote into FOLDER."""
    blocks = {}
    for line in (folder / "truth").read_text().splitlines():
        address, requested, verdict, leader = line.split()
        made = Vertex(int(address, 16), int(requested), verdict, int(leader, 16))
        blocks[made.address] = made
    references = []
    for line in (folder / "references").read_text().splitlines():
        source, block, offset = line.split()
        references.append(Reference(int(source, 16), int(block, 16), int(offset)))
    assert blocks
    return Graph(blocks, references)


class Words:
    """The words of a core."""

    def __init__(self, core: Path) -> None:
        """Take the core's segments."""
        self._core = core
        self._loads = loads(core)

    def at(self, address: int) -> int:
        """Return the word at ADDRESS."""
        for start, _, saved, offset, _ in self._loads:
            if start <= address < start + saved:
                with self._core.open("rb") as file:
                    file.seek(offset + address - start)
                    (word,) = struct.unpack("<Q", file.read(8))
                return int(word)
        raise AssertionError(f"{address:#x} is not in the core")
