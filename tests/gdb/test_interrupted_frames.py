"""Frames that a signal interrupted: they are unwound, and go on as they were."""

import os
from pathlib import Path

import pytest
from harness.debuggers import shell
from harness.frames import frames_of
from harness.overwriting import overwritten
from harness.processes import Program, compile_fixture

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="frames are unwound on x86-64 only"
)


@pytest.mark.parametrize("flags", [("-O0",), ("-O2",), ("-O2", "-static")], ids=" ".join)
@pytest.mark.parametrize("name", ["interrupted", "elsewhere", "faulted"])
def test_frames_that_a_signal_interrupted_are_unwound(
    name: str, flags: tuple[str, ...], tmp_path: Path
) -> None:
    program = compile_fixture("dead_slots", tmp_path / "dead_slots", *flags)
    process = Program(program, "large", name, cwd=tmp_path)
    try:
        process.wait_for("READY")
        by_name = dict(frames_of(process.pid))
        own = process.places["large"][0]
        answer = shell("check", process.pid, "-json", "-list").json()
    finally:
        process.end()
    assert {"go_on", name, "large", "main"} <= by_name.keys()
    # That of the fault counts as a whole.
    assert (by_name[name].unclear == "fault") == (name == "faulted")
    assert by_name["large"].unclear is None
    dead = by_name["large"].dead
    assert sum(end - first for first, end in dead) > 800
    verdicts = {int(block["address"], 16): block["verdict"] for block in answer["blocks"]}
    assert verdicts[own] == "still_reachable"


@pytest.mark.parametrize("own", [(), ("own",)], ids=["same stack", "own stack"])
@pytest.mark.parametrize("flags", [("-O0",), ("-O2", "-static")], ids=" ".join)
def test_what_a_signal_interrupted_runs_on_where_dead_words_were_overwritten(
    flags: tuple[str, ...], own: tuple[str, ...], tmp_path: Path
) -> None:
    program = compile_fixture("interrupted", tmp_path / "interrupted", *flags)
    count = overwritten((str(program), *own), stops=40)
    assert count.words > 20
    assert count.registers > 20
