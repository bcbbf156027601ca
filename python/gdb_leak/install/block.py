"""The block in a gdbinit file that makes every gdb load gdb-leak.

A file is edited as bytes: whatever stands outside the block comes back as it
was, whatever its encoding.
"""

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from gdb_leak import _native
from gdb_leak.errors import FileError

_OPEN = b"# >>> gdb-leak >>>"
_CLOSE = b"# <<< gdb-leak <<<"
_EXPLANATION = b"# `gdb-leak gdbinit -remove` takes this block out.\n"
# Stands in a block that was put after a last line without an end of line, so
# that taking the block out gives that line back as it was.
_BORROWED = b"# The line before this block had no end of line.\n"
# Is in a block for which the file was made, so that a file that then holds nothing else goes too.
_MADE = b"# This file was made for this block, and is deleted with it if nothing else is in it.\n"

_BLOCK = re.compile(
    rb"^%s[ \t\r]*\n(?:.*\n)*?%s[ \t\r]*(?:\n|\Z)" % (re.escape(_OPEN), re.escape(_CLOSE)),
    re.MULTILINE,
)
_MARK = re.compile(rb"^(?:%s|%s)[ \t\r]*$" % (re.escape(_OPEN), re.escape(_CLOSE)), re.MULTILINE)
_SOURCE = re.compile(rb"^[ \t]*source[ \t]+(.*?gdb_leak/gdbinit\.py)[ \t\r]*$", re.MULTILINE)


@dataclass(frozen=True)
class Edit:
    """What was done to a gdbinit file; `deleted` where it was made by an installation."""

    path: Path
    changed: bool
    line: str
    deleted: bool = False


def gdbinit_line() -> str:
    """Return the line that loads gdb-leak when gdb reads it, without an end of line.

    gdb takes the rest of the line as the file's name: blanks need no quotes.

    :raises FileError: when the package is in a folder whose name no line can hold.
    """
    # Not resolved: a virtual environment may be reached through a link on purpose.
    path = Path(__file__).absolute().parent.parent / "gdbinit.py"
    if "\n" in str(path) or "\r" in str(path):
        raise FileError(f"{str(path)!r}: gdb has no way to name a file with a line break")
    return f"source {path}"


def gdbinit_path(
    version: Optional[tuple[int, int]] = None, environ: Optional[Mapping[str, str]] = None
) -> Path:
    """Return the file in the person's home that gdb reads when it starts.

    From gdb 11 on that is ``$XDG_CONFIG_HOME/gdb/gdbinit`` (``~/.config`` where
    the variable is not set) when it exists, and only else ``~/.gdbinit``: gdb
    reads the first that it finds and no second. `version` is gdb's; None stands
    for one that is new enough.

    :raises FileError: when HOME names no folder: gdb reads no file in a home then
        (gdb 13.1, gdbsupport/pathstuff.cc, `find_gdb_home_config_file`).
    """
    environ = os.environ if environ is None else environ
    home = environ.get("HOME", "")
    recent = version is None or version >= (11, 0)
    configuration = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    configured = Path(configuration, "gdb", "gdbinit")
    if recent and configuration and os.path.exists(configured):  # noqa: PTH110, also in a closed folder
        return configured
    if not home.startswith("/"):
        state = f"is {home}, which is not an absolute path" if home else "is not set"
        raise FileError(f"HOME {state}, and gdb looks for its gdbinit file there")
    return Path(home, ".gdbinit")


def sourced(path: Path) -> tuple[Path, ...]:
    """Return the ``gdb_leak/gdbinit.py`` files that the gdbinit file at `path` loads.

    Empty also when there is no such file.

    :raises FileError: when the file cannot be read.
    """
    return tuple(Path(os.fsdecode(found)).expanduser() for found in _SOURCE.findall(_read(path)))


def install(path: Optional[Path] = None) -> Edit:
    """Write the block with :func:`gdbinit_line` into the file at `path`.

    A block that is there already is replaced where it stands; else the block
    goes to the end, so that an error in it could not keep anything else from
    being read. The default is :func:`gdbinit_path`. The file keeps its mode and
    its owner, a link stays a link, and a crash leaves the old file or the new.
    What is not a regular file is neither read nor written.

    :raises FileError: when the file cannot be read or written, or has an
        opening mark without its closing one.
    """
    path = gdbinit_path() if path is None else path
    line = gdbinit_line()
    before = _read(path)
    _check_marks(path, before)
    found = _BLOCK.search(before)
    if found:
        block = _block(line, (mark for mark in (_BORROWED, _MADE) if mark in found.group()))
        after = before[: found.start()] + block + _BLOCK.sub(b"", before[found.end() :])
    else:
        borrowed = bool(before) and not before.endswith(b"\n")
        marks = [_BORROWED] if borrowed else [] if path.exists() else [_MADE]
        after = before + (b"\n" if borrowed else b"") + _block(line, marks)
    if after != before:
        _write(path, after)
    return Edit(path, after != before, line)


def remove(path: Optional[Path] = None) -> Edit:
    """Take the block out of the file at `path` and leave the rest byte for byte.

    A file that :func:`install` made is deleted where nothing else is in it. No
    file, and a file without a block, are left as they are.

    :raises FileError: as :func:`install` does.
    """
    path = gdbinit_path() if path is None else path
    before = _read(path)
    _check_marks(path, before)
    after = b""
    rest = before
    made = False
    while found := _BLOCK.search(rest):
        made = made or _MADE in found.group()
        after += rest[: found.start()]
        rest = rest[found.end() :]
        # Something written behind the block since needs the end of line.
        if _BORROWED in found.group() and not rest:
            after = after[:-1] if after.endswith(b"\n") else after
    after += rest
    deleted = made and not after
    if deleted:
        _native.remove_file(str(path))
    elif after != before:
        _write(path, after)
    return Edit(path, after != before, gdbinit_line(), deleted)


def _block(line: str, marks: Iterable[bytes]) -> bytes:
    return b"".join([_OPEN, b"\n", _EXPLANATION, *marks, os.fsencode(line), b"\n", _CLOSE, b"\n"])


def _check_marks(path: Path, content: bytes) -> None:
    """Refuse marks that are not open, close, open, close: what is between is not ours."""
    opened = 0
    for mark in _MARK.finditer(content):
        number = content.count(b"\n", 0, mark.start()) + 1
        opens = mark.group().startswith(_OPEN)
        if opens and opened:
            raise FileError(f"{path}:{opened}: the gdb-leak block has no closing mark")
        if not opens and not opened:
            raise FileError(f"{path}:{number}: the gdb-leak block has no opening mark")
        opened = number if opens else 0
    if opened:
        raise FileError(f"{path}:{opened}: the gdb-leak block has no closing mark")


def _read(path: Path) -> bytes:
    """Return what is in the file at `path`, and nothing where there is none.

    A pipe would never end, and reading a device may change what it does.
    """
    try:
        _check_kind(path, path.stat())
        # Without a wait, should it have become a pipe since.
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(opened, "rb") as file:
            _check_kind(path, os.fstat(opened))
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error


def _check_kind(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise FileError(f"{path}: is a directory")
    if not stat.S_ISREG(status.st_mode):
        linked = f"is a link to {os.path.realpath(path)}, which " if path.is_symlink() else ""
        raise FileError(f"{path}: {linked}is not a regular file")


def _write(path: Path, content: bytes) -> None:
    """Replace the file at `path`, or the one that it links to, as a whole."""
    # A dotfile is often a link into a versioned folder: that file changes. A hard link cannot
    # be followed.
    names = path.stat().st_nlink if path.exists() else 1
    if names > 1:
        raise FileError(
            f"{path}: has {names} names (hard links), and the others would keep the old contents; "
            f"edit it by hand, the line is: {gdbinit_line()}"
        )
    _native.write_text(str(path), content)
