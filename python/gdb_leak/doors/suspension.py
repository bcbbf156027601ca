"""Suspension while a process is held, which would stay stopped for as long as gdb-leak is.

By Ctrl-Z, and in the background by writing to a terminal that does not allow that (`stty tostop`).
"""

import os
import signal
from typing import Any

__all__ = ["Suspension"]


class Suspension:
    """Puts off the signal that Ctrl-Z sends."""

    def __init__(self) -> None:
        """Put nothing off yet."""
        self._put_off = False
        self._asked = False
        self._background: Any = signal.SIG_DFL

    def put_off(self) -> None:
        """From now on only note that suspension was asked for."""
        # Where it is ignored, as under a shell without job control, it stays so.
        if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._note)
            # One that is ignored lets the line of progress through.
            self._background = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            self._put_off = True

    def let(self) -> None:
        """Suspend this process if that was asked for meanwhile, and as usual from now on."""
        if self._put_off:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.signal(signal.SIGTTOU, self._background)
            self._put_off = False
        if self._asked:
            self._asked = False
            os.kill(os.getpid(), signal.SIGTSTP)

    def _note(self, _number: int, _frame: object) -> None:
        self._asked = True
