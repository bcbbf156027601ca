"""Overwriting what nothing reads again, in a program that runs on."""

import struct
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from gdb_leak import _native
from gdb_leak.errors import ProcessError

from harness import soak, tracer

_SOAK = soak.TIMES
_POISON = 0x5A5A5A5A5A5A5A5A


class Overwritten(NamedTuple):
    """How many words and registers were overwritten."""

    words: int = 0
    registers: int = 0


def overwritten(words: tuple[str, ...], stops: int = 60) -> Overwritten:
    """Run a program, as often as asked for, and overwrite all that is dead each time it is held.

    Fails unless it prints what it prints otherwise, and ends as it does.
    """
    began = time.monotonic()
    expected = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    lasts = time.monotonic() - began
    counts = []
    for seed in range(_SOAK):
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            for index in range(stops):
                # Not in step with what the program does.
                time.sleep((index * 0.618 + seed * 0.37) % 1 * lasts / stops)
                try:
                    counts.append(overwrite_once(process.pid))
                except (ProcessError, OSError):
                    # It came to its end.
                    break
            try:
                printed, complained = process.communicate(timeout=60)
            finally:
                process.kill()
        assert (process.returncode, printed, complained) == (0, expected.stdout, expected.stderr)
    return Overwritten(*map(sum, zip(*counts)))


def overwrite_once(pid: int) -> Overwritten:
    """Hold a process, overwrite all that is dead in it, and say how much that was."""
    with tracer.held(pid) as stopped:
        found = _native.frames(_native.open_process(pid), stopped.registers())
        ranges = [pair for _, frames, _ in found for frame in frames for pair in frame.dead]
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            for start, end in ranges:
                memory.seek(start)
                memory.write(struct.pack("<Q", _POISON) * ((end - start) // 8))
        for thread, _, dead in found:
            stopped.poke(thread, dict.fromkeys(dead, _POISON))
    words = sum(end - start for start, end in ranges) // 8
    return Overwritten(words, sum(len(dead) for _, _, dead in found))
