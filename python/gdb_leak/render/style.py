"""How text is shown: which characters, colours and widths a terminal or file takes."""

from functools import lru_cache
from typing import Optional

__all__ = ["Style", "columns_of", "escape", "escape_lines"]

#: SGR codes by role: gdb's own styles for addresses, and light ones.
_COLOURS = {"address": "34", "kind": "36", "match": "1", "note": "33", "command": "1"}


class Style:
    """How spans are shown: in colour or not, in which encoding, and in how many columns."""

    def __init__(
        self, colour: bool = False, encoding: Optional[str] = None, width: Optional[int] = None
    ) -> None:
        """Show in COLOUR where asked, and only what ENCODING has.

        :param width: of a terminal, in characters; None for a file or pipe.
        """
        self.colour = colour
        self.encoding = encoding or "ascii"
        self.width = width
        #: What marks that a text was cut.
        self.mark = "..." if escape("…", self.encoding) != "…" else "…"

    def show(self, text: str, role: str) -> str:
        """Return TEXT, printable already, in the colour of ROLE."""
        code = _COLOURS.get(role)
        return f"\033[{code}m{text}\033[m" if self.colour and code and text else text

    def cut(self, text: str, width: int, tail: bool = False) -> str:
        """Return TEXT, printable already, cut to WIDTH columns where it is wider.

        :param tail: whether its end is kept and not its beginning.

        >>> Style(encoding="utf-8").cut("/usr/lib/libc.so.6", 10, tail=True)
        '…libc.so.6'
        """
        if columns_of(text) <= width:
            return text
        kept = max(0, width - len(self.mark))
        if tail:
            return self.mark + text[len(text) - _fitting(text[::-1], kept) :]
        return text[: _fitting(text, kept)] + self.mark


def columns_of(text: str) -> int:
    """Return how many columns of a terminal TEXT takes, which is printable.

    >>> columns_of("abc"), columns_of("\u65e5\u672c"), columns_of("e\u0301")
    (3, 4, 1)
    """
    return len(text) if text.isascii() else sum(map(_columns_of_one, text))


# How many characters of TEXT, from its first one on, take COLUMNS at most.
def _fitting(text: str, columns: int) -> int:
    if text.isascii():
        return columns
    for count, character in enumerate(text):
        columns -= _columns_of_one(character)
        if columns < 0:
            return count
    return len(text)


# As Unicode Standard Annex 11 has it; those that are narrow in some fonts count as narrow.
@lru_cache(maxsize=4096)
def _columns_of_one(character: str) -> int:
    # Here, because answers in ASCII do not need its tables.
    import unicodedata

    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def escape(text: str, encoding: str = "utf-8") -> str:
    r"""Return TEXT with whatever is not printable in ENCODING as escapes.

    ``\xHH`` that the text has already stays as it is. Never raises.

    >>> escape("a\x1b[31m")
    'a\\x1b[31m'
    """
    # Nearly every string of a target is this, and it is the fast way.
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape_one(character, encoding) for character in text)


def escape_lines(text: str, encoding: str) -> str:
    """Return TEXT with each line escaped for ENCODING, the line ends kept."""
    return "\n".join(escape(line, encoding) for line in text.split("\n"))


def _escape_one(character: str, encoding: str) -> str:
    if character.isprintable():
        try:
            character.encode(encoding)
        except (UnicodeEncodeError, LookupError):
            pass
        else:
            return character
    # A lone surrogate is a byte that was not UTF-8 (PEP 383).
    raw = character.encode(
        "utf-8", "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    )
    return "".join(f"\\x{byte:02x}" for byte in raw)
