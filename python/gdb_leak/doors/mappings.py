"""The mappings of a remote target, as gdb or this machine lists them."""

import os
from collections.abc import Iterable
from typing import Callable, NamedTuple, Optional

from gdb_leak import units
from gdb_leak.doors import gdb_says, same_machine

__all__ = ["Mappings", "listed", "sections"]

#: Has gdb execute a command, and returns the bytes that that prints.
Execute = Callable[[str], bytes]


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
        said = execute("info proc mappings")
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
        found = gdb_says.sections(os.fsdecode(execute(f"maint info sections {argument}")))
        if found:
            return found
    return []
