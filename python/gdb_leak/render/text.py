"""An answer as text for a terminal or a file."""

import re
from collections.abc import Iterable, Iterator, Sequence

from gdb_leak.layout import Block, Columns, Made, Span, line, notes
from gdb_leak.render import table
from gdb_leak.render.style import Style, columns_of, escape, escape_lines
from gdb_leak.target import Result

__all__ = ["pieces"]

#: By how much the further lines of a text are indented more than its first.
_HANG = 2
#: Below this a terminal is too narrow to break lines of text for it.
_NARROWEST = 20
_WORD = re.compile(r" *[^ ]+| +$")


def pieces(result: Result, blocks: Iterable[Block], style: Style) -> Iterator[str]:
    """Yield RESULT as text in pieces of whole lines: heading, notes, BLOCKS, later notes.

    On a terminal what to type next comes last.
    """
    known = list(dict.fromkeys(result.notes))
    if result.heading is not None:
        yield from _lines([line(result.heading)], style)
    yield from _lines(notes(known), style)
    for block in blocks:
        if isinstance(block, Made):
            yield block.text if block.text.isascii() else escape_lines(block.text, style.encoding)
        elif isinstance(block, Columns):
            yield from table.lines(block, style)
        else:
            yield from _lines([block], style)
    result.finish()
    later = (note for note in dict.fromkeys(result.notes) if note not in known)
    yield from _lines(notes(later), style)
    if style.width is not None:
        yield from _lines(_next(result), style)


def _next(result: Result) -> Iterator[Sequence[Span]]:
    for step in result.steps:
        yield line("")
        yield line(f"next, to see {step.purpose}:")
        yield line("  ", Span(step.command, "command"))


def _lines(lines: Iterable[Sequence[Span]], style: Style) -> Iterator[str]:
    for spans in lines:
        shown = [(escape(span.text, style.encoding), span.role) for span in spans]
        if style.width is not None and not any(role == "command" for _, role in shown):
            shown = _broken(shown, style.width)
        yield "".join(style.show(text, role) for text, role in shown) + "\n"


# SHOWN with line ends in place of blanks where it is wider than WIDTH. A word is never broken:
# a path, or an address, is to be copied.
def _broken(shown: "list[tuple[str, str]]", width: int) -> "list[tuple[str, str]]":
    whole = "".join(text for text, _ in shown)
    if columns_of(whole) <= width or width < _NARROWEST:
        return shown
    indent = len(whole) - len(whole.lstrip(" ")) + _HANG
    cuts: dict[int, int] = {}
    used = 0
    for word in _WORD.finditer(whole):
        blanks = len(word.group()) - len(word.group().lstrip(" "))
        taken = columns_of(word.group())
        if used and used + taken > width:
            cuts[word.start()] = blanks
            used = indent + taken - blanks
        else:
            used += taken
    broken: list[tuple[str, str]] = []
    at = 0
    skip = 0
    for text, role in shown:
        made: list[str] = []
        for character in text:
            if at in cuts:
                skip = cuts[at]
                broken.extend([("".join(made), role), ("\n" + " " * indent, "")])
                made = []
            if skip:
                skip -= 1
            else:
                made.append(character)
            at += 1
        broken.append(("".join(made), role))
    return broken
