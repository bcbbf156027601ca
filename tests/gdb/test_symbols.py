"""The shell names the symbols that gdb names: of a process, of cores, by -exe and -sysroot."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import pytest
from harness import cores
from harness.debuggers import gdb, shell
from harness.processes import Program, compile_fixture

#: Of what tests/fixtures/symbols.c prints: that for which gdb 13 has a name, and the right one.
NAMED = [
    *("changed", "zeroed", "odd", "fixed", "local", "mangled", "of_rust", "vtable", "copied"),
    *("shared", "hidden", "zeros", "code", "label"),
]
UNNAMED = ["flat", "behind", "heap", "own", "unnamed"]
#: gdb takes one of these names, which of them differs from run to run.
ALIASES = re.compile(r"^(__changed|also)\b")


@dataclass
class Subject:
    """The program that waits, and cores of it."""

    live: Program
    gcore: Path
    kernel: Path
    #: What gdb says of each place, in a core.
    said: dict[str, Optional[str]]
    places: dict[str, tuple[int, int]]

    def target(self, form: str) -> str:
        """Return the TARGET of a command, by its form."""
        return str(self.live.pid if form == "live" else getattr(self, form))


def build(folder: Path) -> Path:
    """Return the program, its library beside it."""
    compile_fixture("symbols_library", folder / "libsymbols.so", "-shared", "-fPIC")
    beside = f"-L{folder}", "-lsymbols", "-Wl,-rpath,$ORIGIN", "-ldl"
    return compile_fixture("symbols", folder / "program", *beside)


def ask_gdb(program: Program, core: Path) -> dict[str, Optional[str]]:
    lines = []
    for name, (start, length) in program.places.items():
        lines += [f"echo @@{name}\\n", f"info symbol {start + length // 2:#x}"]
    answer = gdb(*lines, program=program.path, core=core)
    parts = [part.partition("\n") for part in answer.stdout.split("@@")[1:]]
    return {
        name: None if said.startswith("No symbol") else said.splitlines()[0]
        for name, _, said in parts
    }


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    folder = tmp_path_factory.mktemp("symbols")
    path = build(folder)
    started = [Program(path, cwd=folder)]
    try:
        started[0].wait_for("READY")
        core = cores.gcore(started[0].pid, folder / "gcore")
        # Another process of the program: the kernel ends the one that it writes.
        (folder / "kernel").mkdir()
        started.append(Program(path, cwd=folder / "kernel"))
        started[1].wait_for("READY")
        with cores.plain_core_pattern():
            kernel = cores.kernel_core(started[1])
        said = ask_gdb(started[0], core)
        yield Subject(started[0], core, kernel, said, started[0].places)
    finally:
        for program in started:
            program.end()


def symbol(target: str, address: int, *options: str) -> Optional[str]:
    answer = shell("whatis", target, hex(address), "-json", *options)
    found: Optional[str] = answer.json()["symbol"]
    return found


def as_here(said: Optional[str]) -> Optional[str]:
    """Return what gdb SAID without what docs/limits.md has as different."""
    if said is None:
        return None
    said = ALIASES.sub("changed", said)
    return re.sub(r"@+[A-Z0-9_.]+|::h[0-9a-f]{16}", "", said)


@pytest.mark.parametrize("form", ["live", "gcore"])
@pytest.mark.parametrize("place", NAMED)
def test_the_shell_names_what_gdb_names(subject: Subject, place: str, form: str) -> None:
    start, length = subject.places[place]
    expected = as_here(subject.said[place])
    assert expected is not None
    assert symbol(subject.target(form), start + length // 2) == expected


@pytest.mark.parametrize("place", UNNAMED)
def test_the_shell_names_nothing_where_gdb_does_not(subject: Subject, place: str) -> None:
    start, length = subject.places[place]
    # gdb goes on from a name without a size into the next section's bytes, or does not.
    assert place == "unnamed" or subject.said[place] is None
    for form in ("live", "gcore"):
        assert symbol(subject.target(form), start + length // 2) is None


def test_a_core_by_the_kernel_has_the_same_symbols(subject: Subject) -> None:
    # Of another process of the program, which lies elsewhere.
    program = subject.live.path
    listed = shell("regions", subject.kernel, "-json").json()["regions"]
    base = min(int(region["start"], 16) for region in listed if region["name"] == str(program))
    mapped = Path(f"/proc/{subject.live.pid}/maps").read_text()
    line = re.search(rf"^([0-9a-f]+)-.* {re.escape(str(program))}$", mapped, re.MULTILINE)
    assert line is not None
    moved = base - int(line[1], 16)
    for place in ("changed", "zeroed", "fixed", "code"):
        start, length = subject.places[place]
        found = symbol(str(subject.kernel), start + length // 2 + moved)
        assert found == as_here(subject.said[place])


def test_the_answer_has_a_line_for_the_symbol(subject: Subject) -> None:
    start, _ = subject.places["zeroed"]
    answer = shell("whatis", subject.gcore, hex(start + 16))
    path = subject.live.path
    assert f"symbol   zeroed + 16 in section .bss of {path}\n" in answer.stdout
    answer = shell("whatis", subject.gcore, hex(start))
    assert f"symbol   zeroed in section .bss of {path}\n" in answer.stdout


def test_the_program_of_a_core_may_be_given_or_lie_under_a_sysroot(tmp_path: Path) -> None:
    build(tmp_path)
    program = Program(tmp_path / "program")
    try:
        program.wait_for("READY")
        core = cores.gcore(program.pid, tmp_path / "core")
    finally:
        program.end()
    root = tmp_path / "root"
    inside = root / str(tmp_path).lstrip("/")
    inside.mkdir(parents=True)
    for name in ("program", "libsymbols.so"):
        shutil.move(tmp_path / name, inside / name)
    zeroed, hidden = (program.places[name][0] for name in ("zeroed", "hidden"))
    assert symbol(str(core), zeroed) is None
    given = inside / "program"
    expected = f"zeroed in section .bss of {given}"
    assert symbol(str(core), zeroed, "-exe", str(given)) == expected
    assert symbol(str(core), hidden, "-exe", str(given)) is None
    assert symbol(str(core), zeroed, "-sysroot", str(root)) == expected
    library = f"library_hidden in section .data of {inside / 'libsymbols.so'}"
    assert symbol(str(core), hidden, "-sysroot", str(root)) == library
    # Built again it is another program, though it has the same names.
    compile_fixture("symbols", given, f"-L{inside}", "-lsymbols", "-ldl", "-O1")
    assert symbol(str(core), zeroed, "-exe", str(given)) is None


def test_a_name_with_escape_sequences_is_shown_escaped(tmp_path: Path) -> None:
    path = build(tmp_path)
    subprocess.run(["objcopy", "--redefine-sym", "zeroed=zer\x1b[31m\ned", str(path)], check=True)
    program = Program(path)
    try:
        program.wait_for("READY")
        answer = shell("whatis", program.pid, hex(program.places["zeroed"][0]))
    finally:
        program.end()
    assert r"symbol   zer\x1b[31m\x0aed in section .bss" in answer.stdout
    assert "\x1b" not in answer.stdout


def test_a_module_whose_path_is_no_text_has_its_symbols_and_every_byte_of_its_path(
    tmp_path: Path,
) -> None:
    folder = tmp_path / os.fsdecode(b"not \xff text")
    folder.mkdir()
    program = Program(build(folder), cwd=folder)
    try:
        program.wait_for("READY")
        start, _ = program.places["changed"]
        core = cores.gcore(program.pid, tmp_path / "core")
        for target in (program.pid, core):
            symbol = shell("whatis", target, hex(start), "-json").json()["symbol"]
            assert symbol is not None, target
            assert symbol.startswith("changed in "), symbol
            assert symbol.endswith(f"{tmp_path}/not \\xff text/program"), symbol
    finally:
        program.end()
