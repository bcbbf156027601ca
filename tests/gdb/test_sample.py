"""The first question of a hunt, on the sample: where is this text."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import pytest
from harness import truth
from harness.debuggers import Answer, gdb, shell

LEAKED = 0x6D2064656B61656C  # "leaked m"
#: 101 blocks, and the copy in stdout's buffer.
COPIES = 102


@dataclass
class Stop:
    """The sample after all calls, in one of the forms in which gdb can have it."""

    program: Path
    mappings: list[truth.Mapping]
    core: Optional[Path] = None
    pid: Optional[int] = None

    def gdb(self, *commands: str) -> Answer:
        return gdb(
            *commands, program=self.program if self.core else None, core=self.core, pid=self.pid
        )

    def find(self, line: str) -> dict[str, Any]:
        return self.gdb(f"leak-find -json {line}").json()

    def runs(self, heap: bool = False) -> Iterator[tuple[int, bytes]]:
        wanted = truth.heap if heap else truth.writable
        if self.pid is not None:
            return truth.process_runs(self.pid, wanted)
        assert self.core is not None
        spans = [mapping.span for mapping in self.mappings if wanted(mapping)]
        return (
            (start, data)
            for start, data in truth.core_runs(self.core, writable=True)
            if any(start < end and begin < start + len(data) for begin, end in spans)
        )


@pytest.fixture(params=["live", "gcore", "kernel core"])
def stop(request: pytest.FixtureRequest) -> Stop:
    if request.param == "kernel core":
        core, mappings = request.getfixturevalue("sample_kernel_core")
        return Stop(request.getfixturevalue("programs")["sample"], mappings, core=core)
    sample = request.getfixturevalue("sample")
    mappings = truth.parse_maps(sample.maps_after.read_text())
    if request.param == "gcore":
        return Stop(sample.path, mappings, core=sample.after)
    return Stop(sample.path, mappings, pid=sample.live.pid)


def heap_of(stop: Stop) -> truth.Mapping:
    (heap,) = filter(truth.heap, stop.mappings)
    return heap


def addresses(answer: dict[str, Any]) -> list[int]:
    return [int(match["address"], 16) for match in answer["matches"]]


def test_every_lost_text_is_found_and_the_copy_in_the_buffer(stop: Stop) -> None:
    answer = stop.find('"leaked" -in heap -limit unlimited')
    assert answer["count"] == COPIES
    assert addresses(answer) == truth.places(stop.runs(heap=True), b"leaked")


def test_writable_memory_holds_no_other_copy(stop: Stop) -> None:
    answer = stop.find('"leaked memory" -limit unlimited')
    assert addresses(answer) == truth.places(stop.runs(), b"leaked memory")
    assert answer["count"] == COPIES


def test_the_copy_in_the_buffer_is_told_apart_by_its_text(stop: Stop) -> None:
    # In the buffer a line feed follows, and "wrote: " stands before it.
    answer = stop.find(r'"wrote: leaked memory\n" -in heap')
    (buffer,) = addresses(answer)
    blocks = addresses(stop.find('-z "leaked memory" -in heap -limit unlimited'))
    assert len(blocks) == COPIES - 1
    assert buffer + len("wrote: ") not in blocks


def test_every_match_names_its_region(stop: Stop) -> None:
    answer = stop.find('"leaked" -in heap')
    heap = heap_of(stop)
    assert {
        (match["region"]["start"], match["region"]["end"], match["region"]["kind"])
        for match in answer["matches"]
    } == {(hex(heap.start), hex(heap.end), "heap")}


def test_gdbs_own_find_of_the_same_text_finds_none(stop: Stop) -> None:
    heap = heap_of(stop)
    answer = stop.gdb(f'find {heap.start:#x}, {heap.end - 1:#x}, "leaked"')
    assert "Pattern not found" in answer.stdout


def test_a_word_is_found_at_aligned_and_unaligned_places(stop: Stop) -> None:
    answer = stop.find(f"-in heap -u64 {LEAKED:#x} -limit unlimited")
    true = truth.places(stop.runs(heap=True), struct.pack("<Q", LEAKED))
    assert addresses(answer) == true
    assert any(address % 8 for address in true)
    assert answer["needle"] == b"leaked m".hex()


def test_align_keeps_the_places_at_a_multiple(stop: Stop) -> None:
    answer = stop.find(f"-in heap -u64 {LEAKED:#x} -align 8 -limit unlimited")
    true = truth.places(stop.runs(heap=True), struct.pack("<Q", LEAKED))
    assert addresses(answer) == [address for address in true if address % 8 == 0]


def test_a_number_that_does_not_fit_is_refused_with_the_rule(stop: Stop) -> None:
    answer = stop.gdb("leak-find -u8 0x64656b61656c")
    assert answer.status == 1
    assert answer.error == (
        "leak-find: needle 0x64656b61656c: does not fit into 1 byte (0 to 0xff, or -0x80 to -1)"
    )


def test_the_last_match_and_the_count_are_left_in_variables(stop: Stop) -> None:
    answer = stop.gdb('leak-find "leaked" -in heap -limit 1', "print $numfound", "print/x (long)$_")
    last = truth.places(stop.runs(heap=True), b"leaked")[-1]
    assert f"$1 = {COPIES}" in answer.stdout
    assert f"$2 = {last:#x}" in answer.stdout


def test_no_match_is_an_answer_and_leaves_the_variable_void(stop: Stop) -> None:
    answer = stop.gdb('leak-find "nobody wrote this"', "print $_", "print $numfound")
    assert answer.status == 0
    assert "$1 = void\n$2 = 0\n" in answer.stdout


def test_listed_matches_are_limited_and_the_count_is_not(stop: Stop) -> None:
    answer = stop.find('"leaked" -limit 3')
    assert answer["count"] == COPIES
    assert len(answer["matches"]) == 3
    assert answer["limited"] is True


def test_the_shell_finds_the_same_as_gdb(stop: Stop) -> None:
    target = stop.core or str(stop.pid)
    from_shell = shell("find", target, "leaked", "-json").json()
    from_gdb = stop.find('"leaked"')
    if stop.core is None:
        # A process that runs on moves its blocks; -stop would hold it.
        assert [match["block"] for match in from_shell["matches"]] == [None] * COPIES
        for match in from_gdb["matches"]:
            match["block"] = None
    assert from_shell["matches"] == from_gdb["matches"]
    assert from_shell["count"] == from_gdb["count"] == COPIES
