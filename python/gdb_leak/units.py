"""Numbers as people read and type them: sizes, addresses, counts."""

import re
from typing import Optional

from gdb_leak.errors import UsageError

__all__ = [
    "address_text",
    "age_text",
    "counted",
    "cut_text",
    "name_text",
    "parse_age",
    "parse_count",
    "parse_number",
    "size_text",
    "symbol_text",
]

#: No terminal is as wide; most paths are far shorter.
_LONGEST_NAME = 256
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_AGES = {"ms": 10**6, "": 10**9, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_AGE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?(ms|[smhd]?)\Z", re.ASCII)
_HEX = re.compile(r"(-?)0[xX]([0-9a-fA-F]+)\Z")
_DECIMAL = re.compile(r"(-?)([0-9]+)([KMG]?)\Z", re.IGNORECASE | re.ASCII)


def name_text(name: str) -> str:
    """Return the NAME of a file as tables show it: the end of a very long one, after a mark."""
    return name if len(name) <= _LONGEST_NAME else "..." + name[3 - _LONGEST_NAME :]


def symbol_text(symbol: str) -> str:
    """Return a SYMBOL as lines show it: the ends of a very long one, with a mark between."""
    half = _LONGEST_NAME // 2
    return symbol if len(symbol) <= _LONGEST_NAME else f"{symbol[: half - 3]}...{symbol[-half:]}"


def size_text(size: int) -> str:
    """Return SIZE, in bytes, for people: ``132 KiB``, ``1.5 GiB``, ``512 bytes``.

    Whole units are exact; others are rounded to one decimal.

    >>> size_text(135168), size_text(1), size_text(2097151)
    ('132 KiB', '1 byte', '2.0 MiB')
    """
    magnitude = abs(size)
    if magnitude < 1024:
        return counted(size, "byte")
    power = 0
    # 1023.95 and more would be shown as 1024.0 of the smaller unit.
    while power + 1 < len(_UNITS) and magnitude * 20 >= 20479 * 1024 ** (power + 1):
        power += 1
    unit = 1024 ** (power + 1)
    whole, rest = divmod(magnitude, unit)
    sign = "-" if size < 0 else ""
    if rest == 0:
        return f"{sign}{whole} {_UNITS[power]}"
    return f"{sign}{magnitude / unit:.1f} {_UNITS[power]}"


def counted(count: int, thing: str, things: Optional[str] = None) -> str:
    """Return COUNT with THING in the singular or plural: ``1 match``, ``3 matches``.

    :param things: the plural, where it is not THING with an ``s``.
    """
    return f"{count} {thing if count == 1 else things or thing + 's'}"


def address_text(address: int, word_size: int = 8) -> str:
    """Return ADDRESS as hexadecimal in the full width of WORD_SIZE bytes.

    >>> address_text(0x7baf430)
    '0x0000000007baf430'
    """
    return f"0x{address:0{word_size * 2}x}"


def cut_text(text: str, most: int = 100) -> str:
    """Return TEXT for a line of a table: what is longer than MOST is cut and ends with ``...``.

    >>> cut_text("GET /index.html", 8)
    'GET /...'
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


def parse_number(text: str) -> int:
    """Return the number that TEXT spells: ``0x20``, ``32``, ``-1``, ``132K``.

    The suffixes K, M and G multiply by 1024, 1024² and 1024³. They follow
    decimal digits only, so that they never meet hexadecimal ones.

    :raises UsageError: where TEXT is anything else.
    """
    match = _HEX.match(text)
    if match and len(text) <= 40:
        value = int(match.group(2), 16)
    else:
        match = _DECIMAL.match(text)
        if not match or len(text) > 40:
            raise UsageError(
                f"not a number: {_shortened(text)!r} (decimal, also with K, M or G, or 0x and hex)"
            )
        value = int(match.group(2)) * _FACTORS[match.group(3).upper()]
    return -value if match.group(1) else value


# A message is one line, whatever was typed.
def _shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."


def parse_count(text: str) -> Optional[int]:
    """Return the count that TEXT spells, None for ``unlimited``.

    :raises UsageError: where TEXT is neither a number from 0 nor ``unlimited``.
    """
    # gdb takes any beginning of the word for its own counts.
    if text and "unlimited".startswith(text):
        return None
    try:
        count = parse_number(text)
    except UsageError:
        raise UsageError(f"Expected integer at: {text}") from None
    if not 0 <= count < 1 << 63:
        raise UsageError(f"integer {_shortened(text)} out of range")
    return count


def parse_age(text: str) -> int:
    """Return the nanoseconds that TEXT spells: ``10s``, ``5m``, ``2h``, ``1d``, ``200ms``, ``1.5``.

    A number alone is seconds.

    >>> parse_age("1.5s"), parse_age("200ms"), parse_age("2")
    (1500000000, 200000000, 2000000000)

    :raises UsageError: where TEXT is anything else.
    """
    match = _AGE.match(text)
    if match is None:
        raise UsageError(f"not an age: {_shortened(text)!r} (as 10s, 5m, 2h, 1d, 200ms or 1.5s)")
    whole, part, unit = match.group(1), match.group(2) or "", match.group(3)
    age: int = int(whole + part) * _AGES[unit] // 10 ** len(part)
    if age >= 1 << 63:
        raise UsageError(f"age {_shortened(text)} out of range")
    return age


def age_text(nanoseconds: int) -> str:
    """Return an age for people: ``350 ms``, ``12.0 s``, ``5 min 3 s``, ``2 days``.

    >>> age_text(350_000_000), age_text(12 * 10**9), age_text(7300 * 10**9)
    ('350 ms', '12.0 s', '2 h 1 min')
    """
    seconds = nanoseconds / 10**9
    if seconds < 1:
        return f"{nanoseconds // 10**6} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {int(seconds) % 60} s"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days"
