"""The recorder in programs that limit themselves: they run as they do without it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import recorder
from harness.processes import Program
from harness.recordings import Recording

COUNT = 300_000
#: How the program limits itself where that leaves room for the recording.
ROOMY = ("filter", "raw", "threads", "heir", "locked")


@pytest.fixture(scope="module")
def limits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorder.build(
        "recorder_limits.c", tmp_path_factory.mktemp("limits"), "-O1", "-pthread", "-Wextra"
    )


@pytest.fixture
def held(limits: Path, request: pytest.FixtureRequest) -> Iterator[tuple[int, Recording]]:
    """Have a program at the end of its work: the blocks that it got, and its recording."""
    program = Program(limits, *request.param, environment=recorder.settings())
    told, recording = recorder.ready(program)
    (kept,) = (int(line.split()[1]) for line in told.rest if line.startswith("kept"))
    yield kept, recording
    program.end()


@pytest.mark.parametrize("held", [(how, str(COUNT)) for how in ROOMY], indirect=True)
def test_a_program_under_limits_gets_every_block_and_each_is_recorded(
    held: tuple[int, Recording],
) -> None:
    kept, recording = held
    assert kept == COUNT
    assert sum(block.size == 100 for block in recording.blocks.values()) == COUNT
    counts = (recording.dropped, recording.missed, recording.stale, recording.cut)
    assert counts == (0, 0, 0, 0)


@pytest.mark.parametrize("held", [("filter", "2000")], indirect=True)
def test_a_stack_of_pages_never_seen_before_is_whole_under_a_filter(
    held: tuple[int, Recording],
) -> None:
    _, recording = held
    deepest = max(recording.by_stack(), key=len)
    assert deepest[0] == "malloc"
    assert deepest.count("deep") == 51
    assert "main" in deepest


# Without the recorder all three million fit; a block takes 112 bytes, and its record 32 to 50.
@pytest.mark.parametrize("held", [("space", "3000000"), ("data", "3000000")], indirect=True)
def test_a_limit_that_the_program_sets_is_shared_in_proportion(held: tuple[int, Recording]) -> None:
    kept, recording = held
    assert kept > 2_000_000
    assert len(recording.blocks) + recording.dropped >= kept


@pytest.mark.parametrize("held", [("plain", "1000")], indirect=True)
def test_little_more_is_mapped_than_is_used(held: tuple[int, Recording]) -> None:
    _, recording = held
    mapped = 0
    for line in Path(f"/proc/{recording.pid}/maps").read_text(encoding="utf-8").splitlines():
        start, end = (int(word, 16) for word in re.split("[- ]", line)[:2])
        if recording.base <= start < recording.base + recording.reserved:
            mapped += end - start
    assert sum(size for _, size in recording.parts) + 4096 == mapped
    assert mapped < 4 << 20
