"""Hunt memory leaks inside gdb, on live processes and on core files.

The package has two doors to the same commands: :mod:`gdb_leak.doors.gdb`
registers them in a running gdb, :mod:`gdb_leak.doors.shell` serves them as
``gdb-leak COMMAND TARGET``. Importing the package itself loads neither door nor
the native module.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
