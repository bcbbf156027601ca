"""Many mappings of one file as one row, with the sums of their sizes."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional

if TYPE_CHECKING:
    from gdb_leak._native import Region

__all__ = ["MANY", "Fold", "folded", "known_sum"]


class Fold(NamedTuple):
    """One region, or many mappings of one file: the first, how many, and their sums."""

    first: "Region"
    regions: int
    size: int
    saved: int
    rss: Optional[int]
    dirty: Optional[int]

    @staticmethod
    def of(regions: "Sequence[Region]") -> "Fold":
        """Return REGIONS together; there is one at least."""
        return Fold(
            regions[0],
            len(regions),
            sum(region.size for region in regions),
            sum(region.saved for region in regions),
            known_sum(region.rss for region in regions),
            known_sum(region.dirty for region in regions),
        )

    @property
    def held(self) -> int:
        """The resident bytes, or the bytes that can be read where those are not known."""
        return self.saved if self.rss is None else self.rss


#: Mappings of one file from which on they are shown together.
MANY = 8


def folded(regions: "Sequence[Region]", whole: bool = False) -> list[Fold]:
    """Return REGIONS with those together that map one file with the same permissions, if many.

    :param whole: whether each is to be one row all the same.
    """
    alike: dict[tuple[str, str, str], list[Region]] = {}
    made: list[list[Region]] = []
    for region in regions:
        key = (region.name, region.permissions, region.kind)
        # Other names are what a region is for (`[stack]`), or none.
        file = region.name.startswith("/")
        if whole or not file or key not in alike:
            made.append([region])
            if file:
                alike[key] = made[-1]
        else:
            alike[key].append(region)
    listed: list[Fold] = []
    for some in made:
        few = len(some) < MANY
        listed.extend([Fold.of([one]) for one in some] if few else [Fold.of(some)])
    return listed


def known_sum(sizes: Iterable[Optional[int]]) -> Optional[int]:
    """Return the sum of those SIZES that are known, None where none is."""
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None
