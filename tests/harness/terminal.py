"""A program in a real pseudo-terminal, typed at as a person does."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
import unicodedata
from pathlib import Path
from typing import Optional

from harness import ROOT
from harness.debuggers import environment

PROMPT = "(gdb) "
#: gdb's own setting, the environment, and whether answers in a terminal are coloured then.
COLOURED = (("on", {}, True), ("off", {}, False), ("on", {"NO_COLOR": "1"}, False))


def columns_of(text: str) -> int:
    """Return how many columns a terminal shows TEXT in."""
    wide = sum(unicodedata.east_asian_width(one) in ("W", "F") for one in text)
    none = sum(unicodedata.category(one) in ("Mn", "Me", "Cf") for one in text)
    return len(text) + wide - none


class Terminal:
    """A program whose standard streams are a terminal of its own."""

    def __init__(
        self, line: list[str], env: Optional[dict[str, str]] = None, columns: int = 80
    ) -> None:
        """Start LINE from the repository's root, on a terminal of so many COLUMNS."""
        self._ours, theirs = pty.openpty()
        # Rows enough for gdb's greeting with a long path: its pager would wait in it.
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
        self.said = ""
        #: Nanoseconds for which each thread was ready and had no processor.
        self._waited: dict[Path, int] = {}
        self._process = subprocess.Popen(
            line,
            cwd=str(ROOT),
            env=env or environment(),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(theirs)

    def read_until(self, text: str, seconds: float = 60) -> str:
        """Return what was printed up to TEXT, once that is there."""
        until = time.monotonic() + seconds
        while text not in self.said:
            left = until - time.monotonic()
            ready = left > 0 and select.select([self._ours], [], [], left)[0]
            assert ready, f"no {text!r} after {seconds} s in: {self.said!r}"
            try:
                self.said += os.read(self._ours, 65536).decode("utf-8", "replace")
            except OSError:  # the other end was closed
                raise AssertionError(f"ended without {text!r}: {self.said!r}") from None
        before, _, self.said = self.said.partition(text)
        return before

    def read_all(self, seconds: float = 60) -> str:
        """Return everything that the program prints until it ends, without carriage returns."""
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            assert left > 0, f"has not ended after {seconds} s: {self.said!r}"
            if not select.select([self._ours], [], [], left)[0]:
                continue
            try:
                read = os.read(self._ours, 65536)
            except OSError:  # the other end was closed
                break
            self.said += read.decode("utf-8", "replace")
        self.wait()
        return self.said.replace("\r\n", "\n")

    def type(self, keys: str) -> None:
        """Press KEYS."""
        os.write(self._ours, keys.encode())

    def command(self, line: str) -> str:
        """Return what gdb prints for LINE, with its prompt back."""
        self.type(line + "\n")
        self.read_until(line)
        return self.read_until(PROMPT)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.type("\x03")

    def wait(self, seconds: float = 30) -> int:
        """Return the exit status."""
        until = time.monotonic() + seconds
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while self._process.returncode is None:
            # Asked again and again: of threads that are gone the last answer counts.
            self.waited_seconds()
            if os.waitid(os.P_PID, self._process.pid, ended):
                self.waited_seconds()
                self._process.wait()
                break
            assert time.monotonic() < until, f"has not ended after {seconds} s"
            time.sleep(0.001)
        return self._process.returncode

    def used_seconds(self) -> float:
        """Return the processor time that the program has used."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        ticks: int = os.sysconf("SC_CLK_TCK")
        return (int(fields[11]) + int(fields[12])) / ticks

    def waited_seconds(self) -> float:
        """Return how long its threads, and this process, waited for a processor in all."""
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*")
        for task in (*tasks, Path("/proc/self")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                self._waited[task] = int((task / "schedstat").read_text().split()[1])
        return sum(self._waited.values()) / 1e9

    def end(self) -> None:
        """Kill the program, if it still runs, and close the terminal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._ours)


def _take_terminal() -> None:
    # A shell that starts the tests in the background has Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
