"""Frames by what is known of their words: figures of real programs."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gdb_leak import _native
from harness import cores
from harness.debuggers import shell
from harness.processes import Program

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="frames are unwound on x86-64 only"
)

#: Programs that wait for their input, with Python code that goes deep.
DEEP = """
import sys
def deep(n):
    return max([n], key=lambda _: deep(n - 1)) if n else sys.stdin.readline()
deep(6)
"""
PROGRAMS = (
    (sys.executable, "-c", DEEP),
    (os.environ.get("GDB", "gdb"), "-nx", "-quiet"),
    ("bash", "-c", "f() { read x; }; g() { f; }; g"),
    ("perl", "-e", "sub f { my $n = shift; $n ? f($n - 1) : <STDIN> } f(3)"),
    *(("sort",), ("cat",), ("sed", "s/a/b/"), ("awk", "{ print }"), ("tr", "a", "b")),
)
#: A third was known before data flow, and less than the rest is to count as a whole.
LEAST_PRECISE, LEAST_KNOWN = 1 / 3, 2 / 3


def come_to_rest(pid: int) -> None:
    """Wait until a process has slept for half a second."""
    before, rounds = [""], 0
    for _ in range(300):
        time.sleep(0.1)
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        # Its state; user and system time.
        now = [fields[0], *fields[11:13]]
        rounds = rounds + 1 if now == before and now[0] == "S" else 0
        before = now
        if rounds == 5:
            break


@contextmanager
def waiting_for_input(*words: str) -> Iterator[int]:
    """Start a program, and yield its pid once it waits."""
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            come_to_rest(process.pid)
            yield process.pid
        finally:
            process.kill()


def classes(target: object) -> Counter[str]:
    """Return how many frames of a process or core there are of each class."""
    return Counter(shell("check", str(target), "-json", "-top", "1").json()["frames"])


def test_most_frames_of_real_programs_are_known() -> None:
    found: Counter[str] = Counter()
    for words in filter(lambda words: shutil.which(words[0]), PROGRAMS):
        with waiting_for_input(*words) as pid:
            found += classes(pid)
    count = sum(found.values())
    assert count > 50
    assert found["precise"] >= LEAST_PRECISE * count, found
    assert found["precise"] + found["escaped"] >= LEAST_KNOWN * count, found


def test_classes_are_those_of_the_frames(start: Callable[..., Program], tmp_path: Path) -> None:
    process = start("threads")
    core = cores.gcore(process.pid, tmp_path / "core")
    frames = [frame for _, own, _ in _native.frames(_native.open_file(str(core))) for frame in own]
    found = classes(core)
    assert sum(found.values()) == len(frames)
    known = [frame for frame in frames if frame.unclear is None]
    assert found["escaped"] == sum(frame.escaped for frame in known)
    assert found["precise"] == len(known) - found["escaped"]
    assert found["returns_twice"] == sum(frame.unclear == "twice" for frame in frames)
