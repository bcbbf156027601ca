"""Help texts, made from the declarations."""

import re

import pytest
from gdb_leak import manual
from gdb_leak.commands import TABLE, Entry
from gdb_leak.doors.shell import SHELL_TABLE

ENTRIES = pytest.mark.parametrize(
    ("entry", "from_shell"),
    [
        *(pytest.param(entry, False, id=entry.command.prompt_name) for entry in TABLE),
        *(pytest.param(entry, True, id=entry.command.name) for entry in SHELL_TABLE),
    ],
)


@ENTRIES
def test_help_has_the_form_of_gdb(entry: Entry, from_shell: bool) -> None:
    text = manual.help_text(entry.command, from_shell)
    sentence, blank, usage = text.split("\n")[:3]
    assert sentence.endswith(".")
    assert sentence.count(". ") == 0
    assert blank == ""
    name = f"gdb-leak {entry.command.name}" if from_shell else entry.command.prompt_name
    assert usage.startswith(f"Usage: {name}")
    assert "\n\nOptions:\n  -" in text
    assert "\n\nExample:\n  " in text


@ENTRIES
def test_help_fits_a_terminal_and_ascii(entry: Entry, from_shell: bool) -> None:
    text = manual.help_text(entry.command, from_shell)
    assert text.isascii()
    assert max(map(len, text.split("\n"))) <= 80


@ENTRIES
def test_every_option_is_indented_two_and_its_text_four(entry: Entry, from_shell: bool) -> None:
    text = manual.help_text(entry.command, from_shell)
    for option in manual.options_of(entry.command, from_shell):
        assert re.search(rf"^  -{re.escape(option.label[1:])}\n    \S", text, re.MULTILINE)
        assert option.help.endswith(".")


@ENTRIES
def test_every_command_takes_json(entry: Entry, from_shell: bool) -> None:
    taken = [option.name for option in manual.options_of(entry.command, from_shell)]
    # `record` has no answer of its own.
    assert ("json" in taken) == (entry.command.name != "record")


def test_summaries_line_up() -> None:
    listed = manual.overview_text((entry.command for entry in TABLE), False).split("\n")
    assert len({line.index(" -- ") for line in listed}) == 1
