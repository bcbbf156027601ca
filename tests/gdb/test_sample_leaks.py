"""The sample's verdict: 101 blocks are lost, and nothing else, however it is asked for."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.debuggers import gdb, shell
from harness.processes import Program, wait_until_it_sleeps

CALLS = 101
#: malloc_usable_size of a block of 2048 bytes, whose chunk is 0x810.
USABLE = 2056
TEXT = "leaked memory"
#: The process in gdb, attached to, started there or behind gdbserver, cores, and the shell's
#: door on all.
FORMS = (
    *("attached", "run", "gdbserver", "gcore", "kernel core"),
    *("shell gcore", "shell kernel core", "shell pid"),
)
NONE = {"blocks": 0, "bytes": 0}
WRONG_USAGE, REFUSED = 2, 1
LAST_WAIT = ("break wait_for_key if calls == 101", "run")


@dataclass(frozen=True)
class Said:
    """What a check answered."""

    answer: dict[str, Any]
    text: str


@pytest.fixture(scope="module", params=FORMS)
def said(request: pytest.FixtureRequest) -> Said:
    """Ask about the sample after all calls, in one of FORMS."""
    form: str = request.param
    sample = request.getfixturevalue("sample")
    core = request.getfixturevalue("sample_kernel_core")[0] if "kernel" in form else sample.after
    words = ("-json", "-list", "-show", "definite,indirect,possible")
    if form.startswith("shell"):
        target = sample.live.pid if form == "shell pid" else core
        return Said(shell("check", target, *words).json(), shell("check", target).stdout)
    lines = (" ".join(("leak-check", *words)), "echo @@\\n", "leak-check")
    if form == "attached":
        answer = gdb(*lines, pid=sample.live.pid)
    elif form == "gdbserver":
        server = f"target remote | gdbserver --once --attach - {sample.live.pid}"
        answer = gdb(server, *lines, "detach", program=sample.path)
    elif form == "run":
        answer = gdb(*LAST_WAIT, *lines, program=sample.path)
    else:
        answer = gdb(*lines, program=sample.path, core=core)
    return Said(answer.json(), answer.stdout.partition("@@")[2])


def test_each_call_lost_one_block_and_nothing_else_is_lost(said: Said) -> None:
    summary = said.answer["summary"]
    assert summary["definitely_lost"] == {"blocks": CALLS, "bytes": CALLS * USABLE}
    assert summary["indirectly_lost"] == summary["possibly_lost"] == NONE


def test_the_lost_blocks_are_one_record(said: Said) -> None:
    (record,) = said.answer["records"]
    assert (record["verdict"], record["kind"]) == ("definitely_lost", "text")
    assert (record["size"], record["text"]) == (USABLE, TEXT)
    assert (record["blocks"], record["bytes"]) == (CALLS, CALLS * USABLE)
    assert record["indirect"] == NONE


def test_every_lost_block_is_listed_with_its_size(said: Said) -> None:
    blocks = said.answer["blocks"]
    lost = [block for block in blocks if block["verdict"] != "still_reachable"]
    assert {(block["size"], block["verdict"]) for block in lost} == {(USABLE, "definitely_lost")}
    assert len({block["address"] for block in lost}) == len(lost) == CALLS
    # The buffers of stdin and stdout.
    assert said.answer["summary"]["still_reachable"]["blocks"] == len(blocks) - CALLS == 2


def test_people_read_the_record_and_the_sum(said: Said) -> None:
    lines = [line.split() for line in said.text.splitlines()]
    (record,) = [line for line in lines if line[-2:] == TEXT.split()]
    assert record[:7] == ["202.8", "KiB", "101", "2056", "definitely", "lost", "text"]
    assert ["definitely", "lost:", "207,656", "bytes", "in", "101", "blocks"] in lines


class TestErrorExitcode:
    """``-error-exitcode``: what gdb and the shell end with."""

    def test_a_shell_ends_with_it_on_a_core_and_on_a_process(self, sample: Any) -> None:
        for target in (sample.after, sample.live.pid):
            answer = shell("check", target, "-error-exitcode", "9")
            assert answer.status == 9
            assert answer.stderr == ""
            assert "definitely lost" in answer.stdout
            assert shell("check", target, "-error-exitcode", "9", "-json").json()["records"]
        assert shell("check", sample.after).status == 0

    def test_gdb_ends_with_it_at_once(self, sample: Any) -> None:
        line = "leak-check -error-exitcode 9"
        answer = gdb(line, "echo went on\\n", program=sample.path, core=sample.after)
        assert answer.status == 9
        assert "definitely lost" in answer.stdout
        assert "went on" not in answer.stdout
        answer = gdb(*LAST_WAIT, f"{line} -json", "echo went on\\n", program=sample.path)
        assert answer.status == 9
        assert answer.json()["records"]
        assert "went on" not in answer.stdout

    def test_a_script_that_gdb_sources_ends_as_well(self, sample: Any, tmp_path: Path) -> None:
        script = tmp_path / "script"
        script.write_text("leak-check -error-exitcode 9\necho went on\\n\n")
        answer = gdb(f"source {script}", "echo went on\\n", program=sample.path, core=sample.after)
        assert answer.status == 9
        assert "went on" not in answer.stdout

    def test_a_process_that_gdb_is_attached_to_lives_on(self, start: Any) -> None:
        program = start("sample")
        program.press_key()
        program.wait_for("called 101 times")
        answer = gdb("leak-check -error-exitcode 9", "echo went on\\n", pid=program.pid)
        assert answer.status == 9
        assert "went on" not in answer.stdout
        program.press_key()
        assert program.wait() == 0

    def test_a_process_that_a_shell_held_lives_on(self, start: Any) -> None:
        program = start("sample")
        program.press_key()
        program.wait_for("called 101 times")
        assert shell("check", program.pid, "-error-exitcode", "9").status == 9
        program.press_key()
        assert program.wait() == 0

    def test_0_is_taken_and_changes_nothing_but_that_gdb_ends(self, sample: Any) -> None:
        assert shell("check", sample.after, "-error-exitcode", "0").status == 0
        answer = gdb("leak-check -error-exitcode 0", "echo went on\\n", core=sample.after)
        assert answer.status == 0
        assert "went on" not in answer.stdout

    def test_without_a_lost_block_all_goes_on(self, sample: Any, tmp_path: Path) -> None:
        core = tmp_path / "core"
        # Where the first call holds both of its blocks.
        answer = gdb(
            "break fprintf",
            "run",
            f"gcore {core}",
            "leak-check -json -error-exitcode 9",
            "echo went on\\n",
            program=sample.path,
        )
        assert answer.status == 0, answer.stderr
        summary = answer.json()["summary"]
        assert summary["still_reachable"]["blocks"] >= 2
        assert [summary[name] for name in summary if name.endswith("lost")] == [NONE] * 3
        assert answer.json()["records"] == []
        assert "went on" in answer.stdout
        assert shell("check", core, "-error-exitcode", "9").status == 0

    @pytest.mark.parametrize("number", ["300", "256", "-1", "x", "unlimited", ""])
    def test_what_is_no_status_is_refused(self, sample: Any, number: str) -> None:
        line = f"leak-check -error-exitcode {number}"
        answer = gdb(line, "leak", program=sample.path, core=sample.after)
        assert answer.error.startswith("leak-check: ")
        assert (number or "-error-exitcode requires an argument") in answer.error
        assert "definitely" not in answer.stdout
        words = ["check", sample.after, "-error-exitcode", *([number] if number else [])]
        assert shell(*words).status == WRONG_USAGE
        assert gdb(line, core=sample.after).status == REFUSED


def test_a_process_is_let_go_after_each_check(sample: Any) -> None:
    shell("check", sample.live.pid)
    wait_until_it_sleeps(sample.live.pid)
    assert sample.live.alive()
    os.kill(sample.live.pid, 0)


def test_blocks_that_all_have_mappings_of_their_own_are_judged(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    room = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=64"}
    program = Program(programs["sample"], cwd=tmp_path, environment=room)
    try:
        program.wait_for("called 1 times")
        program.press_key()
        program.wait_for(f"called {CALLS} times")
        heap = shell("heap", program.pid, "-json").json()
        answer = shell("check", program.pid, "-stop", "-json").json()
    finally:
        program.end()
    assert answer["summary"]["definitely_lost"]["blocks"] == CALLS
    (check,) = (check for check in heap["checks"] if check["rule"] == "mmapped")
    assert check["holds"]
    assert int(check["detail"].split()[0]) >= CALLS
