"""One process in all the forms that its regions are written down in."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, cores
from harness.debuggers import DOOR, environment, gdb, shell
from harness.processes import Program

Json = dict[str, Any]

#: What may be in the name of a file, and is written down in several ways.
NAMES = [
    b"plain",
    b"ends in blanks  ",
    b" starts with one",
    b"a\ttab",
    b"a line\nend",
    b"back\\slash\\n\\x0a\\012",
    b"not \xff\xfe UTF-8",
    "beyond ASCII: \u00e4\u20ac".encode(),
    b"is (deleted)",
    b"[heap]",
    b"[stack]",
    b"[ anon ]",
    b"x" * 255,
]
FORMS = ["snapshot", "gcore", "kernel", "pmap", "maps"]


class Forms:
    """What is left of one moment of a process, by the name of the form."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.files: dict[str, Path] = {}
        folder.mkdir()
        self._program = program
        pid = program.pid
        for name, make in (("pmap", self._pmap), ("maps", self._maps)):
            self.files[name] = folder / name
            self.files[name].write_bytes(make(pid))
        self.files["snapshot"] = folder / "snapshot"
        assert shell("snapshot", pid, self.files["snapshot"]).status == 0
        self.files["gcore"] = cores.gcore(pid, folder / "gcore")

    def kernel(self) -> None:
        """End the process, for the core that the kernel writes of it."""
        self.files["kernel"] = cores.kernel_core(self._program)

    @staticmethod
    def _pmap(pid: int) -> bytes:
        made = subprocess.run(["pmap", "-x", str(pid)], stdout=subprocess.PIPE, check=True)
        return made.stdout

    @staticmethod
    def _maps(pid: int) -> bytes:
        return Path(f"/proc/{pid}/maps").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with files of all names, each of two pages."""
    made = tmp_path_factory.mktemp("names")
    for name in NAMES:
        (made / os.fsdecode(name)).write_bytes(b"f" * 8192)
    return made


@pytest.fixture(scope="module")
def forms(
    programs: dict[str, Path], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Forms]:
    """One moment of one process in all forms."""
    work = tmp_path_factory.mktemp("forms")
    files = (str(folder / os.fsdecode(name)) for name in NAMES)
    program = Program(programs["forms"], *files, cwd=work)
    try:
        program.wait_for("READY")
        with cores.plain_core_pattern():
            made = Forms(program, work / "made")
            made.kernel()
        yield made
    finally:
        program.end()


@pytest.mark.parametrize(("before", "after"), list(itertools.product(FORMS, FORMS)))
def test_one_moment_shows_no_growth_from_any_form_to_any_other(
    forms: Forms, before: str, after: str
) -> None:
    answer = shell("diff-region", forms.files[before], forms.files[after], "-json").json()
    changed = {
        kind: [(row["start"], row["permissions"], row["kind"], row["name"]) for row in answer[kind]]
        for kind in ("grown", "shrunk", "new", "gone")
        if answer[kind]
    }
    assert changed == {}
    assert (answer["growth"], answer["reserved"], answer["same_program"]) == (0, 0, True)
    text = shell("diff-region", forms.files[before], forms.files[after]).stdout
    assert text.splitlines()[-1] == "no region grew; blocks were not compared"


@pytest.mark.parametrize("form", ["snapshot", "gcore", "kernel", "maps"])
def test_a_name_is_the_same_in_every_form(forms: Forms, folder: Path, form: str) -> None:
    regions = shell("regions", forms.files[form], "-json").json()["regions"]
    found = {row["name"] for row in regions}
    for name in NAMES:
        path = bytes(folder) + b"/" + name
        # Texts of maps do not tell these four characters from the end of a line.
        if form in ("snapshot", "gcore", "maps"):
            path = path.replace(rb"\012", b"\n")
        spelled = path.decode("utf-8", "backslashreplace")
        deleted = spelled + (" (deleted)" if b"deleted" in name else "")
        assert deleted in found, sorted(found)


@pytest.mark.parametrize("form", ["snapshot", "gcore", "kernel", "maps"])
def test_a_name_is_escaped_in_one_way_in_text(forms: Forms, form: str) -> None:
    text = shell("regions", forms.files[form]).stdout
    assert "a line\\x0aend" in text
    assert "a\\x09tab" in text
    assert "not \\xff\\xfe UTF-8" in text


@pytest.mark.parametrize("charset", ["UTF-8", "ISO-8859-1", "ASCII"])
def test_gdbserver_lists_the_names_of_the_process(
    programs: dict[str, Path], folder: Path, tmp_path: Path, charset: str
) -> None:
    # One name that is not UTF-8 makes gdb fail to decode all.
    names = (name for name in NAMES if b"deleted" not in name)
    names = (name for name in names if charset == "UTF-8" or b"not" not in name)
    files = (str(folder / os.fsdecode(name)) for name in names)
    program = Program(programs["forms"], *files, cwd=tmp_path)
    try:
        program.wait_for("READY")
        live = shell("regions", program.pid, "-json").json()["regions"]
        answer = gdb(
            f"set host-charset {charset}",
            f"target remote | gdbserver --once --attach stdio {program.pid}",
            "leak-regions -json",
        ).json()
    finally:
        program.end()
    wanted = {row["name"] for row in live if row["name"].startswith(str(folder))}
    assert len(wanted) > 8
    assert wanted <= {row["name"] for row in answer["regions"]}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Return the script of the recipe in docs/scripting.md."""
    text = (ROOT / "docs" / "scripting.md").read_text()
    (code,) = re.findall(r"```python\n# grown.py\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "grown.py"
    path.write_text(code)
    return path


class TestTheRecipe:
    """The recipe of docs/scripting.md for a job of continuous integration."""

    def judged(self, script: Path, start: Any, tmp_path: Path, keys: bytes) -> "tuple[int, str]":
        program = start("forms")
        before = cores.gcore(program.pid, tmp_path / "before.core")
        for key in keys:
            program.stdin.write(bytes([key, 10]))
            program.stdin.flush()
            program.wait_for("READY")
        after = cores.gcore(program.pid, tmp_path / "after.core")
        done = subprocess.run(
            [sys.executable, str(script), str(before), str(after), "1000000"],
            stdout=subprocess.PIPE,
            env={**environment(), "PATH": f"{DOOR.parent}:{os.environ['PATH']}"},
        )
        return done.returncode, done.stdout.decode()

    def test_it_fails_where_threads_leak(self, script: Path, start: Any, tmp_path: Path) -> None:
        status, printed = self.judged(script, start, tmp_path, b"l")
        assert status == 1, printed
        assert "arena" in printed

    def test_it_passes_where_a_thread_was_started(
        self, script: Path, start: Any, tmp_path: Path
    ) -> None:
        status, printed = self.judged(script, start, tmp_path, b"t")
        assert status == 0, printed

    def test_it_fails_where_both_happened(self, script: Path, start: Any, tmp_path: Path) -> None:
        assert self.judged(script, start, tmp_path, b"tl")[0] == 1

    def test_it_passes_where_nothing_happened(
        self, script: Path, start: Any, tmp_path: Path
    ) -> None:
        assert self.judged(script, start, tmp_path, b"")[0] == 0
