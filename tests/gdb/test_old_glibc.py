"""Heaps of C libraries that are too old: one line says so, and everything else goes on."""

import re
from pathlib import Path
from typing import Any

import pytest
from harness import cores
from harness.debuggers import gdb, shell
from harness.mangler import FILE, Core
from harness.processes import Program

RANGE = "heaps of glibc 2.17 to 2.44 can be read"
UNJUDGED, LOST = 3, 9


@pytest.fixture(scope="module")
def whole(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a core with the read-only data of libc, in which its banner is."""
    folder = tmp_path_factory.mktemp("banner")
    program = Program(programs["layout"], cwd=folder)
    try:
        program.wait_for("READY")
        # All mappings of files, private ones too (Linux, core(5)).
        Path(f"/proc/{program.pid}/coredump_filter").write_text("0x7f")
        made = cores.gcore(program.pid, folder / "core").read_bytes()
    finally:
        program.end()
    if re.search(rb"GNU C Library [^\n]* version 2\.\d+\.", made) is None:
        pytest.skip("the core has no banner of glibc")
    return made


def by_banner(whole: bytes, version: str, path: Path) -> Path:
    """Return a core in which libc says that it is VERSION."""

    def other(banner: "re.Match[bytes]") -> bytes:
        text = banner[1] + version.encode() + b"."
        return text[: len(banner[0])].ljust(len(banner[0]), b"\n")

    path.write_bytes(re.sub(rb"(GNU C Library [^\n]* version )2\.\d+\.", other, whole))
    return path


def held_to(core: Path, told: str) -> None:
    """Hold the commands, at both doors, to saying TOLD once and to answering the rest."""
    for command in ("heap", "blocks", "check"):
        notes = shell(command, core, "-json").json()["notes"]
        assert [told in note for note in notes].count(True) == 1, (command, notes)
    heap = shell("heap", core, "-json").json()
    assert (heap["allocator"], heap["damages"], heap["judged"]) == (None, 0, "none")
    assert shell("blocks", core, "-json").json()["count"] == 0
    assert shell("check", core, "-error-exitcode", LOST).status == UNJUDGED
    assert told in shell("find", core, "x", "-state", "used").error
    assert shell("find", core, "LAYOUT-", "-json").json()["count"] > 0
    answer = gdb("leak-heap -json", "leak-check", "leak-find -state used LAYOUT", core=core)
    assert any(told in note for note in answer.json()["notes"])
    assert "no verdict" in answer.stdout
    assert told in answer.error
    assert "Traceback" not in answer.stdout + answer.stderr
    assert gdb(f"leak-check -error-exitcode {LOST}", core=core).status == UNJUDGED


@pytest.mark.parametrize("version", ["2.5", "2.12", "2.16"])
def test_a_version_that_is_too_old_is_refused_by_its_banner(
    whole: bytes, tmp_path: Path, version: str
) -> None:
    core = by_banner(whole, version, tmp_path / "core")
    held_to(core, f"glibc {version} (by its banner) is too old: {RANGE}")


def test_the_oldest_version_that_can_be_read_is_not_refused(whole: bytes, tmp_path: Path) -> None:
    found = shell("heap", by_banner(whole, "2.17", tmp_path / "core"), "-json").json()
    assert not any("too old" in note for note in found["notes"])
    assert found["total"]["in_use"]["blocks"] > 50


def test_without_a_banner_the_name_of_the_file_tells_the_version(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    program = Program(programs["layout"], cwd=tmp_path)
    try:
        program.wait_for("READY")
        made: Any = Core.read(cores.gcore(program.pid, tmp_path / "made"))
    finally:
        program.end()
    # A library that is not on this machine: its banner is nowhere to be read.
    renamed = made.note(
        FILE, lambda data: re.sub(rb"/[^\0]*/libc\.so\.6", b"/no/such/libc-2.12.so", data)
    )
    core = renamed.write(tmp_path / "core")
    held_to(core, f"glibc 2.12 (by its file's name) is too old: {RANGE}")
