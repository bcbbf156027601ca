"""The sample, recorded, against valgrind: from its run and from cores opened later."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import cores, loss_records, valgrind
from harness.debuggers import gdb, shell
from harness.leaks import WHOLE
from harness.loss_records import Records
from harness.processes import Program, compile_fixture
from harness.recordings import LIBRARY
from harness.valgrind import Sum

#: As people build it to look for errors, and as they ship it: then the compiler has the last
#: call of the loop apart from the others.
BUILDS = {
    ("-O0",): [(1, 2048), (100, 204800)],
    ("-O2", "-fomit-frame-pointer"): [(1, 2048), (1, 2048), (99, 202752)],
}
LOST = {"blocks": 101, "bytes": 206848}
#: A door and a core.
FORMS = [(door, core) for door in ("gdb", "shell") for core in ("gcore", "kernel core")]
#: Starts a command with two keys pressed.
KEYS = ("sh", "-c", "printf '\\n\\n' | \"$@\"", "sh")


@dataclass
class Sample:
    """The sample of one build, what ``gdb-leak run`` said of it, and cores at its last wait."""

    path: Path
    #: Blocks and bytes of each record of what it lost.
    lost: list[tuple[int, int]]
    answer: dict[str, Any]
    text: str
    cores: dict[str, Path]

    @property
    def records(self) -> Records:
        """The records of all verdicts."""
        return loss_records.ours(self.answer)


@pytest.fixture(scope="module", params=BUILDS, ids=" ".join)
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Run the sample to its end, and twice to its last wait."""
    folder = tmp_path_factory.mktemp("sample")
    path = compile_fixture("sample", folder / "sample", *request.param)
    words = ("run", "-json", "-show", "all", "-log-file", folder / "log", "--", path)
    assert shell(*words, wrapper=KEYS).status == 0
    text = shell("run", "--", path, wrapper=KEYS).stderr
    waiting = [at_last_wait(path, folder / name) for name in ("one", "other")]
    try:
        with cores.plain_core_pattern():
            kernel = cores.kernel_core(waiting[0])
        found = {"kernel core": kernel, "gcore": cores.gcore(waiting[1].pid, folder / "core")}
    finally:
        for program in waiting:
            program.end()
    return Sample(
        path, BUILDS[request.param], json.loads((folder / "log").read_text()), text, found
    )


def at_last_wait(path: Path, folder: Path) -> Program:
    """Return the program at PATH, recorded, where it waits after all calls."""
    folder.mkdir()
    program = Program(path, cwd=folder, environment={"LD_PRELOAD": str(LIBRARY)})
    program.wait_for("called 1 times")
    program.press_key()
    program.wait_for("called 101 times")
    return program


def asked(form: tuple[str, str], sample: Sample, line: str) -> dict[str, Any]:
    """Return what the command LINE (``check -json``) answers on a core of SAMPLE."""
    door, name = form
    core = sample.cores[name]
    if door == "gdb":
        return gdb(f"leak-{line}", program=sample.path, core=core).json()
    command, *words = line.split()
    return shell(command, core, *words).json()


def functions(record: dict[str, Any]) -> list[str]:
    """Return the functions of a record's stack down to main."""
    names = [frame["function"] for frame in record["stack"] or ()]
    return names[: names.index("main") + 1] if "main" in names else names


def test_a_run_is_reported_in_a_record_for_each_call_of_leak_func(recorded: Sample) -> None:
    lost = [one for one in recorded.answer["records"] if one["verdict"] == "definitely_lost"]
    for record in lost:
        assert functions(record) == ["malloc", "my_alloc", "leak_func", "main"]
    assert [(record["blocks"], record["bytes"]) for record in lost] == recorded.lost
    assert recorded.answer["summary"]["definitely_lost"] == LOST
    assert recorded.answer["sizes"] == "requested"


def test_a_run_is_reported_in_valgrinds_words(recorded: Sample) -> None:
    lines = recorded.text.splitlines()
    blocks, size = recorded.lost[-1]
    records = len(recorded.lost)
    told = f"{size:,} bytes in {blocks} blocks are definitely lost in loss record"
    at = lines.index(f"{told} {records} of {records}")
    assert ": malloc (" in lines[at + 1]
    for line, function in zip(lines[at + 2 :], ("my_alloc", "leak_func", "main")):
        assert f": {function} (sample.c:" in line
    words = ["definitely", "lost:", "206,848", "bytes", "in", "101", "blocks"]
    assert words in [line.split() for line in lines]


@pytest.mark.skipif(bool(valgrind.missing()), reason=valgrind.missing())
def test_a_run_has_valgrinds_records(recorded: Sample, tmp_path: Path) -> None:
    theirs = loss_records.theirs(recorded.path, tmp_path / "xml")
    assert loss_records.shown(recorded.records) == loss_records.shown(theirs)
    assert loss_records.sums(theirs)["definitely_lost"] == Sum(**LOST)


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_a_core_of_the_recorded_process_gives_the_records_of_its_run(
    recorded: Sample, form: tuple[str, str]
) -> None:
    whole = " ".join(WHOLE)
    for line in (f"check -show all {whole}", f"check -show all -by stack {whole}"):
        answer = asked(form, recorded, line)
        assert loss_records.shown(loss_records.ours(answer)) == loss_records.shown(recorded.records)
        assert answer["summary"] == recorded.answer["summary"]


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_blocks_of_a_core_group_by_the_stacks_of_the_records(
    recorded: Sample, form: tuple[str, str]
) -> None:
    answer = asked(form, recorded, "blocks -json -by stack")
    groups = [group for group in answer["groups"] if "my_alloc" in functions(group)]
    assert sorted((group["blocks"], group["bytes"]) for group in groups) == recorded.lost
