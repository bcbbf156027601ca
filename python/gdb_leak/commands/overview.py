"""``leak``: one screen on the target, and what to type next."""

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from gdb_leak import folds, recorded, units, unjoined
from gdb_leak.folds import Fold
from gdb_leak.layout import Block, Column, Columns, Span, line
from gdb_leak.options import Command
from gdb_leak.target import Request, Result, Target, Value

if TYPE_CHECKING:
    from typing import Callable

    from gdb_leak._native import Region

_LARGEST = 3
#: What regions of the recorder are counted under.
_RECORDER = "recorder"
#: Libraries by which valgrind's tools take the place of malloc.
_VALGRIND = "vgpreload_"
_VALGRIND_CORE = "vgpreload_core"
#: That of the tool which looks for leaks, and can be asked through its server for gdb.
_MEMCHECK = "vgpreload_memcheck"
_KINDS = (Column("<"), Column(">", rank=1), Column(">"), Column(">"), Column(">"))
_REGIONS = (Column("<"), *(Column(">"),) * 2, Column("<"), Column("<", least=12, tail=True))
_NEXT = (Column("<"), Column("<", rank=1, least=20, wrap=True))

COMMAND = Command(
    name="overview",
    summary="Show the target on one screen, and what to type next.",
    description=(
        "RSS and DIRTY are the bytes of a running process that are in memory, and those of them "
        "that it changed; SAVED are the bytes that a core holds. Reserves, which hold no byte, "
        "are not counted."
    ),
    example=("leak", "gdb-leak overview core"),
    gdb_name="leak",
)


class _Data(NamedTuple):
    source: str
    kinds: list[tuple[str, Fold]]
    largest: list[Fold]
    named: "Callable[[Region], str]"
    recorded: bool
    #: How leak-check is typed.
    check: str
    unjoined: list[unjoined.Unjoined]
    writable: int
    resident: Optional[int]
    next: list[tuple[str, str]]


def run(request: Request) -> Result:
    """Return the sizes of the target by kind, and its largest writable regions."""
    target = request.session.target(usage=True)
    memory = target.memory
    # A reserve is address space and not memory.
    regions = [region for region in memory.regions("all") if not region.reserve]
    writable = [region for region in memory.regions("writable") if not region.reserve]
    own = recorded.own_ranges(request, target)
    kinds = _kinds(regions, own)
    resident = folds.known_sum(region.rss for region in writable)
    largest = sorted(folds.folded(writable), key=lambda fold: -fold.held)[:_LARGEST]
    single = sorted(writable, key=lambda region: -Fold.of([region]).held)[:_LARGEST]
    data = _Data(
        memory.source,
        kinds,
        largest,
        recorded.region_names(own),
        bool(own),
        request.session.typed("check"),
        unjoined.found(request, target) if memory.source != "remote" else [],
        sum(region.size for region in writable),
        resident,
        _next(request, target, writable, bool(own)),
    )
    values: dict[str, Value] = {
        "program": memory.program,
        "threads": len(memory.threads) or None,
        "kinds": [
            {
                "kind": kind,
                "regions": sums.regions,
                "size": sums.size,
                "rss": sums.rss,
                "dirty": sums.dirty,
            }
            for kind, sums in kinds
        ],
        "writable": data.writable,
        "recorded": data.recorded,
        "unjoined": unjoined.value(data.unjoined),
        "largest": [_value(region, data.named(region)) for region in single],
    }
    return Result(
        COMMAND.name, target.describe(), values, target.all_notes(), data, memory.word_size
    )


def text(result: Result) -> Iterator[Block]:
    """Yield the screen."""
    data: _Data = result.data
    described = result.target or {}
    where = described.get("path") or (f"pid {described['pid']}" if described.get("pid") else "")
    known = [str(part) for part in (described["kind"], where, described["arch"]) if part]
    order = f"{described['word_size']}-byte words, {described['byte_order']}-endian"
    yield line(", ".join([" ".join(known), order]))
    if result.values["program"]:
        threads = result.values["threads"]
        counted = f", {units.counted(int(str(threads)), 'thread')}" if threads else ""
        yield line(f"program {result.values['program']}{counted}")
    if data.recorded:
        yield line(f"a recording is in it: {data.check} names the code that allocated lost blocks")
    yield line("")
    yield Columns(_KINDS, _kind_rows(data), batch=len(data.kinds) + 1)
    if data.largest:
        yield line("")
        yield line(f"largest writable regions{_ORDER.get(data.source, '')}:")
        yield Columns(_REGIONS, _region_rows(data, result.word_size), batch=len(data.largest))
    if data.unjoined:
        yield line("")
        yield from unjoined.lines(data.unjoined)
    yield line("")
    yield line("next:")
    yield Columns(_NEXT, [[f"  {typed}", shows] for typed, shows in data.next])
    yield line("")
    total = f"{units.size_text(data.writable)} writable"
    if data.resident is not None:
        total += f", {units.size_text(data.resident)} of it resident"
    yield line(total)


#: By what regions are ordered, by the source of the target.
_ORDER = {"core": ", by the bytes that the core holds", "process": ", by resident bytes"}


# What is known of regions beside their size, by the source of the target.
def _sizes(source: str, sums: Fold) -> list[str]:
    if source == "core":
        return [units.size_text(sums.saved)]
    if sums.rss is None:
        return []
    return [units.size_text(sums.rss), "-" if sums.dirty is None else units.size_text(sums.dirty)]


def _heads(data: _Data) -> list[str]:
    if data.source == "core":
        return ["SAVED"]
    return [] if data.resident is None else ["RSS", "DIRTY"]


def _kind_rows(data: _Data) -> Iterator[Sequence[Union[Span, str]]]:
    heads = _heads(data)
    yield ["KIND", "REGIONS", "SIZE", *heads]
    for kind, sums in data.kinds:
        sizes = _sizes(data.source, sums)
        missing = ["-"] * (len(heads) - len(sizes))
        yield [
            Span(kind, "kind"),
            str(sums.regions),
            units.size_text(sums.size),
            *sizes,
            *missing,
        ]


def _kinds(regions: "Sequence[Region]", own: Sequence[tuple[int, int]]) -> list[tuple[str, Fold]]:
    kinds: dict[str, list[Region]] = {}
    for region in regions:
        kind = _RECORDER if recorded.is_own(region, own) else region.kind
        kinds.setdefault(kind, []).append(region)
    sums = [(kind, Fold.of(some)) for kind, some in kinds.items()]
    return sorted(sums, key=lambda item: (-item[1].held, -item[1].size))


def _region_rows(data: _Data, word_size: int) -> Iterator[Sequence[Union[Span, str]]]:
    for fold in data.largest:
        region, sizes = fold.first, _sizes(data.source, fold)[:1]
        name = data.named(region)
        yield [
            Span(units.address_text(region.start, word_size), "address"),
            units.size_text(fold.size),
            *(sizes or [""]),
            Span(region.kind, "kind"),
            name if fold.regions == 1 else f"{fold.regions} mappings of {name}",
        ]


# What to type next, with addresses of this target: what works on it, and no more.
def _next(
    request: Request, target: Target, writable: "Sequence[Region]", recording: bool
) -> list[tuple[str, str]]:
    session, source = request.session, target.memory.source
    typed = session.typed
    if source in ("snapshot", "maps"):
        return [(typed("regions"), "the regions one by one")]
    lines: list[tuple[str, str]] = []
    if not session.shell and not session.at_rest(target):
        lines.append(("interrupt -a", "stop all threads: a heap is read at rest"))
    elif tools := _valgrind(target):
        if source == "remote" and any(name.startswith(_MEMCHECK) for name in tools):
            lines.append(("monitor leak_check", "valgrind has its own malloc: ask it"))
    else:
        lines = [
            (typed("heap"), "is it a leak at all"),
            (typed("check"), "which blocks are lost"),
            (typed("blocks"), "what is in use, in groups"),
        ]
        if recording:
            lines.append((typed("blocks", "-by", "stack"), "what is in use, by who allocated it"))
    heap = [region for region in writable if region.kind == "heap"]
    place = ("-in", "heap") if heap and not _valgrind(target) else ()
    needle = "'TEXT'" if session.shell else '"TEXT"'
    lines.append((typed("strings", *place), "the texts in it"))
    lines.append((typed("find", *place, needle), "every place that holds TEXT"))
    # A core may hold no byte of the heap (its coredump_filter).
    held = [region for region in heap if region.saved] or [one for one in writable if one.saved]
    shown = max(held, key=lambda region: region.saved, default=None)
    if shown is not None:
        start = f"{shown.start:#x}"
        lines.append((typed("dump", start, "+256"), "its first bytes"))
    if source == "core":
        before = "what grew since an earlier core or snapshot"
        after = [shlex.quote(str(target.path))] if session.shell else []
        lines.append((typed("diff-region", "BEFORE", *after), before))
    else:
        lines.append((typed("snapshot"), "keep this state, let it run on, and"))
        sides = ["SNAPSHOT", str(target.pid)] if session.shell else []
        lines.append((typed("diff-region", *sides), "see what grew, and what it holds"))
    return lines


# The libraries by which tools of valgrind take the place of malloc.
def _valgrind(target: Target) -> set[str]:
    names = (region.name.rsplit("/", 1)[-1] for region in target.memory.regions("all"))
    listed = {name for name in names if name.startswith(_VALGRIND)}
    return {name for name in listed if not name.startswith(_VALGRIND_CORE)}


def _value(region: "Region", name: str) -> Value:
    return {
        "start": hex(region.start),
        "end": hex(region.end),
        "size": region.size,
        "rss": region.rss,
        "dirty": region.dirty,
        "kind": region.kind,
        "name": name,
    }
