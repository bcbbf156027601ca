"""A heap on aarch64, in a core that qemu's user emulation writes."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import glibc
from harness.debuggers import shell
from harness.heap_stops import (
    arenas_as_said,
    arenas_by_glibc,
    freed_in_use,
    held_differences,
    sums_as_said,
    sums_by_glibc,
)
from harness.processes import Program

LACKING = glibc.lacks_aarch64()
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {LACKING}")


@dataclass
class Emulated:
    """The core of a program on aarch64, and the folder with its notes."""

    core: Path
    folder: Path

    def ask(self, command: str, *words: str) -> dict[str, Any]:
        """Return the shell's answer on the core."""
        answer = shell(command, self.core, *words, "-json")
        assert answer.status == 0, answer.stderr
        return answer.json()

    def used(self) -> dict[int, int]:
        """Return usable size by address of the blocks in use."""
        answer = self.ask("blocks", "-list", "-limit", "unlimited", "-state", "used")
        return {int(block["address"], 16): block["size"] for block in answer["blocks"]}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    # The emulator writes a core of the program into its own folder when a signal
    # ends that, and the kernel may write one of the emulator.
    folder = tmp_path_factory.mktemp("aarch64")
    notes = folder / "notes"
    notes.mkdir()
    words = glibc.aarch64("heap_traffic", folder / "heap_traffic")
    arguments = (*map(str, words[1:]), "1", "3000", "2", str(notes))
    program = Program(words[0], *arguments, cwd=folder)
    try:
        program.wait_for("READY")
        program.signal(signal.SIGABRT)
        program.wait()
        (core,) = folder.glob("qemu_*.core")
        yield Emulated(core, notes)
    finally:
        program.end()
        for core in (*folder.glob("*.core"), *folder.glob("core*")):
            core.unlink()


def test_the_core_is_known_as_one_of_aarch64(emulated: Emulated) -> None:
    assert emulated.ask("heap")["target"]["arch"] == "aarch64"


def test_every_held_block_is_in_use_with_its_usable_size(emulated: Emulated) -> None:
    wrong = held_differences(emulated.folder, emulated.used())
    assert not wrong, f"{len(wrong)} blocks: {wrong[:10]}"


def test_no_freed_block_is_in_use(emulated: Emulated) -> None:
    wrong = freed_in_use(emulated.folder, emulated.used())
    assert not wrong, f"{len(wrong)} blocks: {wrong[:10]}"


def test_the_figures_equal_glibcs_own(emulated: Emulated) -> None:
    said = emulated.ask("heap")
    assert sums_as_said(said) == sums_by_glibc(emulated.folder)
    assert arenas_as_said(said) == arenas_by_glibc(emulated.folder)
    assert all(check["holds"] for check in said["checks"]), said["checks"]
