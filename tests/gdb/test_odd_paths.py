"""Files whose paths are not text in any locale are found, named and read all the same."""

import os
import subprocess
from pathlib import Path

import pytest
from harness import ROOT, cores
from harness.debuggers import shell
from harness.processes import Program, compile_fixture

FIXTURES = ROOT / "tests" / "fixtures"


@pytest.fixture(scope="module")
def latin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Make a core of a program with a library in a folder whose name is Latin-1; with a block."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path_factory.mktemp("odd")) + b"/d\xe9p\xf4t"))
    folder.mkdir()
    library, program = folder / "libodd.so", folder.parent / "program"
    made = (
        ["-shared", "-fPIC", str(FIXTURES / "odd_path_library.c"), "-o", str(library)],
        [str(FIXTURES / "odd_path.c"), str(library), "-o", str(program)],
    )
    for words in made:
        subprocess.run(["gcc", "-g", *words], check=True)
    with cores.plain_core_pattern():
        running = Program(program, cwd=folder.parent)
        try:
            running.wait_for("READY")
            block, _ = running.places["kept"]
            core = cores.kernel_core(running)
        finally:
            running.end()
    return core, block


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_the_library_is_named_and_its_symbols_are_read(
    latin: tuple[Path, int], locale: str
) -> None:
    core, block = latin
    env = {**os.environ, "LC_ALL": locale}
    regions = shell("regions", core, "-json", env=env).json()["regions"]
    assert [region for region in regions if "libodd" in region["name"]]
    assert "d\\xe9p\\xf4t/libodd.so" in shell("regions", core, env=env).stdout
    # From its file are the pages that the core leaves out, and the name of the variable.
    code = next(one for one in regions if "libodd" in one["name"] and "x" in one["permissions"])
    assert code["saved"] == code["size"]
    path = shell("refs", core, hex(block), "-path", env=env)
    assert path.status == 0, path
    assert "kept" in path.stdout, path


def test_a_path_that_the_core_cuts_is_shown_whole(tmp_path: Path) -> None:
    folder = tmp_path / "a-folder-with-a-name-that-is-long" / "another-one-with-such-a-name-in-it"
    folder.mkdir(parents=True)
    program = Program(compile_fixture("sample", folder / "sample"), cwd=folder)
    try:
        program.wait_for("waiting for a key")
        taken = [cores.gcore(program.pid, folder / "saved")]
        with cores.plain_core_pattern():
            taken.append(cores.kernel_core(program))
    finally:
        program.end()
    assert len(str(program.path)) > 80
    for core in taken:
        assert shell("overview", core, "-json").json()["program"] == str(program.path)
