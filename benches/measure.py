"""Taking figures: in a fresh gdb, as a whole process, and the machine's own limit."""

import json
import statistics
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Union

from machine import GDB, ROOT, WORK, BenchError, Took, Word, run
from subjects import Subject, Target

#: Before a command: its output is printed.
PRINTED = "BENCH_PRINTED "
# What gdb reads so that it has our commands.
_OURS = "gdbinit.example"
_TOOK = WORK / "took.json"


@dataclass
class Samples:
    """Seconds that several runs of one thing took."""

    seconds: list[float] = field(default_factory=list)
    #: User and system time of all threads, where it is known.
    processor: list[float] = field(default_factory=list)

    def add(self, seconds: float, processor: float) -> None:
        """Add a run."""
        self.seconds.append(seconds)
        self.processor.append(processor)

    @property
    def best(self) -> float:
        """The seconds of the fastest run: what the machine can do when nobody disturbs it."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The seconds of the run in the middle."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """The least processor seconds of a run."""
        return min(self.processor)

    def text(self) -> str:
        """Return the best, the median and the least processor time."""
        return f"{_duration(self.best)} ({_duration(self.median)}; cpu {_duration(self.least)})"


@dataclass(frozen=True)
class Step:
    """What one command in gdb took."""

    seconds: float
    processor: float
    #: Growth of gdb's own memory, in bytes.
    memory: int
    found: int


def in_gdb(
    subject: Target, commands: list[str], live: bool = False, script: Word = _OURS
) -> list[Step]:
    """Return what each command took, one after the other in a fresh gdb that read SCRIPT.

    The output of a command goes into a string, and after `PRINTED` to a file,
    which `printed` reads.
    """
    plan, took = WORK / "plan.json", _TOOK
    plan.write_text(json.dumps(commands))
    took.unlink(missing_ok=True)
    target: list[Word] = ["-p", subject.pid or 0] if live else [subject.core]
    # -x comes last: gdb sources its scripts when the target is there. They find
    # no settings of the person's, and leave nothing behind.
    run(
        GDB, "-nx", "-batch", subject.program, *target,
        "-x", script, "-x", "benches/inside_gdb.py",
        BENCH_PLAN=str(plan), BENCH_TOOK=str(took),
        HOME=str(WORK), TMPDIR=str(WORK), XDG_CACHE_HOME=str(WORK), XDG_CONFIG_HOME=str(WORK),
    )  # fmt: skip
    if not took.exists():
        raise BenchError(f"gdb did not come to the end of {commands}")
    return [Step(**step) for step in json.loads(took.read_text())]


def printed() -> str:
    """Return what the commands of the last gdb printed, of those after `PRINTED`."""
    return _TOOK.with_name(_TOOK.name + ".printed").read_text(errors="replace")


def whole_process(samples: Samples, *words: Word) -> str:
    """Add one run of a program, from its start to its end, and return what it printed."""
    took = Took(*words)
    samples.add(took.seconds, took.processor)
    return took.output


def limit_of_reading(subject: Subject) -> "tuple[tuple[float, float], tuple[float, float]]":
    """Return seconds and processor seconds of touching all pages, and of reading them again."""
    first, second = json.loads(run(_limit(), "read", subject.core, subject.start, subject.size))
    return tuple(first), tuple(second)


def limit_of_writing(path: Path, size: int) -> "tuple[float, float]":
    """Return seconds and processor seconds of writing SIZE bytes from memory into a new file."""
    ((seconds, processor),) = json.loads(run(_limit(), "write", path, size))
    return seconds, processor


@cache
def _limit() -> Path:
    said = run(
        "scripts/with-rust", "cargo", "bench", "--locked", "--quiet", "--bench", "limit",
        "--no-run", "--message-format=json",
    )  # fmt: skip
    for line in said.splitlines():
        message: dict[str, Union[str, None]] = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            return ROOT / str(message["executable"])
    raise BenchError("cargo bench --bench limit: built no program")


def _duration(seconds: float) -> str:
    if seconds >= 10:
        return f"{seconds:.1f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2f} ms"
