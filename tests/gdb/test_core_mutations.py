"""Damaged cores end in an answer or an error, in time and memory of the file's size."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from harness import cores, recorder, soak
from harness.limited import Door, Outcome
from harness.mutations import mutate
from harness.processes import Program

#: Minutes of random damage; without the variable a few fixed seeds.
SOAK = soak.TIMES
SEEDS = 12
# Much else may go on on the machine, in the soak and beside it.
SECONDS = 30
DATA = 2 << 30


@pytest.fixture(scope="module")
def originals(
    sample: Any,
    sample_kernel_core: Any,
    programs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, bytes]:
    """Make cores to damage: by gcore and by the kernel, of several threads, with a recording."""
    folder = tmp_path_factory.mktemp("originals")
    made = {"gcore": sample.after.read_bytes(), "kernel": sample_kernel_core[0].read_bytes()}
    with cores.plain_core_pattern():
        program = Program(programs["threads"], cwd=folder)
        program.wait_for("READY")
        made["threads"] = cores.kernel_core(program).read_bytes()
        program.end()
    program = Program(programs["sample"], cwd=folder, environment=recorder.settings())
    try:
        program.wait_for("waiting for a key")
        made["recorded"] = cores.gcore(program.pid, folder / "recorded").read_bytes()
    finally:
        program.end()
    return made


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with Door(tmp_path) as door:
        yield door


def commands(core: Path, address: str, base: Path) -> Iterator[tuple[str, ...]]:
    """Yield every command that looks into a core."""
    own = str(core)
    yield from (("overview", own), ("regions", own), ("regions", own, "-json"))
    yield ("find", own, "leaked", "-in", "all", "-json")
    yield ("find", own, "-hex", "0000000000000000", "-in", "all")
    yield ("find", own, "-regex", "[a-z]+ed", "-limit", "5")
    yield ("find", own, "-pointer", address)
    yield ("find", own, "leaked", "-state", "used")
    yield ("dump", own, address, "+0x100000")
    yield ("strings", own, "-json")
    yield from (("heap", own), ("heap", own, "-json"), ("blocks", own, "-json"))
    yield from (("check", own), ("check", own, "-json"))
    yield ("refs", own, address)
    yield ("whatis", own, address, "-json")
    yield ("diff-region", str(base), own)
    yield ("snapshot", own, str(base.with_suffix(".snapshot")), "-force")


def judged(outcome: Outcome, file: Path) -> str:
    """Return what is wrong with the outcome of a command on FILE."""
    held = file.stat().st_blocks * 512
    if "Traceback" in outcome.output or "panicked" in outcome.output:
        return "a traceback: " + outcome.output[-2000:]
    if outcome.status not in (0, 1, 2, 3):
        return f"status {outcome.status} after {outcome.seconds:.1f} s: {outcome.output[-300:]}"
    if outcome.resident > (150 << 20) + 40 * held:
        return f"{outcome.resident >> 20} MiB for a file of {held >> 10} KiB"
    return ""


def tried(door: Door, core: bytes, seed: int, folder: Path) -> list[str]:
    """Return what goes wrong with CORE, damaged as SEED says."""
    file, base = folder / "core.mutated", folder / "core.base"
    base.write_bytes(core)
    changes = mutate(core, seed, file)
    # A file that was just written may be one that grows.
    for path in (file, base):
        os.utime(path, (1, 1))
    address = next(hex(at) for at, _, _, _, how in cores.loads(base) if "w" in how)
    wrong = []
    for words in commands(file, address, base):
        outcome = door.run(*words, seconds=SECONDS, data=DATA)
        fault = judged(outcome, file)
        if fault:
            wrong.append(f"seed {seed} ({changes}): {' '.join(words)}: {fault}")
    return wrong


@pytest.mark.parametrize("name", ["gcore", "kernel", "recorded", "threads"])
def test_a_damaged_core_is_answered_or_refused_in_bounds(
    originals: dict[str, bytes], door: Door, tmp_path: Path, name: str
) -> None:
    wrong = [
        fault for seed in range(SEEDS) for fault in tried(door, originals[name], seed, tmp_path)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(not soak.ASKED, reason="takes minutes: GDB_LEAK_SOAK says how many")
@pytest.mark.timeout(SOAK * 90 + 600)
def test_so_is_any_other(
    originals: dict[str, bytes],
    door: Door,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    first = seed = int(os.environ.get("GDB_LEAK_SEED", time.time_ns() // 1000))
    end = time.monotonic() + 60 * SOAK
    wrong: list[str] = []
    while time.monotonic() < end:
        name = sorted(originals)[seed % len(originals)]
        wrong += [f"{name}: {fault}" for fault in tried(door, originals[name], seed, tmp_path)]
        seed += 1
    tried_all = f"{seed - first} damaged cores, seeds from {first} on"
    assert not wrong, f"{len(wrong)} faults in {tried_all}:\n" + "\n".join(wrong)
    record_property("tried", tried_all)
