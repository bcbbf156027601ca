"""The C libraries that tests run fixtures on: this machine's own, and those of the matrix.

``scripts/glibc-matrix`` unpacks each into a folder named as its version. A
fixture is compiled against that folder's headers and start files and has that
folder's loader in it, so it runs as any program does, and /proc/PID/exe names it.
"""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import pytest

from harness import ROOT
from harness.processes import compile_fixture

#: A folder of unpacked libraries; names the rows that are tested beside our own.
VARIABLE = "GDB_LEAK_GLIBC"
_TRIPLET = "x86_64-linux-gnu"
_SYSTEM_DEBUG = Path("/usr/lib/debug")


@dataclass(frozen=True)
class Glibc:
    """One C library: this machine's own (no root), or unpacked at ROOT."""

    name: str
    root: Optional[Path]

    @property
    def folder(self) -> Path:
        """The folder with libc.so.6."""
        assert self.root is not None
        for folder in (self.root / "usr" / "lib" / _TRIPLET, self.root / "lib" / _TRIPLET):
            if (folder / "libc.so.6").exists():
                return folder
        raise AssertionError(f"no libc.so.6 in {self.root}")

    @property
    def loader(self) -> Path:
        """The dynamic loader."""
        return self.folder / "ld-linux-x86-64.so.2"

    @property
    def debug(self) -> Path:
        """The folder for gdb's debug-file-directory; may be absent for our own."""
        return self.root / "usr" / "lib" / "debug" if self.root else _SYSTEM_DEBUG

    @property
    def minor(self) -> int:
        """The y of 2.y."""
        version = self.name if self.root else platform.libc_ver()[1]
        return int(version.split("-")[0].split("+")[0].split(".")[1])

    def compile(self, fixture: str, out: Path, *flags: str) -> Path:
        """Return the program OUT, of tests/fixtures/FIXTURE.c, that runs on this library.

        FLAGS are gcc's; ``-static`` and ``-static-pie`` among them work.
        """
        return compile_fixture(fixture, out, *self._flags(flags), *flags)

    def _flags(self, flags: tuple[str, ...]) -> list[str]:
        if self.root is None:
            return []
        libraries = self.root / "usr" / "lib" / _TRIPLET
        made = [
            f"--sysroot={self.root}",
            # The start files and libc.so of the folder before gcc's own neighbours.
            f"-B{libraries}",
            f"-L{libraries}",
            # The kernel's headers are in a package of their own.
            *("-idirafter", f"/usr/include/{_TRIPLET}", "-idirafter", "/usr/include"),
            "-static-libgcc",
        ]
        if not any(flag in flags for flag in ("-static", "-static-pie")):
            made += _linker("--dynamic-linker", str(self.loader), "-rpath", str(self.folder))
        elif self.minor < 35:
            # libgcc_eh of gcc 12 finds frames by a function that came with glibc 2.35.
            # No fixture unwinds.
            made += _linker("--defsym", "_dl_find_object=0")
        return made


def _linker(*words: str) -> list[str]:
    return [option for word in words for option in ("-Xlinker", word)]


def rows() -> list[Glibc]:
    """Return the libraries to test on.

    Our own only, or those in the folder that the environment names.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return [Glibc("own", None)]
    found = [
        Glibc(root.name, root)
        for root in sorted((ROOT / named).iterdir())
        if (root / "unpacked").exists()
    ]
    if not found:
        raise pytest.UsageError(f"{VARIABLE}={named}: nothing there; run scripts/glibc-matrix")
    return found


#: Debian's cross compiler, its C library, and the emulator.
CROSS_GCC = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64"
_CROSS_ROOT = Path("/usr/aarch64-linux-gnu")
_PUTS = '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n'


def aarch64(fixture: str, out: Path) -> tuple[Path, ...]:
    """Return the words that start tests/fixtures/FIXTURE.c, compiled into OUT, on aarch64."""
    source = ROOT / "tests" / "fixtures" / f"{fixture}.c"
    subprocess.run([CROSS_GCC, "-g", "-O0", "-pthread", "-o", str(out), str(source)], check=True)
    emulator = shutil.which(EMULATOR)
    assert emulator
    return (Path(emulator), Path("-L"), _CROSS_ROOT, out)


def lacks_aarch64() -> str:
    """Return what is missing here to run fixtures on aarch64; nothing when all is there."""
    missing = [word for word in (CROSS_GCC, EMULATOR) if shutil.which(word) is None]
    if not missing and not (_CROSS_ROOT / "include" / "stdio.h").exists():
        missing = ["libc6-dev-arm64-cross"]
    return ", ".join(missing)


def compiles(*flags: str, source: str = _PUTS) -> bool:
    """Whether gcc can make a program of SOURCE with FLAGS on this machine."""
    done = subprocess.run(
        ["gcc", "-x", "c", "-o", "/dev/null", "-", *flags],
        input=source.encode(),
        capture_output=True,
    )
    return done.returncode == 0
