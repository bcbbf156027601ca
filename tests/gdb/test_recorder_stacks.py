"""The recorder's stacks are those that glibc's backtrace() sees at the same place."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import ROOT, recorder
from harness.processes import Program
from harness.recordings import EXACT, Recording

BUILDS = {
    "O0": ["-O0"],
    "O2": ["-O2", "-fomit-frame-pointer"],
    "O3": ["-O3"],
    "frame-pointer": ["-O2", "-fno-omit-frame-pointer"],
    "not-PIE": ["-O2", "-no-pie"],
}
NAMES = (
    *("constructor", "plain", "alloca", "array", "aligned", "aligned_with_alloca"),
    *("many_arguments", "qsort", "signal", "signal_in_loop", "thread", "small_thread"),
)


class Stacks(NamedTuple):
    """The stacks by their names: as recorded from the caller of `keep` on, and as they are."""

    recorded: dict[str, list[int]]
    true: dict[str, list[int]]
    recording: Recording


def stacks(program: Program) -> Stacks:
    """Wait for a program of recorder_stacks.c and read its stacks."""
    told, recording = recorder.ready(program)
    found = Stacks({}, {}, recording)
    for line in told.rest:
        _, name, block, *frames = line.split()
        function, keep, *rest = recording.frames(recording.blocks[int(block, 16)].stack)
        assert recording.functions[function] == "malloc"
        assert recording.functions_at(keep)[0] == "keep"
        found.recorded[name] = rest
        found.true[name] = [int(frame, 16) for frame in frames]
    return found


@pytest.fixture(scope="module", params=BUILDS)
def seen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stacks]:
    folder = tmp_path_factory.mktemp("stacks")
    built = recorder.build("recorder_stacks.c", folder, *BUILDS[request.param])
    program = Program(built, environment=recorder.settings(depth=255))
    yield stacks(program)
    program.end()


@pytest.mark.parametrize("name", [*NAMES, "deep"])
def test_a_stack_is_the_one_that_backtrace_sees(seen: Stacks, name: str) -> None:
    found = [frame & ~EXACT for frame in seen.recorded[name]]
    assert [hex(frame) for frame in found] == [hex(frame) for frame in seen.true[name]]
    assert len(found) >= 2


def test_what_a_signal_interrupted_is_marked(seen: Stacks) -> None:
    assert [frame & EXACT for frame in seen.recorded["plain"]] == [0] * len(seen.recorded["plain"])
    for name, interrupted in (("signal_in_loop", "loops"), ("signal", "raise")):
        marked = [frame for frame in seen.recorded[name] if frame & EXACT]
        assert len(marked) == 1
        names = seen.recording.functions_at(marked[0])
        assert any(interrupted in one or "pthread_kill" in one for one in names), names


def test_no_stack_is_cut_where_all_have_rules(seen: Stacks) -> None:
    assert seen.recording.cut == 0


def test_a_stack_that_is_too_deep_is_cut_and_counted(tmp_path: Path) -> None:
    built = recorder.build("recorder_stacks.c", tmp_path, "-O2")
    program = Program(built, environment=recorder.settings(depth=20))
    try:
        found = stacks(program)
    finally:
        program.end()
    # The caller of malloc is a frame as well.
    assert found.recorded["deep"] == found.true["deep"][:19]
    assert found.recorded["plain"] == found.true["plain"]
    assert (found.recording.depth, found.recording.cut) == (20, 1)


def test_code_without_rules_ends_a_stack(tmp_path: Path) -> None:
    bare = tmp_path / "bare.o"
    source = ROOT / "tests" / "fixtures" / "recorder_bare.c"
    flags = ["-O2", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"]
    subprocess.run(["gcc", "-c", *flags, "-o", str(bare), str(source)], check=True)
    built = recorder.build("recorder_stacks.c", tmp_path, "-O2", "-DBARE", str(bare))
    program = Program(built, environment=recorder.settings(depth=255))
    try:
        found = stacks(program)
    finally:
        program.end()
    recorded, true = found.recorded["bare"], found.true["bare"]
    assert 1 <= len(recorded) <= len(true)
    assert recorded == true[: len(recorded)]
    assert "bare" in found.recording.functions_at(recorded[-1])
    assert found.recording.cut == 1
