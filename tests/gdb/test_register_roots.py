"""Registers that hold a block, and those whose value nothing reads again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import cores
from harness.debuggers import gdb, shell
from harness.processes import Program, compile_fixture

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="frames are unwound on x86-64 only"
)

#: Ways in which the register is alive, or may be.
HELD = (
    *("read_again", "argument", "handed_on", "saved"),
    *("set_jump", "without_rules", "generated", "interrupted", "segment_base"),
)
#: Ways in which no path reads it, and what has the address then.
LOST = {"left_over": "register", "dropped": "register", "saved_dropped": "frame"}


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


@pytest.mark.parametrize("way", LOST)
@pytest.mark.parametrize("door", ["gdb", "shell"])
def test_what_points_at_a_block_and_is_dead_is_listed_apart(
    door: str, way: str, program: Path, tmp_path: Path
) -> None:
    with waiting(program, way, tmp_path) as process:
        address = hex(process.places["block"][0])
        if door == "gdb":
            answers = gdb(
                f"leak-refs {address} -path -json", f"leak-refs {address}", pid=process.pid
            )
            said, text = answers.all_json()[0], answers.stdout
        else:
            said = shell("refs", process.pid, address, "-path", "-json").json()
            text = shell("refs", process.pid, address).stdout
        known = shell("whatis", process.pid, address)
        number = process.pid
    assert (said["count"], said["references"], said["path"]) == (0, [], None)
    assert said["verdict"] == "definitely_lost"
    assert said["dead_count"] == len(said["dead"]) == 1
    (dead,) = said["dead"]
    assert (dead["offset"], dead["interior"]) == (0, False)
    assert (dead["owner"]["kind"], dead["owner"]["thread"]) == (LOST[way], number)
    assert (dead["from"] is None) == (LOST[way] == "register")
    lines = text.splitlines()
    assert "0 references" in lines
    (at,) = [index for index, line in enumerate(lines) if "no code reads these again" in line]
    place = "register r13" if LOST[way] == "register" else "stack" if door == "shell" else "frame"
    assert place in lines[at + 1]
    assert lines[at + 2] == "1 dead word"
    assert "by 0 words" in known.stdout
    assert "1 word that no code reads again" in known.stdout


def test_a_register_that_is_alive_is_no_dead_word(program: Path, tmp_path: Path) -> None:
    with waiting(program, "read_again", tmp_path) as process:
        address = hex(process.places["block"][0])
        said = shell("refs", process.pid, address, "-json").json()
        text = shell("refs", process.pid, address).stdout
    assert [reference["owner"]["name"] for reference in said["references"]] == ["r13"]
    assert (said["dead"], said["dead_count"]) == ([], 0)
    assert "again" not in text
