"""The core file that gdb has open, which its name may no longer lead to."""

import os
import stat
from pathlib import Path
from typing import Optional

from gdb_leak.errors import RequestError

__all__ = ["identity", "path"]


def path(name: str) -> str:
    """Return the path by which to open the core that gdb has open under NAME.

    Seen: a core that was renamed or replaced while gdb has it loaded. gdb keeps
    it open, so that its entry in /proc/self/fd is still the same file.

    :raises RequestError: where gdb has several cores open and none has that name.
    """
    held = _descriptors()
    try:
        status = Path(name).stat()
    except OSError:
        status = None
    if status is not None and (not held or (status.st_dev, status.st_ino) in held):
        return name
    if len(held) == 1:
        return next(iter(held.values()))
    raise RequestError(f"core file {name} was moved or replaced; load it again (core FILE)")


def identity(name: str) -> Optional[tuple[int, int, int, int]]:
    """Return what tells the file NAME from another one, or from its own later contents."""
    try:
        status = Path(name).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# The core files that this process has open, by device and inode.
def _descriptors() -> dict[tuple[int, int], str]:
    held: dict[tuple[int, int], str] = {}
    # By number: following the links in /proc takes six times as long, and this
    # is asked for before each command.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            status = os.fstat(int(name))
            # ELF header: e_type 4 is ET_CORE, in either byte order.
            head = os.pread(int(name), 18, 0) if stat.S_ISREG(status.st_mode) else b""
        except OSError:
            continue
        if head[:4] == b"\x7fELF" and head[16:18] in (b"\x04\0", b"\0\x04"):
            held.setdefault((status.st_dev, status.st_ino), f"/proc/self/fd/{name}")
    return held
