"""What the tests in real gdbs stand on: programs, debuggers, cores, and what is true of them.

Nothing here imports gdb_leak: what a test expects must not come from the code
that it tests.
"""

from pathlib import Path

#: The repository's root, where gdbinit.example is sourced.
ROOT = Path(__file__).resolve().parents[2]
