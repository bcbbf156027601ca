"""Records of lost blocks: their JSON, a row each, and as valgrind writes those with a stack."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Optional, Union

from gdb_leak import leaks, rows, units
from gdb_leak.layout import Column, Line, Span, line
from gdb_leak.recorded import Recorded
from gdb_leak.target import Value

if TYPE_CHECKING:
    from gdb_leak._native import Record

__all__ = ["COLUMNS", "loss_lines", "record_rows", "record_value"]

#: Of :func:`record_rows`.
COLUMNS = (
    Column(">"),
    Column(">"),
    Column(">", rank=2),
    Column(">", rank=3),
    Column("<"),
    Column("<", rank=4),
    Column("<"),
    Column("<", rank=1, least=10),
)


def record_value(record: "Record", recorded: Optional[Recorded]) -> Value:
    """Return the JSON of RECORD."""
    return {
        "verdict": record.verdict,
        "blocks": record.blocks,
        "bytes": record.bytes,
        "indirect": {"blocks": record.indirect_blocks, "bytes": record.indirect_bytes},
        "size": record.size,
        "kind": record.kind,
        "text": record.text,
        "example": record.example,
        "texts": record.texts or None,
        "stack": recorded.stack_value(record.stack) if recorded is not None else None,
        "estimate": _estimate(record),
        "sample": [hex(address) for address in record.sample],
    }


def record_rows(
    records: "Sequence[Record]", word_size: int
) -> "Iterator[Sequence[Union[Span, str]]]":
    """Yield a row a record."""
    yield ["BYTES", "BLOCKS", "INDIRECT", "SIZE", "VERDICT", "KIND", "FIRST AT", "TEXT"]
    for record in records:
        indirect = Span("")
        if record.indirect_blocks:
            more = f"+{units.size_text(record.indirect_bytes)}"
            indirect = Span(f"{more} in {record.indirect_blocks}", short=more)
        first = units.address_text(record.sample[0], word_size) if record.sample else ""
        yield [
            units.size_text(record.bytes),
            str(record.blocks),
            indirect,
            "" if record.size is None else str(record.size),
            Span(leaks.verdict_text(record.verdict), short=leaks.SHORT[record.verdict]),
            Span(record.kind or "", "kind"),
            Span(first, "address"),
            rows.text_span(record),
        ]


def loss_lines(
    record: "Record", number: int, records: int, recorded: Recorded, word_size: int
) -> Iterator[Line]:
    """Yield RECORD as valgrind writes the loss record NUMBER of RECORDS, then its first block."""
    where = f"{leaks.verdict_text(record.verdict)} in loss record {number:,} of {records:,}"
    yield line(f"{_told(record)} are {where}")
    yield from recorded.stack_lines(record.stack)
    if record.sample:
        start = Span(units.address_text(record.sample[0], word_size), "address")
        holds: list[Union[Span, str]] = []
        if record.example:
            holds = [", holds ", rows.text_span(record)]
        yield line("   first block at ", start, *holds)
    yield line("")


# "4,096 (2,048 direct, 2,048 indirect) bytes in 1 blocks", as valgrind has it.
def _told(record: "Record") -> str:
    if record.estimate is not None:
        blocks, size, blocks_error, size_error = record.estimate
        held = ""
        if record.indirect_blocks:
            held = f", with {record.indirect_bytes:,} bytes more that they hold"
        return (
            f"about {size:,.0f} \u00b1 {size_error:,.0f} bytes in {blocks:,.0f} \u00b1 "
            f"{blocks_error:,.0f} blocks ({record.blocks:,} sampled{held})"
        )
    told = f"{record.bytes:,}"
    if record.indirect_blocks:
        whole = record.bytes + record.indirect_bytes
        told = f"{whole:,} ({record.bytes:,} direct, {record.indirect_bytes:,} indirect)"
    return f"{told} bytes in {record.blocks:,} blocks"


def _estimate(record: "Record") -> Value:
    if record.estimate is None:
        return None
    names = ("blocks", "bytes", "blocks_error", "bytes_error")
    return {name: round(value) for name, value in zip(names, record.estimate)}
