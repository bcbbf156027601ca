"""Help, apropos and completion, as gdb and the shell show them."""

import re

import pytest
from harness.debuggers import gdb, shell

#: The options that each command is promised to have, beside -json.
PROMISED = {
    "leak": (),
    "leak-regions": ("in", "sort"),
    "leak-find": (
        *("hex", "u8", "u16", "u32", "u64", "pointer", "utf16", "regex"),
        *("z", "i", "in", "align", "limit", "state", "verdict"),
    ),
    "leak-dump": ("as", "all", "out", "force"),
    "leak-decode": ("text", "at", "count"),
    "leak-strings": ("in", "min", "top"),
    "leak-snapshot": (),
    "leak-diff-region": (),
    "leak-heap": (),
    "leak-blocks": ("state", "by", "size", "kind", "list", "limit"),
    "leak-check": (
        *("show", "heuristics", "red-zone", "vector-registers", "top", "list"),
        "error-exitcode",
    ),
    "leak-refs": ("path", "limit"),
    "leak-whatis": (),
}
#: Options that do not exist yet.
NOT_YET = {
    "leak-check": (
        *("suppressions", "gen-suppressions", "increased", "changed"),
        *("format", "out"),
    )
}
#: What gdb has no command for.
SHELL_ONLY = ("run", "record", "doctor", "gdbinit")
#: The options of the commands that start a program.
STARTING = {
    "run": (
        *("error-exitcode", "at", "trace-children", "log-file", "json", "sample", "depth"),
        *("show", "heuristics", "top"),
    ),
    "record": ("sample", "depth"),
}

IN_GDB = pytest.mark.parametrize("command", PROMISED)
IN_SHELL = pytest.mark.parametrize(
    "command",
    [*(name[len("leak-") :] for name in PROMISED if name != "leak"), "overview", *SHELL_ONLY],
)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Ask gdb for the help of every command, once."""
    commands = [part for name in PROMISED for part in (f"echo @@{name}\\n", f"help {name}")]
    answer = gdb(*commands)
    assert answer.status == 0, answer.stderr
    parts = answer.stdout.split("@@")[1:]
    return {name: text.strip("\n") for name, _, text in (part.partition("\n") for part in parts)}


def has_the_form(text: str, usage_of: str) -> None:
    """Check that TEXT is a sentence, usage, operands, options and an example."""
    sentence, blank, usage, *_ = text.split("\n")
    assert re.fullmatch(r"[A-Z].*\.", sentence)
    assert blank == ""
    assert usage.startswith(f"Usage: {usage_of}")
    options = re.search(r"\nOptions:\n((?: {2,}.*\n|\n)+)", text + "\n")
    assert options, text
    for line in options[1].splitlines():
        assert not line or re.match(r"  -\S|    \S", line), line
    assert re.search(r"\n\nExample:\n  \S", text), text
    # The list of commands has a line each, as gdb's own apropos.
    assert max(map(len, text.partition("All commands:")[0].split("\n"))) <= 80


@IN_GDB
def test_help_in_gdb_has_gdbs_form(texts: dict[str, str], command: str) -> None:
    has_the_form(texts[command], command)


@IN_SHELL
def test_help_in_a_shell_has_the_same_form(command: str) -> None:
    answer = shell(command, "-help")
    assert (answer.status, answer.stderr) == (0, "")
    has_the_form(answer.stdout.rstrip("\n"), f"gdb-leak {command}")


@IN_GDB
def test_every_promised_option_is_in_the_help(texts: dict[str, str], command: str) -> None:
    found = set(re.findall(r"^  -([a-z0-9-]+)", texts[command], re.MULTILINE))
    assert {*PROMISED[command], "json"} <= found


@IN_GDB
def test_every_promised_option_is_completed(command: str) -> None:
    answer = gdb(f"complete {command} -")
    offered = {line.rpartition(" ")[2] for line in answer.stdout.splitlines()}
    assert {f"-{name}" for name in (*PROMISED[command], "json")} <= offered


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("leak-find -li", ["leak-find -limit"]),
        ("leak-find -in he", ["leak-find -in heap"]),
        (
            "leak-regions -sort ",
            ["leak-regions -sort address", "leak-regions -sort rss", "leak-regions -sort size"],
        ),
        ("leak-dump -as x", ["leak-dump -as x1", "leak-dump -as x4", "leak-dump -as x8"]),
        ("leak-di", ["leak-diff-region"]),
        ("leak-check -e", ["leak-check -error-exitcode"]),
        ("leak-blocks -state l", ["leak-blocks -state lost"]),
        ("leak-find x -limit unl", ["leak-find x -limit unlimited"]),
    ],
)
def test_what_is_typed_is_completed(line: str, completed: list[str]) -> None:
    assert gdb(f"complete {line}").stdout.splitlines() == completed


def test_addresses_are_completed_by_gdb(programs: "dict[str, object]") -> None:
    answer = gdb("complete leak-dump &leak_f", program=programs["sample"])  # type: ignore[arg-type]
    assert "leak-dump &leak_func" in answer.stdout.splitlines()


def test_help_leak_lists_every_command(texts: dict[str, str]) -> None:
    for command in PROMISED:
        assert re.search(rf"^{command} +-- [A-Z].*\.$", texts["leak"], re.MULTILINE), command


def test_apropos_leak_finds_every_command() -> None:
    found = gdb("apropos leak").stdout.splitlines()
    for command in PROMISED:
        assert any(line.startswith(f"{command} -- ") for line in found), command


def test_the_shell_lists_every_command() -> None:
    for words in (("-help",), ("--help",), ("help",)):
        answer = shell(*words)
        assert answer.status == 0
        for command in PROMISED:
            name = command.partition("-")[2] or "overview"
            assert re.search(rf"^{name} +-- ", answer.stdout, re.MULTILINE), name
        for command in SHELL_ONLY:
            assert re.search(rf"^{command} +-- ", answer.stdout, re.MULTILINE), command


def test_help_of_a_command_is_the_same_by_both_words() -> None:
    assert shell("help", "find").stdout == shell("find", "-help").stdout


def test_the_version_is_printed() -> None:
    answer = shell("-version")
    assert answer.status == 0
    assert re.fullmatch(r"gdb-leak \d+\.\d+\.\d+\n", answer.stdout)


@pytest.mark.parametrize("command", NOT_YET)
def test_an_option_of_later_is_refused_as_unknown(command: str) -> None:
    for option in NOT_YET[command]:
        answer = gdb(f"{command} x -{option}")
        assert answer.status == 1
        assert f"Unrecognized option at: -{option}" in answer.stderr
        assert shell(command[len("leak-") :], "core", "x", f"-{option}").status == 2


@pytest.mark.parametrize("command", SHELL_ONLY)
def test_a_command_of_the_shell_alone_is_none_of_gdb(command: str) -> None:
    assert "Undefined command" in gdb(f"leak-{command}").stderr


@pytest.mark.parametrize("command", STARTING)
def test_the_commands_that_start_a_program_have_the_promised_options(command: str) -> None:
    found = set(re.findall(r"^  -([a-z0-9-]+)", shell(command, "-help").stdout, re.MULTILINE))
    assert set(STARTING[command]) <= found
