"""Answers on terminals of several widths: nothing wraps, and no word is broken."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import cores
from harness.debuggers import DOOR, environment, gdb_line, shell
from harness.processes import Program, compile_fixture
from harness.terminal import PROMPT, Terminal, columns_of

#: The width that answers are made for, and one that they still work on.
WIDTHS = (80, 60)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return the words that commands are asked with: short paths, for no path is ever broken."""
    folder = tmp_path_factory.mktemp("w")
    program = Program(compile_fixture("leaks/graph", folder / "g", "-pthread"), "7", str(folder))
    program.wait_for("READY")
    core = cores.gcore(program.pid, folder / "c")
    blocks = shell("check", core, "-list", "-json").json()["blocks"]
    held = next(block for block in blocks if block["verdict"] == "still_reachable")
    lost = next(block for block in blocks if block["verdict"] == "definitely_lost")
    yield {
        "core": str(core),
        "pid": str(program.pid),
        "held": held["address"],
        "lost": lost["address"],
    }
    program.end()


COMMANDS = (
    "overview {core}",
    "overview {pid}",
    "regions {core}",
    "regions {pid} -sort rss",
    "heap {core}",
    "blocks {core}",
    "blocks {core} -list -limit 40",
    "blocks {core} -by arena",
    "check {core} -show all",
    "check {core} -list",
    "find {core} -pointer {held} -verdict",
    "find {core} -in all -hex 7f -limit 20 -verdict",
    "strings {core}",
    "refs {core} {held} -path",
    "refs {core} {lost}",
    "whatis {core} {held}",
    "whatis {core} {lost}",
    "diff-region {core} {pid}",
    "decode -text 'some text to decode'",
)


def too_wide(text: str, columns: int) -> list[str]:
    """Return the lines of TEXT that a terminal would wrap, but for commands and long words."""
    lines = text.splitlines()
    wide = [(at, line) for at, line in enumerate(lines) if columns_of(line) > columns]
    return [
        line
        for at, line in wide
        if not line.startswith("  gdb-leak ")
        and not _indent(line) + max(map(columns_of, line.split())) > columns
        and not (at and lines[at - 1].startswith("next, "))
    ]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def on_terminal(line: str, columns: int) -> str:
    """Return what gdb-leak says to LINE on a terminal of COLUMNS, without progress."""
    terminal = Terminal([str(DOOR), *line.split()], environment(COLUMNS=None), columns)
    try:
        said = terminal.read_all()
    finally:
        terminal.end()
    said = "\n".join(part for line in said.split("\n") for part in line.split("\033[K")[-1:])
    assert said.strip()
    return said


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_is_wider_than_the_terminal(
    targets: dict[str, str], command: str, columns: int
) -> None:
    said = on_terminal(command.format(**targets).replace("'", ""), columns)
    assert too_wide(said, columns) == []


def test_the_list_of_commands_fits_80_columns() -> None:
    answer = subprocess.run([DOOR, "help"], capture_output=True, text=True, check=True)
    assert [line for line in answer.stdout.splitlines() if len(line) > WIDTHS[0]] == []


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Return the pid of a program with texts that are wider, and narrower, than they are long."""
    program = Program(compile_fixture("wide_texts", tmp_path_factory.mktemp("w") / "w"))
    program.wait_for("READY")
    yield program.pid
    program.end()


@pytest.mark.parametrize("columns", [*WIDTHS, 81])
@pytest.mark.parametrize("command", ["blocks", "blocks -by text", "check", "check -show all"])
def test_wide_characters_count_as_the_columns_that_they_take(
    wide: int, command: str, columns: int
) -> None:
    name, *options = command.split()
    said = on_terminal(" ".join([name, str(wide), *options]), columns)
    assert "エラー" in said
    assert too_wide(said, columns) == []


@pytest.mark.parametrize("columns", WIDTHS)
def test_strings_of_wide_characters_fit(wide: int, columns: int) -> None:
    said = on_terminal(f"strings {wide} -in heap", columns)
    assert "エラー" in said
    assert too_wide(said, columns) == []


@pytest.mark.parametrize("command", ["blocks", "check"])
def test_an_example_of_texts_that_differ_is_seen_at_80_columns(wide: int, command: str) -> None:
    assert "3,000 texts: GET /" in on_terminal(f"{command} {wide}", 80)


def test_the_key_of_groups_is_never_left_out(wide: int) -> None:
    head = on_terminal(f"blocks {wide} -by kind", 60).splitlines()[0]
    assert head.split()[2] == "KIND"


def test_addresses_lose_their_zeros_before_a_column_is_left_out(targets: dict[str, str]) -> None:
    lines = on_terminal(f"regions {targets['pid']} -sort rss", 60).splitlines()
    named = next(line for line in lines if "[heap]" in line)
    assert "0x0000" not in named
    # The one address that has no zeros to lose.
    assert any(line.startswith("0xffffffffff600000") for line in lines)


@pytest.mark.parametrize("columns", WIDTHS)
def test_gdbs_own_width_counts(targets: dict[str, str], columns: int) -> None:
    line = gdb_line(("set pagination off", f"core-file {targets['core']}"), batch=False)
    terminal = Terminal(line, environment(COLUMNS=None), 120)
    try:
        terminal.read_until(PROMPT)
        terminal.command("set style enabled off")
        terminal.command(f"set width {columns}")
        said = terminal.command("leak-check -show all").replace("\r", "")
    finally:
        terminal.end()
    assert "definitely lost:" in said
    # A line that fills the screen is two for gdb's pager.
    assert [line for line in said.split("\n")[2:] if len(line) >= columns] == []


def test_a_pipe_gets_every_column_whole(targets: dict[str, str]) -> None:
    said = shell("regions", Path(targets["core"])).stdout
    assert said.splitlines()[0].split() == [
        *("START", "END", "SIZE", "SAVED", "PERM", "KIND", "NAME")
    ]
    assert "…" not in said
