"""What the recorder keeps of each allocation function, and how the program meets it."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import recorder
from harness.processes import Program
from harness.recorder import Told
from harness.recordings import FUNCTIONS, LIBRARY, Recording

BETWEEN = ("by_vector", "by_strdup")

Seen = tuple[Told, Recording]


@pytest.fixture(scope="module", params=["recorder_calls.c", "recorder_new.cc"])
def seen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seen]:
    """Have a program that has called everything, and its recording."""
    # gcc knows that realloc of nothing is malloc.
    flags = ["-std=c++17"] if request.param.endswith(".cc") else ["-fno-builtin"]
    built = recorder.build(request.param, tmp_path_factory.mktemp("calls"), *flags)
    program = Program(built, environment=recorder.settings())
    yield recorder.ready(program)
    program.end()


def test_each_live_block_is_recorded_with_the_size_asked_for(seen: Seen) -> None:
    told, recording = seen
    sizes = {address: size for address, (_, _, size) in told.blocks.items()}
    assert len(sizes) >= 5
    assert {address: recording.blocks[address].size for address in sizes} == sizes


def test_each_live_block_has_the_function_called_and_its_caller(seen: Seen) -> None:
    told, recording = seen
    for address, (caller, function, _) in told.blocks.items():
        names = recording.names(recording.blocks[address].stack)
        assert (names[0], names[-1]) == (function, "_start"), names
        # `new`, vector and strdup stand between.
        assert caller in (names[1:] if "new" in caller or caller in BETWEEN else names[1:2]), names


def test_the_thread_of_a_block_is_the_one_that_allocated_it(seen: Seen) -> None:
    told, recording = seen
    threads = {recording.blocks[address].thread for address in told.blocks}
    assert threads == {recording.pid} == set(recording.threads)


def test_a_block_that_was_given_back_is_gone(seen: Seen) -> None:
    told, recording = seen
    assert len(told.gone) >= 2
    assert not set(told.gone) & set(recording.blocks)


def test_errno_is_as_the_function_left_it(seen: Seen) -> None:
    told, _ = seen
    assert told.rest == []


def test_nothing_was_left_out(seen: Seen) -> None:
    _, recording = seen
    counters = (recording.dropped, recording.missed, recording.stale, recording.cut)
    assert counters == (0, 0, 0, 0)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_allocation_function_has_no_prologue(function: str) -> None:
    answer = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", str(LIBRARY)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    code = re.findall(r"^\s+[0-9a-f]+:\t(\w+)\s+(\S+)", answer, re.MULTILINE)
    assert [name for name, _ in code[:3]] == ["mov", "mov", "jmp"], answer
    assert [operands.split(",")[0] for _, operands in code[:2]] == ["%rsp", "%rbp"]


def test_standard_files_are_untouched(tmp_path: Path) -> None:
    program = recorder.build("recorder_calls.c", tmp_path, "-fno-builtin")
    plain, recorded = (recorder.run(program, environment=env) for env in ({}, None))
    assert (recorded.returncode, recorded.stderr) == (0, "")
    # Addresses differ from run to run.
    assert [re.sub("0x[0-9a-f]+", "", run.stdout) for run in (plain, recorded)] == [
        re.sub("0x[0-9a-f]+", "", plain.stdout)
    ] * 2
