"""``leak-check``: which blocks are lost, and which are not."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from gdb_leak import heaps, leaks, units
from gdb_leak.errors import UsageError
from gdb_leak.layout import Block, Columns, Span, line
from gdb_leak.options import Command, Option
from gdb_leak.target import Pieces, Request, Result, Value

if TYPE_CHECKING:
    from gdb_leak._native import Check, Heap, Record, Records

_PIECE = 1000
_SHOWN_RECORDS = 50
#: What -show takes, and the verdict that each means.
_KINDS = dict(zip(("definite", "indirect", "possible", "reachable"), leaks.VERDICTS))
_SHOWN = ("definite", "possible")
_MOST_STATUS = 255
#: Verdicts that -error-exitcode acts on.
_FAILING = ("definitely_lost", "possibly_lost")

COMMAND = Command(
    name="check",
    summary="Show which blocks of the heap are lost, by valgrind's rules.",
    options=(
        Option(
            "show",
            "Show records of these kinds: definite, indirect, possible, reachable, with commas, "
            f"or all (default {','.join(_SHOWN)}).",
            "list",
            "KINDS",
            choices=tuple(_KINDS),
            alone=("all",),
        ),
        Option(
            "heuristics",
            "Let these pointers into blocks count as to their start: stdstring, length64, "
            "newarray, multipleinheritance, with commas, all (default) or none.",
            "list",
            "LIST",
            choices=("stdstring", "length64", "newarray", "multipleinheritance"),
            alone=("all", "none"),
        ),
        Option(
            "red-zone",
            "Count the bytes below each stack pointer that the ABI lets leaf functions use.",
        ),
        Option("vector-registers", "Count vector and floating-point registers too."),
        Option(
            "top",
            f"Show the N largest records only (default {_SHOWN_RECORDS} in text, all with -json).",
            "count",
            "N",
        ),
        Option("list", "List every block in use with its verdict."),
        Option(
            "error-exitcode",
            "End with status N if a block is definitely or possibly lost; in gdb as by quit N.",
            "number",
            "N",
        ),
    ),
    description=(
        "A block is definitely lost if no pointer to it is left, indirectly lost if only lost "
        "blocks point at it, possibly lost if pointers into it are all that is left, and still "
        "reachable otherwise. Pointers count from the registers and the living stacks of all "
        "threads, their TLS, the data of all modules, and all writable memory that malloc does "
        "not own. Sizes are usable bytes. Lost blocks that are alike stand in one record, the "
        "largest last."
    ),
    example=("leak-check -show all -top 20", "gdb-leak check core -error-exitcode 9"),
)


class _Data(NamedTuple):
    heap: "Optional[Heap]"
    check: "Optional[Check]"
    shown: "Sequence[Record]"
    records: int
    listed: bool


def run(request: Request) -> Result:
    """Return the verdicts, summed up and in records."""
    parsed = request.parsed
    kinds = parsed.names("show", _SHOWN)
    shown = [verdict for kind, verdict in _KINDS.items() if kind in kinds or kinds == ("all",)]
    status = _status(parsed.count("error-exitcode", None))
    vector = parsed.flag("vector-registers")
    heuristics = ",".join(parsed.names("heuristics", ("all",)))
    top = parsed.count("top", None if parsed.flag("json") else _SHOWN_RECORDS)
    target = heaps.held(request)
    lacks: list[str] = []
    roots = leaks.opened(request, target, lacks, vector)
    check: Optional[Check] = None
    records: Optional[Records] = None
    rows: Sequence[Record] = []
    if roots is not None and roots.lacks is None:
        check = leaks.checked(request, target, roots, heuristics, parsed.flag("red-zone"), vector)
        records = check.records(shown, request.session.progress("reading lost blocks"))
        first = 0 if top is None else max(0, len(records) - top)
        rows = records.rows(first, len(records))
        if records.untracked:
            lacks.append(
                f"{units.counted(records.untracked, 'block')} more than records can be told "
                "apart stand in one record"
            )
    notes = [*(check.notes if check is not None else []), *lacks, *target.all_notes()]
    heap = roots.heap if roots is not None else None
    values: dict[str, Value] = {
        "summary": _summary(check),
        "heuristics": {
            name: {"blocks": blocks, "bytes": size}
            for name, blocks, size in (check.saved if check is not None else [])
        },
        "records": [_record_value(record) for record in rows],
        "sizes": "usable",
        "roots": {
            kind: {"places": places, "pointers": pointers}
            for kind, places, pointers in (check.roots if check is not None else [])
        },
        "vector_only": _only_vector(check),
        "limited": records is not None and len(rows) < len(records),
    }
    if parsed.flag("list"):
        values["blocks"] = Pieces(lambda: _block_values(heap, check))
    elif check is None:
        values["blocks"] = []
    count = len(records) if records is not None else 0
    data = _Data(heap, check, rows, count, parsed.flag("list"))
    result = Result(COMMAND.name, target.describe(), values, notes, data, target.memory.word_size)
    if check is not None and any(_count(check, verdict) for verdict in _FAILING):
        result.status = status
    return result


def text(result: Result) -> Iterator[Block]:
    """Yield the blocks or the records, then the summary in valgrind's order."""
    data: _Data = result.data
    check = data.check
    if check is None:
        yield line("no verdict")
        return
    if data.listed:
        yield Columns("<><", _block_rows(data, result.word_size))
        yield line("")
    if data.shown:
        yield Columns(">>>><<<<", _record_rows(data.shown, result.word_size), batch=_PIECE)
        if len(data.shown) < data.records:
            yield line(
                f"{units.counted(data.records, 'record')}, the "
                f"{'' if len(data.shown) == 1 else f'{len(data.shown)} '}largest shown"
            )
        yield line("")
    if check.only_vector is not None:
        blocks, size, sample = check.only_vector
        first = (
            f", the first at {units.address_text(sample[0], result.word_size)}" if sample else ""
        )
        yield line(f"vector registers alone hold {_blocks(blocks)} of {size:,} bytes{first}")
        yield line("")
    summary = list(_summary_rows(check))
    yield Columns(">><", summary, batch=len(summary))
    for name, blocks, size in check.saved:
        if blocks:
            yield line(f"by the heuristic {name} alone: {size:,} bytes in {_blocks(blocks)}")


def _status(code: Optional[int]) -> Optional[int]:
    if code is not None and not 0 <= code <= _MOST_STATUS:
        raise UsageError(f"-error-exitcode {code}: not a number from 0 to {_MOST_STATUS}")
    return code


def _count(check: "Check", verdict: str) -> int:
    return sum(blocks for name, blocks, _ in check.summary if name == verdict)


def _summary(check: "Optional[Check]") -> Value:
    if check is None:
        return {name: {"blocks": None, "bytes": None} for name in (*leaks.VERDICTS, "suppressed")}
    summary: dict[str, Value] = {
        name: {"blocks": blocks, "bytes": size} for name, blocks, size in check.summary
    }
    summary["suppressed"] = {"blocks": 0, "bytes": 0}
    return summary


# What only vector registers hold; null unless they count.
def _only_vector(check: "Optional[Check]") -> Value:
    if check is None or check.only_vector is None:
        return None
    blocks, size, sample = check.only_vector
    return {"blocks": blocks, "bytes": size, "sample": [hex(address) for address in sample]}


def _record_value(record: "Record") -> Value:
    return {
        "verdict": record.verdict,
        "blocks": record.blocks,
        "bytes": record.bytes,
        "indirect": {"blocks": record.indirect_blocks, "bytes": record.indirect_bytes},
        "size": record.size,
        "kind": record.kind,
        "text": record.text,
        "stack": None,
        "sample": [hex(address) for address in record.sample],
    }


def _record_rows(
    records: "Sequence[Record]", word_size: int
) -> "Iterator[Sequence[Union[Span, str]]]":
    yield ["BYTES", "BLOCKS", "INDIRECT", "SIZE", "VERDICT", "KIND", "FIRST AT", "TEXT"]
    for record in records:
        indirect = ""
        if record.indirect_blocks:
            indirect = f"+{units.size_text(record.indirect_bytes)} in {record.indirect_blocks}"
        first = units.address_text(record.sample[0], word_size) if record.sample else ""
        yield [
            units.size_text(record.bytes),
            str(record.blocks),
            indirect,
            "" if record.size is None else str(record.size),
            leaks.verdict_text(record.verdict),
            Span(record.kind or "", "kind"),
            Span(first, "address"),
            Span(record.text or "", "match"),
        ]


# As valgrind sums up: names right-aligned, in its order.
def _summary_rows(check: "Check") -> "Iterator[Sequence[Union[Span, str]]]":
    for name, blocks, size in check.summary:
        yield [f"{leaks.verdict_text(name)}:", f"{size:,} bytes", f"in {_blocks(blocks)}"]
    yield ["suppressed:", "0 bytes", "in 0 blocks"]


def _blocks(count: int) -> str:
    return f"{count:,} block{'' if count == 1 else 's'}"


def _block_rows(data: _Data, word_size: int) -> "Iterator[Sequence[Union[Span, str]]]":
    for piece in _listed(data.heap, data.check):
        for address, size, verdict, saved_by in piece:
            yield [
                Span(units.address_text(address, word_size), "address"),
                str(size),
                leaks.verdict_text(verdict, saved_by),
            ]


def _block_values(heap: "Optional[Heap]", check: "Optional[Check]") -> "Iterator[Sequence[Value]]":
    for piece in _listed(heap, check):
        yield [_block_value(*row) for row in piece]


# A heuristic is named only where one alone saved the block: one block in thousands.
def _block_value(address: int, size: int, verdict: str, saved_by: Optional[str]) -> Value:
    value: dict[str, Value] = {"address": hex(address), "size": size, "verdict": verdict}
    if saved_by is not None:
        value["heuristic"] = saved_by
    return value


def _listed(
    heap: "Optional[Heap]", check: "Optional[Check]"
) -> "Iterator[Sequence[tuple[int, int, str, Optional[str]]]]":
    if heap is None or check is None:
        return
    for start in range(0, heap.units, _PIECE):
        yield check.rows(start, start + _PIECE)
