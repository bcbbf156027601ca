"""``gdb-leak COMMAND TARGET`` and ``python3 -m gdb_leak``: the shell's door."""

import signal
import sys

__all__ = ["main"]


def main() -> int:
    """Answer the command in ``sys.argv``, and return the exit status."""
    # While modules are loaded, Ctrl-C would be a traceback: it ends this as it ends any program.
    python = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if python:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gdb_leak.doors import shell

    if python:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return shell.main()


if __name__ == "__main__":
    sys.exit(main())
