"""The page on all commands."""

from pathlib import Path

from gdb_leak.render import reference

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def test_page_on_commands_is_made_from_the_help_texts() -> None:
    assert PAGE.read_text() == reference.page()
