"""Blocks whose allocation was recorded: stacks, requested bytes and ages, at both doors."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import pytest
from harness import ROOT, cores
from harness.debuggers import Answer, gdb, shell
from harness.processes import Program, compile_fixture
from harness.recordings import LIBRARY

CALLS, ASKED = 101, 2048
BYTES = CALLS * ASKED
TEXT = "leaked memory"
#: leak_func drops 101 blocks: of the first call, and of those in a loop.
PLACES, LOOP = 2, 100
FORMS = ("attached", "gdbserver", "gcore", "kernel core", "shell pid", "shell gcore")
REFUSED, WRONG_USAGE = 1, 2
NOTHING = "nothing was recorded"


class Recording:
    """A program that runs recorded, and its cores."""

    def __init__(self, path: Path, folder: Path, **settings: str) -> None:
        """Start PATH in FOLDER with the recorder and its SETTINGS."""
        environment = {f"GDB_LEAK_RECORD_{name}": value for name, value in settings.items()}
        environment["LD_PRELOAD"] = str(LIBRARY)
        self.program = Program(path, cwd=folder, environment=environment)
        self.path = path

    def to_the_end(self) -> None:
        """Go on to the last wait of the sample."""
        self.program.wait_for("waiting for a key")
        self.program.press_key()
        self.program.wait_for("waiting for a key")


def run_sample(folder: Path, *flags: str, **settings: str) -> Recording:
    """Run the sample, compiled with FLAGS, recorded, up to its last wait."""
    path = compile_fixture("sample", folder / "sample", *flags)
    recording = Recording(path, folder, **settings)
    recording.to_the_end()
    return recording


@dataclass
class Sample:
    """The recorded sample, and its cores."""

    path: Path
    pid: int
    gcore: Path
    kernel: Path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    """Run the sample, compiled as users do, recorded."""
    folder = tmp_path_factory.mktemp("recorded")
    live = run_sample(folder)
    other_folder = folder / "other"
    other_folder.mkdir()
    other = Recording(live.path, other_folder)
    other.to_the_end()
    with cores.plain_core_pattern():
        kernel = cores.kernel_core(other.program)
    yield Sample(
        live.path, live.program.pid, cores.gcore(live.program.pid, folder / "core"), kernel
    )
    live.program.end()
    other.program.end()


def ask(form: str, sample: Sample, line: str) -> Answer:
    """Return what the command LINE (``check -json``) answers in FORM."""
    command, _, rest = line.partition(" ")
    core = sample.kernel if "kernel" in form else sample.gcore
    if form.startswith("shell"):
        target = sample.pid if form == "shell pid" else core
        return shell(command, target, *rest.split())
    if form == "attached":
        return gdb(f"leak-{line}", pid=sample.pid)
    if form == "gdbserver":
        server = f"target remote | gdbserver --once --attach - {sample.pid}"
        return gdb(server, f"leak-{line}", "detach", program=sample.path)
    return gdb(f"leak-{line}", program=sample.path, core=core)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    """Return one of FORMS."""
    found: str = request.param
    return found


def functions(stack: "Optional[list[dict[str, Any]]]") -> list[str]:
    return [frame["function"] for frame in stack or []]


def definite(answer: dict[str, Any]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = answer["records"]
    return [record for record in records if record["verdict"] == "definitely_lost"]


def test_records_have_the_stacks_and_the_bytes_that_were_asked_for(
    form: str, recorded: Sample
) -> None:
    answer = ask(form, recorded, "check -json -by stack").json()
    records = definite(answer)
    assert sum(record["blocks"] for record in records) == CALLS
    assert sum(record["bytes"] for record in records) == BYTES
    assert answer["summary"]["definitely_lost"] == {"blocks": CALLS, "bytes": BYTES}
    assert len(records) == PLACES
    largest = records[-1]
    assert functions(largest["stack"])[:4] == ["malloc", "my_alloc", "leak_func", "main"]
    assert largest["size"] == ASKED
    assert largest["text"] == TEXT
    second = largest["stack"][1]
    source = (ROOT / "tests/fixtures/sample.c").read_text().splitlines()
    assert second["file"] == "sample.c"
    assert "= malloc(size)" in source[second["line"] - 1]
    assert second["path"].endswith("/tests/fixtures/sample.c")
    assert Path(second["module"]).name == "sample"
    assert answer["sizes"] in ("requested", "mixed")


def test_text_reads_as_valgrind_s(recorded: Sample) -> None:
    lines = ask("gcore", recorded, "check").stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if "in loss record 2 of 2" in line)
    assert (
        lines[start]
        == f"{LOOP * ASKED:,} bytes in {LOOP} blocks are definitely lost in loss record 2 of 2"
    )
    assert lines[start + 1].startswith("   at 0x")
    assert ": malloc (" in lines[start + 1]
    assert lines[start + 2].startswith("   by 0x")
    assert "my_alloc (sample.c:" in lines[start + 2]
    assert "leak_func (sample.c:" in lines[start + 3]
    assert "main (sample.c:" in lines[start + 4]


def test_frames_are_found_without_frame_pointers(tmp_path: Path) -> None:
    live = run_sample(tmp_path, "-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls")
    records = definite(shell("check", live.program.pid, "-json").json())
    live.program.end()
    assert sum(record["bytes"] for record in records) == BYTES
    assert functions(records[-1]["stack"])[:4] == ["malloc", "my_alloc", "leak_func", "main"]


def test_blocks_group_by_stack(form: str, recorded: Sample) -> None:
    answer = ask(form, recorded, "blocks -json -by stack").json()
    lost = [group for group in answer["groups"] if "my_alloc" in functions(group["stack"])]
    assert sum(group["bytes"] for group in lost) == BYTES
    assert "leak_func (sample.c:" in ask(form, recorded, "blocks -by stack").stdout


def test_listed_blocks_have_the_bytes_that_were_asked_for(recorded: Sample) -> None:
    answer = ask("shell gcore", recorded, "blocks -json -list -size 2056").json()
    assert [block["requested"] for block in answer["blocks"]].count(ASKED) >= CALLS


def test_a_match_and_an_address_lead_to_who_allocated_the_block(
    form: str, recorded: Sample
) -> None:
    found = ask(form, recorded, "find -json -in heap leaked")
    if form == "shell pid":  # Nothing holds the process still for it.
        return
    match = next(match for match in found.json()["matches"] if match["stack"])
    assert functions(match["stack"])[1:4] == ["my_alloc", "leak_func", "main"]
    assert match["block"]["requested"] == ASKED
    known = ask(form, recorded, f"whatis -json {match['block']['address']}").json()
    assert known["allocated"]["size"] == ASKED
    assert known["allocated"]["thread"] > 0
    assert known["allocated"]["age"] >= 0
    assert functions(known["allocated"]["stack"])[:2] == ["malloc", "my_alloc"]
    text = ask(form, recorded, "find -in heap leaked").stdout
    assert "allocated by my_alloc < leak_func < main" in text
    said = ask(form, recorded, f"whatis {match['block']['address']}").stdout
    assert "2048 bytes asked for" in said
    assert "leak_func (sample.c:" in said


def test_only_old_blocks_count_with_an_age(tmp_path: Path) -> None:
    path = compile_fixture("sample", tmp_path / "sample")
    # On a machine with much else to do the check itself takes longer than the pause.
    for pause in (3, 10, 30, 90):
        live = Recording(path, tmp_path)
        live.program.wait_for("waiting for a key")
        time.sleep(pause)
        pressed = time.monotonic()
        live.program.press_key()
        live.program.wait_for("waiting for a key")
        age = f"-age {pause - 1}s"
        pid = live.program.pid
        old = shell("check", pid, "-json", *age.split()).json()
        if time.monotonic() - pressed < pause - 1:
            break
        live.program.end()
    core = cores.gcore(pid, tmp_path / "core")
    young = shell("check", pid, "-json", "-age", "0").json()
    kept = gdb(f"leak-check -json {age}", f"leak-blocks -json {age} -by stack", core=core)
    in_core, blocks = kept.all_json()
    live.program.end()
    one = {"blocks": 1, "bytes": ASKED}
    assert old["summary"]["definitely_lost"] == one == in_core["summary"]["definitely_lost"]
    assert [record["blocks"] for record in definite(old)] == [1]
    assert young["summary"]["definitely_lost"]["blocks"] == CALLS
    assert any("from now" in note for note in old["notes"])
    assert any("last recorded call" in note for note in in_core["notes"])
    lost = [group for group in blocks["groups"] if "my_alloc" in functions(group["stack"])]
    assert [group["blocks"] for group in lost] == [1]


def test_samples_become_estimates_beside_exact_sums(tmp_path: Path) -> None:
    live = run_sample(tmp_path, SAMPLE="8192")
    answer = shell("check", live.program.pid, "-json").json()
    text = shell("check", live.program.pid).stdout
    live.program.end()
    assert answer["sampled"] == 8192
    lost = answer["summary"]["definitely_lost"]
    assert (lost["blocks"], lost["bytes"]) == (CALLS, CALLS * 2056)
    (record,) = [one for one in definite(answer) if one["estimate"] and one["blocks"] > 3]
    estimate = record["estimate"]
    assert abs(estimate["blocks"] - LOOP) < 6 * estimate["blocks_error"]
    assert record["blocks"] < LOOP
    assert "about " in text
    assert "sampled)" in text


def test_what_was_not_recorded_is_refused_in_a_line(sample: Any) -> None:
    for words in (["-by", "stack"], ["-age", "1s"]):
        for command in ("check", "blocks"):
            answer = shell(command, sample.after, *words)
            assert answer.status == REFUSED
            assert NOTHING in answer.error
            assert "gdb-leak record" in answer.error
    assert shell("check", sample.after, "-age", "soon").status == WRONG_USAGE


def test_the_reservation_is_named(recorded: Sample) -> None:
    regions = ask("gcore", recorded, "regions -json").json()["regions"]
    assert any("gdb-leak record" in region["name"] for region in regions)
