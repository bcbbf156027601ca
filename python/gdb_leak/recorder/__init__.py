"""The recorder's library in this installation, or why there is none."""

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NAME", "Library", "installed"]

NAME = "libgdb_leak_recorder.so"
# Its version, as recorder/src/lib.rs has it among its constants.
_VERSION = re.compile(rb"gdb-leak recorder version ([0-9A-Za-z.+-]{1,40})\0")


@dataclass(frozen=True)
class Library:
    """The place of the library; `missing` says why it is not there, else it is empty."""

    path: Path
    missing: str

    @property
    def version(self) -> str:
        """Return the version that the library says it is; empty where it says none."""
        found = _VERSION.search(self.path.read_bytes())
        return found[1].decode("ascii") if found else ""


def installed() -> Library:
    """Return the library of this installation."""
    folder = Path(__file__).parent
    path = folder / NAME
    if path.is_file():
        return Library(path, "")
    # Left by whatever built the package.
    try:
        reason = (folder / "missing.txt").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        reason = "the package was built without it, by other means than cargo and build.rs"
    return Library(path, reason or "no reason was given when the package was built")
