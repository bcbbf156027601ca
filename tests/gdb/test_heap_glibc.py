"""The heap against the C library's own figures, and against what programs hold."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from harness import cores, glibc
from harness.glibc import Glibc
from harness.heap_stops import (
    Scenario,
    Stop,
    arenas_as_said,
    arenas_by_glibc,
    free_bytes,
    freed_in_use,
    held_differences,
    stopped,
    sums_as_said,
    sums_by_glibc,
)


def traffic(
    name: str, seed: int = 1, operations: int = 5000, threads: int = 3, **how: Any
) -> Scenario:
    """Return random traffic, by fewer threads than the heaviest."""
    arguments = (str(seed), str(operations), str(threads), "FOLDER")
    return Scenario(name, "heap_traffic", arguments, **how)


def tunable(text: str, **how: Any) -> Scenario:
    """Return random traffic under a tunable of glibc's malloc."""
    environment = (("GLIBC_TUNABLES", f"glibc.malloc.{text}"),)
    return traffic(text, environment=environment, **how)


def variable(name: str, value: str) -> Scenario:
    """Return random traffic under a variable that malloc reads."""
    return traffic(f"{name}={value}", environment=((name, value),))


SEEDS = range(1, 3) if glibc.rows()[0].root is None else range(1, 5)
HEAVIEST = [traffic(f"seed {seed}", seed, 20000, 8) for seed in SEEDS]
SCENARIOS = [
    *HEAVIEST,
    Scenario("foreign sbrk", "heap_foreign"),
    Scenario("brk fails from the start", "heap_nobrk", ("never", "FOLDER")),
    Scenario("brk fails from the start, with guard pages", "heap_nobrk", ("guarded", "FOLDER")),
    Scenario("brk fails later", "heap_nobrk", ("later", "FOLDER")),
    Scenario("brk fails for a while", "heap_nobrk", ("again", "FOLDER")),
    variable("MALLOC_PERTURB_", "165"),
    variable("MALLOC_ARENA_MAX", "1"),
    variable("MALLOC_ARENA_MAX", "2"),
    variable("MALLOC_TOP_PAD_", "1000000"),
    tunable("tcache_count=0"),
    tunable("tcache_count=100"),
    tunable("mmap_threshold=8192"),
    tunable("mxfast=160"),
    tunable("hugetlb=1"),
    tunable("hugetlb=2"),
    # From glibc 2.42 on: large blocks in tcache as well.
    tunable("tcache_max=4194304"),
    traffic("static", flags=("-static",)),
    traffic("static-pie", flags=("-static-pie",)),
    traffic("no-pie", flags=("-no-pie",)),
    traffic("32 bits", flags=("-m32",), word=4),
    Scenario("32 bits, foreign sbrk", "heap_foreign", flags=("-m32",), word=4),
    Scenario("32 bits, brk fails", "heap_nobrk", ("again", "FOLDER"), flags=("-m32",), word=4),
    traffic("no randomisation", wrapper=("setarch", "-R")),
    traffic("started by the loader", wrapper=("LOADER", "--library-path", "LIBRARIES")),
]


@pytest.fixture(scope="module", params=SCENARIOS, ids=lambda scenario: scenario.name)
def stop(
    request: pytest.FixtureRequest,
    library: Glibc,
    fixture_on: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stop]:
    scenario: Scenario = request.param
    if library.root is None and "LOADER" in scenario.wrapper:
        pytest.skip("our own C library needs no other loader")
    if scenario.wrapper[:1] == ("setarch",):
        done = subprocess.run([*scenario.wrapper, "true"], capture_output=True)
        if done.returncode:
            pytest.skip(f"not permitted here: {done.stderr.decode().strip()}")
    if scenario.word == 4 and library.root is not None:
        pytest.skip("the libraries of the matrix have 64 bits")
    if scenario.flags and not glibc.compiles(*scenario.flags):
        pytest.skip(f"gcc cannot link with {' '.join(scenario.flags)} here")
    program = fixture_on(library, scenario.fixture, *scenario.flags)
    with stopped(library, scenario, program, tmp_path_factory.mktemp("heap") / "run") as made:
        yield made


def test_the_sums_over_arenas_equal_mallinfo(stop: Stop, form: str) -> None:
    assert sums_as_said(stop.heap(form)) == sums_by_glibc(stop.folder)


def test_each_arena_equals_malloc_info(stop: Stop, form: str) -> None:
    said = stop.heap(form)
    true = arenas_by_glibc(stop.folder, stop.scenario.word)
    assert arenas_as_said(said) == true
    kinds = [arena["kind"] for arena in said["arenas"]]
    assert kinds == ["main"] + ["thread"] * (len(true) - 1)


def test_the_parts_of_an_arena_add_up_to_what_it_took_from_the_system(
    stop: Stop, form: str
) -> None:
    for arena in stop.heap(form)["arenas"]:
        parts = arena["in_use"]["bytes"] + free_bytes(arena) + arena["top"] + arena["overhead"]
        assert parts == arena["system"], arena


def test_the_parts_add_up_to_the_writable_bytes(stop: Stop, form: str) -> None:
    said = stop.heap(form)
    total = said["total"]
    parts = total["in_use"]["bytes"] + free_bytes(total) + total["top"]
    parts += total["overhead"] + total["other"] + said["mmapped"]["bytes"]
    regions = stop.ask(form, "regions", "-in", "writable")
    # gcore shows guard pages within blocks as read-only.
    assert parts - total["unwritable"] == regions["total"]["size"]


def test_every_check_holds_and_no_damage_is_named(stop: Stop, form: str) -> None:
    said = stop.heap(form)
    checks = {check["rule"]: check["holds"] for check in said["checks"]}
    assert all(checks.values()), said["checks"]
    # A library without tcache has no counts to check.
    assert {"tiling", "system-mem", "list-links", "mmapped"} <= set(checks)
    assert said["damage"] == []


def test_every_held_block_is_in_use_with_its_usable_size(stop: Stop, form: str) -> None:
    wrong = held_differences(stop.folder, stop.blocks(form, "used"))
    assert not wrong, f"{len(wrong)} blocks: {wrong[:10]}"


def test_no_freed_block_is_in_use(stop: Stop, form: str) -> None:
    wrong = freed_in_use(stop.folder, stop.blocks(form, "used"))
    assert not wrong, f"{len(wrong)} blocks: {wrong[:10]}"


def test_blocks_in_use_and_free_ones_do_not_overlap(stop: Stop, form: str) -> None:
    blocks = {**stop.blocks(form, "used"), **stop.blocks(form, "free")}
    end = 0
    for address in sorted(blocks):
        assert address >= end, f"{address:#x} begins before {end:#x}, where another ends"
        end = address + blocks[address]


def test_the_core_and_the_live_process_give_the_same_answer(stop: Stop) -> None:
    core, live = stop.heap("core"), stop.heap("live")
    for key in ("arenas", "mmapped", "checks"):
        assert core[key] == live[key], key
    for state in ("used", "free"):
        assert stop.blocks("core", state) == stop.blocks("live", state), state


def test_debug_symbols_of_libc_change_no_figure(stop: Stop, tmp_path: Path) -> None:
    # Static programs carry their own; stripped ones have none at all.
    assert stop.library.debug.exists() or stop.library.root is None
    commands = (
        "leak-heap -json",
        "leak-blocks -json -list -limit unlimited",
        "info symbol &mp_",
    )
    hidden = stop.gdb(tmp_path, *commands)
    present = stop.gdb(stop.library.debug, *commands)
    (hidden_heap, hidden_blocks), (heap, blocks) = hidden.all_json(), present.all_json()
    for key in ("arenas", "mmapped", "total", "checks", "damage"):
        assert hidden_heap[key] == heap[key], key
    assert hidden_blocks["blocks"] == blocks["blocks"]
    assert heap["arenas"] == stop.heap("core")["arenas"]
    if "-static" not in " ".join(stop.scenario.flags):
        assert "mp_ in section" not in hidden.stdout, "the symbols were to be hidden"
        # Of a program that its loader started gdb looks for the loader's libraries.
        if stop.library.root is not None and "LOADER" not in stop.scenario.wrapper:
            assert "mp_ in section" in present.stdout, "the symbols were to be found"


# The kernel moves the heap away from the end of zeroed data, not from that of the program's file.
FAR = Scenario("zeroed data of 1.2 GiB", "heap_foreign", flags=("-DZEROED=0x4c000000",))


@pytest.mark.parametrize("scenario", [HEAVIEST[0], FAR], ids=lambda scenario: scenario.name)
def test_the_kernels_core_gives_the_same_answer(
    library: Glibc,
    fixture_on: Callable[..., Path],
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    program = fixture_on(library, scenario.fixture, *scenario.flags)
    with (
        cores.plain_core_pattern(),
        stopped(library, scenario, program, tmp_path / "run", core=False) as stop,
    ):
        used = stop.blocks("live", "used")
        arenas = stop.heap("live")["arenas"]
        stop.core = cores.kernel_core(stop.process)
        try:
            assert stop.heap("core")["arenas"] == arenas
            assert stop.blocks("core", "used") == used
        finally:
            stop.core.unlink()
