"""A heap in which one thing is wrong: it is named, and the rest is listed right."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from harness import heaps
from harness.glibc import Glibc
from harness.heap_stops import (
    Scenario,
    Stop,
    covering,
    differences,
    held_differences,
    stopped,
)

#: A used chunk's header, or the one behind it.
HEADERS = ("size0", "past", "misaligned", "prevclear")
#: A link of a list.
LINKS = ("tcacheloop", "fastloop", "outside", "wild", "binlink", "smalllink", "sizelink")


def scenarios(*kinds: str) -> list[Scenario]:
    """Return a scenario for each of KINDS and each sort of arena."""
    return [
        Scenario(f"{kind} {arena}", "heap_broken", (kind, arena, "FOLDER"))
        for kind in kinds
        for arena in ("main", "thread")
    ]


def broken(
    request: pytest.FixtureRequest,
    library: Glibc,
    fixture_on: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stop]:
    scenario: Scenario = request.param
    if scenario.arguments[0] == "fastloop" and library.minor >= 43:
        pytest.skip("glibc has no fastbins since 2.43")
    program = fixture_on(library, "heap_broken")
    with stopped(library, scenario, program, tmp_path_factory.mktemp("broken") / "run") as made:
        yield made


_names: Any = {"ids": lambda scenario: scenario.name, "scope": "module"}
stop = pytest.fixture(broken, params=scenarios(*HEADERS, *LINKS), **_names)
stop_of_a_header = pytest.fixture(broken, params=scenarios(*HEADERS), **_names)
stop_of_a_link = pytest.fixture(broken, params=scenarios(*LINKS), **_names)
stop_of_a_foot = pytest.fixture(broken, params=scenarios("foot"), **_names)
stop_of_a_list = pytest.fixture(broken, params=scenarios("tcachecut"), **_names)
sound = pytest.fixture(broken, params=scenarios("none"), **_names)


def near(stop: Stop) -> set[int]:
    """Return the addresses by which the damage may be called: the word, block and chunk."""
    (block, _), (word, _) = stop.places["block"], stop.places["word"]
    return {block, block - 16, word, word - 8}


def test_a_sound_heap_has_no_damage(sound: Stop, form: str) -> None:
    said = sound.heap(form)
    assert said["damage"] == []
    assert all(check["holds"] for check in said["checks"]), said["checks"]
    assert not held_differences(sound.folder, sound.blocks(form, "used"))


def test_the_damage_is_named_with_address_and_rule(stop: Stop, form: str) -> None:
    damage = stop.heap(form)["damage"]
    assert damage
    assert all(entry["rule"] for entry in damage)
    named = {int(entry["address"], 16) for entry in damage}
    assert named & near(stop), damage


def test_a_check_does_not_hold(stop: Stop, form: str) -> None:
    assert not all(check["holds"] for check in stop.heap(form)["checks"])


def test_every_other_block_is_in_use_with_its_usable_size(stop: Stop, form: str) -> None:
    held = {block.address: block.usable for block in heaps.held(stop.folder)}
    # Of a broken header nothing is sure.
    held.pop(stop.places["block"][0], None)
    wrong = differences(held, stop.blocks(form, "used"))
    assert not wrong, f"{len(wrong)} of {len(held)} blocks: {wrong[:10]}"


def test_no_freed_block_is_in_use_but_those_to_which_no_list_leads(stop: Stop, form: str) -> None:
    lost = {stop.places[name][0] for name in ("behind0", "behind1") if name in stop.places}
    freed = [address for address in heaps.freed(stop.folder) if address not in lost]
    wrong = [
        f"{address:#x} is said to lie in {start:#x}"
        for address, start in covering(stop.blocks(form, "used"), freed)
        if start is not None
    ]
    assert not wrong, f"{len(wrong)} of {len(freed)}: {wrong[:10]}"


def test_a_broken_header_leaves_the_lists_sound(stop_of_a_header: Stop, form: str) -> None:
    checks = {c["rule"]: c["holds"] for c in stop_of_a_header.heap(form)["checks"]}
    assert checks["list-links"]
    assert checks["tcache-counts"]
    assert not checks["tiling"]


def test_a_broken_link_leaves_the_tiling_sound(stop_of_a_link: Stop, form: str) -> None:
    checks = {c["rule"]: c["holds"] for c in stop_of_a_link.heap(form)["checks"]}
    assert checks["tiling"]
    assert checks["system-mem"]
    assert not (checks["list-links"] and checks["tcache-counts"])


def test_a_free_chunk_whose_size_behind_it_is_wrong_is_damage_where_no_thread_is_in_a_call(
    stop_of_a_foot: Stop, form: str
) -> None:
    said = stop_of_a_foot.heap(form)
    named = {int(entry["address"], 16) for entry in said["damage"]}
    assert named & near(stop_of_a_foot), said["damage"]
    assert not all(check["holds"] for check in said["checks"])
    assert not any("malloc call" in note for note in said["notes"])


def test_a_list_that_is_one_short_is_damage_where_no_thread_is_in_a_call(
    stop_of_a_list: Stop, form: str
) -> None:
    said = stop_of_a_list.heap(form)
    checks = {check["rule"]: check["holds"] for check in said["checks"]}
    assert [rule for rule, holds in checks.items() if not holds] == ["tcache-counts"]
    assert not any("malloc call" in note for note in said["notes"])
    assert not any(arena["in_call"] for arena in said["arenas"])
