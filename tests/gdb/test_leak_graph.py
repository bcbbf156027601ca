"""Verdicts, references and paths in random graphs of blocks, against what their program knows."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Callable

import pytest
from harness import cores, graphs, soak, valgrind
from harness.debuggers import Answer, gdb, shell
from harness.graphs import Graph
from harness.leaks import WHOLE, compile_leak
from harness.processes import Program

# `make soak` looks at more.
SOAK = soak.TIMES
SEEDS = range(1, 1 + 200 * SOAK)
#: Of which cores are taken too, or valgrind is asked.
FEW = range(1, 1 + 6 * SOAK)
#: Of which each reference is asked for.
SMALL = range(1, 4)


@dataclass
class Waiting:
    """The program at rest, and what it knows of itself."""

    process: Program
    graph: Graph


Start = Callable[[int], Waiting]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_leak("graph", tmp_path_factory.mktemp("graph") / "graph")


@contextmanager
def waiting(program: Path, seed: int, folder: Path) -> Iterator[Waiting]:
    """Start the program with SEED; it ends with the context."""
    process = Program(program, str(seed), str(folder), cwd=folder)
    try:
        process.wait_for("READY")
        yield Waiting(process, graphs.read(folder))
    finally:
        process.end()


def verdicts(answer: Answer) -> dict[int, str]:
    """Return the verdict of each block, by address."""
    assert answer.status == 0, answer.stderr
    return {int(block["address"], 16): block["verdict"] for block in answer.json()["blocks"]}


def assert_true(said: dict[int, str], graph: Graph) -> None:
    """Hold each verdict to the truth, and other blocks to the one that libc has for the thread."""
    wrong = [
        f"{address:#x} is {vertex.verdict}, and said to be {said.get(address, 'no block in use')}"
        for address, vertex in graph.blocks.items()
        if said.get(address) != vertex.verdict
    ]
    assert not wrong, f"{len(wrong)} of {len(graph.blocks)} blocks: {wrong[:5]}"
    others = Counter(verdict for block, verdict in said.items() if block not in graph.blocks)
    # The second thread's table of thread-local variables, held by an interior pointer.
    assert others == {"possibly_lost": 1}


@pytest.mark.parametrize("seed", SEEDS)
def test_each_block_of_a_process_has_the_verdict_that_is_true(
    program: Path, tmp_path: Path, seed: int
) -> None:
    with waiting(program, seed, tmp_path) as stop:
        assert_true(verdicts(shell("check", stop.process.pid, *WHOLE)), stop.graph)


@pytest.mark.parametrize("seed", FEW)
def test_each_block_of_a_core_has_the_verdict_that_is_true(
    program: Path, tmp_path: Path, seed: int
) -> None:
    with waiting(program, seed, tmp_path) as stop, cores.plain_core_pattern():
        taken = cores.gcore(stop.process.pid, tmp_path / "taken")
        assert_true(verdicts(shell("check", taken, *WHOLE)), stop.graph)
        taken.unlink()
        kernels = cores.kernel_core(stop.process)
        assert_true(verdicts(shell("check", kernels, *WHOLE)), stop.graph)
        kernels.unlink()


@pytest.mark.parametrize("seed", FEW)
def test_gdb_gives_each_block_of_its_process_the_verdict_that_is_true(
    program: Path, tmp_path: Path, seed: int
) -> None:
    with waiting(program, seed, tmp_path) as stop:
        answer = gdb(f"leak-check {' '.join(WHOLE)}", pid=stop.process.pid)
        assert_true(verdicts(answer), stop.graph)


@pytest.mark.parametrize("seed", FEW)
def test_records_credit_each_leader_with_the_blocks_that_it_leads(
    program: Path, tmp_path: Path, seed: int
) -> None:
    with waiting(program, seed, tmp_path) as stop:
        said = shell("check", stop.process.pid, *WHOLE).json()
    # A record is of blocks of one size.
    size_of = {int(block["address"], 16): block["size"] for block in said["blocks"]}
    vertices = stop.graph.blocks.values()
    lost = [one.address for one in vertices if one.verdict == "definitely_lost"]
    blocks = Counter(size_of[address] for address in lost)
    led = Counter(size_of[one.leader] for one in vertices if one.leader)
    for record in said["records"]:
        if record["verdict"] == "definitely_lost":
            blocks[record["size"]] -= record["blocks"]
            led[record["size"]] -= record["indirect"]["blocks"]
    assert not any(blocks.values()), blocks
    assert not any(led.values()), led


@pytest.mark.skipif(bool(valgrind.missing()), reason=valgrind.missing())
@pytest.mark.parametrize("seed", FEW)
def test_valgrind_gives_as_many_blocks_and_bytes_each_verdict(
    program: Path, tmp_path: Path, seed: int
) -> None:
    said = valgrind.check(program, str(seed), str(tmp_path)).summary
    graph = graphs.read(tmp_path)
    for verdict, found in said.items():
        sizes = [one.requested for one in graph.blocks.values() if one.verdict == verdict]
        # The second thread's table of thread-local variables.
        blocks, size = (1, found.bytes - sum(sizes)) if verdict == "possibly_lost" else (0, 0)
        assert found == valgrind.Sum(len(sizes) + blocks, sum(sizes) + size), verdict
        assert size < 512


def asked(core: Path, folder: Path, words: list[str]) -> list[dict[str, Any]]:
    """Return what gdb answers to many commands on CORE."""
    script = folder / "commands.gdb"
    script.write_text("".join(f"{line} -json\n" for line in words))
    answer = gdb(f"source {script}", core=core)
    found = answer.all_json()
    assert len(found) == len(words), answer.stderr
    return found


@dataclass
class Taken:
    """A core, and what its program knew of itself."""

    core: Path
    folder: Path
    graph: Graph

    @cached_property
    def references(self) -> dict[int, list[dict[str, Any]]]:
        """Return the references to each block as gdb lists them, by the block's address."""
        lines = [f"leak-refs {block:#x} -limit unlimited" for block in self.graph.blocks]
        answers = asked(self.core, self.folder, lines)
        return {block: said["references"] for block, said in zip(self.graph.blocks, answers)}


@pytest.fixture(scope="module", params=SMALL)
def taken(
    request: pytest.FixtureRequest, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Taken]:
    folder = tmp_path_factory.mktemp("taken")
    with waiting(program, request.param, folder) as stop:
        core = cores.gcore(stop.process.pid, folder / "taken")
        yield Taken(core, folder, stop.graph)
    core.unlink()


def test_the_references_to_each_block_are_those_that_its_program_wrote(taken: Taken) -> None:
    for block, references in taken.references.items():
        found = [(int(one["from"], 16), one["offset"]) for one in references]
        assert len(set(found)) == len(found), f"{block:#x}: listed twice"
        assert set(found) == taken.graph.to(block), f"{block:#x}"


def test_an_address_inside_a_block_has_the_references_of_the_block(taken: Taken) -> None:
    blocks = list(taken.graph.blocks)[::7]
    at_start = asked(taken.core, taken.folder, [f"leak-refs {block:#x}" for block in blocks])
    inside = asked(taken.core, taken.folder, [f"leak-refs {block + 9:#x}" for block in blocks])
    for block, one, other in zip(blocks, at_start, inside):
        assert one["references"] == other["references"], f"{block:#x}"


def test_a_reference_is_interior_unless_it_points_at_the_start(taken: Taken) -> None:
    for references in taken.references.values():
        for one in references:
            assert one["interior"] == (one["offset"] != 0), one


def test_a_reference_in_a_block_is_owned_by_that_block(taken: Taken) -> None:
    for references in taken.references.values():
        for one in references:
            in_block = taken.graph.within(int(one["from"], 16)) != 0
            assert (one["owner"]["kind"] == "block") == in_block, one


def test_a_path_is_the_shortest_chain_of_words_from_a_root(taken: Taken) -> None:
    graph, words = taken.graph, graphs.Words(taken.core)
    lines = [f"leak-refs {block:#x} -path" for block in graph.blocks]
    any_way, by_starts = graph.distances(), graph.distances(starts_alone=True)
    for block, said in zip(graph.blocks, asked(taken.core, taken.folder, lines)):
        if graph.blocks[block].verdict in ("definitely_lost", "indirectly_lost"):
            assert not said["path"], f"{block:#x}: nothing leads there"
            continue
        owner = 0
        for step in said["path"]:
            source = int(step["from"], 16)
            assert graph.within(source) == owner, f"{block:#x}: {step}"
            pointed = words.at(source)
            (owner,) = {
                one.block
                for one in graph.references
                if one.source == source and one.block + one.offset == pointed
            }
        assert owner == block, f"{block:#x}: the path ends in {owner:#x}"
        # Of one that is still reachable the chain of starts tells why.
        reachable = graph.blocks[block].verdict == "still_reachable"
        shortest = (by_starts if reachable else any_way)[block]
        assert len(said["path"]) == shortest, f"{block:#x}"
