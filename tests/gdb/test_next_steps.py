"""What an answer on a terminal ends with: a command that can be pasted, and that works."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import cores
from harness.debuggers import DOOR, environment, gdb, gdb_line, shell
from harness.processes import Program, compile_fixture
from harness.terminal import PROMPT, Terminal


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("a place with blanks")
    path = compile_fixture("leaks/graph", folder / "graph", "-pthread")
    program = Program(path, "7", str(folder), cwd=folder)
    program.wait_for("READY")
    # gdb's gcore takes no path with blanks.
    taken = cores.gcore(program.pid, tmp_path_factory.mktemp("taken") / "core")
    core = taken.rename(folder / "core")
    snapshot = folder / "kept.snapshot"
    shell("snapshot", program.pid, snapshot)
    blocks = shell("check", core, "-list", "-json").json()["blocks"]
    held = next(block for block in blocks if block["verdict"] == "still_reachable")
    lost = next(block for block in blocks if block["verdict"] == "definitely_lost")
    yield {
        "core": shlex.quote(str(core)),
        "pid": str(program.pid),
        "snapshot": shlex.quote(str(snapshot)),
        "folder": shlex.quote(str(folder)),
        "held": held["address"],
        "lost": lost["address"],
    }
    program.end()


COMMANDS = (
    "heap {core}",
    "heap {pid}",
    "heap {core} -exe {folder}/graph",
    "find {core} -pointer {held}",
    "check {core}",
    "check {pid}",
    "blocks {core}",
    "blocks {core} -state lost",
    "strings {core} -in stack",
    "strings {core} -in all",
    "diff-region {snapshot} {pid}",
    "diff-region {snapshot} {core}",
    "whatis {core} {held}",
    "refs {core} {held}",
    "snapshot {pid} {folder}/another.snapshot -force",
)
SCREENS = ("overview {core}", "overview {pid}", "overview {snapshot}")


def on_terminal(command: str) -> list[str]:
    terminal = Terminal([str(DOOR), *shlex.split(command)], environment(COLUMNS=None))
    try:
        return terminal.read_all().splitlines()
    finally:
        terminal.end()


def typed(lines: list[str]) -> list[str]:
    """Return the commands that LINES propose."""
    return [line.strip() for line in lines if line.startswith("  gdb-leak ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_last_line_is_a_command_that_works(targets: dict[str, str], command: str) -> None:
    lines = on_terminal(command.format(**targets))
    assert lines[-2].startswith("next, to see ")
    (proposed,) = typed(lines[-1:])
    answer = shell(*shlex.split(proposed)[1:])
    assert answer.status == 0, answer.stderr
    assert answer.stdout


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", [(), ("-json",)])
def test_a_pipe_and_json_get_none(
    targets: dict[str, str], command: str, option: tuple[str, ...]
) -> None:
    said = shell(*shlex.split(command.format(**targets)), *option).stdout
    assert "next, to see" not in said


@pytest.mark.parametrize("command", SCREENS)
def test_the_first_screen_proposes_what_works_on_the_target_and_no_more(
    targets: dict[str, str], command: str
) -> None:
    proposed = typed(on_terminal(command.format(**targets)))
    assert proposed
    for line in proposed:
        words = shlex.split(line.split("  ")[0])[1:]
        (before,) = shlex.split(targets["snapshot"])
        known = {"TEXT": "text", "BEFORE": before, "SNAPSHOT": before}
        words = [known.get(word, word) for word in words]
        if words[0] == "snapshot":
            continue  # writes into the current folder
        answer = shell(*words)
        assert answer.status == 0, (line, answer.stderr)


def test_at_gdbs_prompt_it_is_a_command_of_gdb(targets: dict[str, str]) -> None:
    (core,) = shlex.split(targets["core"])
    line = gdb_line(("set pagination off", "set style enabled off"), core=Path(core), batch=False)
    terminal = Terminal(line, environment(COLUMNS=None))
    try:
        terminal.read_until(PROMPT)
        said = terminal.command("leak-heap").replace("\r", "").rstrip()
        assert said.splitlines()[-1] == "  leak-check"
        assert "definitely lost:" in terminal.command("leak-check")
    finally:
        terminal.end()
    assert "next, to see" not in gdb("leak-heap", core=Path(core)).stdout
