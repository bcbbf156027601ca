"""How gdb shows what is written through it.

gdb's module comes from ``gdb.py``, which alone imports it.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Optional

from gdb_leak.doors import terminal

__all__ = ["charset", "colour", "unpaged", "width"]


def charset(of_host: str) -> str:
    """Return the charset to write in, where that of gdb's host is OF_HOST.

    ``gdb.write`` hands UTF-8 on, whatever the terminal reads (gdb 13.1,
    gdb/python/python.c, `gdbpy_write`): in another charset all but ASCII would be garbage.
    """
    return "utf-8" if of_host.upper().replace("-", "") == "UTF8" else "ascii"


def colour(gdb: Any) -> bool:
    """Whether answers are coloured: gdb turns styles off for dumb terminals and in batch."""
    return bool(gdb.parameter("style enabled")) and not os.environ.get("NO_COLOR") and os.isatty(1)


def width(gdb: Any) -> Optional[int]:
    """Return how many columns answers have on gdb's terminal, None where there is none.

    One is left free: gdb's pager counts a line that fills the screen as two (gdb 13.1, `set width
    80`: it stopped after 13 rows of 80 columns on a screen of 24), and stops within a line.
    """
    if not os.isatty(1):
        return None
    return max(1, terminal.width(1, gdb.parameter("width")) - 1)


@contextlib.contextmanager
def unpaged(gdb: Any) -> Iterator[None]:
    """Turn gdb's pager off meanwhile: what a program reads must not wait for a key."""
    paged = gdb.parameter("pagination")
    if paged:
        gdb.execute("set pagination off", to_string=True)
    try:
        yield
    finally:
        if paged:
            gdb.execute("set pagination on", to_string=True)
