"""Getting gdb-leak into a person's gdb: the line in the gdbinit file, and what is amiss.

Plain functions that return plain data and print nothing.
"""

from gdb_leak.install.block import Edit, gdbinit_line, gdbinit_path, install, remove, sourced
from gdb_leak.install.checks import Check, Gdb, doctor, gdb_version

__all__ = [
    "Check",
    "Edit",
    "Gdb",
    "doctor",
    "gdb_version",
    "gdbinit_line",
    "gdbinit_path",
    "install",
    "remove",
    "sourced",
]
