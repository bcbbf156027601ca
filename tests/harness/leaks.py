"""Programs that leak: compiled, run to their end in gdb or to a wait, and asked about there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Optional

from harness import ROOT, cores
from harness.compilers import compile_program
from harness.debuggers import Answer, gdb, shell
from harness.processes import Program

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
    compiler = "gcc"
    if not source.exists():
        source = _FOLDER / f"{name}.cc"
        compiler = "g++"
    return compile_program(compiler, source, out, *flags)


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


def run_to_exit(program: Path, core: Path, recorder: Optional[Path] = None) -> AtExit:
    """Run PROGRAM in gdb up to exit_group, ask there, and leave its CORE.

    RECORDER is the library that is to record it.
    """
    answer = gdb(
        *([f"set exec-wrapper env LD_PRELOAD={recorder}"] if recorder else []),
        "handle SIGUSR1 nostop noprint pass",
        "catch syscall exit_group",
        "run",
        f'gcore "{core}"' if " " in str(core) else f"gcore {core}",
        f"leak-check {' '.join(WHOLE)}",
        program=program,
    )
    assert "call to syscall exit_group" in answer.stdout, answer.stdout + answer.stderr
    return AtExit(program, core, answer.json())


@dataclass(frozen=True)
class Owners:
    """The program of leaks/owners.c where it waits, and a core of it."""

    live: Program
    core: Path

    def at(self, name: str) -> int:
        """Return the address of the block, or of the memory, that is called NAME."""
        return self.live.places[name][0]

    @property
    def second(self) -> int:
        """The number of the second thread."""
        (line,) = [line for line in self.live.lines if line.startswith("SECOND ")]
        return int(line.split()[1])

    def gdb(self, form: str, *commands: str) -> Answer:
        """Return what gdb answers in ``live`` or ``core``."""
        if form == "live":
            return gdb(*commands, pid=self.live.pid)
        return gdb(*commands, program=self.live.path, core=self.core)

    def shell(self, form: str, command: str, *words: str) -> Answer:
        """Return what the shell's door answers in ``live`` or ``core``."""
        return shell(command, self.core if form == "core" else self.live.pid, *words)


@contextmanager
def owners_at_rest(folder: Path) -> Iterator[Owners]:
    """Start the program of leaks/owners.c, and take a core; it ends with the context."""
    live = Program(compile_leak("owners", folder / "owners"), cwd=folder)
    try:
        live.wait_for("READY")
        yield Owners(live, cores.gcore(live.pid, folder / "taken"))
    finally:
        live.end()
