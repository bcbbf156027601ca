"""Programs that leak: compiled, run to their end in gdb, and asked about there."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from harness import ROOT
from harness.debuggers import gdb, shell

_FOLDER = ROOT / "tests" / "fixtures" / "leaks"
#: So that every block is listed, and every record.
WHOLE = ("-json", "-list", "-top", "unlimited")


class Counts(NamedTuple):
    """How many blocks have which verdict."""

    definitely: int
    indirectly: int
    possibly: int
    reachable: int


def counts(summary: dict[str, Any]) -> Counts:
    """Return the counts in SUMMARY, whose values have them as ``blocks``, in either form."""
    numbers = [
        value["blocks"] if isinstance(value, dict) else value.blocks
        for value in (
            summary[name]
            for name in ("definitely_lost", "indirectly_lost", "possibly_lost", "still_reachable")
        )
    ]
    return Counts(*numbers)


def compile_leak(name: str, out: Path, *flags: str) -> Path:
    """Return the program OUT, of tests/fixtures/leaks/NAME.c or .cc, with FLAGS over -O0."""
    source = _FOLDER / f"{name}.c"
    compiler = ("gcc",)
    if not source.exists():
        source = _FOLDER / f"{name}.cc"
        compiler = ("g++",)
    subprocess.run(
        [*compiler, "-g", "-O0", "-pthread", "-o", str(out), str(source), *flags], check=True
    )
    return out


def library_flags(name: str, folder: Path) -> tuple[str, ...]:
    """Compile the library NAME into FOLDER; return what lets a program there load it."""
    compile_leak(name, folder / f"{name}.so", "-shared", "-fPIC")
    return ("-Wl,-rpath,$ORIGIN",)


@dataclass
class AtExit:
    """A program where it calls exit_group: its core, and what gdb answered there."""

    program: Path
    core: Path
    live: dict[str, Any]
    _answers: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)

    def check(self, *options: str) -> dict[str, Any]:
        """Return what ``gdb-leak check`` answers on the core; asked once."""
        if options not in self._answers:
            answer = shell("check", self.core, *WHOLE, *options)
            assert answer.status == 0, answer.stderr
            self._answers[options] = answer.json()
        return self._answers[options]


def run_to_exit(program: Path, core: Path) -> AtExit:
    """Run PROGRAM in gdb up to exit_group, ask there, and leave its CORE."""
    answer = gdb(
        "handle SIGUSR1 nostop noprint pass",
        "catch syscall exit_group",
        "run",
        f'gcore "{core}"' if " " in str(core) else f"gcore {core}",
        f"leak-check {' '.join(WHOLE)}",
        program=program,
    )
    assert "call to syscall exit_group" in answer.stdout, answer.stdout + answer.stderr
    return AtExit(program, core, answer.json())
