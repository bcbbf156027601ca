"""The mappings of a remote target, as gdb or this machine lists them."""

import os
import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from gdb_leak import units
from gdb_leak.doors import gdb_says, same_machine

__all__ = ["Mappings", "listed", "sections"]

#: Has gdb execute a command, and returns what that prints.
Execute = Callable[[str], str]


class Mappings(NamedTuple):
    """The text that lists the mappings, None where none does, the process, and what to note."""

    text: Optional[bytes]
    pid: int
    notes: list[str]


def listed(
    execute: Execute,
    *,
    errors: type[Exception],
    numbers: Iterable[int],
    program: Optional[str],
    read: same_machine.Read,
) -> Mappings:
    """Return the mappings of the target that gdb has selected.

    :param errors: what EXECUTE raises where gdb cannot list them.
    :param numbers: of the process, as the inferior and its threads have them.
    :param program: the path of the program, where gdb knows it.
    """
    pids = list(dict.fromkeys(numbers))
    try:
        said = _raw(execute, "info proc mappings")
    except errors:
        said = b""
    if gdb_says.mappings(said.decode("latin-1")) is not None:
        return Mappings(said, pids[0], [])
    # vgdb gives the process number 42000, and the real one as its threads' number.
    for pid in pids:
        confirmed = same_machine.confirmed_maps(pid, program, read) if pid > 0 else None
        if confirmed is not None:
            left_out = units.counted(confirmed.left_out, "mapping")
            note = f"{left_out} of /proc/{pid}/maps left out, which gdb cannot read"
            return Mappings(confirmed.text, pid, [note] if confirmed.left_out else [])
    note = "gdb cannot list the mappings of this target: only its sections and stacks are known"
    return Mappings(None, pids[0], [note])


# The argument for all object files was renamed between gdb 11 and 12; each gdb
# takes the other's for the name of a section, and shows none.
def sections(execute: Execute) -> list[tuple[int, int, str, str]]:
    """Return the sections of all files, as :func:`gdb_says.sections` has them."""
    for argument in ("-all-objects", "ALLOBJ"):
        found = gdb_says.sections(os.fsdecode(_raw(execute, f"maint info sections {argument}")))
        if found:
            return found
    return []


# What gdb prints, as bytes: a name of a file need not be text in any charset. gdb decodes
# what it printed, and raises where it cannot; `pipe` hands on the bytes.
def _raw(execute: Execute, command: str) -> bytes:
    try:
        return execute(command).encode(_charset(execute))
    except (LookupError, UnicodeError):
        pass
    with tempfile.NamedTemporaryFile() as made:
        execute(f"pipe {command} | cat > {shlex.quote(made.name)}")
        return Path(made.name).read_bytes()


# By what gdb decodes what it printed. Observed: UTF-8, whatever the host's charset is (gdb 13.1,
# gdb/python/python.c, `execute_gdb_command`, PyUnicode_FromString). Not every version may do
# so: two bytes of its own show it.
def _charset(execute: Execute) -> str:
    try:
        if execute(r"echo \303\244") == "\u00e4":
            return "utf-8"
    except UnicodeError:
        pass
    return gdb_says.charset(execute("show host-charset"))
