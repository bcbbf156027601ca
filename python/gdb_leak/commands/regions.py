"""``leak-regions``: the address space, as ``pmap -x`` shows a process."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Optional, Union

from gdb_leak import folds, heaps, operands, recorded, rows, units
from gdb_leak.folds import Fold
from gdb_leak.layout import Block, Column, Columns, Span, line
from gdb_leak.options import Command, Option
from gdb_leak.target import Place, Request, Result, Target, Value

if TYPE_CHECKING:
    from gdb_leak._native import Heap, Region

_RANGE = (Column("<"), Column("<", rank=5))
_SIZE_RANKS = (1, 4)
_NAMED = (Column("<", rank=3), Column("<"), Column("<", rank=2, least=8, tail=True))

COMMAND = Command(
    name="regions",
    summary="Show the regions of the address space, with size and kind.",
    description=(
        "Works on a core file too, where `info proc mappings` shows no heap, no stack and no "
        "anonymous region. SAVED are the bytes that a core holds; RSS and DIRTY are those of a "
        "running process. Permissions `???` are not known. A reserve (`---`, no byte of it saved "
        "or resident) is address space and not memory: it is listed, and no total counts it. "
        f"{folds.MANY} or more mappings of one file with the same permissions share a row, at the "
        "address of the first."
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
            "Order by address (default), or by size or resident bytes, largest first; of a core "
            "rss are the bytes that it holds.",
            "choice",
            choices=("address", "size", "rss"),
        ),
        Option(
            "all", f"Show each region, also of files that are mapped {folds.MANY} times or more."
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
    order = request.parsed.choice("sort", "address")
    unknown = not any(region.rss is not None for region in regions)
    if order == "rss" and unknown and target.memory.source != "core":
        notes.append("the resident bytes are not known: ordered by bytes that can be read")
    listed = _ordered(folds.folded(regions, request.parsed.flag("all")), order)
    if order != "address":
        regions = sorted(regions, key=lambda region: -_weight(Fold.of([region]), order))
    total: dict[str, Value] = {
        "size": sum(region.size for region in regions if not region.reserve),
        "saved": sum(region.saved for region in regions),
        "reserved": _reserved(regions),
    }
    named = recorded.region_names(recorded.own_ranges(request, target))
    values: dict[str, Value] = {
        "regions": [_value(region, named(region)) for region in regions],
        "total": total,
    }
    return Result(
        COMMAND.name,
        target.describe(),
        values,
        notes,
        (regions, listed, target.memory.source, named),
        target.memory.word_size,
    )


def text(result: Result) -> Iterator[Block]:
    """Yield one line a region, or for many mappings of a file, and the total."""
    regions, listed, source, named = result.data
    heads, sizes = _SIZES.get(source, ([], _no_sizes))
    many = len(listed) < len(regions)

    def shown() -> Iterator[Sequence[Union[Span, str]]]:
        yield ["START", "END", *(["COUNT"] if many else []), "SIZE", *heads, "PERM", "KIND", "NAME"]
        for row in listed:
            region = row.first
            end = units.address_text(region.end, result.word_size) if row.regions == 1 else ""
            yield [
                Span(units.address_text(region.start, result.word_size), "address"),
                Span(end, "address"),
                *([str(row.regions)] if many else []),
                units.size_text(row.size),
                *sizes(row),
                region.permissions,
                Span(region.kind, "kind"),
                units.name_text(named(region)),
            ]

    sizes_shown = (Column(">", rank=rank) for rank in _SIZE_RANKS[: len(heads)])
    columns = (*_RANGE, *([Column(">")] if many else []), Column(">"), *sizes_shown, *_NAMED)
    yield Columns(columns, shown(), batch=len(listed) + 1)
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
    if many:
        yield line(f"{folds.MANY} or more mappings of one file share a row (-all lists each)")


# What allocators own has to be asked of them, where there are bytes to ask.
def _opened(request: Request, place: Place) -> "tuple[Target, Optional[Heap], list[str]]":
    target = request.session.target(usage=True)
    notes = target.all_notes()
    if place != "heap" or target.memory.source in ("snapshot", "maps"):
        return target, None, notes
    return target, heaps.in_place(request, target, notes), notes


def _reserved(regions: "Sequence[Region]") -> int:
    return sum(region.size for region in regions if region.reserve)


def _live_sizes(row: Fold) -> list[str]:
    return ["-" if size is None else units.size_text(size) for size in (row.rss, row.dirty)]


def _saved_sizes(row: Fold) -> list[str]:
    return [units.size_text(row.saved)]


def _no_sizes(_row: Fold) -> list[str]:
    return []


#: What is known of a region beside its size, by the source of the target.
_SIZES = {
    "core": (["SAVED"], _saved_sizes),
    "process": (["RSS", "DIRTY"], _live_sizes),
    "maps": (["RSS", "DIRTY"], _live_sizes),
}


def _ordered(listed: list[Fold], order: str) -> list[Fold]:
    if order == "address":
        return sorted(listed, key=lambda row: row.first.start)
    return sorted(listed, key=lambda row: -_weight(row, order))


def _weight(row: Fold, order: str) -> int:
    return row.held if order == "rss" else row.size


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
