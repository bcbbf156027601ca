"""Fixtures for the tests in real gdbs."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

import pytest
from harness import ambient, compilers, cores, glibc, truth
from harness.glibc import Glibc
from harness.processes import Program, compile_fixture

# Before anything is started, fixtures of a session included; in each worker of pytest-xdist.
ambient.settle()

_WAITING = "waiting for a key"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the files in tests/golden anew"
    )


@pytest.fixture(scope="session", autouse=True)
def shared_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have one folder for what the workers of a run compile; pytest removes it with older runs'."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    compilers.keep_in(folder / "compiled")
    yield
    compilers.keep_in(None)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compile the fixture programs; by name."""
    folder = tmp_path_factory.mktemp("programs")
    names = (
        "sample",
        "edges",
        "threads",
        "grow",
        "big",
        "holds",
        "sparse",
        "registers",
        "changes",
        "forms",
        "layout",
    )
    return {name: compile_fixture(name, folder / name) for name in names}


@pytest.fixture(scope="session", params=glibc.rows(), ids=lambda library: library.name)
def library(request: pytest.FixtureRequest) -> Glibc:
    """One of the C libraries to test on."""
    found: Glibc = request.param
    return found


@pytest.fixture(scope="session")
def fixture_on(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile a fixture program on a C library, with flags for gcc; once."""
    folder = tmp_path_factory.mktemp("heaps")
    made: dict[tuple[str, ...], Path] = {}

    def compiled(library: Glibc, fixture: str, *flags: str) -> Path:
        key = (library.name, fixture, *flags)
        if key not in made:
            made[key] = library.compile(fixture, folder / f"{fixture}.{len(made)}", *flags)
        return made[key]

    return compiled


@pytest.fixture(scope="session")
def session_programs() -> Iterator[list[Program]]:
    started: list[Program] = []
    yield started
    for program in started:
        program.end()


Start = Callable[..., Program]


@pytest.fixture
def start(programs: dict[str, Path], tmp_path: Path) -> Iterator[Start]:
    """Start a fixture program by its name; it ends with the test."""
    started: list[Program] = []

    def begin(name: str, *arguments: str, ready: Optional[str] = None) -> Program:
        # A folder of its own: the kernel writes its core there.
        folder = tmp_path / f"{name}.{len(started)}"
        folder.mkdir()
        program = Program(programs[name], *arguments, cwd=folder)
        started.append(program)
        program.wait_for(ready or (_WAITING if name == "sample" else "READY"))
        return program

    yield begin
    for program in started:
        program.end()


@pytest.fixture
def kernel_core() -> Iterator[Callable[[Program], Path]]:
    """Have the kernel write the core of a program, which ends by that."""
    with cores.plain_core_pattern():
        yield cores.kernel_core


@dataclass
class Sample:
    """The sample before and after 100 further calls, and every form that it is kept in."""

    path: Path
    live: Program
    before: Path
    after: Path
    maps_before: Path
    maps_after: Path
    pmap_before: Path
    pmap_after: Path

    @property
    def heap(self) -> truth.Mapping:
        """The brk heap after."""
        (found,) = filter(truth.heap, truth.parse_maps(self.maps_after.read_text()))
        return found


@pytest.fixture(scope="session")
def sample(
    programs: dict[str, Path],
    session_programs: list[Program],
    tmp_path_factory: pytest.TempPathFactory,
) -> Sample:
    """One sample: cores and maps before and after, and the process, which waits after."""
    folder = tmp_path_factory.mktemp("sample")
    live = Program(programs["sample"], cwd=folder)
    session_programs.append(live)
    made = Sample(
        programs["sample"],
        live,
        *(folder / name for name in ("core.before", "core.after")),
        *(folder / name for name in ("maps.before", "maps.after", "pmap.before", "pmap.after")),
    )
    for maps, pmap, core in (
        (made.maps_before, made.pmap_before, made.before),
        (made.maps_after, made.pmap_after, made.after),
    ):
        live.wait_for(_WAITING)
        maps.write_text(Path(f"/proc/{live.pid}/maps").read_text())
        with pmap.open("w") as out:
            subprocess.run(["pmap", "-x", str(live.pid)], stdout=out, check=True)
        cores.gcore(live.pid, core)
        if core is made.before:
            live.press_key()
    return made


@pytest.fixture(scope="session")
def sample_kernel_core(
    programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[truth.Mapping]]:
    """Have the kernel write a core of another sample after; with the mappings at that stop."""
    folder = tmp_path_factory.mktemp("kernel")
    program = Program(programs["sample"], cwd=folder)
    try:
        program.wait_for(_WAITING)
        program.press_key()
        program.wait_for(_WAITING)
        mappings = truth.maps(program.pid)
        with cores.plain_core_pattern():
            return cores.kernel_core(program), mappings
    finally:
        program.end()
