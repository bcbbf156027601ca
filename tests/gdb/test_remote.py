"""Targets that gdb alone can read: valgrind's gdbserver, and gdbserver."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import truth
from harness.debuggers import environment, gdb, shell
from harness.processes import Program


@contextmanager
def in_valgrind(program: Path, folder: Path) -> Iterator[str]:
    """Run PROGRAM in valgrind, which waits; yield the line that connects gdb to it."""
    words = ["--vgdb=yes", "--vgdb-error=0", f"--vgdb-prefix={folder}/pipe"]
    words += [f"--log-file={folder}/log", str(program)]
    started = Program(Path("/usr/bin/env"), "valgrind", *words, cwd=folder)
    try:
        yield (f"target remote | vgdb --wait=30 --vgdb-prefix={folder}/pipe --pid={started.pid}")
    finally:
        started.end()


@pytest.fixture(scope="module")
def answers(
    programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], str]:
    with in_valgrind(programs["sample"], tmp_path_factory.mktemp("valgrind")) as connect:
        answer = gdb(
            "set sysroot /",
            connect,
            "break wait_for_key",
            "continue",
            'leak-find -json "leaked memory" -in all',
            "leak-regions -json",
            "leak-dump -json $sp +16",
            "leak",
            "kill",
            program=programs["sample"],
        )
    return answer.all_json(), answer.stdout + answer.stderr


def test_under_valgrind_the_texts_are_found(
    answers: tuple[list[dict[str, Any]], str],
) -> None:
    (find, *_), said = answers
    # The block and the copy in stdout's buffer, in valgrind's own heap.
    assert find["count"] == 2, said
    assert {match["region"]["kind"] for match in find["matches"]} == {"anon"}


def test_under_valgrind_the_first_screen_leads_to_valgrinds_own_check(
    answers: tuple[list[dict[str, Any]], str],
) -> None:
    _, said = answers
    proposed = said.partition("\nnext:\n")[2].partition("\n\n")[0]
    assert "  monitor leak_check" in proposed
    assert "leak-strings" in proposed
    assert "leak-check" not in proposed
    assert "leak-heap" not in proposed


def test_under_valgrind_the_regions_come_from_the_confirmed_maps(
    answers: tuple[list[dict[str, Any]], str],
) -> None:
    (_, regions, _), _ = answers
    assert regions["target"]["kind"] == "remote"
    kinds = {region["kind"] for region in regions["regions"]}
    assert "stack" in kinds
    assert regions["target"]["complete"] is True
    assert any("/maps" in note for note in regions["notes"])


def test_under_valgrind_memory_can_be_dumped(
    answers: tuple[list[dict[str, Any]], str],
) -> None:
    (*_, dump), _ = answers
    assert dump["length"] == 16
    assert len(dump["lines"]) == 2


def test_maps_that_the_program_does_not_confirm_are_not_believed(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    with in_valgrind(programs["sample"], tmp_path) as connect:
        answer = gdb(
            "set sysroot /",
            connect,
            "leak-regions -json",
            "kill",
            program=programs["grow"],
        ).json()
    assert answer["target"]["complete"] is False
    assert answer["notes"]
    assert answer["regions"]


def test_gdbserver_shows_the_texts_of_the_sample(sample: Any) -> None:
    answer = gdb(
        "set sysroot /",
        f"target remote | gdbserver --once - --attach {sample.live.pid}",
        'leak-find -json "leaked" -in heap -limit unlimited',
        "detach",
        program=sample.path,
    ).json()
    true = truth.places(truth.process_runs(sample.live.pid, truth.heap), b"leaked")
    assert [int(match["address"], 16) for match in answer["matches"]] == true
    assert answer["target"]["kind"] == "remote"


def test_what_was_relocated_is_fetched_for_verdicts(sample: Any) -> None:
    answer = gdb(
        "set sysroot /",
        f"target remote | gdbserver --once - --attach {sample.live.pid}",
        "leak-check -json",
        "detach",
        program=sample.path,
    ).json()
    local = shell("check", sample.live.pid, "-json").json()
    assert answer["roots"]["relro"] == local["roots"]["relro"]
    assert not [note for note in answer["notes"] if "missing" in note]


def test_gdbserver_over_a_socket_serves_too(sample: Any) -> None:
    server = subprocess.Popen(
        ["gdbserver", "--once", "--attach", "localhost:0", str(sample.live.pid)],
        stderr=subprocess.PIPE,
        env=environment(),
    )
    try:
        assert server.stderr is not None
        port = next(
            int(line.split()[-1]) for line in server.stderr if line.startswith(b"Listening on port")
        )
        answer = gdb(
            "set sysroot /",
            f"target remote localhost:{port}",
            'leak-find -json "leaked" -in heap',
            "detach",
            program=sample.path,
        ).json()
        assert answer["count"] == 102
    finally:
        server.terminate()
        server.wait(timeout=30)
        server.stderr.close()
    os.kill(sample.live.pid, 0)


def test_memory_is_read_anew_after_the_target_ran(start: Any) -> None:
    program = start("sample")
    before, after = gdb(
        "set sysroot /",
        f"target remote | gdbserver --once - --attach {program.pid}",
        'leak-find -json "leaked memory" -in heap',
        "break wait_for_key",
        f"shell echo > /proc/{program.pid}/fd/0",
        "continue",
        'leak-find -json "leaked memory" -in heap',
        "detach",
        program=program.path,
    ).all_json()
    assert (before["count"], after["count"]) == (2, 102)


def test_memory_is_read_anew_after_gdb_wrote_to_it(start: Any) -> None:
    program = start("sample")
    before, after = gdb(
        "set sysroot /",
        f"target remote | gdbserver --once - --attach {program.pid}",
        'leak-find -json "leaked memory" -in heap',
        "set var *(char *)$_ = 'X'",
        'leak-find -json "leaked memory" -in heap',
        "detach",
        program=program.path,
    ).all_json()
    assert (before["count"], after["count"]) == (2, 1)
