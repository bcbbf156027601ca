"""Threads that ended and were never joined, live and in cores, on each C library."""

from pathlib import Path
from typing import Any, Callable

import pytest
from harness import cores
from harness.debuggers import gdb, shell
from harness.glibc import Glibc
from harness.processes import Program

THREADS = 20
#: A page for the control block and one of frames. glibc gives most of what a thread used back when
#: it ends (nptl/pthread_create.c, `advise_stack_range`).
LEAST = 2 << 12
MOST = 64 << 10


@pytest.fixture(scope="module")
def answers(
    library: Glibc, fixture_on: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    path = fixture_on(library, "unjoined", "-pthread", "-g")
    program = Program(path, str(THREADS), cwd=tmp_path_factory.mktemp("unjoined"))
    try:
        program.wait_for("READY")
        made = {
            "overview": shell("overview", program.pid, "-json").json(),
            "check": shell("check", program.pid, "-json").json(),
            "heap": shell("heap", program.pid, "-json").json(),
            "gdb": gdb("leak -json", pid=program.pid).json(),
            "gdb check": gdb("leak-check -json", pid=program.pid).json(),
        }
        with cores.plain_core_pattern():
            core = cores.kernel_core(program)
        made["core"] = shell("overview", core, "-json").json()
        made["core check"] = gdb("leak-check -json", program=path, core=core).json()
    finally:
        program.end()
    return made


FORMS = ("overview", "check", "heap", "gdb", "gdb check", "core", "core check")


@pytest.mark.parametrize("form", FORMS)
def test_threads_that_were_never_joined_are_counted_and_no_others(
    answers: dict[str, dict[str, Any]], form: str
) -> None:
    found = {str(one["function"]): one for one in answers[form]["unjoined"]}
    begun = {name.split(" ")[0].split("+")[0]: one["threads"] for name, one in found.items()}
    assert begun == {"forgotten": THREADS, "left_behind": 1}


@pytest.mark.parametrize("form", FORMS)
def test_the_bytes_that_their_stacks_hold_are_the_resident_ones(
    answers: dict[str, dict[str, Any]], form: str
) -> None:
    (many,) = (one for one in answers[form]["unjoined"] if one["threads"] == THREADS)
    (live,) = (one for one in answers["check"]["unjoined"] if one["threads"] == THREADS)
    assert THREADS * LEAST <= many["held"] <= THREADS * MOST
    # Of a core, pages that are all zeros count as never used.
    assert many["held"] <= live["held"] if "core" in form else many == live
    assert many["size"] > THREADS << 20


def test_a_text_names_the_function_that_they_began_with(
    library: Glibc, fixture_on: Callable[..., Path], tmp_path: Path
) -> None:
    program = Program(fixture_on(library, "unjoined", "-pthread", "-g"), "3", cwd=tmp_path)
    try:
        program.wait_for("READY")
        for command in ("overview", "check", "heap"):
            said = shell(command, program.pid).stdout
            assert "3 threads ended and were never joined: stacks hold " in said, command
            assert "; begun in forgotten" in said, command
            assert "1 thread ended and was never joined" in said, command
    finally:
        program.end()


def test_a_program_without_such_threads_has_none(sample: Any) -> None:
    for command in ("overview", "check", "heap"):
        said = shell(command, sample.after)
        assert "never joined" not in said.stdout
        assert shell(command, sample.after, "-json").json()["unjoined"] == []
