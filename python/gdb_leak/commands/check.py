"""``leak-check``: which blocks are lost, and which are not."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from gdb_leak import coverage, heaps, leaks, losses, recorded, units, unjoined
from gdb_leak.errors import UsageError
from gdb_leak.layout import Block, Columns, Span, columns, line
from gdb_leak.options import Command, Option
from gdb_leak.recorded import AGE, Recorded
from gdb_leak.target import Pieces, Request, Result, Step, Value

if TYPE_CHECKING:
    from gdb_leak._native import Check, Heap, Record, Records

_PIECE = 1000
_SHOWN_RECORDS = 50
#: What -show takes, and the verdict that each means.
_KINDS = {short: verdict for verdict, short in leaks.SHORT.items()}
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
        Option(
            "by",
            "Group by the stack that allocated (done anyway where allocations were recorded); "
            "an error where they were not.",
            "choice",
            choices=("stack",),
        ),
        AGE,
        Option("list", "List every block in use with its verdict."),
        Option(
            "error-exitcode",
            "End with status N if a block is definitely or possibly lost, else with 3 if no "
            "verdict is possible or too much memory is in no heap that can be judged; in gdb as by "
            "quit N.",
            "number",
            "N",
        ),
    ),
    description=(
        "A block is definitely lost if no pointer to it is left, indirectly lost if only lost "
        "blocks point at it, possibly lost if pointers into it are all that is left, and still "
        "reachable otherwise. Pointers count from the registers and the living stacks of all "
        "threads, their TLS, the data of all modules, and all writable memory that malloc does "
        "not own. Lost blocks are grouped by allocation stack if recorded (gdb-leak record), "
        "otherwise by similarity (texts that differ only in digits, hex or UUIDs are similar); the "
        "largest is last. Records of one block with equal size and kind share a row; if more than "
        "100 records of that size and kind remain, those of the fewest blocks share it too. Sizes "
        "are the bytes that were asked for where they were recorded, else usable ones. The first "
        "line says how much of the writable memory was judged: a verdict is on the blocks of "
        "known heaps alone, and whatever belongs to none (memory of other allocators, and what "
        "the program mapped itself) "
        "is only searched for pointers. With -error-exitcode, status 3 means that more than 10% "
        "and more than 1 MiB of the resident writable memory outside modules' data and stacks "
        "is in no heap that can be judged, or that more than 10% of the heap is damaged or cannot "
        "be read."
    ),
    example=("leak-check -show all -top 20", "gdb-leak check core -error-exitcode 9"),
)


class _Data(NamedTuple):
    heap: "Optional[Heap]"
    check: "Optional[Check]"
    shown: "Sequence[Record]"
    records: int
    listed: bool
    recorded: Optional[Recorded]
    account: "_Account"
    newest: Optional[int]
    unjoined: list[unjoined.Unjoined]


class _Account(NamedTuple):
    # Rows of name, blocks and bytes; how many blocks were recorded.
    summary: "Sequence[tuple[str, int, int]]"
    saved: "Sequence[tuple[str, int, int]]"
    recorded: int


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
    heap = roots.heap if roots is not None else None
    known = recorded.opened(request, target, heap, lacks)
    if parsed.choice("by", "") == "stack":
        recorded.required(known, "-by stack")
    newest = recorded.newest(request, known, lacks)
    account = _Account([], [], 0)
    if roots is not None and roots.lacks is None:
        check = leaks.checked(request, target, roots, heuristics, parsed.flag("red-zone"), vector)
        account = _account(request, check, newest, lacks)
        records = check.records(shown, newest, request.session.progress("reading lost blocks"))
        first = 0 if top is None else max(0, len(records) - top)
        rows = records.rows(first, len(records))
        if records.untracked:
            lacks.append(
                "more than 1,048,576 distinct texts: "
                f"{units.counted(records.untracked, 'block')} are grouped by size and kind only"
            )
    covered = coverage.of_check(request, target, check, heap)
    ended = unjoined.found(request, target, None if roots is None else roots.threads)
    if parsed.flag("json"):
        lacks.extend(covered.notes())
    notes = [*(check.notes if check is not None else []), *lacks, *target.all_notes()]
    values: dict[str, Value] = {
        **covered.values(),
        "summary": _summary(check, account),
        "heuristics": {
            name: {"blocks": blocks, "bytes": size} for name, blocks, size in account.saved
        },
        "records": [losses.record_value(record, known) for record in rows],
        "sizes": _sizes(account, known),
        "sampled": None if known is None else known.recording.sample,
        "roots": {
            kind: {"places": places, "pointers": pointers}
            for kind, places, pointers in (check.roots if check is not None else [])
        },
        "vector_only": _only_vector(check),
        "frames": dict(check.frames) if check is not None else {},
        "limited": records is not None and len(rows) < len(records),
        "unjoined": unjoined.value(ended),
    }
    if parsed.flag("list"):
        values["blocks"] = Pieces(lambda: _block_values(heap, check, newest))
    elif check is None:
        values["blocks"] = []
    count = len(records) if records is not None else 0
    data = _Data(heap, check, rows, count, parsed.flag("list"), known, account, newest, ended)
    result = Result(COMMAND.name, target.describe(), values, notes, data, target.memory.word_size)
    result.heading = covered.line()
    result.steps.append(_next(request, data))
    if parsed.flag("list"):
        # Of the process nothing more is read: however long the list is, it runs on.
        released = request.session.let_go()
        result.later.append(lambda: released)
    if check is not None and any(_count(account, verdict) for verdict in _FAILING):
        result.status = status
    elif status is not None and covered.lacking:
        result.status = coverage.UNJUDGED
    return result


def text(result: Result) -> Iterator[Block]:
    """Yield the blocks or the records, then the summary in valgrind's order."""
    data: _Data = result.data
    check = data.check
    if check is None:
        yield line("no verdict")
        yield from unjoined.lines(data.unjoined)
        return
    if data.listed:
        yield Columns(columns("<><"), _block_rows(data, result.word_size))
        yield line("")
    if data.shown:
        yield from _records(data, result.word_size)
        if len(data.shown) < data.records:
            yield line(
                f"{units.counted(data.records, 'record')}, the "
                f"{'' if len(data.shown) == 1 else f'{len(data.shown)} '}largest shown"
            )
        if data.shown[-1].stack is None or len(data.shown) < data.records:
            yield line("")
    if check.only_vector is not None:
        blocks, size, sample = check.only_vector
        first = (
            f", the first at {units.address_text(sample[0], result.word_size)}" if sample else ""
        )
        yield line(f"vector registers alone hold {_blocks(blocks)} of {size:,} bytes{first}")
        yield line("")
    summary = list(_summary_rows(data.account))
    yield Columns(columns(">><"), summary, batch=len(summary))
    for name, blocks, size in data.account.saved:
        if blocks:
            yield line(f"by the heuristic {name} alone: {size:,} bytes in {_blocks(blocks)}")
    yield from unjoined.lines(data.unjoined)


# What the largest lost record holds, and who holds it; where nothing is lost, what is in use.
def _next(request: Request, data: _Data) -> Step:
    typed = request.session.typed
    if data.check is None:
        return Step("where the memory is", typed("heap"))
    lost = [record for record in data.shown if record.verdict in _FAILING and record.sample]
    if not lost and any(_count(data.account, verdict) for verdict in _FAILING):
        return Step("which blocks are lost", typed("check"))
    if not lost:
        return Step("what is in use, largest first", typed("blocks"))
    first = hex(lost[-1].sample[0])
    if lost[-1].indirect_blocks:
        return Step("the blocks that one of the largest record holds", typed("refs", first))
    return Step("what one of the largest record is", typed("whatis", first))


def _status(code: Optional[int]) -> Optional[int]:
    if code is not None and not 0 <= code <= _MOST_STATUS:
        raise UsageError(f"-error-exitcode {code}: not a number from 0 to {_MOST_STATUS}")
    return code


# Records without a stack first, a row each; then those with one, as valgrind has them.
def _records(data: _Data, word_size: int) -> Iterator[Block]:
    plain = [record for record in data.shown if record.stack is None]
    known = data.recorded
    if plain:
        mixed = known is not None and len(plain) < len(data.shown)
        if mixed:
            yield line("blocks whose stack is not known:")
        yield Columns(losses.COLUMNS, losses.record_rows(plain, word_size), batch=_PIECE)
        if mixed:
            yield line("")
    if known is None:
        return
    first = data.records - len(data.shown) + 1
    for number, record in enumerate(data.shown, first):
        if record.stack is not None:
            yield from losses.loss_lines(record, number, data.records, known, word_size)


def _account(request: Request, check: "Check", newest: Optional[int], notes: list[str]) -> _Account:
    if newest is None:
        return _Account(check.summary, check.saved, check.recorded)
    progress = request.session.progress("counting blocks")
    summary, saved, count, ageless = check.aged(newest, progress)
    if ageless:
        notes.append(
            f"{units.counted(ageless, 'block')} in use not recorded, without an age: left out"
        )
    return _Account(summary, saved, count)


# Of samples the heap alone tells what there is in all.
def _sizes(account: _Account, known: Optional[Recorded]) -> str:
    blocks = sum(blocks for _, blocks, _ in account.summary)
    if not account.recorded or known is None:
        return "usable"
    whole = account.recorded == blocks and known.recording.sample is None
    return "requested" if whole else "mixed"


def _count(account: _Account, verdict: str) -> int:
    return sum(blocks for name, blocks, _ in account.summary if name == verdict)


def _summary(check: "Optional[Check]", account: _Account) -> Value:
    if check is None:
        return {name: {"blocks": None, "bytes": None} for name in (*leaks.VERDICTS, "suppressed")}
    summary: dict[str, Value] = {
        name: {"blocks": blocks, "bytes": size} for name, blocks, size in account.summary
    }
    summary["suppressed"] = {"blocks": 0, "bytes": 0}
    return summary


# What only vector registers hold; null unless they count.
def _only_vector(check: "Optional[Check]") -> Value:
    if check is None or check.only_vector is None:
        return None
    blocks, size, sample = check.only_vector
    return {"blocks": blocks, "bytes": size, "sample": [hex(address) for address in sample]}


# As valgrind sums up: names right-aligned, in its order.
def _summary_rows(account: _Account) -> "Iterator[Sequence[Union[Span, str]]]":
    for name, blocks, size in account.summary:
        yield [f"{leaks.verdict_text(name)}:", f"{size:,} bytes", f"in {_blocks(blocks)}"]
    yield ["suppressed:", "0 bytes", "in 0 blocks"]


def _blocks(count: int) -> str:
    return f"{count:,} block{'' if count == 1 else 's'}"


def _block_rows(data: _Data, word_size: int) -> "Iterator[Sequence[Union[Span, str]]]":
    for piece in _listed(data.heap, data.check, data.newest):
        for address, size, verdict, saved_by in piece:
            yield [
                Span(units.address_text(address, word_size), "address"),
                str(size),
                leaks.verdict_text(verdict, saved_by),
            ]


def _block_values(
    heap: "Optional[Heap]", check: "Optional[Check]", newest: Optional[int]
) -> "Iterator[Sequence[Value]]":
    for piece in _listed(heap, check, newest):
        yield [_block_value(*row) for row in piece]


# A heuristic is named only where one alone saved the block: one block in thousands.
def _block_value(address: int, size: int, verdict: str, saved_by: Optional[str]) -> Value:
    value: dict[str, Value] = {"address": hex(address), "size": size, "verdict": verdict}
    if saved_by is not None:
        value["heuristic"] = saved_by
    return value


def _listed(
    heap: "Optional[Heap]", check: "Optional[Check]", newest: Optional[int]
) -> "Iterator[Sequence[tuple[int, int, str, Optional[str]]]]":
    if heap is None or check is None:
        return
    for start in range(0, heap.units, _PIECE):
        yield check.rows(start, start + _PIECE, newest)
