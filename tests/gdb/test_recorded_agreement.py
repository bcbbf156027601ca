"""Records of recorded programs against valgrind's: blocks and bytes of each verdict and stack."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import pytest
from harness import loss_records, valgrind
from harness.debuggers import gdb, shell
from harness.leak_cases import CASES, Built, Case
from harness.leaks import WHOLE, AtExit, run_to_exit
from harness.loss_records import Records
from harness.recordings import LIBRARY
from harness.valgrind import Sum

pytestmark = pytest.mark.skipif(bool(valgrind.missing()), reason=valgrind.missing())


@dataclass(frozen=True)
class Loss:
    """A record that only one of the two has."""

    verdict: str
    blocks: int
    #: None: it is another number wherever the test runs.
    bytes: Optional[int]
    #: A part of its stack that no other record has.
    part: str


@dataclass(frozen=True)
class Difference:
    """What the two rightly say otherwise of a program."""

    theirs: Sequence[Loss]
    ours: Sequence[Loss]
    why: str


#: The whole of it: every other program must be told alike.
DIFFERENCES = {
    "relro": Difference(
        [
            Loss("definitely_lost", 1, 40, "work (relro.c:19)"),
            Loss("indirectly_lost", 1, 40, "work (relro.c:20)"),
        ],
        [
            Loss("still_reachable", 1, 40, "work (relro.c:19)"),
            Loss("still_reachable", 1, 40, "work (relro.c:20)"),
        ],
        "valgrind scans no mapping that cannot be written, though a program reads them",
    ),
    "registers_dead": Difference(
        [
            Loss("still_reachable", 1, 300, "hold (registers.c"),
            Loss("still_reachable", 1, 200, "work (registers.c"),
        ],
        [
            Loss("definitely_lost", 1, 300, "hold (registers.c"),
            Loss("definitely_lost", 1, 200, "work (registers.c"),
        ],
        "valgrind scans all registers, also those that no code reads again",
    ),
    "red_zone": Difference(
        [Loss("still_reachable", 1, 200, "leaks_take")],
        [Loss("definitely_lost", 1, 200, "leaks_take")],
        "valgrind scans the 128 bytes below the stack pointer, gdb-leak with -red-zone only",
    ),
    "alternate_stack": Difference(
        [
            Loss("still_reachable", 1, 40, "handle (alternate_stack.c:16)"),
            Loss("still_reachable", 1, 40, "handle (alternate_stack.c:18)"),
        ],
        [
            Loss("still_reachable", 1, 40, "handle (alternate_stack.c:16)"),
            Loss("still_reachable", 1, 40, "handle (alternate_stack.c:18)"),
        ],
        "valgrind loses the way from a handler's own stack to main, behind the call of work",
    ),
    "environment": Difference(
        [Loss("still_reachable", 1, None, "__add_to_environ (setenv.c:156)")],
        [Loss("still_reachable", 1, None, "__add_to_environ (setenv.c:156)")],
        "a pointer for each variable, and each tool sets variables of its own",
    ),
}
#: Bytes that a thread's table of thread-local variables (allocate_dtv of glibc) takes for one
#: library that has some: the recorder has one, valgrind none.
OF_TABLE = 16

#: Programs that are asked about in cores, too: of each kind that one may be read wrongly from.
IN_CORES = [
    case
    for case in CASES
    if case.name
    in (
        *("list_at_tail", "tree", "ring", "new_array", "realloced", "aligned", "strings"),
        *("mapped_blocks", "exception", "containers_lost", "mapped_table", "stacks", "arenas"),
        *("thread_unjoined", "tls", "keys", "coroutines", "alternate_stack", "library_closed"),
    )
]


def recorded(case: Case) -> bool:
    """Whether the program is one that can be recorded."""
    return not any(flag.startswith("-static") for flag in case.flags)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(filter(recorded, CASES), tmp_path_factory.mktemp("recorded"))


@dataclass
class Run:
    """A program that ran to its end under both tools."""

    case: Case
    program: Path
    answer: dict[str, Any]
    theirs: Records

    @property
    def ours(self) -> Records:
        """The records of gdb-leak."""
        return loss_records.ours(self.answer)


@pytest.fixture(scope="module", params=filter(recorded, CASES), ids=lambda case: case.title)
def run(
    request: pytest.FixtureRequest,
    built: Built,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    case: Case = request.param
    folder = tmp_path_factory.mktemp("run")
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(loss_records.theirs, built[case.title], folder / "xml")
        answer = judged(built[case.title], folder / "log")
        return Run(case, built[case.title], answer, as_recorded(theirs.result()))


def judged(program: Path, log: Path) -> dict[str, Any]:
    """Return what ``gdb-leak run`` answers on PROGRAM, by way of the file LOG."""
    words = ("-json", "-show", "all", "-log-file", log)
    answer = shell("run", *words, program, cwd=program.parent)
    assert answer.status == 0, answer.stderr
    found: dict[str, Any] = json.loads(log.read_text())
    return found


def as_recorded(records: Records) -> Records:
    """Return valgrind's RECORDS with what the recorder's own variable takes for each thread."""

    def more(stack: loss_records.Stack, total: Sum) -> Sum:
        table = bool(stack) and stack[0].function == "allocate_dtv"
        return Sum(total.blocks, total.bytes + (OF_TABLE * total.blocks if table else 0))

    return loss_records.added(
        (verdict, stack, more(stack, total)) for (verdict, stack), total in records.items()
    )


def only(records: Records, others: Records) -> Records:
    """Return those of RECORDS that are not among OTHERS."""
    return {key: total for key, total in records.items() if others.get(key) != total}


def assert_are(records: Records, losses: Sequence[Loss]) -> None:
    """Assert that RECORDS are these, each one of them."""
    lines = loss_records.shown(records)
    left = dict(records)
    for loss in losses:
        fitting = [
            key
            for key, total in left.items()
            if key[0] == loss.verdict
            and total.blocks == loss.blocks
            and loss.bytes in (total.bytes, None)
            and loss.part in " < ".join(map(str, key[1]))
        ]
        assert len(fitting) == 1, f"{loss} is {len(fitting)} of {lines}"
        del left[fitting[0]]
    assert not left, lines


def test_each_verdict_and_stack_has_the_blocks_and_bytes_that_valgrind_counts(run: Run) -> None:
    difference = DIFFERENCES.get(run.case.name)
    if difference is None:
        assert loss_records.shown(run.ours) == loss_records.shown(run.theirs)
    else:
        assert_are(only(run.theirs, run.ours), difference.theirs)
        assert_are(only(run.ours, run.theirs), difference.ours)


def test_each_verdict_has_the_blocks_and_bytes_that_valgrind_counts(run: Run) -> None:
    summary = {
        verdict: Sum(
            run.answer["summary"][verdict]["blocks"], run.answer["summary"][verdict]["bytes"]
        )
        for verdict in valgrind.VERDICTS
    }
    assert summary == loss_records.sums(run.ours)
    if run.case.name not in DIFFERENCES:
        assert summary == loss_records.sums(run.theirs)


def test_every_block_was_recorded_with_its_stack(run: Run) -> None:
    assert run.answer["sizes"] == "requested"
    assert all(record["stack"] for record in run.answer["records"])
    notes = [note for note in run.answer["notes"] if "record" in note or "known in part" in note]
    # What makecontext begins has no rules to unwind by (glibc 2.36, __start_context).
    assert len(notes) == (1 if run.case.name == "coroutines" else 0), notes


def test_nothing_is_lost_that_the_recorder_or_its_start_took(run: Run) -> None:
    own = LIBRARY.name
    for record in run.answer["records"]:
        # The function that was called is the recorder's; nothing else of it is in a stack.
        _, *callers = record["stack"]
        assert all(Path(frame["module"] or "").name != own for frame in callers)


@dataclass
class Core:
    """A recorded program at its end, in a core."""

    at_exit: AtExit
    run: Records
    case: Case


@pytest.fixture(scope="module", params=IN_CORES, ids=lambda case: case.title)
def core(
    request: pytest.FixtureRequest,
    built: Built,
    tmp_path_factory: pytest.TempPathFactory,
) -> Core:
    case: Case = request.param
    folder = tmp_path_factory.mktemp("core")
    program = built[case.title]
    run = loss_records.ours(judged(program, folder / "log"))
    return Core(run_to_exit(program, folder / "core", LIBRARY), run, case)


@pytest.mark.parametrize("door", ["shell", "gdb"])
def test_a_core_at_exit_opened_on_its_own_gives_the_same_records(core: Core, door: str) -> None:
    if door == "shell":
        answer = core.at_exit.check("-show", "all", "-by", "stack")
    else:
        line = f"leak-check -show all -by stack {' '.join(WHOLE)}"
        answer = gdb(line, program=core.at_exit.program, core=core.at_exit.core).json()
    assert loss_records.shown(loss_records.ours(answer)) == loss_records.shown(core.run)
