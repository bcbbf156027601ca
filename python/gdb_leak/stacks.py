"""The shapes of stacks: which calls led somewhere, in JSON and as valgrind writes them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gdb_leak import layout
from gdb_leak.layout import Span
from gdb_leak.target import Line, Value

__all__ = ["Frame", "frame_value", "frames", "stack_lines", "stack_value"]


class Frame(NamedTuple):
    """A call: the address that is shown of it, and what is known of it."""

    pc: int
    line: Line


def frames(pc: int, lines: Sequence[Line]) -> list[Frame]:
    """Return the calls at PC, one for each of LINES: inlined functions have the same PC.

    :param lines: innermost first, as a session gives them; none where nothing is known.
    """
    return [Frame(pc, line) for line in lines] or [Frame(pc, Line(None))]


def frame_value(frame: Frame) -> Value:
    """Return the JSON of FRAME: ``{pc, function, file, line, path, module}``.

    ``file`` is the last part of ``path``; what is not known is null.
    """
    line = frame.line
    return {
        "pc": hex(frame.pc),
        "function": line.function,
        "file": None if line.file is None else _last(line.file),
        "line": line.line,
        "path": line.file,
        "module": line.module,
    }


def stack_value(stack: Sequence[Frame]) -> list[Value]:
    """Return the JSON of STACK, innermost call first."""
    return [frame_value(frame) for frame in stack]


def stack_lines(stack: Sequence[Frame], indent: str = "") -> Iterator[layout.Line]:
    """Yield a line for each call of STACK, the first ``at`` its place and the others ``by``.

    As valgrind has them: ``by 0x401136: my_alloc (sample.c:12)``; where no
    source is known the module, ``by 0x7f5c0a61: puts (in /lib/libc.so.6)``;
    ``???`` for a function without a name.
    """
    word = "at"
    for pc, line in stack:
        place = ""
        if line.file is not None:
            number = "" if line.line is None else f":{line.line}"
            place = f" ({_last(line.file)}{number})"
        elif line.module is not None:
            place = f" (in {line.module})"
        name = line.function or "???"
        yield layout.line(f"{indent}{word} ", Span(hex(pc), "address"), f": {name}{place}")
        word = "by"


def _last(path: str) -> str:
    return path.rsplit("/", 1)[-1]
