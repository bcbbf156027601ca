"""``leak-dump``: memory as ``od -A x -t x8z`` shows it, or its raw bytes in a file."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gdb_leak import _native, operands, units
from gdb_leak.errors import UsageError
from gdb_leak.layout import Block, Made, line
from gdb_leak.options import Command, Operand, Option
from gdb_leak.target import Pieces, Request, Result, Target, Value

if TYPE_CHECKING:
    from gdb_leak._native import Dump

_LENGTH = 256

COMMAND = Command(
    name="dump",
    summary="Show memory in words and text, or write its bytes to a file.",
    operands=(
        Operand("START", "the first address.", "address"),
        Operand(
            "END|+LENGTH",
            f"the address after the last one, or how many bytes; {_LENGTH} bytes without it.",
            "address",
            least=0,
        ),
    ),
    options=(
        Option(
            "as",
            "Show words of 8 bytes (x8, default), 4 bytes (x4), single bytes (x1), words of the "
            "target, or text alone.",
            "choice",
            choices=("x8", "x4", "x1", "words", "text"),
        ),
        Option("all", "Show equal lines too, which are folded to * otherwise."),
        Option("out", "Write the raw bytes to FILE, whole or not at all.", "file", "FILE"),
        Option("force", "Replace FILE where it exists."),
    ),
    example=("leak-dump $sp +128", "gdb-leak dump core 0x555555559000 +128"),
)


def run(request: Request) -> Result:
    """Return the lines of a range, or the number of bytes written."""
    parsed = request.parsed
    if parsed.flag("force") and not parsed.flag("out"):
        raise UsageError("-force goes with -out")
    target = request.session.target()
    start, length = operands.span(request, parsed.operands, _LENGTH)
    request.session.prepare((start, start + length))
    values: dict[str, Value] = {
        "start": hex(start),
        "length": length,
        "lines": None,
        "written": None,
        "path": None,
    }
    result = Result(
        COMMAND.name, target.describe(), values, target.all_notes(), None, target.memory.word_size
    )
    out = parsed.word("out")
    if out is not None:
        _write(request, target, result, (start, length), operands.file_path(out))
        return result
    style = parsed.choice("as", "x8")
    lines = _native.dump(target.memory, start, length, style, not parsed.flag("all"))
    values["lines"] = Pieces(lambda: _lines(lines))
    result.data = lines
    result.later.append(lambda: _missing(lines))
    return result


def text(result: Result) -> Iterator[Block]:
    """Yield the lines in large pieces, or what was written."""
    if result.data is None:
        written = result.values["written"]
        path = result.values["path"]
        yield line(f"{units.size_text(int(str(written)))} written to {path}")
        return
    lines: Dump = result.data
    piece = lines.piece()
    while piece:
        yield Made(piece)
        piece = lines.piece()


def _write(
    request: Request, target: Target, result: Result, span: "tuple[int, int]", path: str
) -> None:
    progress = request.session.progress("writing")
    force = request.parsed.flag("force")
    result.values["written"] = _native.write_range(target.memory, *span, path, force, progress)
    result.values["path"] = path


def _lines(lines: "Dump") -> Iterator[Sequence[Value]]:
    rest = ""
    piece = lines.piece()
    while piece:
        *whole, rest = (rest + piece).split("\n")
        yield list(whole)
        piece = lines.piece()
    if rest:
        yield [rest]


# How much is missing is known once the last line was made.
def _missing(lines: "Dump") -> list[str]:
    return (
        [f"{units.size_text(lines.missing)} of the range could not be read"]
        if lines.missing
        else []
    )
