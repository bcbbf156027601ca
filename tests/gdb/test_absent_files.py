"""What is said of files that a core's program had mapped and that cannot be used."""

import shutil
from pathlib import Path

import pytest
from harness import cores
from harness.debuggers import gdb, shell
from harness.processes import Program, compile_fixture


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a program that mapped a file of data, and the kernel's core of it."""
    folder = tmp_path_factory.mktemp("absent")
    data = folder / "archive.dat"
    data.write_bytes(b"data" * (16 << 10))
    program = Program(compile_fixture("maps_data", folder / "maps"), str(data), cwd=folder)
    try:
        program.wait_for("READY")
        cores.gcore(program.pid, folder / "saved")
        with cores.plain_core_pattern():
            return program.path, cores.kernel_core(program)
    finally:
        program.end()


def notes(*words: object) -> list[str]:
    found: list[str] = shell("check", *map(str, words), "-json").json()["notes"]
    return found


def test_a_file_of_data_has_no_build_id_and_no_note(dumped: tuple[Path, Path]) -> None:
    _, core = dumped
    assert not [note for note in notes(core) if "build-id" in note or "archive.dat" in note]


def test_a_file_of_data_that_gcore_left_out_is_not_a_module(
    dumped: tuple[Path, Path],
) -> None:
    said = notes(dumped[1].with_name("saved"))
    assert not [note for note in said if "archive.dat" in note or "-sysroot" in note]


def test_a_program_that_is_gone_has_a_note(dumped: tuple[Path, Path], tmp_path: Path) -> None:
    path, core = dumped
    moved = shutil.move(str(path), str(tmp_path / "moved"))
    try:
        (note,) = (note for note in notes(core) if "build-id" in note)
        assert str(path) in note
        assert "archive.dat" not in note
        assert not [note for note in notes(core, "-exe", moved) if "build-id" in note]
    finally:
        shutil.move(moved, str(path))


def test_another_program_than_the_cores_is_refused_with_its_name(
    dumped: tuple[Path, Path], programs: dict[str, Path]
) -> None:
    _, core = dumped
    other = programs["sample"]
    (note,) = (note for note in notes(core, "-exe", other) if str(other) in note)
    assert "its build-id differs" in note
    said = gdb("leak-check -json", program=other, core=core).json()
    assert [note for note in said["notes"] if str(other) in note and "its build-id differs" in note]


def test_a_note_on_both_sides_of_a_comparison_is_one_line(
    dumped: tuple[Path, Path], tmp_path: Path
) -> None:
    path, core = dumped
    moved = shutil.move(str(path), str(tmp_path / "moved"))
    try:
        said = shell("diff-region", core, core).stdout
    finally:
        shutil.move(moved, str(path))
    assert said.count("build-id") == 1
    assert "note: BEFORE and AFTER: " in said
