"""What is nearly right is answered with what was meant."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness.cores import gcore
from harness.debuggers import DOOR, environment, gdb, shell
from harness.processes import Program

WRONG_USAGE = 2


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("chek", "check"),
        ("chek core -show all", "check core -show all"),
        ("leak-check 1234", "check 1234"),
        ("leak-chek 1234", "check 1234"),
        ("leak", "overview"),
        ("reg 1234", "regions 1234"),
        ("1234", "overview 1234"),
        ("1234 -json", "overview 1234 -json"),
        ("1234 check", "check 1234"),
        ("1234 find text", "find 1234 text"),
        ("1234 chek", "check 1234"),
        ("1234 leak-check -show all", "check 1234 -show all"),
        ("1234 zzz -json", "overview 1234 -json"),
        ("README.md", "overview README.md"),
        ("README.md -exe ./prog", "overview README.md -exe ./prog"),
        ("README.md chek -exe ./prog", "check README.md -exe ./prog"),
        ("help chek", "help check"),
        ("help leak-find", "help find"),
    ],
)
def test_a_command_that_is_not_there_is_answered_with_the_one_that_is(
    typed: str, meant: str
) -> None:
    answer = shell(*typed.split())
    wrong = typed.removeprefix("help ").split()[0]
    assert answer.error == f"gdb-leak: no such command: {wrong}; did you mean gdb-leak {meant}?"
    assert (answer.status, answer.stdout) == (WRONG_USAGE, "")


def test_a_word_that_is_like_none_gets_the_list() -> None:
    assert shell("zzz").error == "gdb-leak: no such command: zzz; gdb-leak -help lists them"


def test_what_was_meant_is_spelled_for_a_shell(tmp_path: Path) -> None:
    core = tmp_path / "a core\x1b[31m"
    core.touch()
    assert f"overview '{tmp_path}/a core\\x1b[31m'?" in shell(core).error


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("leak check", "leak-check"),
        ("leak chek -show all", "leak-check -show all"),
        ('leak find "a b"', 'leak-find "a b"'),
        ("leak diff", "leak-diff-region"),
    ],
)
def test_a_blank_in_the_place_of_a_dash(typed: str, meant: str) -> None:
    answer = gdb(typed)
    assert answer.error.endswith(f"; did you mean {meant}?")
    assert answer.error.startswith("leak: takes no operands: ")


def test_leak_with_a_word_that_is_like_no_command_takes_no_operands() -> None:
    assert gdb("leak zzz").error == "leak: takes no operands: zzz"


def test_an_option_that_is_nearly_one_is_named_and_an_ambiguous_one_lists_all() -> None:
    assert gdb("leak-find -limt 3 x").error.endswith("-limt 3 x; did you mean -limit?")
    assert shell("check", 1, "-shw", "all").error.endswith("-shw all; did you mean -show?")
    said = "Ambiguous option at: -u x; it may be -u16, -u32, -u64, -u8, -utf16"
    assert gdb("leak-find -u x").error == f"leak-find: {said}"


OBJECTS = """
#include <cstdio>
#include <map>
#include <string>
struct Registry { std::map<int, std::string> sessions; int counts[3]; union { int i; } u; };
Registry registry;
Registry *first = &registry;
Registry &same = registry;
double share = 0.5;
int main() { registry.sessions[1] = "one"; std::puts("READY"); std::fflush(stdout); getchar(); }
"""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, Path]":
    folder = tmp_path_factory.mktemp("objects")
    source, program = folder / "objects.cc", folder / "objects"
    source.write_text(OBJECTS)
    subprocess.run(["g++", "-g", "-O0", source, "-o", program], check=True)
    live = Program(program, cwd=folder)
    try:
        live.wait_for("READY")
        return program, gcore(live.pid, folder / "core")
    finally:
        live.end()


@pytest.mark.parametrize(
    ("expression", "advice"),
    [
        ("registry.sessions", "&registry.sessions"),
        ("first->sessions", "&first->sessions"),
        ("same", "&same"),
        ("first[0].u", "&first[0].u"),
        ("(*first).sessions", "&((*first).sessions)"),
        ("*first", "&(*first)"),
        ("share", "&share"),
    ],
)
def test_an_object_in_the_place_of_an_address(
    objects: "tuple[Path, Path]", expression: str, advice: str
) -> None:
    program, core = objects
    answer = gdb(
        f"leak-whatis {expression}", f"leak-whatis {advice} -json", program=program, core=core
    )
    assert answer.error.endswith(f", not an address; use {advice}")
    assert answer.error.startswith(f"leak-whatis: {expression} is a")
    # The advice is right.
    assert answer.json()["region"]["kind"] == "data"


def test_an_object_that_is_in_no_memory_has_no_address(objects: "tuple[Path, Path]") -> None:
    program, core = objects
    answer = gdb("leak-whatis share*2", program=program, core=core)
    assert answer.error == "leak-whatis: share*2 is a value of type double, not an address"


def test_the_package_is_a_program(sample: Any) -> None:
    done = subprocess.run(
        [DOOR.parent / "python", "-m", "gdb_leak", "regions", sample.after, "-json"],
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert done.stdout.startswith(b'{"schema": "gdb-leak/regions/1"'), done.stderr
    done = subprocess.run(
        [DOOR.parent / "python", "-m", "gdb_leak", "chek"],
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == WRONG_USAGE


def test_a_file_of_proc_is_not_called_empty(start: Any) -> None:
    program = start("sample")
    path = f"/proc/{program.pid}/maps"
    said = shell("check", path).error
    assert (
        said == f"gdb-leak: check: {path}: is made while it is read: give the pid, or a copy of it"
    )


def test_a_thread_is_taken_for_its_process(start: Any) -> None:
    program = start("threads", "2")
    threads = [int(path.name) for path in Path(f"/proc/{program.pid}/task").iterdir()]
    for thread in threads:
        assert shell("overview", thread, "-json").json()["target"]["pid"] == program.pid
