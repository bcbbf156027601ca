"""How much of the writable memory an answer judged, and the status where that is too little."""

from typing import TYPE_CHECKING, NamedTuple, Optional

from gdb_leak import _native, units
from gdb_leak.target import Request, Target, Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gdb_leak._native import Check, Heap
    from gdb_leak.target import ThreadRegisters

__all__ = ["UNJUDGED", "Coverage", "of_check", "of_heap"]

#: The status with which -error-exitcode ends where the heap that was judged is too little.
UNJUDGED = 3

#: What memory of no known heap is, by the kind of its regions.
_MEMORY = {
    "heap": "brk heap",
    "arena": "arenas",
    "anon": "anonymous memory",
    "file": "writable file mappings",
}
_OTHER = "other memory"


class Coverage(NamedTuple):
    """What was judged, and who gave out the rest as far as that is known."""

    found: "_native.Coverage"
    possible: bool
    allocators: "Sequence[str]"

    @property
    def word(self) -> str:
        """Return ``all``, ``partly`` or ``none``."""
        if not self.possible:
            return "none"
        found = self.found
        return "partly" if found.unknown or found.broken or found.missing else "all"

    @property
    def lacking(self) -> bool:
        """Return whether a verdict must not pass for one on the whole program."""
        return not self.possible or self.found.lacking

    def values(self) -> dict[str, Value]:
        """Return the JSON keys ``coverage`` and ``judged``."""
        bytes_of: dict[str, Value] = {"judged": self.found.judged, "writable": self.found.writable}
        if self.found.resident is not None:
            bytes_of["resident"] = self.found.resident
        return {"coverage": bytes_of, "judged": self.word}

    def notes(self) -> list[str]:
        """Return what JSON says of memory that was not judged; text has it in its first line."""
        rest = self._rest()
        return [rest] if rest else []

    def line(self) -> str:
        """Return the first line of a text: how much was judged, and what was not."""
        resident = self.found.resident
        whole = self.found.writable if resident is None else resident
        of = "writable" if resident is None else "resident writable"
        rest = self._rest()
        return f"judged {_of(self.found.judged, whole)} of {of} memory{'; ' if rest else ''}{rest}"

    def _rest(self) -> str:
        parts: dict[str, int] = {}
        for kind, size in self.found.unknown:
            name = _MEMORY.get(kind, _OTHER)
            parts[name] = parts.get(name, 0) + size
        said = []
        if self.found.broken:
            said.append(f"{units.size_text(self.found.broken)} of the heap cannot be judged")
        if self.found.missing:
            said.append(f"{units.size_text(self.found.missing)} of other memory cannot be read")
        if parts:
            said.append(self._unknown(parts))
        return "; ".join(said)

    def _unknown(self, parts: dict[str, int]) -> str:
        said = [f"{units.size_text(size)} of {name}" for name, size in parts.items()]
        listed = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
        verb = "belong" if sum(parts.values()) != 1 else "belongs"
        named = f" ({_linked(self.allocators)})" if self.allocators else ""
        return f"{listed} {verb} to no known heap{named}"


def of_check(
    request: Request, target: Target, check: "Optional[Check]", heap: "Optional[Heap]"
) -> Coverage:
    """Return what CHECK judged of TARGET; without one, what there is that could have been."""
    if check is not None:
        return _named(request, target, check.coverage, True)
    return _made(request, target, heap=heap, threads=None, possible=False)


def of_heap(
    request: Request,
    target: Target,
    heap: "Optional[Heap]",
    threads: "Optional[Sequence[ThreadRegisters]]",
) -> Coverage:
    """Return what a check of HEAP would judge of TARGET."""
    return _made(request, target, heap=heap, threads=threads, possible=heap is not None)


def _made(
    request: Request,
    target: Target,
    *,
    heap: "Optional[Heap]",
    threads: "Optional[Sequence[ThreadRegisters]]",
    possible: bool,
) -> Coverage:
    progress = request.session.progress("counting memory")
    found = _native.coverage(target.memory, heap, threads, possible, progress)
    return _named(request, target, found, possible)


def _named(request: Request, target: Target, found: "_native.Coverage", possible: bool) -> Coverage:
    names: Sequence[str] = ()
    if found.unknown:
        progress = request.session.progress("looking for other allocators")
        names = _native.linked_allocators(target.memory, found.places, progress)
    return Coverage(found, possible, names)


# Both numbers in the unit of the second, unless the first is nothing then: "1.0 of 51.9 MiB".
def _of(part: int, whole: int) -> str:
    text = units.size_text(whole)
    number, _, unit = text.partition(" ")
    factor = _FACTORS.get(unit)
    if part == whole:
        return f"{number} of {text}"
    if factor is None or part * 20 < factor:
        return f"{units.size_text(part)} of {text}"
    return f"{part / factor:.1f} of {text}"


_FACTORS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def _linked(names: "Sequence[str]") -> str:
    verb = "is" if len(names) == 1 else "are"
    return f"{' and '.join(names)} {verb} linked into the program"
