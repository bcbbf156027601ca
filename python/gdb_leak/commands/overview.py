"""``leak``: one screen on the target, and what to type next."""

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Union

from gdb_leak import units
from gdb_leak.layout import Block, Columns, Span, line
from gdb_leak.options import Command
from gdb_leak.target import Request, Result, Value

if TYPE_CHECKING:
    from gdb_leak._native import Region

_LARGEST = 3

COMMAND = Command(
    name="overview",
    summary="Show the target on one screen, and what to type next in a leak hunt.",
    example=("leak", "gdb-leak overview core"),
    gdb_name="leak",
)


def run(request: Request) -> Result:
    """Return the sizes of the target by kind, and its largest writable regions."""
    target = request.session.target()
    memory = target.memory
    writable = memory.regions("writable")
    kinds: dict[str, dict[str, int]] = {}
    regions = memory.regions("all")
    # A reserve is address space and not memory.
    for region in (region for region in regions if not region.reserve):
        kind = kinds.setdefault(region.kind, {"regions": 0, "size": 0})
        kind["regions"] += 1
        kind["size"] += region.size
    largest = sorted(writable, key=lambda region: -region.size)[:_LARGEST]
    by_size = sorted(kinds.items(), key=lambda item: -item[1]["size"])
    listed: list[Value] = [{"kind": kind, **sums} for kind, sums in by_size]
    values: dict[str, Value] = {
        "program": memory.program,
        "threads": len(memory.threads) or None,
        "kinds": listed,
        "writable": sum(region.size for region in writable),
        "largest": [_value(region) for region in largest],
    }
    next_lines = _next_lines(request, writable)
    return Result(
        COMMAND.name,
        target.describe(),
        values,
        target.all_notes(),
        (by_size, largest, next_lines),
        memory.word_size,
    )


def text(result: Result) -> Iterator[Block]:
    """Yield the screen."""
    by_size, largest, next_lines = result.data
    described = result.target or {}
    where = described.get("path") or (f"pid {described['pid']}" if described.get("pid") else "")
    known = [str(part) for part in (described["kind"], where, described["arch"]) if part]
    order = f"{described['word_size']}-byte words, {described['byte_order']}-endian"
    yield line(", ".join([" ".join(known), order]))
    if result.values["program"]:
        threads = result.values["threads"]
        counted = f", {units.counted(int(str(threads)), 'thread')}" if threads else ""
        yield line(f"program {result.values['program']}{counted}")
    yield line("")

    def kind_rows() -> Iterator[Sequence[Union[Span, str]]]:
        yield ["KIND", "REGIONS", "SIZE"]
        for kind, sums in by_size:
            yield [Span(kind, "kind"), str(sums["regions"]), units.size_text(sums["size"])]

    yield Columns("<>>", kind_rows(), batch=len(by_size) + 1)
    if largest:
        yield line("")
        yield line("largest writable regions:")
        yield Columns("<><<", _region_rows(largest, result.word_size), batch=len(largest))
    yield line("")
    yield line("next:")
    yield Columns("<<", [[f"  {typed}", told] for typed, told in next_lines], batch=len(next_lines))
    yield line("")
    yield line(f"{units.size_text(int(str(result.values['writable'])))} writable")


def _region_rows(
    regions: "Sequence[Region]", word_size: int
) -> Iterator[Sequence[Union[Span, str]]]:
    for region in regions:
        yield [
            Span(units.address_text(region.start, word_size), "address"),
            units.size_text(region.size),
            Span(region.kind, "kind"),
            region.name,
        ]


# What to type next, with addresses of this target.
def _next_lines(request: Request, writable: "Sequence[Region]") -> "list[tuple[str, str]]":
    shell = request.session.shell
    heap = [region for region in writable if region.kind == "heap"]
    place = " -in heap" if heap else ""
    opened = request.session.target()
    named = shlex.quote(opened.path or str(opened.pid)) if shell else ""
    target = f" {named}" if shell else ""
    prefix = "gdb-leak " if shell else "leak-"
    quote = "'" if shell else '"'
    lines = [
        (f"{prefix}heap{target}", "is it a leak at all: in use, free but kept, not malloc's"),
        (f"{prefix}check{target}", "which blocks are lost, and which are not"),
        (f"{prefix}blocks{target}", "the blocks in use by size and content"),
        (f"{prefix}strings{target}{place}", "what is in there, most frequent first"),
        (f"{prefix}find{target}{place} {quote}TEXT{quote}", "every place that holds TEXT"),
    ]
    shown = max(heap or writable, key=lambda region: region.saved, default=None)
    if shown is not None:
        lines.append(
            (f"{prefix}dump{target} {shown.start:#x} +256", "the first bytes in words and text")
        )
    if opened.memory.source == "core":
        before = "an earlier core, snapshot, or saved pmap -x: what grew, and what is in it"
        after = f" {named}" if shell else ""
        lines.append((f"{prefix}diff-region BEFORE{after}", before))
    else:
        lines.append((f"{prefix}snapshot{target}", "keep this state, let the program run on, and"))
        compare = f"gdb-leak diff-region SNAPSHOT {named}" if shell else "leak-diff-region"
        lines.append((compare, "see what grew and what is in the new bytes"))
    return lines


def _value(region: "Region") -> Value:
    return {
        "start": hex(region.start),
        "end": hex(region.end),
        "size": region.size,
        "kind": region.kind,
        "name": region.name,
    }
