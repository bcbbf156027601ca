"""``python3 -m gdb_leak COMMAND TARGET``: the shell's door."""

import sys

from gdb_leak.doors.shell import main

if __name__ == "__main__":
    sys.exit(main())
