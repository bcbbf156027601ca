"""Help texts, all made from the declarations in :mod:`gdb_leak.options`.

One form serves ``help leak-find``, ``gdb-leak find -help`` and the generated
pages: gdb's own, as ``help print`` shows it.
"""

import textwrap
from collections.abc import Iterable

from gdb_leak.options import Command, Operand, Option

__all__ = [
    "SHELL_OPTIONS",
    "TARGET_OPTIONS",
    "help_text",
    "option_text",
    "options_of",
    "overview_text",
    "usage_line",
]

_WIDTH = 78

#: Taken by every command.
JSON = Option("json", "Print one JSON object on one line.")

#: Taken by every command at the shell's door.
SHELL_OPTIONS = (
    Option("help", "Print this text.", shell_only=True),
    Option("version", "Print the version.", shell_only=True),
)

#: Taken at the shell's door by the commands that have a TARGET.
TARGET_OPTIONS = (
    Option(
        "exe",
        "The program that the core came from, where it is not found by its own name.",
        "file",
        "FILE",
        shell_only=True,
    ),
    Option(
        "sysroot",
        "The folder that holds the libraries of a core from another machine.",
        "file",
        "DIR",
        shell_only=True,
    ),
    Option("stop", "Hold the process while it is read (TARGET is a pid).", shell_only=True),
)


def options_of(command: Command, from_shell: bool) -> list[Option]:
    """Return all options that COMMAND takes at a door, in the order of help."""
    options = [*command.options, *([JSON] if command.json else [])]
    if from_shell:
        if command.target:
            options.extend(TARGET_OPTIONS)
        elif command.files or command.target_options:
            options.extend(TARGET_OPTIONS[:2])
        options.extend(SHELL_OPTIONS)
    return options


def usage_line(command: Command, from_shell: bool) -> str:
    """Return the usage of COMMAND as one line: ``leak-find [OPTION]... [--] NEEDLE``."""
    parts = [f"gdb-leak {command.name}" if from_shell else command.prompt_name]
    if from_shell and command.target:
        parts.append("TARGET")
    operands = [_operand_usage(operand, from_shell) for operand in command.operands]
    if operands:
        operands.insert(0, "[--]")
    options = [f"[{option.label}]" for option in options_of(command, from_shell)]
    line = " ".join([*parts, *options, *operands])
    if len(line) + len("Usage: ") <= _WIDTH:
        return line
    return " ".join([*parts, "[OPTION]...", *operands])


def help_text(command: Command, from_shell: bool = False) -> str:
    """Return the help of COMMAND: sentence, usage, operands, options, variables, example."""
    blocks = [command.summary, f"Usage: {usage_line(command, from_shell)}"]
    operands = [operand for operand in command.operands if operand.help]
    if from_shell and command.target:
        operands.insert(
            0, Operand("TARGET", "A core file, or the pid of a running process (./123 is a file).")
        )
    blocks.extend(_paragraph(f"{operand.name}: {operand.help}") for operand in operands)
    if command.description:
        blocks.extend(_paragraph(block) for block in command.description.split("\n\n"))
    blocks.append("Options:")
    blocks.extend(option_text(option) for option in options_of(command, from_shell))
    if command.variables and not from_shell:
        blocks.append(_paragraph(command.variables))
    example = command.example[1 if from_shell else 0]
    if example:
        blocks.append(f"Example:\n  {example}")
    # `Options:` stands right over the first option, as gdb has it.
    return "\n\n".join(blocks).replace("Options:\n\n", "Options:\n", 1)


def overview_text(commands: Iterable[Command], from_shell: bool) -> str:
    """Return one line on each of COMMANDS, names lined up."""
    listed = [
        (command.name if from_shell else command.prompt_name, command.summary)
        for command in commands
    ]
    width = max((len(name) for name, _ in listed), default=0)
    return "\n".join(f"{name:<{width}} -- {summary}" for name, summary in listed)


def option_text(option: Option) -> str:
    """Return OPTION as help shows it: its label, and its help indented below."""
    wrapped = textwrap.fill(option.help, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"  {option.label}\n{wrapped}"


def _operand_usage(operand: Operand, from_shell: bool) -> str:
    text = operand.name + ("..." if operand.most is None else "")
    least = operand.least
    if from_shell and operand.shell_least is not None:
        least = operand.shell_least
    return text if least else f"[{text}]"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
