"""Where the reports of ``run`` go: standard error, or the file that ``-log-file`` names."""

import contextlib
import errno
import fcntl
import io
import os
import stat
import sys
from pathlib import Path
from typing import Callable, Optional, TextIO

from gdb_leak import _native, operands
from gdb_leak.errors import Error, FileError
from gdb_leak.render.style import escape_lines
from gdb_leak.words import Word

__all__ = ["Log"]

#: Makes a report for the stream, and the status that it asks for.
Make = Callable[[TextIO], tuple[str, Optional[int]]]
_ENCODING = "utf-8"


class Log:
    """The place for reports.

    A regular file is written whole or not at all, one for each report. Terminals, pipes, other
    character devices, and what the shell opened (``/dev/stderr``, ``/dev/fd/3``) are written
    through.
    """

    def __init__(self, name: Optional[str]) -> None:
        """Take the NAME of the file, with ``%p`` for the process, None for standard error.

        :raises FileError: where no report could be written, which is said before the program runs:
            afterwards its report would be lost.
        """
        self._name = name
        self._stream: Optional[TextIO] = None
        if name is not None:
            try:
                opened = _opened(_path(name, os.getpid()))
            except Error as error:
                raise FileError(f"-log-file {error}") from None
            if "%p" not in name.replace("%%", ""):
                self._stream = opened

    def report(self, pid: int, make: Make) -> Optional[int]:
        """Write what MAKE makes, the report on process PID, and return the status it asks for.

        :raises FileError: where the file cannot be written; the report is on standard error then.
        """
        if self._name is None:
            _begin_line()
            made, status = make(sys.stderr)
            _write(made)
            return status
        path = _path(self._name, pid)
        stream = self._stream or _opened(path)
        made, status = make(stream or io.TextIOWrapper(io.BytesIO(), encoding=_ENCODING))
        whole = made.encode(_ENCODING, "surrogateescape")
        try:
            if stream is None:
                _native.write_text(path, whole)
            else:
                _write_through(stream.fileno(), whole)
        except (Error, OSError) as error:
            _begin_line()
            _write(made)
            reason = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            raise FileError(f"-log-file {reason}") from None
        return status


# Nothing is left in a buffer, to be tried again when this process ends.
def _write_through(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
    except UnicodeEncodeError:
        sys.stderr.write(escape_lines(text, sys.stderr.encoding))
    sys.stderr.flush()


# As valgrind has it: %p is the process, %% a percent sign.
def _path(name: str, pid: int) -> str:
    parts = [part.replace("%p", str(pid)) for part in name.split("%%")]
    return operands.file_path(Word("%".join(parts)))


# Returns None for a file that is written whole.
def _opened(path: str) -> Optional[TextIO]:
    kind, number = _native.output_place(path)
    try:
        if kind == "stream":
            # Without a wait for a reader of a pipe. What became a regular file is left alone.
            opened = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            mode = os.fstat(opened).st_mode
            if not stat.S_ISFIFO(mode) and not stat.S_ISCHR(mode):
                os.close(opened)
                raise FileError(f"{path}: was changed by another program meanwhile")
            os.set_blocking(opened, True)
        elif number is not None:
            # Its own position in the file: what was written before stays.
            opened = os.dup(number)
            if fcntl.fcntl(opened, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                os.close(opened)
                raise FileError(f"{path}: is open for reading only")
        else:
            return None
    except OSError as error:
        unread = error.errno == errno.ENXIO
        reason = "no process reads this pipe" if unread else error.strerror
        raise FileError(f"{path}: {reason}") from None
    return os.fdopen(opened, "w", encoding=_ENCODING)


# The program may have left a line unfinished; of a file that can be seen.
def _begin_line() -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.fstat(2).st_mode):
            with Path("/proc/self/fd/2").open("rb") as written:
                end = written.seek(0, os.SEEK_END)
                written.seek(max(0, end - 1))
                if written.read(1) in (b"", b"\n"):
                    return
    sys.stderr.write("\n")
