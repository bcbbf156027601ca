"""What an answer on a terminal ends with: a command that can be pasted, and that works."""

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness import cores
from harness.debuggers import DOOR, environment, gdb, gdb_line, shell
from harness.mangler import Core, Segment
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
    "blocks {core} -by text",
    "blocks {core} -by arena",
    "check {core} -show all -top 1",
    "check {core} -show reachable",
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
    # A search that is proposed has something to find.
    assert not answer.stdout.splitlines()[-1].startswith("0 matches")


@pytest.mark.parametrize("options", ["-show all -top 1", "-show reachable"])
def test_what_is_lost_comes_next_even_where_other_records_hide_it(
    targets: dict[str, str], options: str
) -> None:
    (proposed,) = typed(on_terminal(f"check {targets['core']} {options}")[-1:])
    assert proposed.split()[1] in ("check", "whatis", "refs")


def test_the_needle_is_of_the_first_row_and_short(targets: dict[str, str]) -> None:
    core = shlex.split(targets["core"])[0]
    (first, *_) = shell("strings", core, "-json").json()["strings"]
    (proposed,) = typed(on_terminal(f"strings {targets['core']}")[-1:])
    words = shlex.split(proposed)
    assert words[1] == "whatis" or words[-1] in first["text"]
    assert len(words[-1]) <= 48


def test_of_a_core_without_its_heap_nothing_of_the_heap_is_dumped(
    targets: dict[str, str], tmp_path: Path
) -> None:
    source = Path(shlex.split(targets["core"])[0])
    (heap,) = shell("regions", source, "-in", "brk", "-json").json()["regions"]

    def unsaved(segment: Segment) -> list[Segment]:
        own = segment.address == int(heap["start"], 16)
        return [replace(segment, data=b"") if own else segment]

    core = Core.read(source).each(unsaved).write(tmp_path / "core")
    lines = typed(on_terminal(f"overview {shlex.quote(str(core))}"))
    steps = [shlex.split(line.split("  ")[0])[1:] for line in lines]
    dumps = [words for words in steps if words[0] == "dump"]
    assert dumps
    for words in dumps:
        answer = shell(*words)
        assert answer.status == 0, answer.stderr


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
        for asked in ("leak-strings -in stack", "leak-blocks -by text", "leak-check -show all"):
            said = terminal.command(asked).replace("\r", "").rstrip()
            answer = terminal.command(said.splitlines()[-1].strip()).replace("\r", "").strip()
            assert not answer.startswith(("leak-", "0 matches"))
            assert "next, to see" in said
    finally:
        terminal.end()
    assert "next, to see" not in gdb("leak-heap", core=Path(core)).stdout
