"""The commands load, whichever way a gdb is made to read gdbinit.example or gdbinit.py."""

import os
import subprocess
from pathlib import Path
from typing import Optional

import pytest
from harness import ROOT
from harness.debuggers import DOOR, GDB, environment

(PACKAGE,) = (DOOR.parent.parent / "lib").glob("python3*/site-packages/gdb_leak")
EXAMPLE = ROOT / "gdbinit.example"
#: What only gdb-leak answers, and its answer.
TYPED, SAID = "leak-decode 0x41", "0x41  A\nA\n"
ODD = os.fsdecode(b"f\xe9")


def answer(
    cwd: Path, *words: "str | Path", home: Optional[Path] = None, no_init: bool = True
) -> str:
    """Return what a gdb that was started in CWD with WORDS prints, on both streams."""
    line = [GDB, *(["-nx"] if no_init else []), "-batch", *map(str, words), "-ex", TYPED]
    done = subprocess.run(
        line,
        cwd=cwd,
        env=environment(HOME=str(home or "/nonexistent"), XDG_CONFIG_HOME=None),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout.decode("utf-8", "surrogateescape")


@pytest.fixture(params=["plain", "a folder with blanks", ODD])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a folder that looks like the repository's root, elsewhere."""
    folder = tmp_path / request.param
    folder.mkdir()
    (folder / "gdbinit.example").write_bytes(EXAMPLE.read_bytes())
    (folder / ".venv").symlink_to(DOOR.parent.parent)
    return folder


def script(path: Path, *lines: str) -> Path:
    path.write_bytes(b"".join(os.fsencode(line) + b"\n" for line in lines))
    return path


class TestExample:
    def test_from_any_folder(self, root: Path, tmp_path: Path) -> None:
        for cwd in (root, tmp_path, Path("/")):
            relative = os.path.relpath(root / "gdbinit.example", cwd)
            for name in (str(root / "gdbinit.example"), relative):
                assert answer(cwd, "-x", name) == SAID, (cwd, name)
                # A command is text, and gdb 13's is UTF-8 or nothing.
                assert answer(cwd, "-ex", f"source {name}") == SAID, (cwd, name)

    def test_by_gdbs_search_path(self, root: Path, tmp_path: Path) -> None:
        words = ("-ex", f"directory {root}", "-ex", "source -s gdbinit.example")
        if " " in str(root):
            pytest.skip("gdb's search path is split at blanks")
        assert answer(tmp_path, *words).endswith(SAID)

    def test_through_links(self, root: Path, tmp_path: Path) -> None:
        link = tmp_path / "another name"
        link.symlink_to(root / "gdbinit.example")
        assert answer(tmp_path, "-x", link) == SAID

    def test_from_the_gdbinit_of_a_home_and_from_scripts_within_scripts(
        self, root: Path, tmp_path: Path
    ) -> None:
        home = tmp_path / "home"
        home.mkdir()
        inner = script(home / "inner", f"source {root}/gdbinit.example")
        script(home / ".gdbinit", f"source {inner}")
        assert answer(tmp_path, home=home, no_init=False) == SAID

    def test_from_a_script_of_the_same_name(self, root: Path, tmp_path: Path) -> None:
        outer = script(tmp_path / "gdbinit.example", f"source {root}/gdbinit.example")
        assert answer(Path("/"), "-x", outer) == SAID

    def test_before_a_program_on_the_same_line(self, root: Path, tmp_path: Path) -> None:
        assert answer(tmp_path, "-x", root / "gdbinit.example", "/bin/true").endswith(SAID)

    def test_code_of_the_current_folder_is_never_run(self, tmp_path: Path) -> None:
        planted = tmp_path / ".venv/lib/python3.11/site-packages/gdb_leak"
        planted.mkdir(parents=True)
        (planted / "gdbinit.py").write_text("print('planted')\n")
        other = tmp_path / "other"
        other.mkdir()
        copy = script(other / "gdbinit.example", *EXAMPLE.read_text().splitlines())
        said = answer(tmp_path, "-x", copy)
        assert "planted" not in said
        assert f"no .venv with gdb-leak in {other}; run `make build` there" in said

    def test_a_copy_under_another_name_says_what_to_do(self, tmp_path: Path) -> None:
        copy = script(tmp_path / "mine", *EXAMPLE.read_text().splitlines())
        (line, *_) = answer(tmp_path, "-x", copy).splitlines()
        assert line.startswith("gdb-leak: not loaded: this copy of gdbinit.example")

    def test_no_name_is_left_behind(self, root: Path, tmp_path: Path) -> None:
        ask = "python print(sorted(set(globals()) - before))"
        said = answer(
            *(tmp_path, "-ex", "python import sys, os, importlib.util; before = set(globals())"),
            *("-x", root / "gdbinit.example", "-ex", ask),
        )
        assert said == f"['before']\n{SAID}"


class TestFromPython:
    @pytest.mark.parametrize("sourced", [EXAMPLE, PACKAGE / "gdbinit.py"])
    def test_a_script_of_python_sources_it(self, tmp_path: Path, sourced: Path) -> None:
        outer = script(
            tmp_path / "outer.py",
            "import gdb",
            f"gdb.execute('source {sourced}')",
            "print(__file__.endswith('outer.py'))",
        )
        assert answer(Path("/"), "-x", outer) == f"True\n{SAID}"

    def test_scripts_within_scripts_in_both_languages(self, tmp_path: Path) -> None:
        inner = script(tmp_path / "inner.py", f"gdb.execute('source {PACKAGE}/gdbinit.py')")
        middle = script(tmp_path / "middle", f"source {inner}")
        outer = script(tmp_path / "outer.py", f"gdb.execute('source {middle}')")
        assert answer(Path("/"), "-x", outer) == SAID

    def test_by_a_relative_name(self, tmp_path: Path) -> None:
        name = os.path.relpath(PACKAGE / "gdbinit.py", tmp_path)
        outer = script(tmp_path / "outer.py", f"gdb.execute('source {name}')")
        assert answer(tmp_path, "-x", outer) == SAID

    def test_as_text_that_is_executed(self, tmp_path: Path) -> None:
        said = answer(tmp_path, "-ex", f"python exec(open('{PACKAGE}/gdbinit.py').read())")
        assert said.startswith("gdb-leak: not loaded: ")
        assert said.splitlines()[0].endswith("source the file gdb_leak/gdbinit.py")
