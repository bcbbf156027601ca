"""Cores with holes: answers are those of whole copies, and holes cost nothing."""

import ctypes
import json
import mmap
import os
import shutil
from pathlib import Path
from typing import Any, Callable

import pytest
from harness import cores
from harness.debuggers import gdb, shell
from harness.limited import Door
from harness.processes import Program


@pytest.fixture(scope="module")
def pair(
    programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, str]:
    """Make a core with holes, and a copy without; with an address in it."""
    folder = tmp_path_factory.mktemp("holes")
    with cores.plain_core_pattern():
        program = Program(programs["threads"], cwd=folder)
        program.wait_for("READY")
        core = cores.kernel_core(program)
        program.end()
    whole, sparse = folder / "whole", folder / "sparse"
    whole.write_bytes(core.read_bytes())
    # The kernel leaves holes since Linux 5.18; what it wrote as zeros is made one here.
    with sparse.open("wb") as file:
        data = core.read_bytes()
        for at in range(0, len(data), 4096):
            if any(data[at : at + 4096]):
                file.seek(at)
                file.write(data[at : at + 4096])
        file.truncate(len(data))
    if sparse.stat().st_blocks * 512 > len(data) // 2:
        pytest.skip("this file system keeps no holes")
    shutil.copystat(whole, sparse)
    largest = max(cores.loads(core), key=lambda load: load[2])
    return whole, sparse, hex(largest[0])


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("overview",),
    ("regions",),
    ("find", "-hex", "0000000000000000", "-in", "all"),
    ("find", "-hex", "00", "-align", "24", "-limit", "7"),
    ("find", "-pointer", "0,1", "-in", "anon"),
    ("find", "-regex", r"[a-z]{5,}\x00+[a-z]"),
    ("find", "-regex", r"\x00{9}", "-limit", "3", "-in", "stack"),
    ("find", "thread", "-i"),
    ("strings", "-top", "unlimited"),
    ("dump", "LARGEST", "+0x100000"),
    ("heap",),
    ("blocks", "-list"),
    ("check",),
    ("whatis", "LARGEST"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_answer_is_that_of_a_whole_copy(
    pair: tuple[Path, Path, str], words: tuple[str, ...]
) -> None:
    whole, sparse, largest = pair
    command, *options = [largest if word == "LARGEST" else word for word in words]
    answers = [shell(command, core, *options, "-json").json() for core in (whole, sparse)]
    for answer in answers:
        answer["target"].pop("path", None)
    assert answers[0] == answers[1]


def test_a_dump_into_a_file_has_the_holes(pair: tuple[Path, Path, str], tmp_path: Path) -> None:
    whole, sparse, largest = pair
    for core, out in ((whole, tmp_path / "whole"), (sparse, tmp_path / "sparse")):
        assert shell("dump", core, largest, "+0x100000", "-out", out).status == 0
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "sparse").read_bytes()
    assert (tmp_path / "sparse").stat().st_size == 0x100000
    assert (tmp_path / "sparse").stat().st_blocks * 512 < 0x80000


def cached(path: Path) -> int:
    """Return how many bytes of the file are in the page cache."""
    pages = path.stat().st_size // mmap.PAGESIZE
    found = (ctypes.c_ubyte * pages)()
    library = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        place = ctypes.c_char.from_buffer(mapped)
        start = ctypes.c_void_p(ctypes.addressof(place))
        assert library.mincore(start, ctypes.c_size_t(pages * mmap.PAGESIZE), found) == 0
        del place
    return sum(page & 1 for page in found) * mmap.PAGESIZE


@pytest.mark.parametrize(
    "words",
    [
        *(("check",), ("heap",), ("strings",), ("find", "x", "-in", "all"), ("regions",)),
        ("find", "-hex", "0000", "-in", "all"),
        ("dump", "0x1000000000", "+0x8000000000"),
    ],
    ids=" ".join,
)
def test_half_a_terabyte_of_holes_costs_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    core = cores.sparse_core(tmp_path / "core", 1 << 39)
    os.utime(core, (1, 1))
    command, *options = words
    with Door(tmp_path) as door:
        outcome = door.run(command, str(core), *options, seconds=30, data=1 << 30)
    assert outcome.status in (0, 1), outcome
    assert outcome.resident < 100 << 20
    # What a file system reads at once, and no more.
    assert core.stat().st_blocks * 512 < 1 << 20


def test_reading_a_core_puts_no_holes_into_the_page_cache(
    pair: tuple[Path, Path, str], tmp_path: Path
) -> None:
    _, sparse, _ = pair
    core = tmp_path / "core"
    # A copy of which nothing is cached but what was written.
    with sparse.open("rb") as source, core.open("wb") as copy:
        while piece := source.read(4096):
            if any(piece):
                copy.seek(source.tell() - len(piece))
                copy.write(piece)
        copy.truncate(source.tell())
        os.fsync(copy.fileno())
    os.utime(core, (1, 1))
    for command in ("check", "strings"):
        assert shell(command, core).status == 0
    assert cached(core) <= core.stat().st_blocks * 512 + (1 << 20)


def test_gdb_answers_as_the_shell_does(
    pair: tuple[Path, Path, str], programs: dict[str, Path], start: Callable[..., Any]
) -> None:
    whole, sparse, _ = pair
    asked = "leak-find -json -hex 0000000000000000 -in all"
    found = gdb(asked, program=programs["threads"], core=sparse).json()
    wanted = shell("find", whole, "-hex", "0000000000000000", "-in", "all", "-json").json()
    keys = ("count", "searched", "limited", "unreadable")
    assert json.dumps([found[key] for key in keys]) == json.dumps([wanted[key] for key in keys])
