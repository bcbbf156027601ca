"""Each state that a block can be in, and the reason that is given for it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from harness.glibc import Glibc
from harness.heap_stops import Scenario, Stop, stopped

MAPPED = {"mmapped", "mapped64", "mapped4096", "mapped1m", "mremapped"}
#: By name of a place: the state, and what the reason must name.
STATES = {
    **{f"used{size}": ("used", r"PREV_INUSE") for size in (16, 100, 1000, 5000)},
    "calloced": ("used", r"PREV_INUSE"),
    "aligned": ("used", r"PREV_INUSE"),
    "last": ("used", r"PREV_INUSE"),
    "tcache": ("free", r"\btcache\b"),
    "fastbin": ("free", r"\bfast ?bin\b"),
    "unsorted": ("free", r"\bunsorted\b"),
    "smallbin": ("free", r"\bsmall ?bin\b"),
    "largebin": ("free", r"\blarge ?bin\b"),
    **dict.fromkeys(sorted(MAPPED), ("used", "mmap")),
}


@pytest.fixture(
    scope="module", params=[(), ("-static",)], ids=lambda flags: " ".join(flags) or "dynamic"
)
def stop(
    request: pytest.FixtureRequest,
    library: Glibc,
    fixture_on: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stop]:
    program = fixture_on(library, "heap_single", *request.param)
    scenario = Scenario("one of each", "heap_single", ())
    with stopped(library, scenario, program, tmp_path_factory.mktemp("single") / "run") as made:
        # Fastbins went with glibc 2.43.
        assert set(made.places) - {"top"} == set(STATES) - (
            {"fastbin"} if library.minor >= 43 else set()
        )
        yield made


def expected(stop: Stop) -> Iterator[tuple[str, int, int]]:
    """Yield name, address and usable size of each block."""
    for name, (address, size) in stop.places.items():
        if name != "top":
            yield name, address, size


def test_each_block_has_its_state_and_its_size(stop: Stop, form: str) -> None:
    said = {name: stop.whatis(form, at)["block"] for name, at, _ in expected(stop)}
    assert said == {
        name: {"address": hex(address), "size": size, "offset": 0, "state": STATES[name][0]}
        for name, address, size in expected(stop)
    }


def test_the_reason_names_the_list_or_the_flag(stop: Stop, form: str) -> None:
    reasons = {name: stop.whatis(form, at)["why"] for name, at, _ in expected(stop)}
    wrong = {
        name: why
        for name, why in reasons.items()
        if not re.search(STATES[name][1], why, re.IGNORECASE)
    }
    assert not wrong


def test_the_last_byte_of_a_block_belongs_to_it(stop: Stop, form: str) -> None:
    for name, address, size in expected(stop):
        block = stop.whatis(form, address + size - 1)["block"]
        assert (block["address"], block["offset"]) == (hex(address), size - 1), name


def test_only_mapped_blocks_are_counted_as_such(stop: Stop, form: str) -> None:
    said = stop.heap(form)["mmapped"]
    assert said["blocks"] == len(MAPPED)
    assert said["bytes"] >= sum(size for name, _, size in expected(stop) if name in MAPPED)


def test_blocks_are_listed_in_the_state_that_whatis_tells(stop: Stop, form: str) -> None:
    for state in ("used", "free"):
        listed = stop.blocks(form, state)
        for name, address, size in expected(stop):
            wanted = size if STATES[name][0] == state else None
            assert listed.get(address) == wanted, name


def test_the_first_byte_of_top_is_said_to_be_in_top(stop: Stop, form: str) -> None:
    answer = stop.whatis(form, stop.places["top"][0])
    assert re.search(r"\btop\b", answer["why"])


def test_the_block_that_pins_the_tail_is_the_one_before_top(stop: Stop, form: str) -> None:
    # Whatever the key is called: the address is in the answer.
    pinned = stop.heap(form)["trim"]["pinned_by"]
    assert pinned["address"] == hex(stop.places["last"][0])
