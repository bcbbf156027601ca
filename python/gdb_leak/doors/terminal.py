"""The terminal that an answer is shown on."""

import os

__all__ = ["width"]

#: Of a terminal that does not say.
_USUAL = 80


def width(descriptor: int, chosen: object = None) -> int:
    """Return how many characters a line has on the terminal of DESCRIPTOR.

    A width that was CHOSEN (gdb's ``set width``, None or 0 for none) counts first, then the
    variable ``COLUMNS``, as it does for ``ls`` and ``ps``.
    """
    if isinstance(chosen, int) and chosen > 0:
        return chosen
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns[:9]) > 0:
        return int(columns[:9])
    try:
        found = os.get_terminal_size(descriptor).columns
    except OSError:
        return _USUAL
    return found or _USUAL
