"""Programs that run with the recorder before them."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Optional

from harness import ROOT
from harness.compilers import compile_program
from harness.processes import Program
from harness.recordings import LIBRARY, Recording

#: As recorded.c and programs of its kind are built.
OPTIMISED = ("-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls")


def settings(
    *others: Path, behind: Iterable[Path] = (), ours: Path = LIBRARY, **asked: int
) -> dict[str, str]:
    """Return the environment of a recorded program.

    With libraries that are preloaded before and after the recorder, OURS, and what is ASKED
    of it: `sample=4096` is GDB_LEAK_RECORD_SAMPLE=4096.
    """
    libraries = [*others, ours, *behind]
    found = {"LD_PRELOAD": ":".join(map(str, libraries))}
    for name, value in asked.items():
        found[f"GDB_LEAK_RECORD_{name.upper()}"] = str(value)
    return found


def build(name: str, folder: Path, *flags: str) -> Path:
    """Return the program that tests/fixtures/NAME, with its suffix, compiles to in FOLDER."""
    source = ROOT / "tests" / "fixtures" / name
    out = folder / f"{source.stem}.{len(list(folder.iterdir()))}"
    compiler = "g++" if source.suffix == ".cc" else "gcc"
    return compile_program(compiler, source, out, "-Wall", *flags)


def library(name: str, folder: Path, *flags: str) -> Path:
    """Return the shared library that tests/fixtures/NAME compiles to in FOLDER."""
    made = build(name, folder, "-shared", "-fPIC", *flags)
    return made.rename(made.with_suffix(".so"))


def run(
    program: Path,
    *arguments: str,
    environment: Optional[dict[str, str]] = None,
    timeout: float = 100,
) -> "subprocess.CompletedProcess[str]":
    """Run PROGRAM to its end, recorded unless an ENVIRONMENT says otherwise."""
    return subprocess.run(
        [str(program), *arguments],
        env={**os.environ, **(settings() if environment is None else environment)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


class Told(NamedTuple):
    """What a fixture says of its blocks."""

    #: Caller, function and size of each live block, by its address.
    blocks: dict[int, tuple[str, str, int]]
    gone: list[int]
    #: Lines of other kinds.
    rest: list[str]


def ready(program: Program) -> tuple[Told, Recording]:
    """Wait until PROGRAM is ready: what it said so far, and its recording."""
    program.wait_for("READY")
    told = Told({}, [], [])
    for line in program.lines:
        kind, *fields = line.split()
        if kind == "block":
            told.blocks[int(fields[2], 16)] = (fields[0], fields[1], int(fields[3]))
        elif kind == "gone":
            told.gone.append(int(fields[0], 16))
        elif kind != "READY":
            told.rest.append(line)
    return told, Recording(program.pid)


def own(recording: Recording, path: Path) -> dict[int, tuple[str, int]]:
    """Return function and size of the blocks that the program itself allocated."""
    found = {}
    for address, block in recording.blocks.items():
        function, caller, *_ = recording.frames(block.stack)
        module = recording.module(caller)
        assert module is not None
        if module.path == str(path):
            found[address] = (recording.functions[function], block.size)
    return found
