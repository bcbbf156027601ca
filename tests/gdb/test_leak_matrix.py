"""Verdicts on each C library: random graphs, of a process held by a shell and of its core."""

from pathlib import Path

import pytest
from harness import cores, graphs, soak
from harness.debuggers import shell
from harness.glibc import Glibc
from harness.leaks import WHOLE, run_to_exit
from harness.processes import Program

SOAK = soak.TIMES
SEEDS = range(1001, 1001 + 6 * SOAK)


@pytest.fixture(scope="module")
def program(library: Glibc, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library.compile("leaks/graph", tmp_path_factory.mktemp("graph") / "graph", "-pthread")


@pytest.mark.parametrize("seed", SEEDS)
def test_each_block_has_the_verdict_that_is_true(program: Path, tmp_path: Path, seed: int) -> None:
    process = Program(program, str(seed), str(tmp_path), cwd=tmp_path)
    try:
        process.wait_for("READY")
        truth = graphs.read(tmp_path).blocks
        # gcore of gdb 13 loses the stacks of threads with glibc 2.42 and later.
        answers = [shell("check", process.pid, *WHOLE)]
        with cores.plain_core_pattern():
            answers.append(shell("check", cores.kernel_core(process), *WHOLE))
        for answer in answers:
            said = answer.json()
            given = {int(block["address"], 16): block["verdict"] for block in said["blocks"]}
            wrong = [
                f"{at:#x} is {one.verdict}, and said to be {given.get(at, 'no block in use')}"
                for at, one in truth.items()
                if given.get(at) != one.verdict
            ]
            assert not wrong, f"{len(wrong)} of {len(truth)} blocks: {wrong[:5]}"
    finally:
        process.end()


def test_a_core_without_the_stacks_of_threads_is_told_with_the_direction_of_its_errors(
    library: Glibc, program: Path, tmp_path: Path
) -> None:
    process = Program(program, str(SEEDS[0]), str(tmp_path), cwd=tmp_path)
    try:
        process.wait_for("READY")
        whole = shell("check", process.pid, *WHOLE).json()
        said = shell("check", cores.gcore(process.pid, tmp_path / "taken"), *WHOLE).json()
    finally:
        process.end()
    told = [note for note in said["notes"] if "read as zeros" in note]
    differs = said["blocks"] != whole["blocks"]
    # From 2.42 on it is for the kernel whether a stack's guard lies in its mapping.
    assert not differs or library.minor >= 42
    assert bool(told) == differs
    assert not told or (said["notes"][0] == told[0] and "seem lost" in told[0])


def test_what_the_stacks_of_ended_threads_hold_is_lost(library: Glibc, tmp_path: Path) -> None:
    program = library.compile("leaks/thread_ended", tmp_path / "thread_ended", "-pthread")
    said = run_to_exit(program, tmp_path / "core").live
    assert said["summary"]["definitely_lost"]["blocks"] == 2
    assert said["summary"]["still_reachable"]["blocks"] == 1
