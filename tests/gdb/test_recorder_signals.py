"""The recorder where signals, forks and other libraries get in between."""

from pathlib import Path

import pytest
from harness import recorder
from harness.processes import Program
from harness.recorder import OPTIMISED, Told
from harness.recordings import Recording

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signals")


@pytest.fixture(scope="module")
def bump(folder: Path) -> Path:
    """Have an allocator that signal handlers may call."""
    return recorder.library("recorder_bump.c", folder, "-O2")


@pytest.fixture(scope="module")
def signals(folder: Path) -> Path:
    return recorder.build("recorder_signals.c", folder, *OPTIMISED)


@pytest.fixture(scope="module")
def forks(folder: Path) -> Path:
    return recorder.build("recorder_forks.c", folder, *OPTIMISED)


def signalled(signals: Path, bump: Path, *arguments: str) -> tuple[Told, Recording]:
    program = Program(signals, *arguments, environment=recorder.settings(behind=[bump]))
    try:
        return recorder.ready(program)
    finally:
        program.end()


@pytest.mark.parametrize("threads", ["1", "2", "6"])
def test_signal_handlers_may_allocate_and_give_back(
    signals: Path, bump: Path, threads: str
) -> None:
    told, recording = signalled(signals, bump, threads, "10000")
    alive = {at: size for at, (_, _, size) in told.blocks.items()}
    found = {at: size for at, (_, size) in recorder.own(recording, signals).items()}
    assert {at: found[at] for at in found.keys() & alive.keys()}.items() <= alive.items()
    # What a handler allocated that interrupted the recorder is missed; what it gave back
    # waits, and only where too much does it stay.
    assert len(alive.keys() - found.keys()) <= recording.missed
    assert len(found.keys() - alive.keys()) <= recording.stale
    assert len(found.keys() & alive.keys()) > len(alive) // 2
    assert recording.missed > 0
    assert recording.dropped == 0


def test_a_signal_handler_may_fork(signals: Path, bump: Path) -> None:
    told, recording = signalled(signals, bump, "2", "10000", "fork")
    said = dict(line.split() for line in told.rest)
    assert said["failed"] == "0"
    assert int(said["forks"]) > 20
    assert recording.pid > 0


def test_children_of_many_forks_record_on(forks: Path) -> None:
    answer = recorder.run(forks, "4", "100", "3")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "failed 0\n", "")
