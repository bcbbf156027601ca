"""The machine: where things are, running programs on it, and the facts beside a result."""

import datetime
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Union

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "bench-work"
GDB = os.environ.get("GDB", "gdb")
GDB_LEAK = ROOT / ".venv/bin/gdb-leak"

Word = Union[str, Path, int, float]


class BenchError(Exception):
    """Something did not work; what it was, in one line."""


def run(*words: Word, cwd: Path = ROOT, **variables: str) -> str:
    """Run a program to its end and return its standard output.

    :raises BenchError: where its exit status is not 0.
    """
    return Took(*words, cwd=cwd, **variables).output


class Took:
    """A program that was run to its end, and what that took."""

    def __init__(self, *words: Word, cwd: Path = ROOT, **variables: str) -> None:
        """Run it.

        :raises BenchError: where its exit status is not 0.
        """
        before, begun = os.times(), time.perf_counter()
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env=_environment(variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        self.seconds = time.perf_counter() - begun
        self.processor = _of_children(os.times()) - _of_children(before)
        self.output = done.stdout
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            typed = " ".join(str(word) for word in words)
            raise BenchError(
                f"{typed}: status {done.returncode}: {said[-1] if said else 'no word'}"
            )


class Watched:
    """A program that was run to its end, what that took, and how large it grew.

    It is looked at every few milliseconds, which is no way to take the time of
    a program that ends in less than a second: `Took` is.
    """

    def __init__(self, *words: Word, typed: str = "", seconds_between: float = 0.002) -> None:
        """Run it, with TYPED as its standard input.

        :raises BenchError: where its exit status is not 0.
        """
        before, begun = os.times(), time.perf_counter()
        #: The most memory of its own at one time, in bytes: not the pages of
        #: files that it has mapped.
        self.peak = 0
        with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as said:
            given.write(typed)
            given.seek(0)
            program = subprocess.Popen(
                [str(word) for word in words],
                cwd=ROOT,
                env=_environment({}),
                stdin=given,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            while program.poll() is None:
                self.peak = max(self.peak, _own_memory(program.pid))
                time.sleep(seconds_between)
            self.seconds = time.perf_counter() - begun
            after = os.times()
            said.seek(0)
            self.output = said.read()
        self.processor = _of_children(after) - _of_children(before)
        if program.returncode != 0:
            raise BenchError(f"{words[0]}: status {program.returncode}: {self.output[-200:]!r}")


def available_memory() -> int:
    """Return how many bytes of memory could be had without swapping."""
    return _kib("MemAvailable") * 1024


def facts() -> "list[str]":
    """Return what a reader must know of the machine to compare its figures with others."""
    processor = re.search(r"^model name\s*: (.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return [
        f"date: {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
        f"processor: {processor[1] if processor else platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores used",
        f"memory: {_kib('MemTotal') / 2**20:.1f} GiB",
        f"kernel: {platform.release()}",
        f"load when the bench ended: {os.getloadavg()[0]:.1f}",
        f"gdb: {_first_line(GDB, '--version')}",
        f"rustc: {_first_line('scripts/with-rust', 'rustc', '--version')}",
        *(
            f"{title}: {_first_line(name, '--version') if shutil.which(name) else 'none'}"
            for title, name in (
                ("ripgrep", "rg"),
                ("valgrind", "valgrind"),
                ("heaptrack", "heaptrack"),
            )
        ),
        f"gdb-leak: {_first_line(GDB_LEAK, '-version')}",
    ]


def _environment(variables: "dict[str, str]") -> "dict[str, str]":
    # No waiting for symbols from the network.
    return {**os.environ, **variables, "DEBUGINFOD_URLS": ""}


def _of_children(times: os.times_result) -> float:
    return times.children_user + times.children_system


def _own_memory(pid: int) -> int:
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", _text(f"/proc/{pid}/status"))
    except ProcessLookupError:
        found = None
    # A process that has ended has no memory, and no such line.
    return int(found[1]) * 1024 if found else 0


def _first_line(*words: Word) -> str:
    return run(*words).splitlines()[0]


def _kib(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE)
    return int(found[1]) if found else 0


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")
