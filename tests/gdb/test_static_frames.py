"""Frames of static programs, which gcc links without a table of the entries of .eh_frame."""

import os
from pathlib import Path

import pytest
from harness.debuggers import shell
from harness.frames import frames_of
from harness.leaks import counts, run_to_exit
from harness.processes import Program, compile_fixture

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="frames are unwound on x86-64 only"
)

SAMPLE_CALLS = 101
# The last kind has the table.
STATIC = [
    *(("-static", level) for level in ("-O0", "-O1", "-O2")),
    *(("-static", "-O2", "-s"), ("-static-pie", "-O2")),
]


@pytest.mark.parametrize("flags", STATIC, ids=" ".join)
def test_no_frame_of_exit_in_a_static_program_holds_what_main_left(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    for place in (0, 5, 11):
        name = f"place{place}"
        program = compile_fixture("lost_at_exit", tmp_path / name, *flags, f"-DPLACE={place}")
        stop = run_to_exit(program, tmp_path / f"{name}.core")
        lost = counts(stop.check()["summary"])[:3]
        # The start of a static program holds blocks of its own.
        assert lost == (1, 0, 0), place


@pytest.mark.parametrize("flags", [("-O0",), ("-O2",)], ids=" ".join)
def test_a_static_program_has_the_frames_of_one_with_a_table(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    found = []
    for kind in ("-static", "-static-pie"):
        program = compile_fixture("dead_slots", tmp_path / f"dead_slots{kind}", kind, *flags)
        process = Program(program, "plain", "large", cwd=tmp_path)
        try:
            process.wait_for("READY")
            frames = frames_of(process.pid)
        finally:
            process.end()
        found.append([(name, frame.unclear, frame.escaped) for name, frame in frames])
    assert found[0] == found[1]
    assert {"plain", "large", "main"} <= {name for name, *_ in found[0]}


def test_all_calls_of_the_static_sample_lose_their_block(tmp_path: Path) -> None:
    program = compile_fixture("sample", tmp_path / "sample", "-static")
    process = Program(program, cwd=tmp_path)
    try:
        process.wait_for("called 1 times")
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.wait_for("called 101 times")
        answer = shell("check", process.pid, "-json").json()
    finally:
        process.end()
    assert counts(answer["summary"])[0] == SAMPLE_CALLS
