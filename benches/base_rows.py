"""Checks beside those of another build, and what is known of frames: functions return rows.

The environment names the other build: BASE is its gdb-leak, installed with as little debug
information as ours.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import subjects
from machine import GDB, GDB_LEAK, WORK, BenchError, Word, run
from measure import Samples, whole_process
from table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCKS = 400_000
# Of the time of the other build.
_MOST = 1.1
# Objects of a few dozen bytes, or strings in blocks as large as a thread's cache.
_SMALL = "[(i, str(i) * 3) for i in range({})]"
_LARGE = "[bytes(560 + i % 50) for i in range({})]"
_HOLD = "import sys; keep = {}; print('READY', flush=True); sys.stdin.read()"
_DEEP = (
    "import sys\n"
    "def deep(n): return max([n], key=lambda _: deep(n - 1)) if n else sys.stdin.readline()\n"
    "deep(6)"
)
#: Programs that wait for their input.
_PROGRAMS = (
    (sys.executable, "-c", _DEEP),
    (GDB, "-nx", "-quiet"),
    ("bash", "-c", "f() { read x; }; g() { f; }; g"),
    ("perl", "-e", "sub f { my $n = shift; $n ? f($n - 1) : <STDIN> } f(3)"),
    *(("sort",), ("cat",), ("sed", "s/a/b/"), ("awk", "{ print }"), ("tr", "a", "b")),
)


def checking_beside(runs: int) -> list[Row]:
    """Compare whole checks of cores of a python with those of the build that BASE names."""
    base = os.environ.get("BASE")
    what = f"gdb-leak check, a python with {_BLOCKS:,} blocks"
    if base is None:
        return [Row(what, "left out: BASE=FILE names the gdb-leak of another build")]
    found: list[Row] = []
    for name, objects in (("tuples and strings", _SMALL), ("strings of 600 bytes", _LARGE)):
        core = _core_of_python(objects.format(_BLOCKS // (3 if objects is _SMALL else 1)))
        subjects.warm(core)
        ours, theirs = Samples(), Samples()
        for _ in range(4 * runs):
            whole_process(ours, GDB_LEAK, "check", core)
            whole_process(theirs, base, "check", core)
        ratio, cpu = ours.best / theirs.best, ours.least / theirs.least
        found.append(
            Row(
                f"{what}: {name}",
                ours.text(),
                f"BASE: {theirs.text()}",
                f"{ratio:.2f}x the time, {cpu:.2f}x the cpu",
                f"<= {_MOST:g}x",
                max(ratio, cpu) <= _MOST,
            )
        )
    return found


def frames_known() -> list[Row]:
    """Count the frames of programs that wait for their input, by what is known of their words."""
    whole: Counter[str] = Counter()
    rows: list[Row] = []
    for words in filter(lambda words: shutil.which(words[0]), _PROGRAMS):
        with _waiting(*words) as process:
            time.sleep(2)
            said = json.loads(run(GDB_LEAK, "check", process.pid, "-json", "-top", "1"))
        found = Counter[str](said["frames"])
        whole += found
        rows.append(Row(f"frames of {Path(words[0]).name}", _shares(found)))
    return [*rows, Row("frames of all of them", _shares(whole))]


def _shares(found: "Counter[str]") -> str:
    count = sum(found.values())
    named = (f"{number} {name} ({number / count:.0%})" for name, number in found.items() if number)
    return f"{count}: {', '.join(named)}"


def _core_of_python(objects: str) -> Path:
    core = WORK / "core.python"
    WORK.mkdir(parents=True, exist_ok=True)
    core.unlink(missing_ok=True)
    words = (sys.executable, "-c", _HOLD.format(objects))
    with _waiting(*words, PYTHONMALLOC="malloc") as process:
        assert process.stdout is not None
        process.stdout.readline()
        run(GDB, "-nx", "-batch", "-p", process.pid, "-ex", f"gcore {core}")
    if not core.exists():
        raise BenchError(f"gdb made no core of {words[0]}")
    return core


@contextmanager
def _waiting(*words: Word, **variables: str) -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen(
        [str(word) for word in words],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
