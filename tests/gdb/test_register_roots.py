"""Registers that hold a block, and those whose value nothing reads again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import cores
from harness.debuggers import shell
from harness.processes import Program, compile_fixture

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="frames are unwound on x86-64 only"
)

#: Ways in which the register is alive, or may be.
HELD = (
    *("read_again", "argument", "handed_on", "saved"),
    *("set_jump", "without_rules", "generated", "interrupted"),
)
#: Ways in which no path reads it.
LOST = ("left_over", "dropped", "saved_dropped")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registers")
    return compile_fixture("kept_in_register", folder / "kept_in_register")


@contextmanager
def waiting(program: Path, way: str, folder: Path) -> Iterator[Program]:
    """Have PROGRAM wait in a way, and end it."""
    process = Program(program, way, cwd=folder)
    try:
        process.wait_for("READY")
        yield process
    finally:
        process.end()


@pytest.mark.parametrize(
    ("way", "verdict"),
    [*((way, "still_reachable") for way in HELD), *((way, "definitely_lost") for way in LOST)],
)
def test_a_register_holds_a_block_unless_no_path_reads_it_again(
    way: str, verdict: str, program: Path, tmp_path: Path
) -> None:
    with waiting(program, way, tmp_path) as process:
        address, _ = process.places["block"]
        core = cores.gcore(process.pid, tmp_path / "core")
        live = shell("check", process.pid, "-json", "-list").json()
    for said in (live, shell("check", core, "-json", "-list").json()):
        verdicts = {block["address"]: block["verdict"] for block in said["blocks"]}
        assert verdicts[hex(address)] == verdict
