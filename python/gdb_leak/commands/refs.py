"""``leak-refs``: who points at a block, and why it is alive."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from gdb_leak import _native, heaps, leaks, operands, units
from gdb_leak.errors import RequestError
from gdb_leak.layout import Block, Column, Columns, Span, columns, line
from gdb_leak.options import Command, Operand, Option
from gdb_leak.target import Request, Result, Step, Value

if TYPE_CHECKING:
    from gdb_leak._native import Block as HeapBlock

_LISTED = 200
#: Members of a cluster in text.
_MEMBERS = 5

_WORDS = (Column("<"), Column("<"), Column("<", least=20, wrap=True))
_PATH = (Column("<"), Column("<", least=20), Column("<"))

COMMAND = Command(
    name="refs",
    summary="Show what points at a block, and why it is alive.",
    operands=(Operand("ADDRESS", "an address in the block; in gdb an expression.", "address"),),
    options=(
        Option("path", "Show the shortest chain of pointers from a root to the block."),
        Option(
            "limit",
            f"List at most COUNT references (default {_LISTED}), and as many blocks of the cluster "
            f"(default {_MEMBERS} in text, {_LISTED} with -json); all are counted.",
            "count",
            "COUNT",
        ),
    ),
    description=(
        "Aligned words count that stand in blocks in use or in roots, as in leak-check; of "
        "registers all sorts. Registers and words of frames that no code reads again hold nothing; "
        "they are listed apart. Of a lost block the other lost blocks of its cluster are shown: "
        "those that valgrind would count with it."
    ),
    example=("leak-refs 0x5555555592a0 -path", "gdb-leak refs core 0x5555555592a0"),
)


class _Data(NamedTuple):
    block: "HeapBlock"
    verdict: Optional[str]
    saved_by: Optional[str]
    pointers: leaks.Pointers
    path: Optional[list[leaks.Word]]
    cluster: "Sequence[HeapBlock]"
    cluster_count: int


def run(request: Request) -> Result:
    """Return what points at the block at an address."""
    parsed = request.parsed
    limit = parsed.count("limit", _LISTED)
    target = heaps.held(request)
    address = operands.address(request, parsed.operands[0].raw)
    notes: list[str] = []
    roots = leaks.opened(request, target, notes, vector=True)
    if roots is None:
        raise RequestError(notes[-1])
    heap = roots.heap
    block = heap.block_at(address)
    if block is None or block.list != "used":
        raise RequestError(_no_block(block, address))
    check = leaks.judged(request, target, roots)
    found = leaks.pointers(request, target, roots, block, limit)
    path: Optional[list[leaks.Word]] = None
    if parsed.flag("path"):
        progress = request.session.progress("looking for a path")
        steps = _native.shortest_path(target.memory, heap, block.index, roots.threads, progress)
        if steps is not None:
            path = [leaks.word(request, target, roots, step) for step in steps]
    verdict = saved_by = None
    members: Sequence[int] = []
    member_count = 0
    if check is not None:
        verdict, saved_by = check.verdict(block.index), check.saved_by(block.index)
        shown = limit if parsed.flag("limit") or parsed.flag("json") else _MEMBERS
        members, member_count = check.cluster(block.index, leaks.ALL if shown is None else shown)
    cluster = [heap.unit(index) for index in members]
    data = _Data(
        block,
        verdict,
        saved_by,
        found,
        path,
        [member for member in cluster if member is not None],
        member_count,
    )
    values: dict[str, Value] = {
        "address": hex(address),
        "block": heaps.block_value(block, address),
        "verdict": verdict,
        "heuristic": data.saved_by,
        "references": [leaks.word_value(word) for word in found.words],
        "count": found.total,
        "dead": [leaks.word_value(word) for word in found.dead],
        "dead_count": found.dead_total,
        "limited": len(found.words) < found.total or len(found.dead) < found.dead_total,
        "path": None if path is None else [_step_value(word) for word in path],
        "cluster": {
            "blocks": member_count,
            "sample": [hex(member.address) for member in data.cluster],
        }
        if member_count
        else None,
    }
    own = check.notes if check is not None else []
    all_notes = [*own, *notes, *target.all_notes()]
    described, word_size = target.describe(), target.memory.word_size
    result = Result(COMMAND.name, described, values, all_notes, data, word_size)
    alive = verdict in ("still_reachable", "possibly_lost") and found.total > 0
    if alive and not parsed.flag("path"):
        typed = request.session.typed("refs", hex(address), "-path")
        result.steps.append(Step("why it is alive", typed))
    return result


def text(result: Result) -> Iterator[Block]:
    """Yield the block, one line a reference, the path, and the cluster."""
    data: _Data = result.data
    word_size = result.word_size
    block = data.block
    told = leaks.verdict_text(data.verdict, data.saved_by)
    start = units.address_text(block.address, word_size)
    yield line("block ", Span(start, "address"), f" of {block.size}, {told}")
    found = data.pointers
    yield from _listed(found.words, found.total, "reference", word_size)
    if found.dead_total:
        yield line("")
        yield line("no code reads these again, they hold nothing:")
        yield from _listed(found.dead, found.dead_total, "dead word", word_size)
    if data.path is not None:
        yield line("")
        yield line("why it is alive:")
        yield Columns(_PATH, _path_rows(data.path, word_size))
    elif data.verdict in leaks.LOST[:2]:
        yield line("no root leads here")
    if data.cluster_count > 1:
        yield line("")
        yield line(f"its cluster, {units.counted(data.cluster_count, 'lost block')}:")
        yield Columns(columns("<><"), _cluster_rows(data, word_size))


def _listed(words: list[leaks.Word], count: int, noun: str, word_size: int) -> Iterator[Block]:
    if words:
        yield Columns(_WORDS, (leaks.word_row(word, word_size) for word in words))
    total = units.counted(count, noun)
    if len(words) < count:
        total += f", {len(words)} listed (-limit unlimited lists all)"
    yield line(total)


def _no_block(block: "Optional[HeapBlock]", address: int) -> str:
    if block is None:
        return f"no block in use holds {address:#x} (leak-whatis tells what is there)"
    if block.state == "free":
        return f"{address:#x} lies in a free block ({block.list}): nothing there is in use"
    return f"{address:#x} lies in a block that is malloc's own: it is in no verdict"


def _step_value(word: leaks.Word) -> Value:
    block = word.block
    return {
        "from": None if word.reference.address is None else hex(word.reference.address),
        "owner": word.owner.value(),
        "to": None if block is None else hex(block.address),
        "offset": word.reference.offset,
    }


def _path_rows(words: list[leaks.Word], word_size: int) -> "Iterator[Sequence[Union[Span, str]]]":
    for word in words:
        block = word.block
        to = "" if block is None else units.address_text(block.address, word_size)
        offset = word.reference.offset
        inside = f"{offset:+#x}" if offset else ""
        short = "" if block is None else hex(block.address)
        link = Span(f"-> {to}{inside}", short=f"-> {short}{inside}")
        yield [leaks.place(word, word_size), word.owner.text(word_size), link]


def _cluster_rows(data: _Data, word_size: int) -> "Iterator[Sequence[Union[Span, str]]]":
    for number, member in enumerate(data.cluster):
        leader = "definitely lost, holds the others" if number == 0 else ""
        yield [
            Span(units.address_text(member.address, word_size), "address"),
            str(member.size),
            leader,
        ]
    if len(data.cluster) < data.cluster_count:
        more = data.cluster_count - len(data.cluster)
        yield ["", "", f"{more:,} more (-limit unlimited lists all)"]
