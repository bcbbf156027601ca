"""One line on standard error that says how far a long pass has come."""

import os
from typing import Optional

from gdb_leak import units
from gdb_leak.target import Progress

__all__ = ["ProgressLine"]

_ERROR = 2


def _progress_text(done: int, total: int) -> str:
    return f"{units.size_text(done)} of {units.size_text(total)} {100 * done // total} %"


class ProgressLine:
    """Shows progress where standard error is a terminal, and takes it away again."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._shown = False

    def function(self, verb: str) -> Optional[Progress]:
        """Return what shows VERB with the bytes done, None where it would not be seen."""
        if not os.isatty(_ERROR):
            return None

        def show(done: int, total: int) -> None:
            # Of work that is not counted in bytes, only what it is.
            share = f": {_progress_text(done, total)}" if total else ""
            self._write(f"\r{verb}{share}\033[K")
            self._shown = True

        return show

    def clear(self) -> None:
        """Take the line away, where there is one."""
        if self._shown:
            self._write("\r\033[K")
            self._shown = False

    # Past Python's and gdb's own buffers: the line is gone before output comes.
    def _write(self, text: str) -> None:
        try:
            os.write(_ERROR, text.encode("ascii", "replace"))
        except OSError:
            # A terminal that hung up does not end the search.
            self._shown = False
