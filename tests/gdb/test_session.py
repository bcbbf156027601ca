"""How the commands behave in a gdb that is used for other things as well."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness import truth
from harness.debuggers import Answer, environment, gdb, gdb_line, shell
from harness.terminal import COLOURED, PROMPT, Terminal

FIND = 'leak-find -json "leaked" -in heap'
COUNT = 102


def in_gdb(sample: Any, *commands: str, **changed: Any) -> Answer:
    return gdb(*commands, program=sample.path, core=sample.after, **changed)


class TestTargets:
    """Which target a command is about."""

    def test_it_is_the_selected_inferiors(self, sample: Any) -> None:
        core, live, core_again = in_gdb(
            sample,
            FIND,
            "add-inferior -no-connection",
            "inferior 2",
            f"attach {sample.live.pid}",
            FIND,
            "inferior 1",
            FIND,
            "inferior 2",
            "detach",
        ).all_json()
        assert [answer["target"]["kind"] for answer in (core, live, core_again)] == [
            "core",
            "process",
            "core",
        ]
        assert core["matches"] == live["matches"] == core_again["matches"]

    def test_another_core_loaded_is_another_target(self, sample: Any) -> None:
        after, before = in_gdb(sample, FIND, f"core {sample.before}", FIND).all_json()
        assert (after["count"], before["count"]) == (COUNT, 2)

    def test_no_core_any_more_is_no_target(self, sample: Any) -> None:
        answer = in_gdb(sample, FIND, "core", FIND)
        assert answer.json()["count"] == COUNT
        assert "no process and no core file" in answer.error

    def test_a_core_renamed_after_loading_still_works(self, sample: Any, tmp_path: Path) -> None:
        core = shutil.copy(sample.after, tmp_path / "core")
        first, second = gdb(
            FIND,
            f"shell mv {core} {tmp_path}/renamed",
            FIND,
            program=sample.path,
            core=core,
        ).all_json()
        assert first["count"] == second["count"] == COUNT

    def test_a_core_replaced_after_loading_is_not_mistaken(
        self, sample: Any, tmp_path: Path
    ) -> None:
        core = shutil.copy(sample.after, tmp_path / "core")
        first, second = gdb(
            FIND,
            f"shell mv {core} {tmp_path}/renamed; cp {sample.before} {core}",
            FIND,
            program=sample.path,
            core=core,
        ).all_json()
        assert first["count"] == second["count"] == COUNT

    def test_a_program_without_symbols_will_do(self, sample: Any) -> None:
        assert gdb(FIND, core=sample.after).json()["count"] == COUNT

    def test_a_path_with_blanks_is_found(self, sample: Any, tmp_path: Path) -> None:
        core = shutil.copy(sample.after, tmp_path / "my core")
        answer = gdb(FIND, f'leak-diff-region -json "{sample.before}"', core=core)
        assert [found["command"] for found in answer.all_json()] == ["find", "diff-region"]

    def test_a_core_to_compare_with_may_have_blanks_and_a_tilde(
        self, sample: Any, tmp_path: Path
    ) -> None:
        shutil.copy(sample.before, tmp_path / "my core")
        answer = in_gdb(
            sample, 'leak-diff-region -json "~/my core"', env=environment(HOME=str(tmp_path))
        ).json()
        assert answer["growth"] == 132 << 10

    def test_a_file_to_write_may_have_blanks_and_a_tilde(self, sample: Any, tmp_path: Path) -> None:
        answer = in_gdb(
            sample,
            f'leak-dump {sample.heap.start:#x} +16 -out "~/a file"',
            env=environment(HOME=str(tmp_path)),
        )
        assert answer.status == 0, answer.stderr
        assert (tmp_path / "a file").stat().st_size == 16


class TestLive:
    """A process that is stopped, runs on, and is changed."""

    def test_what_was_kept_is_dropped_when_the_process_runs(self, start: Any) -> None:
        program = start("sample")
        before, after = gdb(
            FIND,
            "break wait_for_key",
            f"shell echo > /proc/{program.pid}/fd/0",
            "continue",
            FIND,
            pid=program.pid,
        ).all_json()
        assert (before["count"], after["count"]) == (2, COUNT)

    def test_what_gdb_writes_is_seen(self, start: Any) -> None:
        program = start("sample")
        before, after = gdb(FIND, "set var *(char *)$_ = 'X'", FIND, pid=program.pid).all_json()
        assert (before["count"], after["count"]) == (2, 1)

    def test_the_process_is_neither_written_nor_resumed(self, start: Any) -> None:
        program = start("sample")
        # The kernel tells each thread which processor it is on (rseq), whenever
        # it has moved and goes on: also after gdb has let it go.
        os.sched_setaffinity(program.pid, {min(os.sched_getaffinity(0))})
        program.press_key()
        program.wait_for("called 101 times")
        before = dict(truth.process_runs(program.pid, truth.writable))
        answer = gdb(
            FIND,
            "leak",
            "leak-regions",
            "leak-strings",
            "leak-snapshot",
            "leak-diff-region",
            "leak-dump $sp +64",
            "leak-decode -at $sp",
            pid=program.pid,
        )
        assert answer.status == 0, answer.stderr
        assert dict(truth.process_runs(program.pid, truth.writable)) == before

    def test_a_running_process_is_answered_with_a_note(self, start: Any) -> None:
        program = start("sample")
        answer = gdb(
            "set non-stop on",
            f"attach {program.pid}",
            "continue &",
            FIND,
            "interrupt",
            "detach",
        ).json()
        assert answer["count"] == 2
        assert any("running" in note for note in answer["notes"])

    def test_a_process_that_ended_is_no_target(self, start: Any) -> None:
        program = start("sample")
        answer = gdb(FIND, "kill", FIND, pid=program.pid)
        assert answer.json()["count"] == 2
        assert "no process and no core file" in answer.error


class TestSettings:
    """Settings of gdb and of the environment."""

    def test_logging_captures_what_is_printed(self, sample: Any, tmp_path: Path) -> None:
        log = tmp_path / "log"
        in_gdb(
            sample,
            f"set logging file {log}",
            "set logging enabled on",
            'leak-find "leaked" -in heap -limit 2',
            "set logging enabled off",
        )
        assert "102 matches" in log.read_text()

    def test_another_language_does_not_matter(self, sample: Any) -> None:
        heap = sample.heap
        answer = in_gdb(
            sample,
            "set language rust",
            f"leak-find -json -u64 0x6d2064656b61656c -in {heap.start:#x},{heap.end:#x}",
            f"leak-dump -json {heap.start:#x} +16",
            "set language pascal",
            f"leak-dump -json {heap.start:#x} +16",
        )
        found, *dumps = answer.all_json()
        assert found["count"] == COUNT
        assert dumps[0]["lines"] == dumps[1]["lines"]

    def test_the_output_radix_does_not_matter(self, sample: Any) -> None:
        answer = in_gdb(
            sample, "set input-radix 16", 'leak-find -json "leaked" -in heap -limit 10'
        ).json()
        assert len(answer["matches"]) == 10

    def test_a_batch_is_never_coloured(self, sample: Any) -> None:
        line = 'leak-find "leaked" -in heap -limit 1'
        answer = in_gdb(sample, "set style enabled on", line, env=environment(TERM="xterm"))
        assert "\x1b[" not in answer.stdout.split("read.c", 1)[-1]

    @pytest.mark.parametrize(("setting", "variables", "coloured"), COLOURED)
    def test_in_a_terminal_colour_follows_gdbs_style_and_no_color(
        self, sample: Any, setting: str, variables: dict[str, str], coloured: bool
    ) -> None:
        line = gdb_line((), sample.path, sample.after, batch=False)
        terminal = Terminal(line, environment(TERM="xterm", **variables))
        try:
            terminal.read_until(PROMPT)
            terminal.command(f"set style enabled {setting}")
            answer = terminal.command('leak-find "leaked" -in heap -limit 1')
        finally:
            terminal.end()
        assert ("m0x0000" in answer) is coloured
        assert "leaked memory" in answer

    def test_json_is_never_coloured(self, sample: Any) -> None:
        answer = in_gdb(sample, "set style enabled on", FIND, env=environment(TERM="xterm"))
        assert answer.json()["count"] == COUNT

    @pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
    def test_bytes_that_are_no_text_are_escaped_in_every_locale(
        self, sample: Any, locale: str
    ) -> None:
        env = environment(LC_ALL=locale)
        for line in ("leak-strings -top unlimited", "leak-find -hex ff -limit 50", "leak-regions"):
            answer = in_gdb(sample, line, env=env)
            assert answer.status == 0, answer.stderr
            assert "Traceback" not in answer.stderr

    def test_a_needle_beyond_ascii_is_the_bytes_that_were_typed(self, sample: Any) -> None:
        # Under LC_ALL=C gdb 13 hands no such line on to any command in Python.
        answer = in_gdb(sample, 'leak-find -json "Größe"')
        assert answer.json()["needle"] == "Größe".encode().hex()

    def test_sourcing_twice_changes_nothing(self, sample: Any) -> None:
        answer = in_gdb(sample, "source gdbinit.example", FIND)
        assert answer.json()["count"] == COUNT
        assert answer.stderr == in_gdb(sample, FIND).stderr

    def test_an_exception_of_python_in_between_does_no_harm(self, sample: Any) -> None:
        answer = in_gdb(sample, "python raise ValueError('theirs')", FIND)
        assert answer.json()["count"] == COUNT

    def test_a_macro_of_gdb_may_use_the_commands(self, sample: Any) -> None:
        script = "python gdb.execute('define hunt\\nleak-find -json \"leaked\" -in $arg0\\nend')"
        assert in_gdb(sample, script, "hunt heap").json()["count"] == COUNT


class TestWords:
    """How a line is read."""

    @pytest.mark.parametrize(
        "line",
        [
            'leak-find -js "leaked" -in heap',
            'leak-find --json "leaked" --in=heap',
            'leak-find "leaked" -json -in heap -limit unlimited',
            "leak-find leaked -in heap -json --",
            "leak-find -in heap -json -- leaked",
            "leak-find 'leaked' -in brk -json",
            'leak-find "lea\\x6bed" -in heap -json',
            "leak-find -hex 6c 65 61 6b 65 64 -in heap -json",
            "leak-find -hex 6c65616b6564 -in heap -json",
            "leak-find -i LEAKED -in heap -json",
            "leak-find -regex l[e]aked -in heap -json",
        ],
    )
    def test_it_is_taken_in_gdbs_style(self, sample: Any, line: str) -> None:
        answer = in_gdb(sample, line)
        assert answer.status == 0, answer.stderr
        assert answer.json()["count"] == COUNT

    def test_after_two_dashes_a_dash_is_text(self, sample: Any) -> None:
        assert in_gdb(sample, "leak-find -json -- -json").json()["needle"] == b"-json".hex()

    def test_addresses_are_expressions(self, sample: Any) -> None:
        one, other = in_gdb(
            sample, "leak-dump -json $sp +(4 * 4)", "leak-dump -json $sp ($sp + 16)"
        ).all_json()
        assert one["lines"] == other["lines"]
        assert one["length"] == 16

    def test_the_last_match_can_be_dumped(self, sample: Any) -> None:
        answer = in_gdb(sample, 'leak-find "leaked" -in heap -limit 1', "leak-dump $_ +16")
        assert ">leaked memory" in answer.stdout

    def test_an_empty_line_does_not_repeat_a_command(self, sample: Any, tmp_path: Path) -> None:
        script = tmp_path / "script"
        script.write_text(FIND + "\n\n\n")
        answer = in_gdb(sample, f"source {script}")
        assert answer.json()["count"] == COUNT

    def test_decoding_needs_no_target(self) -> None:
        answer = gdb("leak-decode -json 0x6d2064656b61656c 0x00000079726f6d65").json()
        assert answer["text"] == "leaked memory"
        assert answer["target"] is None

    def test_text_becomes_words_and_back(self) -> None:
        words = gdb('leak-decode -json -text "leaked memory"').json()["words"]
        assert [word["value"] for word in words] == ["0x6d2064656b61656c", "0x00000079726f6d65"]
        spelled = shell("decode", *(word["value"] for word in words), "-json").json()
        assert spelled["text"] == "leaked memory"

    def test_pointers_into_a_range_are_aligned_words(self, sample: Any) -> None:
        heap = sample.heap
        line = f"leak-find -json -pointer {heap.start:#x},{heap.end:#x} -in stack"
        answer = in_gdb(sample, line).json()
        runs = list(truth.process_runs(sample.live.pid, lambda mapping: mapping.name == "[stack]"))
        ((start, data),) = runs
        true = [
            start + at
            for at in range(0, len(data), 8)
            if heap.start <= int.from_bytes(data[at : at + 8], "little") < heap.end
        ]
        assert [int(match["address"], 16) for match in answer["matches"]] == true
