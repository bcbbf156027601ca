"""How long tests go on that find more the longer they run: the variable GDB_LEAK_SOAK."""

import os

__all__ = ["ASKED", "TIMES"]

#: Whether the variable is set, to 1 too: what takes minutes runs then.
ASKED = "GDB_LEAK_SOAK" in os.environ
#: How many times as much is tried as without it.
TIMES = int(os.environ.get("GDB_LEAK_SOAK", "1"))
