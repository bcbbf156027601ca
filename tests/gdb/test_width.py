"""Answers on terminals of several widths: nothing wraps, and no word is broken."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import cores
from harness.debuggers import DOOR, environment, gdb_line, shell
from harness.processes import Program, compile_fixture
from harness.terminal import PROMPT, Terminal

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
    wide = [(at, line) for at, line in enumerate(lines) if len(line) > columns]
    return [
        line
        for at, line in wide
        if not line.startswith("  gdb-leak ")
        and not any(len(word) > columns // 2 for word in line.split())
        and not (at and lines[at - 1].startswith("next, "))
    ]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_is_wider_than_the_terminal(
    targets: dict[str, str], command: str, columns: int
) -> None:
    line = [str(DOOR), *command.format(**targets).replace("'", "").split()]
    terminal = Terminal(line, environment(COLUMNS=None), columns)
    try:
        said = terminal.read_all()
    finally:
        terminal.end()
    said = "\n".join(part for line in said.split("\n") for part in line.split("\033[K")[-1:])
    assert said.strip()
    assert too_wide(said, columns) == []


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
    assert [line for line in said.split("\n")[2:] if len(line) > columns] == []


def test_a_pipe_gets_every_column_whole(targets: dict[str, str]) -> None:
    said = shell("regions", Path(targets["core"])).stdout
    assert said.splitlines()[0].split() == [
        *("START", "END", "SIZE", "SAVED", "PERM", "KIND", "NAME")
    ]
    assert "…" not in said
