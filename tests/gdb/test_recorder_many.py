"""The recorder under many calls, many threads and many blocks: nothing more, nothing fewer."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import recorder, soak
from harness.processes import Program
from harness.recorder import OPTIMISED, Told
from harness.recordings import Recording

#: How many times the usual operations; `make soak` asks for more.
SOAK = soak.TIMES


@contextmanager
def stopped(path: Path, *arguments: str, **asked: int) -> Iterator[tuple[Told, Recording]]:
    """Run a fixture until it is ready."""
    program = Program(path, *arguments, environment=recorder.settings(**asked))
    try:
        yield recorder.ready(program)
    finally:
        program.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("many")


@pytest.fixture(scope="module")
def stress(folder: Path) -> Path:
    return recorder.build("recorder_stress.c", folder, *OPTIMISED)


@pytest.fixture(scope="module")
def recorded(folder: Path) -> Path:
    return recorder.build("recorded.c", folder, *OPTIMISED)


@pytest.mark.timeout(3600)
def test_what_is_alive_after_many_threads_is_what_is_recorded(stress: Path) -> None:
    operations = 100_000_000 * SOAK
    begun = time.monotonic()
    with stopped(stress, "8", str(operations), "1") as (told, recording):
        print(f"{operations:,} operations: {time.monotonic() - begun:.1f} s")  # noqa: T201
        alive = {at: (function, size) for at, (_, function, size) in told.blocks.items()}
        assert recorder.own(recording, stress) == alive
        assert len(alive) > 4000
        assert (recording.dropped, recording.missed, recording.stale) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(2, 6))
@pytest.mark.parametrize("threads", ["1", "2", "30"])
def test_what_is_alive_is_what_is_recorded(stress: Path, threads: str, seed: int) -> None:
    with stopped(stress, threads, "400000", str(seed)) as (told, recording):
        alive = {at: (function, size) for at, (_, function, size) in told.blocks.items()}
        assert recorder.own(recording, stress) == alive
        assert recording.missed == 0


LEVELS = ("first", "second", "third", "fourth", "fifth", "sixth")


def test_lost_blocks_are_left_each_with_its_whole_stack(recorded: Path) -> None:
    with stopped(recorded, "1000000", "2", "100", "hold") as (told, recording):
        expected: Counter[tuple[str, ...]] = Counter()
        for line in told.rest:
            if line.startswith("lost"):
                _, way, count, _ = map(int, line.replace("lost", "0").split())
                levels = [
                    f"{name}_{'odd' if way >> bit & 1 else 'even'}"
                    for bit, name in enumerate(LEVELS)
                ]
                way_of = ("malloc", "last", "plain", *reversed(levels), "take", "work")
                expected[way_of] = count
        assert sum(expected.values()) == 200
        found: Counter[tuple[str, ...]] = Counter()
        for names, count in recording.by_stack().items():
            if "take" in names:
                assert re.search("start_thread;.*clone", ";".join(names[11:])), names
                found[names[:11]] += count
        assert found == expected


def test_lost_bytes_are_those_that_were_asked_for(recorded: Path) -> None:
    with stopped(recorded, "1000000", "2", "100", "hold") as (told, recording):
        lost = sum(int(line.split()[3]) for line in told.rest if line.startswith("lost"))
        assert sum(size for _, size in recorder.own(recording, recorded).values()) == lost
