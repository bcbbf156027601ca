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
from gdb_leak.words import Word

__all__ = ["Log"]

#: Writes a report to the stream, and returns the status that it asks for.
Write = Callable[[TextIO], Optional[int]]


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

    def report(self, pid: int, write: Write) -> Optional[int]:
        """Have WRITE write the report on process PID, and return the status that it asks for.

        :raises FileError: where the file cannot be written; the report is on standard error then.
        """
        if self._name is None:
            _begin_line()
            return _written(sys.stderr, write)
        path = _path(self._name, pid)
        stream = self._stream or _opened(path)
        if stream is not None:
            return _written(stream, write)
        kept = io.BytesIO()
        text = io.TextIOWrapper(kept, encoding="utf-8", errors="surrogateescape")
        status = _written(text, write)
        try:
            _native.write_text(path, kept.getvalue())
        except Error as error:
            _begin_line()
            sys.stderr.write(kept.getvalue().decode("utf-8", "surrogateescape"))
            raise FileError(f"-log-file {error}") from None
        return status


def _written(stream: TextIO, write: Write) -> Optional[int]:
    status = write(stream)
    stream.flush()
    return status


# As valgrind has it: %p is the process, %% a percent sign.
def _path(name: str, pid: int) -> str:
    parts = [part.replace("%p", str(pid)) for part in name.split("%%")]
    return operands.file_path(Word("%".join(parts)))


# None of what is written whole.
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
    return os.fdopen(opened, "w", encoding="utf-8", errors="surrogateescape")


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
