"""What malloc_trim could give back, against what it does give back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import cores, glibc
from harness.debuggers import shell
from harness.processes import Program

ROWS = glibc.rows()
WAYS = ("pages", "few", "returned", "top")
PAGE = 4096


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.name)
def trims(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the program for one glibc."""
    row: glibc.Glibc = request.param
    return row.compile("trims", tmp_path_factory.mktemp("trims") / "trims")


@pytest.fixture(params=WAYS)
def live(request: pytest.FixtureRequest, trims: Path, tmp_path: Path) -> Iterator[Program]:
    """Have the program wait before it calls malloc_trim."""
    program = Program(trims, request.param, cwd=tmp_path)
    try:
        program.wait_for("READY")
        yield program
    finally:
        program.end()


def resident(pid: int) -> int:
    """Return the resident anonymous bytes of a process, page by page."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    return sum(
        int(line.split()[1]) * 1024 for line in text.splitlines() if line[:10] == "Anonymous:"
    )


def trim(target: Any) -> dict[str, int]:
    found: dict[str, int] = shell("heap", target, "-json").json()["trim"]
    return found


def test_it_is_what_malloc_trim_gives_back(live: Program, tmp_path: Path) -> None:
    said = trim(live.pid)
    # A search maps pages of zeros where nothing is: these are not there to be given back.
    shell("find", live.pid, "nothing has this text")
    assert trim(live.pid) == said
    core = trim(cores.gcore(live.pid, tmp_path / "core"))
    before = resident(live.pid)
    live.press_key()
    live.wait_for("TRIMMED")
    given = before - resident(live.pid)
    # The call itself may touch a page or two: of its stack, of binding its name.
    assert abs(said["bytes"] - given) <= 4 * PAGE, (said, given)
    # In a core free pages that hold only zeros look as those that are not there.
    assert core["bytes"] <= said["bytes"]
    assert core["bytes"] + core["returned"] == said["bytes"] + said["returned"]
    assert said["bytes"] - core["bytes"] <= 4 * PAGE
    after = trim(live.pid)
    assert after["bytes"] <= 4 * PAGE, after


def test_what_was_given_back_counts_on_its_own(trims: Path, tmp_path: Path) -> None:
    program = Program(trims, "returned", cwd=tmp_path)
    try:
        program.wait_for("READY")
        found = trim(program.pid)
        assert found["returned"] > 18 << 20
        assert found["bytes"] <= 4 * PAGE
        text = shell("heap", program.pid).stdout
        assert "already returned or never touched" in text
    finally:
        program.end()
