"""A heap caught in the middle of malloc."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from harness import cores, soak
from harness.debuggers import shell
from harness.glibc import Glibc
from harness.heap_stops import Scenario, Stop, held_differences, stopped


@pytest.fixture(params=[1, 2])
def stop(
    request: pytest.FixtureRequest,
    library: Glibc,
    fixture_on: Callable[..., Path],
    tmp_path: Path,
) -> Iterator[Stop]:
    program = fixture_on(library, "heap_inside")
    scenario = Scenario("inside", "heap_inside", (str(request.param), "4", "FOLDER"))
    with stopped(library, scenario, program, tmp_path / "run", core=False) as made:
        yield made


# `make soak` looks at more.
STOPS = 5 * soak.TIMES


def used(target: str) -> dict[int, int]:
    """Return usable size by address of the blocks in use, anew each time."""
    answer = shell("blocks", target, "-list", "-limit", "unlimited", "-state", "used", "-json")
    assert answer.status == 0, answer.stderr
    return {int(block["address"], 16): block["size"] for block in answer.json()["blocks"]}


def is_sound(answer: Any) -> None:
    """Hold the heap to have no damage: what calls left half done is in the notes."""
    assert answer["damages"] == 0, answer["damage"]
    assert all(check["holds"] for check in answer["checks"]), answer["checks"]
    for arena in answer["arenas"]:
        noted = [note for note in answer["notes"] if f"arena {arena['address']}:" in note]
        assert all("in the middle of a malloc call" in note for note in noted)
        assert bool(noted) == bool(arena["in_call"]), (noted, arena["in_call"])


def test_blocks_that_stay_are_in_use_in_a_core_taken_at_any_moment(stop: Stop) -> None:
    for _ in range(3):
        cores.gcore(stop.process.pid, stop.core)
        wrong = held_differences(stop.folder, used(str(stop.core)))
        assert not wrong, f"{len(wrong)} blocks: {wrong[:10]}"
        is_sound(shell("heap", str(stop.core), "-json").json())


def test_blocks_that_stay_are_in_use_in_a_process_stopped_at_any_moment(stop: Stop) -> None:
    for _ in range(STOPS):
        wrong = held_differences(stop.folder, used(str(stop.process.pid)))
        assert not wrong, f"{len(wrong)} blocks: {wrong[:10]}"
        is_sound(shell("heap", str(stop.process.pid), "-json").json())
    assert stop.process.alive()
