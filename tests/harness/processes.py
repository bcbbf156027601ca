"""Fixture programs: compiled once, run, talked to, and always ended."""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Optional

from harness import ROOT
from harness.compilers import compile_program

_PR_SET_PDEATHSIG = 1
_PR_SET_PTRACER = 0x59616D61
_LIBC = ctypes.CDLL(None, use_errno=True)


def compile_fixture(name: str, out: Path, *flags: str) -> Path:
    """Return the program that tests/fixtures/NAME.c compiles to, in the file OUT."""
    source = ROOT / "tests" / "fixtures" / f"{name}.c"
    return compile_program("gcc", source, out, *flags)


def wait_until_it_sleeps(pid: int) -> None:
    """Return once a process waits, or has ended; one that is held or stopped never does."""
    until = time.monotonic() + 30
    state = "R"
    while state not in "SZ":
        assert time.monotonic() < until, f"process {pid} is not at rest, but {state}"
        time.sleep(0.001)
        try:
            state = (
                Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            )
        except (FileNotFoundError, ProcessLookupError):
            return


class Program:
    """A fixture program that runs, and waits on its standard input between steps."""

    def __init__(
        self,
        path: Path,
        *arguments: str,
        cwd: Optional[Path] = None,
        environment: Optional[dict[str, str]] = None,
    ) -> None:
        """Start PATH, in a folder where it may leave a core, with more in its ENVIRONMENT."""
        self.path = path
        self.folder = cwd or path.parent
        self.lines: list[str] = []
        #: What it printed as NAME ADDRESS SIZE.
        self.places: dict[str, tuple[int, int]] = {}
        self._process = subprocess.Popen(
            [str(path), *arguments],
            cwd=str(self.folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
            preexec_fn=_begin_child,
        )
        self.pid = self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        """The pipe that is the program's standard input."""
        assert self._process.stdin is not None
        return self._process.stdin

    def wait_for(self, text: str) -> str:
        """Return the line with TEXT in it, once the program has printed it."""
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = raw.decode().rstrip("\n")
            self.lines.append(line)
            fields = line.split()
            if len(fields) == 3 and fields[1].startswith("0x") and fields[2].isdigit():
                self.places[fields[0]] = (int(fields[1], 16), int(fields[2]))
            if text in line:
                self._wait_until_it_reads()
                return line
        raise AssertionError(f"{self.path.name} ended before it printed {text!r}: {self.lines}")

    # The line is there a moment before the program is at rest: its first call
    # of a function still writes where that is (lazy binding).
    def _wait_until_it_reads(self) -> None:
        if self.alive():
            wait_until_it_sleeps(self.pid)

    def press_key(self) -> None:
        """Send the line that the program waits for."""
        self.stdin.write(b"\n")
        self.stdin.flush()

    def signal(self, number: int) -> None:
        """Send the signal NUMBER."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Return the exit status, once the program has ended."""
        return self._process.wait(timeout=60)

    def alive(self) -> bool:
        """Whether the program still runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill the program, in whatever state it is."""
        if self.alive():
            self._process.kill()
            # A tracer that died may have left it stopped.
            self.signal(signal.SIGCONT)
        self._process.wait(timeout=60)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _begin_child() -> None:
    # Dies with the test run, whatever way that ends; may be traced by anybody,
    # where Yama allows it to parents only; may leave a core.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _LIBC.prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1 & (1 << 64) - 1), 0, 0, 0)
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
