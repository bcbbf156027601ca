"""Coroutines on a stack that is an array in a frame of their own thread."""

import os
from pathlib import Path

import pytest
from harness import cores
from harness.debuggers import gdb, shell
from harness.processes import Program, compile_fixture

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="frames are unwound on x86-64 only"
)


@pytest.mark.parametrize("flags", [("-O0",), ("-O2",)], ids=["O0", "O2"])
@pytest.mark.parametrize("place", ["main", "thread"])
@pytest.mark.parametrize("way", ["context", "call"])
def test_what_is_below_such_a_stack_is_alive(
    way: str, place: str, flags: tuple[str, ...], tmp_path: Path
) -> None:
    path = compile_fixture("own_stack", tmp_path / "own_stack", "-pthread", *flags)
    program = Program(path, way, place, cwd=tmp_path)
    try:
        program.wait_for("READY")
        kept = hex(program.places["kept"][0])
        core = cores.gcore(program.pid, tmp_path / "saved")
        answers = [
            shell("check", program.pid, "-stop", "-json", "-list").json(),
            shell("check", core, "-json", "-list").json(),
            gdb("leak-check -json -list", pid=program.pid).json(),
        ]
        program.press_key()
        assert program.wait() == 0
    finally:
        program.end()
    for answer in answers:
        verdicts = {block["address"]: block["verdict"] for block in answer["blocks"]}
        assert verdicts[kept] == "still_reachable"
        assert any(
            "on stacks that the program made within theirs" in note for note in answer["notes"]
        )


def test_a_thread_on_its_own_stack_alone_is_not_said_to_run_on_another(tmp_path: Path) -> None:
    path = compile_fixture("dead_slots", tmp_path / "dead_slots", "-O2")
    program = Program(path, "plain", cwd=tmp_path)
    try:
        program.wait_for("READY")
        answer = shell("check", program.pid, "-stop", "-json").json()
    finally:
        program.end()
    assert not any("made within theirs" in note for note in answer["notes"])
    assert answer["summary"]["definitely_lost"]["blocks"] == 1
