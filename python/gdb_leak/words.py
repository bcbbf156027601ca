r"""Splitting a line typed at gdb's prompt into words.

``gdb.string_to_argv`` is never used: it reads ``"a\\n"`` as ``an`` in one gdb
and as ``a\\n`` in another, and eats the backslashes that a needle needs.
"""

from typing import NamedTuple, Optional

from gdb_leak.errors import UsageError

__all__ = ["Word", "tokenize"]

_BLANKS = " \t\n\r\f\v"
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Word(NamedTuple):
    """One word of a command line.

    ``raw`` is what stands between the quotes, backslashes untouched; ``quoted``
    tells whether there were quotes, which makes it an operand whatever it
    begins with.
    """

    raw: str
    quoted: bool = False

    def __str__(self) -> str:
        """Return the word as it would be typed again."""
        return f'"{self.raw}"' if self.quoted else self.raw


def tokenize(line: str) -> list[Word]:
    r"""Return the words of LINE, in order.

    Blanks separate words, except inside ``"…"`` or ``'…'`` that begin a word
    and inside balanced brackets. A backslash keeps a following quote from
    ending the word and is itself kept.

    >>> [word.raw for word in tokenize(r'"a \"b\"" (132 * 1024) x')]
    ['a \\"b\\"', '(132 * 1024)', 'x']

    :raises UsageError: where a quote is not closed, or is followed by more.
    """
    words: list[Word] = []
    at = 0
    while at < len(line):
        if line[at] in _BLANKS:
            at += 1
            continue
        start = at
        if line[at] in "\"'":
            end = _after_quote(line, at)
            if end is None:
                raise UsageError(f"unterminated quote at: {line[at:]}")
            if end == len(line) or line[end] in _BLANKS:
                words.append(Word(line[at + 1 : end - 1], True))
                at = end
                continue
            # 'file.c'::variable is an expression of gdb's, not a quoted word.
            if not line.startswith("::", end):
                raise UsageError(f"no blank after the closing quote at: {line[at:]}")
            at = end
        at = _after_bare(line, at)
        words.append(Word(line[start:at]))
    return words


# The position after the quote that closes the one at START, None without one.
def _after_quote(line: str, start: int) -> Optional[int]:
    at = start + 1
    while at < len(line):
        if line[at] == "\\":
            at += 2
        elif line[at] == line[start]:
            return at + 1
        else:
            at += 1
    return None


# The position after the bare word that goes on at START.
def _after_bare(line: str, start: int) -> int:
    at = start
    while at < len(line) and line[at] not in _BLANKS:
        if line[at] in _CLOSING:
            # An unbalanced bracket is an ordinary character: `leak-find f(`.
            at = _after_bracket(line, at) or at + 1
        else:
            at += 1
    return at


# The position after the bracket that closes the one at START, None without one.
def _after_bracket(line: str, start: int) -> Optional[int]:
    open_brackets: list[str] = []
    at = start
    while at < len(line):
        character = line[at]
        if character in "\"'":
            end = _after_quote(line, at)
            if end is None:
                return None
            at = end
            continue
        if character in _CLOSING:
            open_brackets.append(_CLOSING[character])
        elif character in ")]}":
            if character != open_brackets.pop():
                return None
            if not open_brackets:
                return at + 1
        at += 1
    return None
