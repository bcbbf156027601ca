"""Addresses, ranges, places and files, from the words that were typed."""

import os
import re
import shlex
from typing import Optional

from gdb_leak import _native
from gdb_leak.errors import RangeError, RequestError, UsageError
from gdb_leak.options import PLACES
from gdb_leak.target import Place, Request
from gdb_leak.words import Word

__all__ = [
    "address",
    "file_path",
    "needle_text",
    "of_heap",
    "place",
    "prepared_place",
    "span",
    "split_range",
    "typed_needle",
    "typed_word",
]

_ADDRESSES = 1 << 64
_OPENING = "([{"
_CLOSING = ")]}"
#: What means the same in a shell, at gdb's prompt and in a needle, once it is quoted.
_PLAIN = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9 _./:=,@+-]*")
#: Shorter texts are in too many places to be worth a search.
_SHORTEST = 4
#: More of a text hardly says more, and the line is to be read.
_LONGEST = 48


def address(request: Request, expression: str) -> int:
    """Return the address that EXPRESSION stands for.

    :raises RangeError: where it has more than 64 bits.
    """
    value = request.session.evaluate(expression)
    if value >= _ADDRESSES:
        raise RangeError(f"address {value:#x} has more than 64 bits")
    return value


def span(request: Request, words: list[Word], default_length: int) -> tuple[int, int]:
    """Return the start and length of the range ``START [END | +LENGTH]`` in WORDS.

    :raises RangeError: where the range is empty, runs backwards or wraps round.
    """
    start = address(request, words[0].raw)
    if len(words) == 1:
        length = min(default_length, _ADDRESSES - 1 - start)
        if length == 0:
            raise RangeError(f"address {start:#x} is the last of all, which no range holds", start)
        return start, length
    second = words[1].raw
    if second.startswith("+"):
        length = request.session.evaluate(second[1:])
        end = start + length
    else:
        end = address(request, second)
    _check_range(start, end)
    return start, end - start


def place(request: Request, word: Optional[Word], default: str) -> Place:
    """Return the place that the argument of ``-in`` names: its word, or a range."""
    if word is None:
        return default
    parts = split_range(word.raw)
    if parts is None:
        if word.raw not in PLACES:
            raise UsageError(f"-in {word.raw}: not one of {', '.join(PLACES)} or START,END")
        return word.raw
    return range_of(request, parts)


def of_heap(request: Request) -> bool:
    """Return whether ``-in heap`` is asked for: what the allocator owns, which it has to tell."""
    word = request.parsed.word("in")
    return word is not None and word.raw == "heap"


def prepared_place(request: Request, default: str) -> Place:
    """Return the place of ``-in``, its bytes made readable where gdb reads them."""
    target = request.session.target()
    if target.memory.source in ("snapshot", "maps"):
        raise RequestError(f"{target.path} lists regions and holds no byte of them")
    where = place(request, request.parsed.word("in"), default)
    # Finding what allocators own takes all writable memory.
    request.session.prepare("writable" if where == "heap" else where)
    return where


def range_of(request: Request, parts: tuple[str, str]) -> tuple[int, int]:
    """Return the range whose start and end (or ``+LENGTH``) are in PARTS."""
    start, length = span(request, [Word(parts[0]), Word(parts[1])], 0)
    return start, start + length


def split_range(text: str) -> Optional[tuple[str, str]]:
    """Return what stands before and after the comma of ``START,END``, None without one.

    Commas inside brackets belong to an expression.
    """
    depth = 0
    for at, character in enumerate(text):
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth == 0:
            before, after = text[:at].strip(), text[at + 1 :].strip()
            if not before or not after:
                raise UsageError(f"not a range: {text} (START,END)")
            return before, after
    return None


def file_path(word: Word) -> str:
    r"""Return the path that WORD names, ``~`` expanded.

    A quoted word has C escapes: ``"my \"core\""``.
    """
    text = os.fsdecode(_native.unescape(os.fsencode(word.raw))) if word.quoted else word.raw
    if not text:
        raise UsageError("a file name is empty")
    if "\0" in text:
        raise UsageError("a file name holds a NUL byte")
    # Here, because it would cost every command without a file 3 ms.
    from pathlib import Path

    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        # ~nobody-of-that-name, or no home at all: the file may have that name.
        return text


def needle_text(word: Word) -> str:
    """Return WORD as text for the native module.

    :raises UsageError: where what was typed is not text in the locale.
    """
    try:
        word.raw.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(r"not valid text in this locale; write its bytes as \xHH") from None
    return word.raw


def typed_word(request: Request, word: Word) -> str:
    """Return WORD as it is typed again."""
    return shlex.quote(word.raw) if request.session.shell else str(word)


def typed_needle(request: Request, text: str) -> Optional[str]:
    """Return TEXT as it is typed as a needle, or its longest part that needs no escapes.

    None where no part is long enough to lead anywhere.

    :param text: as answers show it; ``#`` may be any number.
    """
    part = max(_PLAIN.findall(text), key=len, default="")[:_LONGEST].strip()
    if len(part) < _SHORTEST:
        return None
    return shlex.quote(part) if request.session.shell else f'"{part}"'


def _check_range(start: int, end: int) -> None:
    if end >= _ADDRESSES:
        rule = "wraps around the end of the address space"
        raise RangeError(f"range {start:#x} to {end:#x} {rule}", start)
    if end == start:
        raise RangeError(f"range {start:#x} to {end:#x} is empty", start)
    if end < start:
        raise RangeError(f"range {start:#x} to {end:#x} ends before it starts", start)
