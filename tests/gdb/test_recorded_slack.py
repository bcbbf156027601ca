"""Bytes beyond what was asked for: they are not the program's, where a recording says so."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.debuggers import shell
from harness.leaks import WHOLE
from harness.processes import Program, compile_fixture
from harness.recordings import LIBRARY

OWNERS, SIZE = 50, 384


@dataclass
class Slack:
    """The program at its end, and what it said of its blocks."""

    pid: int
    places: dict[str, int]

    def verdicts(self) -> dict[int, str]:
        """Return the verdict on each block by its address."""
        said = shell("check", self.pid, *WHOLE).json()
        return {int(block["address"], 16): block["verdict"] for block in said["blocks"]}

    def refs(self, name: str, *options: str) -> Any:
        """Return what `leak-refs` answers of the block called NAME."""
        return shell("refs", self.pid, *options, "-json", hex(self.places[name])).json()


def start(folder: Path, recorded: bool) -> Iterator[Slack]:
    program = compile_fixture("recorded_slack", folder / "slack")
    environment = {"LD_PRELOAD": str(LIBRARY)} if recorded else {}
    running = Program(program, cwd=folder, environment=environment)
    running.wait_for("READY")
    lines = (line.split() for line in running.lines if " 0x" in line)
    yield Slack(running.pid, {name: int(address, 16) for name, address in lines})
    running.end()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slack]:
    yield from start(tmp_path_factory.mktemp("slack"), recorded=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slack]:
    yield from start(tmp_path_factory.mktemp("plain"), recorded=False)


def test_a_pointer_beyond_the_requested_size_holds_nothing(recorded: Slack) -> None:
    verdicts = recorded.verdicts()
    assert verdicts[recorded.places["lost"]] == "definitely_lost"
    assert verdicts[recorded.places["inside"]] == "definitely_lost"
    summary = shell("check", recorded.pid, "-json").json()["summary"]["definitely_lost"]
    # And the block that only a pointer behind its bytes names.
    assert (summary["blocks"], summary["bytes"]) == (OWNERS + 1, OWNERS * SIZE + 20)


def test_a_pointer_in_the_last_requested_word_holds_its_block(recorded: Slack) -> None:
    assert recorded.verdicts()[recorded.places["held"]] == "still_reachable"


def test_a_pointer_behind_the_requested_bytes_does_not_point_into_the_block(
    recorded: Slack,
) -> None:
    assert recorded.verdicts()[recorded.places["past"]] == "definitely_lost"


def test_a_pointer_to_a_block_of_no_bytes_holds_it(recorded: Slack) -> None:
    assert recorded.verdicts()[recorded.places["empty"]] == "still_reachable"


@pytest.mark.parametrize("name", ["lost", "inside", "past"])
def test_what_holds_nothing_is_no_reference(recorded: Slack, name: str) -> None:
    assert recorded.refs(name)["references"] == []


def test_no_path_leads_over_bytes_beyond_the_requested_size(recorded: Slack) -> None:
    assert recorded.refs("lost", "-path")["path"] is None


def test_without_a_recording_all_usable_bytes_count(plain: Slack) -> None:
    verdicts = plain.verdicts()
    assert verdicts[plain.places["lost"]] == "still_reachable"
    assert verdicts[plain.places["inside"]] == "possibly_lost"
    assert verdicts[plain.places["past"]] == "possibly_lost"
