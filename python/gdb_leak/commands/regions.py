"""``leak-regions``: the address space, as ``pmap -x`` shows a process."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Callable, Optional, Union

from gdb_leak import _native, heaps, operands, rows, units
from gdb_leak.layout import Block, Columns, Span, line
from gdb_leak.options import Command, Option
from gdb_leak.target import Place, Request, Result, Target, Value

if TYPE_CHECKING:
    from gdb_leak._native import Heap, Region

COMMAND = Command(
    name="regions",
    summary="Show the regions of the address space, with size, permissions, kind and name.",
    description=(
        "Works on a core file too, where `info proc mappings` shows no heap, no stack and no "
        "anonymous region. SAVED are the bytes that a core holds; RSS and DIRTY are those of a "
        "running process. Permissions `???` are not known. A reserve (`---`, no byte of it saved "
        "or resident) is address space and not memory: it is listed, and no total counts it."
    ),
    options=(
        Option(
            "in",
            "Show only the regions of a place: all (default), writable, heap, stack, anon, brk, "
            "a kind's name, or START,END.",
            "place",
            "WHERE",
        ),
        Option(
            "sort",
            "Order by address (default) or by size, largest first.",
            "choice",
            choices=("address", "size"),
        ),
    ),
    example=(
        "leak-regions -in writable -sort size",
        "gdb-leak regions core -in writable -sort size",
    ),
)


def run(request: Request) -> Result:
    """Return the regions of a place and their total."""
    place = operands.place(request, request.parsed.word("in"), "all")
    target, heap, notes = _opened(request, place)
    regions = target.memory.regions(place, heap)
    notes.extend(rows.empty_place(target.memory, place, heap))
    if request.parsed.choice("sort", "address") == "size":
        regions = sorted(regions, key=lambda region: -region.size)
    total: dict[str, Value] = {
        "size": sum(region.size for region in regions if not region.reserve),
        "saved": sum(region.saved for region in regions),
        "reserved": _reserved(regions),
    }
    named = _names(request, target)
    values: dict[str, Value] = {
        "regions": [_value(region, named(region)) for region in regions],
        "total": total,
    }
    return Result(
        COMMAND.name,
        target.describe(),
        values,
        notes,
        (regions, target.memory.source, named),
        target.memory.word_size,
    )


def text(result: Result) -> Iterator[Block]:
    """Yield one line a region, and the total."""
    regions, source, named = result.data
    heads, sizes = _SIZES.get(source, ([], _no_sizes))

    def listed() -> Iterator[Sequence[Union[Span, str]]]:
        yield ["START", "END", "SIZE", *heads, "PERM", "KIND", "NAME"]
        for region in regions:
            yield [
                Span(units.address_text(region.start, result.word_size), "address"),
                Span(units.address_text(region.end, result.word_size), "address"),
                units.size_text(region.size),
                *sizes(region),
                region.permissions,
                Span(region.kind, "kind"),
                named(region),
            ]

    yield Columns("<<>" + ">" * len(heads) + "<<<", listed(), batch=len(regions) + 1)
    size = sum(region.size for region in regions if not region.reserve)
    total = f"{units.counted(len(regions), 'region')}, {units.size_text(size)}"
    if source == "core":
        total += f", {units.size_text(sum(region.saved for region in regions))} saved"
    elif any(region.rss is not None for region in regions):
        resident = units.size_text(sum(region.rss or 0 for region in regions))
        dirty = units.size_text(sum(region.dirty or 0 for region in regions))
        total += f", {resident} resident, {dirty} dirty"
    if _reserved(regions):
        total += f"; {units.size_text(_reserved(regions))} more are reserves"
    yield line(total)


# What allocators own has to be asked of them, where there are bytes to ask.
def _opened(request: Request, place: Place) -> "tuple[Target, Optional[Heap], list[str]]":
    target = request.session.target(usage=True)
    notes = target.all_notes()
    if place != "heap" or target.memory.source in ("snapshot", "maps"):
        return target, None, notes
    return target, heaps.in_place(request, target, notes), notes


def _reserved(regions: "Sequence[Region]") -> int:
    return sum(region.size for region in regions if region.reserve)


def _live_sizes(region: "Region") -> list[str]:
    return ["-" if size is None else units.size_text(size) for size in (region.rss, region.dirty)]


def _saved_sizes(region: "Region") -> list[str]:
    return [units.size_text(region.saved)]


def _no_sizes(_region: "Region") -> list[str]:
    return []


#: What is known of a region beside its size, by the source of the target.
_SIZES = {
    "core": (["SAVED"], _saved_sizes),
    "process": (["RSS", "DIRTY"], _live_sizes),
    "maps": (["RSS", "DIRTY"], _live_sizes),
}


# The kernel names what the recorder reserved where it can; a core names nothing.
def _names(request: Request, target: Target) -> "Callable[[Region], str]":
    ranges: list[tuple[int, int]] = []
    if target.memory.source in ("core", "process"):
        progress = request.session.progress("looking for a recording")
        ranges = _native.recorder_ranges(target.memory, progress)

    def name(region: "Region") -> str:
        own = any(start <= region.start and region.end <= end for start, end in ranges)
        return region.name or ("[gdb-leak record]" if own else "")

    return name


def _value(region: "Region", name: str) -> Value:
    return {
        "start": hex(region.start),
        "end": hex(region.end),
        "size": region.size,
        "saved": region.saved,
        "permissions": region.permissions,
        "kind": region.kind,
        "name": name,
        "rss": region.rss,
        "dirty": region.dirty,
    }
