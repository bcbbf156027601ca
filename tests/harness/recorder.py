"""The recorder's library, as far as starting programs needs it."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from harness import ROOT


def place() -> Path:
    """Return where the installed package has the library, or would have it."""
    (package,) = ROOT.glob(".venv/lib/python*/site-packages/gdb_leak")
    return package / "recorder" / "libgdb_leak_recorder.so"


@contextlib.contextmanager
def present() -> Iterator[Path]:
    """Have a library there: an empty one, where the recorder itself was not built."""
    library = place()
    made = not library.exists()
    if made:
        library.parent.mkdir(exist_ok=True)
        line = ["gcc", "-shared", "-fPIC", "-x", "c", "/dev/null", "-o", str(library)]
        subprocess.run(line, check=True)
    try:
        yield library
    finally:
        if made:
            library.unlink()


@contextlib.contextmanager
def absent() -> Iterator[Path]:
    """Have no library there."""
    library = place()
    aside = library.with_suffix(".aside")
    library.rename(aside)
    try:
        yield library
    finally:
        aside.rename(library)
