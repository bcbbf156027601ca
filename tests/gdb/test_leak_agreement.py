"""Verdicts against valgrind's, program by program, both where the program ends."""

import os
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import pytest
from harness import valgrind
from harness.leak_cases import CASES, Built, Case
from harness.leaks import AtExit, Counts, counts, run_to_exit


@dataclass(frozen=True)
class Difference:
    """What gdb-leak is to say where valgrind rightly says something else."""

    blocks: tuple[int, int, int, int]
    #: What valgrind prints there.
    evidence: str
    why: str


#: The whole of it: every other program must be told alike.
DIFFERENCES = {
    "new_array_empty": Difference(
        (0, 0, 1, 1),
        "8 bytes in 1 blocks are definitely lost",
        "the pointer is past the 8 bytes that were asked for, and within the 24 that malloc gave",
    ),
    "relro": Difference(
        (1, 0, 0, 2),
        "80 (40 direct, 40 indirect) bytes in 1 blocks are definitely lost",
        "valgrind scans no mapping that cannot be written, though a program reads them",
    ),
    "static": Difference(
        (2, 5, 0, 16),
        "total heap usage: 0 allocs",
        "valgrind replaces malloc in shared objects only",
    ),
    "registers_dead": Difference(
        (3, 0, 2, 0),
        "still reachable: 500 bytes in 2 blocks",
        "valgrind scans all registers, also those that no code reads again",
    ),
    "red_zone": Difference(
        (1, 0, 0, 0),
        "still reachable: 200 bytes in 1 blocks",
        "valgrind scans the 128 bytes below the stack pointer, gdb-leak with -red-zone only",
    ),
}

HEURISTICS = ("stdstring", "length64", "newarray", "multipleinheritance")
#: Programs whose blocks valgrind holds to be reachable by its heuristics only.
BY_HEURISTIC = [case for case in CASES if case.heuristics]

needs_valgrind = pytest.mark.skipif(bool(valgrind.missing()), reason=valgrind.missing())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(CASES, tmp_path_factory.mktemp("leaks"))


@dataclass
class Run:
    """A program at its end, in both tools."""

    case: Case
    at_exit: AtExit
    report: Optional[valgrind.Report]

    @property
    def theirs(self) -> valgrind.Report:
        """What valgrind reported."""
        assert self.report
        return self.report


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.title)
def run(
    request: pytest.FixtureRequest,
    built: Built,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Run]:
    case: Case = request.param
    program = built[case.title]
    if program.is_dir():
        pytest.skip(f"gcc cannot link with {' '.join(case.flags)} here")
    core = tmp_path_factory.mktemp("exit") / "core"
    with ThreadPoolExecutor(2) as pool:
        report = None if valgrind.missing() else pool.submit(valgrind.check, program)
        at_exit = run_to_exit(program, core)
        yield Run(case, at_exit, report.result() if report else None)
    core.unlink()


def expected(case: Case) -> Counts:
    """Return what gdb-leak is to say."""
    difference = DIFFERENCES.get(case.name)
    return Counts(*(difference.blocks if difference else case.blocks))


def skip_unless_counted(case: Case) -> None:
    """Skip where libc's own blocks, which are among those counted, may be others."""
    if case.of_libc and platform.libc_ver()[1] != "2.36":
        pytest.skip("how many blocks libc takes for itself is known of glibc 2.36")


@needs_valgrind
def test_valgrind_gives_the_blocks_the_verdicts_that_the_program_is_made_for(run: Run) -> None:
    skip_unless_counted(run.case)
    assert counts(run.theirs.summary) == run.case.blocks, run.theirs.text
    assert run.theirs.heuristics == run.case.heuristics


def test_a_core_at_exit_gives_the_blocks_the_verdicts_that_the_program_is_made_for(
    run: Run,
) -> None:
    skip_unless_counted(run.case)
    assert counts(run.at_exit.check()["summary"]) == expected(run.case)


@needs_valgrind
def test_valgrind_and_a_core_at_exit_agree_on_how_many_blocks_have_which_verdict(
    run: Run,
) -> None:
    difference = DIFFERENCES.get(run.case.name)
    if difference:
        assert difference.evidence in run.theirs.text
        assert counts(run.theirs.summary) != difference.blocks, "agrees: out of the table"
        assert counts(run.at_exit.check()["summary"]) == difference.blocks, difference.why
    else:
        assert counts(run.at_exit.check()["summary"]) == counts(run.theirs.summary)


@needs_valgrind
def test_bytes_are_those_that_valgrind_counts_and_what_malloc_rounds_them_up_by(
    run: Run,
) -> None:
    if run.case.name in DIFFERENCES:
        pytest.skip("the two count other blocks")
    said = run.at_exit.check()
    for verdict, asked in run.theirs.summary.items():
        sizes = [block["size"] for block in said["blocks"] if block["verdict"] == verdict]
        # Malloc's chunks are multiples of 16 bytes with 8 of them its own, and of 32 at
        # least (glibc 2.36, malloc/malloc.c, request2size). Mappings are whole pages, and
        # end with what an alignment of up to a page did not need.
        slack = sum(2 * 4096 if size >= 128 * 1024 else 24 for size in sizes)
        assert asked.bytes <= sum(sizes) <= asked.bytes + slack, verdict
        assert said["summary"][verdict]["bytes"] == sum(sizes), verdict


def test_the_process_at_exit_gives_each_block_the_verdict_that_its_core_gives_it(
    run: Run,
) -> None:
    core = run.at_exit.check()
    assert run.at_exit.live["summary"] == core["summary"]
    assert run.at_exit.live["blocks"] == core["blocks"]


def test_the_summary_adds_up_the_blocks_that_are_listed(run: Run) -> None:
    said = run.at_exit.check()
    assert len({block["address"] for block in said["blocks"]}) == len(said["blocks"])
    for verdict, words in said["summary"].items():
        sizes = [block["size"] for block in said["blocks"] if block["verdict"] == verdict]
        assert words == {"blocks": len(sizes), "bytes": sum(sizes)}, verdict


def test_each_block_that_a_heuristic_alone_saved_names_it(run: Run) -> None:
    if run.case.name in DIFFERENCES:
        pytest.skip("the two count other blocks")
    said = run.at_exit.check()
    told = {name: count["blocks"] for name, count in said["heuristics"].items()}
    # valgrind counts a string there that only a possibly lost block points at: its
    # heuristic saved it from nothing.
    saved = {} if run.case.name == "exception" else run.case.heuristics
    expected = {name: saved.get(name, 0) for name in HEURISTICS}
    assert told == expected
    named = [block.get("heuristic") for block in said["blocks"] if "heuristic" in block]
    assert {name: named.count(name) for name in HEURISTICS} == expected


def test_records_of_lost_blocks_add_up_to_the_summary(run: Run) -> None:
    said = run.at_exit.check()
    for verdict in ("definitely_lost", "possibly_lost"):
        records = [record for record in said["records"] if record["verdict"] == verdict]
        for unit in ("blocks", "bytes"):
            assert sum(record[unit] for record in records) == said["summary"][verdict][unit]
    for unit in ("blocks", "bytes"):
        # Each block that is lost indirectly has one leader.
        indirect = sum(record["indirect"][unit] for record in said["records"])
        assert indirect == said["summary"]["indirectly_lost"][unit]


@needs_valgrind
@pytest.mark.parametrize("run", BY_HEURISTIC, indirect=True, ids=lambda case: case.title)
def test_both_agree_with_no_heuristic_and_with_all_but_the_one_that_tells(run: Run) -> None:
    (own,) = run.case.heuristics
    others = [name for name in HEURISTICS if name != own]
    for words in ("none", ",".join(others)):
        theirs = valgrind.check(run.at_exit.program, options=(f"--leak-check-heuristics={words}",))
        ours = run.at_exit.check("-heuristics", words)
        assert counts(ours["summary"]) == counts(theirs.summary), words


@needs_valgrind
def test_no_number_among_a_programs_words_is_a_pointer_for_valgrind(
    built: Built,
) -> None:
    # By default valgrind's heap is where these point; aligned in one of eight copies.
    numbers = [0x5011111 + step * 0x20208 for step in range(20)]
    texts = [os.fsdecode(b"xxxx" + number.to_bytes(4, "little")) for number in numbers]
    words = [word for text in texts for _ in range(8) for word in (text, *[""] * 8)]
    report = valgrind.check(built["list_long"], *words)
    assert counts(report.summary) == (1, 49999, 0, 50000), report.text


@pytest.mark.parametrize("option", ["-red-zone", "-vector-registers"])
def test_an_option_has_more_places_hold_blocks(built: Built, tmp_path: Path, option: str) -> None:
    name = {"-red-zone": "red_zone", "-vector-registers": "registers_vector"}[option]
    stop = run_to_exit(built[name], tmp_path / "core")
    assert counts(stop.check()["summary"]) == (1, 0, 0, 0)
    assert counts(stop.check(option)["summary"]) == (0, 0, 0, 1)


def test_what_only_vector_registers_hold_is_said(built: Built, tmp_path: Path) -> None:
    stop = run_to_exit(built["registers_vector"], tmp_path / "core")
    assert stop.check()["vector_only"] is None
    said = stop.check("-vector-registers")
    (block,) = (block for block in said["blocks"] if block["verdict"] == "still_reachable")
    assert said["vector_only"] == {
        "blocks": 1,
        "bytes": block["size"],
        "sample": [block["address"]],
    }
    # Registers that hold nothing alone are told too.
    other = run_to_exit(built["tree"], tmp_path / "core.tree").check("-vector-registers")
    assert other["vector_only"] == {"blocks": 0, "bytes": 0, "sample": []}
