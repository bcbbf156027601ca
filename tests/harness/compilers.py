"""Fixture programs, compiled once in a test run: workers and files share what is made alike."""

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Optional

#: Where what was compiled is kept until the run ends; without it each call compiles.
_kept: Optional[Path] = None


def keep_in(folder: Optional[Path]) -> None:
    """Keep what is compiled from now on in FOLDER, which other processes may use too."""
    global _kept
    if folder is not None:
        folder.mkdir(exist_ok=True)
    _kept = folder


def compile_program(compiler: str, source: Path, out: Path, *flags: str) -> Path:
    """Return OUT, a program with debug information that COMPILER makes of the file SOURCE."""
    line = [compiler, "-g", "-O0", "-pthread", str(source), *flags]
    if _kept is None:
        subprocess.run([*line, "-o", str(out)], check=True)
        return out
    made = _kept / _key(line, source)
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            # Linked elsewhere first: what failed or was interrupted is not kept.
            subprocess.run([*line, "-o", str(out)], check=True)
            part = made.with_suffix(".part")
            shutil.copy2(out, part)
            part.rename(made)
            return out
    shutil.copy2(made, out)
    return out


# The compiler's whole command line, and every file that the source may include.
def _key(line: list[str], source: Path) -> str:
    digest = hashlib.sha256("\0".join(line).encode("utf-8", "surrogateescape"))
    for folder in (source.parent, source.parent.parent):
        for path in sorted(folder.glob("*.h")):
            digest.update(path.read_bytes())
    digest.update(source.read_bytes())
    return digest.hexdigest()
