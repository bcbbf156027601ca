"""Verdicts against valgrind's, program by program, both where the program ends."""

import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import pytest
from harness import glibc, valgrind
from harness.leaks import (
    AtExit,
    Counts,
    compile_leak,
    counts,
    library_flags,
    run_to_exit,
)


@dataclass(frozen=True)
class Case:
    """A program of tests/fixtures/leaks, and how many blocks have which verdict in the end."""

    name: str
    #: Definitely, indirectly, possibly lost, still reachable: as valgrind has it.
    blocks: tuple[int, int, int, int]
    #: Blocks of those that valgrind's heuristics took for held by their start.
    heuristics: dict[str, int] = field(default_factory=dict)
    #: For the compiler.
    flags: tuple[str, ...] = ()
    #: The program, where it has another name.
    fixture: str = ""
    #: What the program loads.
    library: str = ""
    #: Whether blocks of libc's own are among them, whose number differs between versions
    #: by more than the one block a thread (its table of thread-local variables).
    of_libc: bool = False

    @property
    def title(self) -> str:
        return " ".join((self.name, *self.flags[:1]))


@dataclass(frozen=True)
class Difference:
    """What gdb-leak is to say where valgrind rightly says something else."""

    blocks: tuple[int, int, int, int]
    #: What valgrind prints there.
    evidence: str
    why: str


_COW = ("-D_GLIBCXX_USE_CXX11_ABI=0",)

CASES = [
    # Shapes.
    Case("list_at_head", (1, 4, 0, 7)),
    Case("list_at_tail", (2, 5, 0, 11)),
    Case("list_at_tail", (2, 5, 0, 11), flags=("-O2",)),
    Case("list_at_tail", (2, 5, 0, 11), flags=("-no-pie",)),
    Case("list_double", (1, 4, 0, 13)),
    Case("list_long", (1, 49999, 0, 50000)),
    Case("tree", (2, 21, 0, 22)),
    Case("ring", (1, 4, 3, 4)),
    Case("cliques", (9, 10, 0, 0)),
    Case("self", (3, 1, 0, 1)),
    # Interior pointers.
    Case("interior", (1, 1, 3, 1)),
    Case("interior_and_start", (0, 0, 0, 4)),
    Case("possibly_on", (0, 0, 6, 0)),
    Case("both_ways", (1, 0, 1, 3)),
    Case("past_end", (1, 0, 0, 0)),
    Case("zeroed", (0, 0, 4, 0)),
    Case("search_tree", (0, 0, 2, 18)),
    # Those that heuristics take for pointers to the start.
    Case("length64", (1, 0, 1, 1), {"length64": 1}),
    Case("new_array", (1, 1, 1, 3), {"newarray": 1}),
    Case("new_array_empty", (1, 0, 0, 1)),
    Case("multiple_inheritance", (1, 1, 1, 3), {"multipleinheritance": 1}),
    Case("string_cow", (2, 1, 0, 4), {"stdstring": 1}, flags=_COW),
    # Words that are no pointers, or not where one is looked for.
    Case("unaligned", (1, 0, 0, 0)),
    Case("hidden", (2, 0, 0, 1)),
    Case("freed", (61, 0, 0, 0)),
    # Ways to take a block.
    Case("calloced", (2, 1, 0, 2)),
    Case("realloced", (6, 0, 0, 42)),
    Case("aligned", (2, 1, 0, 5)),
    Case("empty", (3, 0, 0, 1)),
    Case("strings", (2, 0, 0, 4)),
    Case("pool", (1, 5, 6, 6)),
    Case("mapped_blocks", (2, 2, 1, 3)),
    # C++.
    Case("string", (2, 1, 0, 4)),
    Case("exception", (0, 0, 2, 2), {"stdstring": 1}),
    Case("containers_held", (0, 0, 0, 188)),
    Case("containers_lost", (1, 184, 0, 4)),
    Case("containers_lost", (1, 184, 0, 4), flags=("-O2",)),
    # Roots.
    Case("mapped_table", (1, 0, 0, 4)),
    Case("relro", (2, 1, 0, 0)),
    Case("static", (0, 0, 0, 0), flags=("-static",), fixture="list_at_tail", of_libc=True),
    Case("static", (0, 0, 0, 0), flags=("-static-pie",), fixture="list_at_tail", of_libc=True),
    Case("registers", (1, 0, 2, 2)),
    Case("registers_at_end", (1, 0, 0, 0)),
    Case("registers_vector", (1, 0, 0, 0)),
    Case("red_zone", (0, 0, 0, 1)),
    Case("stacks", (4, 8, 4, 9)),
    Case("stacks", (4, 8, 4, 9), flags=("-O2",)),
    Case("thread_ended", (2, 0, 1, 1)),
    Case("thread_ended_tls", (1, 0, 1, 1)),
    Case("thread_unjoined", (1, 0, 1, 1)),
    Case("own_stacks", (1, 0, 2, 5)),
    Case("arenas", (9, 39, 4, 64)),
    Case("beside_heap", (1, 0, 1, 1)),
    Case("tls", (1, 0, 1, 5)),
    Case("keys", (1, 0, 1, 82)),
    Case("coroutines", (1, 2, 0, 5)),
    Case("alternate_stack", (1, 0, 0, 4)),
    Case("alternate_inside", (0, 0, 0, 1)),
    Case("library", (1, 0, 1, 7), library="library_part", of_libc=True),
    Case("library_closed", (2, 1, 1, 0), library="library_part", of_libc=True),
    Case("library_tls", (0, 0, 5, 7), library="library_tls_part", of_libc=True),
    # What libc takes for itself.
    Case("environment", (1, 0, 0, 7), of_libc=True),
    Case("locale", (1, 0, 0, 139), of_libc=True),
    Case("stdio", (2, 0, 0, 4)),
]

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
    "registers_at_end": Difference(
        (0, 0, 0, 1),
        "200 bytes in 1 blocks are definitely lost",
        "valgrind scans no registers of the thread that calls exit_group",
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
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compile the programs, two at a time; by the titles of their cases."""
    folder = tmp_path_factory.mktemp("leaks")

    def build(case: Case) -> tuple[str, Path]:
        made = folder / case.title.replace(" ", "")
        made.mkdir()
        flags = case.flags
        if any(flag.startswith("-static") for flag in flags) and not glibc.compiles(*flags):
            return case.title, made
        if case.library:
            flags += library_flags(case.library, made)
        return case.title, compile_leak(case.fixture or case.name, made / case.name, *flags)

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(build, CASES))


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
    built: dict[str, Path],
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


@pytest.mark.parametrize("option", ["-red-zone", "-vector-registers"])
def test_an_option_has_more_places_hold_blocks(
    built: dict[str, Path], tmp_path: Path, option: str
) -> None:
    name = {"-red-zone": "red_zone", "-vector-registers": "registers_vector"}[option]
    stop = run_to_exit(built[name], tmp_path / "core")
    assert counts(stop.check()["summary"]) == (1, 0, 0, 0)
    assert counts(stop.check(option)["summary"]) == (0, 0, 0, 1)


def test_what_only_vector_registers_hold_is_said(built: dict[str, Path], tmp_path: Path) -> None:
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
