"""Terabytes of writable memory of which a few pages were ever used, live."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.debuggers import gdb, shell
from harness.processes import Program, compile_fixture

TERABYTES = 14


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("huge")
    path = compile_fixture("huge_reserve", folder / "huge")
    program = Program(path, str(TERABYTES), cwd=folder)
    try:
        program.wait_for("READY")
    except AssertionError:
        program.end()
        pytest.skip(f"the system does not let a process map {TERABYTES} TiB")
    yield program
    program.end()


def page_tables(program: Program) -> str:
    status = Path(f"/proc/{program.pid}/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("VmPTE"))


# Gone over in pieces of 1 MiB, each of these takes more than the harness waits.
def test_memory_that_was_never_used_costs_no_time_and_hides_nothing(huge: Program) -> None:
    before = page_tables(huge)
    places = [huge.places[name][0] for name in ("first", "second")]
    for said in (
        shell("find", huge.pid, "far text", "-in", "anon", "-json").json(),
        gdb('leak-find "far text" -in anon -json', pid=huge.pid).json(),
    ):
        assert [int(match["address"], 16) for match in said["matches"]] == places
        assert said["searched"] >= TERABYTES << 40
    verdicts = shell("check", huge.pid, "-list", "-json").json()
    given = {block["size"]: block["verdict"] for block in verdicts["blocks"]}
    assert (given[504], given[600]) == ("still_reachable", "definitely_lost")
    assert verdicts["coverage"]["resident"] < 1 << 20
    assert shell("heap", huge.pid, "-json").json()["total"]["writable"] >= TERABYTES << 40
    strings = shell("strings", huge.pid, "-in", "anon", "-json").json()["strings"]
    assert ("far text", 2) in {(one["text"], one["count"]) for one in strings}
    assert page_tables(huge) == before


def test_a_dump_of_a_terabyte_folds_it(huge: Program) -> None:
    start = huge.places["first"][0]
    said = shell("dump", huge.pid, hex(start), f"+{1 << 40}").stdout
    assert "far text" in said
    assert len(said.splitlines()) < 12
