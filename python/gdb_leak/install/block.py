"""The block in a gdbinit file that makes every gdb load gdb-leak.

A file is edited as bytes: whatever stands outside the block comes back as it
was, whatever its encoding.
"""

import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from gdb_leak.errors import FileError

_OPEN = b"# >>> gdb-leak >>>"
_CLOSE = b"# <<< gdb-leak <<<"
_EXPLANATION = b"# `gdb-leak gdbinit -remove` takes this block out.\n"
# Stands in a block that was put after a last line without an end of line, so
# that taking the block out gives that line back as it was.
_BORROWED = b"# The line before this block had no end of line.\n"

_BLOCK = re.compile(
    rb"^%s[ \t\r]*\n(?:.*\n)*?%s[ \t\r]*(?:\n|\Z)" % (re.escape(_OPEN), re.escape(_CLOSE)),
    re.MULTILINE,
)
_MARK = re.compile(rb"^(?:%s|%s)[ \t\r]*$" % (re.escape(_OPEN), re.escape(_CLOSE)), re.MULTILINE)
_SOURCE = re.compile(rb"^[ \t]*source[ \t]+(.*?gdb_leak/gdbinit\.py)[ \t\r]*$", re.MULTILINE)


@dataclass(frozen=True)
class Edit:
    """What was done to a gdbinit file."""

    path: Path
    changed: bool
    line: str


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
    """
    environ = os.environ if environ is None else environ
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    if version is None or version >= (11, 0):
        configuration = environ.get("XDG_CONFIG_HOME")
        folder = Path(configuration) if configuration else home / ".config"
        if (folder / "gdb" / "gdbinit").is_file():
            return folder / "gdb" / "gdbinit"
    return home / ".gdbinit"


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

    :raises FileError: when the file cannot be read or written, or has an
        opening mark without its closing one.
    """
    path = gdbinit_path() if path is None else path
    line = gdbinit_line()
    before = _read(path)
    _check_marks(path, before)
    found = _BLOCK.search(before)
    if found:
        block = _block(line, borrowed=_BORROWED in found.group())
        after = before[: found.start()] + block + _BLOCK.sub(b"", before[found.end() :])
    else:
        borrowed = bool(before) and not before.endswith(b"\n")
        after = before + (b"\n" if borrowed else b"") + _block(line, borrowed=borrowed)
    if after != before:
        _write(path, after)
    return Edit(path, after != before, line)


def remove(path: Optional[Path] = None) -> Edit:
    """Take the block out of the file at `path` and leave the rest byte for byte.

    No file, and a file without a block, are left as they are.

    :raises FileError: as :func:`install` does.
    """
    path = gdbinit_path() if path is None else path
    before = _read(path)
    _check_marks(path, before)
    after = b""
    rest = before
    while found := _BLOCK.search(rest):
        after += rest[: found.start()]
        rest = rest[found.end() :]
        # Something written behind the block since needs the end of line.
        if _BORROWED in found.group() and not rest:
            after = after[:-1] if after.endswith(b"\n") else after
    after += rest
    if after != before:
        _write(path, after)
    return Edit(path, after != before, gdbinit_line())


def _block(line: str, *, borrowed: bool) -> bytes:
    parts = [_OPEN, b"\n", _EXPLANATION]
    if borrowed:
        parts.append(_BORROWED)
    parts += [os.fsencode(line), b"\n", _CLOSE, b"\n"]
    return b"".join(parts)


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
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    """Replace the file at `path`, or the one that it links to, as a whole."""
    try:
        # A dotfile is often a link into a versioned folder: that file changes.
        target = Path(os.path.realpath(path))
        try:
            old: Optional[os.stat_result] = target.stat()
        except FileNotFoundError:
            old = None
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o644 if old is None else stat.S_IMODE(old.st_mode))
                if old is not None and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from error
