"""The page on all commands, ``docs/commands.md``, made from their declarations.

``make docs`` writes it anew.
"""

import sys
from collections.abc import Iterable, Iterator

from gdb_leak import manual
from gdb_leak.commands import SHELL_ONLY, TABLE
from gdb_leak.options import Command

__all__ = ["page"]

_HEAD = """# Commands

<!-- Made by `make docs` from the help texts; a test holds it to them. -->

Every command is in gdb as `leak-NAME` and in a shell as `gdb-leak NAME`. `help leak-NAME` and
`gdb-leak help NAME` print what stands here. Options may be cut short as long as they stay
unambiguous, may stand before or after operands, and take `--limit 10` and `--limit=10` as well;
`--` ends them.
"""

_SHELL_HEAD = """
## Options of the shell

Every command of the shell that has a TARGET takes these as well:

```text
"""


def page() -> str:
    """Return the page as Markdown, the line's end included."""
    both = [entry.command for entry in TABLE]
    shell_only = [entry.command for entry in SHELL_ONLY]
    return "".join(_sections(both, shell_only))


def _sections(both: Iterable[Command], shell_only: Iterable[Command]) -> Iterator[str]:
    yield _HEAD
    for command in both:
        yield f"\n## {command.prompt_name}\n\nIn gdb:\n"
        yield f"\n```text\n{manual.help_text(command)}\n```\n"
        usage = manual.usage_line(command, from_shell=True)
        yield f"\nFrom a shell:\n\n```text\nUsage: {usage}\n\n{command.example[1]}\n```\n"
    yield _SHELL_HEAD
    options = (*manual.TARGET_OPTIONS, *manual.SHELL_OPTIONS)
    yield "\n\n".join(map(manual.option_text, options))
    yield "\n```\n"
    for command in shell_only:
        text = manual.help_text(command, from_shell=True)
        yield f"\n## gdb-leak {command.name}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(page())
