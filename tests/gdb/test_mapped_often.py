"""Many mappings of one file in the address space and on the first screen."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import cores
from harness.debuggers import shell
from harness.processes import Program, compile_fixture

MAPPINGS = 120
SIZE = 64 << 10


@pytest.fixture(scope="module")
def often(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("often")
    program = Program(compile_fixture("mapped_often", folder / "often"), str(MAPPINGS), cwd=folder)
    program.wait_for("READY")
    yield program
    program.end()


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if "frame-pool" in line]


def test_many_mappings_of_one_file_are_one_row_with_their_count(often: Program) -> None:
    (row,) = rows(shell("regions", often.pid).stdout)
    assert f"  {MAPPINGS}  " in row
    assert f"{MAPPINGS * SIZE / (1 << 20)} MiB" in row
    assert "(-all lists each)" in shell("regions", often.pid).stdout


def test_all_lists_each(often: Program) -> None:
    said = shell("regions", often.pid, "-all").stdout
    assert len(rows(said)) == MAPPINGS
    assert "COUNT" not in said


def test_json_never_folds(often: Program) -> None:
    regions = shell("regions", often.pid, "-json").json()["regions"]
    assert len([one for one in regions if "frame-pool" in one["name"]]) == MAPPINGS


def test_what_holds_most_is_first_by_resident_bytes(often: Program) -> None:
    said = shell("regions", often.pid, "-sort", "rss").stdout
    assert "frame-pool" in said.splitlines()[2]
    regions = shell("regions", often.pid, "-sort", "rss", "-json").json()["regions"]
    resident = [one["rss"] for one in regions]
    assert resident == sorted(resident, reverse=True)
    assert resident[0] > 0


def test_a_core_is_ordered_by_the_bytes_that_it_holds(often: Program, tmp_path: Path) -> None:
    said = shell("regions", cores.gcore(often.pid, tmp_path / "c"), "-sort", "rss", "-json").json()
    saved = [one["saved"] for one in said["regions"]]
    assert saved == sorted(saved, reverse=True)
    # As the help says: nothing is lacking.
    assert not any("ordered by" in note for note in said["notes"])


def test_the_first_screen_has_them_as_one_of_the_largest(often: Program) -> None:
    said = shell("overview", often.pid).stdout
    (row,) = rows(said)
    assert f"{MAPPINGS} mappings of /memfd:frame-pool" in row
    file_row = next(line for line in said.splitlines() if line.startswith("file "))
    assert said.splitlines()[said.splitlines().index(file_row) - 1].startswith("KIND")
