"""The state that a process inherits, made the same for every test run and all that it starts.

A shell hands down more than arguments: variables, ignored and blocked signals, the umask, limits,
the folder, open files. Programs under test inherit these through pytest, and answers came to
depend on them: a program whose parent ignores SIGINT never sees Ctrl-C, and what is in the
environment lies on the stack, where a leak check looks for pointers. What a test is about, it
sets itself.
"""

import contextlib
import ctypes
import locale
import os
import re
import resource
import signal
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Optional

ROOT = Path(__file__).resolve().parents[2]

#: Variables that are kept: where programs are, where files go, and what names the tests' scope.
KEPT = ("PATH", "TMPDIR", "GDB")
_KEPT_PREFIXES = ("GDB_LEAK_", "PYTEST_")
#: Variables that every test starts with.
SET = {
    # No file of the person's: no ~/.valgrindrc, ~/.gdbinit, ~/.inputrc. Debian's name for none.
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "TERM": "dumb",
    "TZ": "UTC",
}
_STACK_BYTES = 8 << 20
_ASK_PERSONALITY = 0xFFFFFFFF


def settle() -> None:
    """Give this process, and so all that it starts, the state that tests are written for."""
    _open_standard_files()
    _set_variables()
    _set_temporary_folder()
    _undo_ignored_signals()
    _set_limits()
    os.umask(0o022)
    # Tests name files of the repository from its root, and a folder may be deleted by others.
    os.chdir(ROOT)


# Closed in the parent, the numbers 0 to 2 would go to the next files that are opened, and a
# program would write its answer into them.
def _open_standard_files() -> None:
    while True:
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:
            os.close(number)
            return
        os.set_inheritable(number, True)


def _set_variables() -> None:
    for name in list(os.environ):
        if name not in KEPT and not name.startswith(_KEPT_PREFIXES):
            del os.environ[name]
    os.environ.update(SET)
    time.tzset()
    # What open() takes a text file for follows the locale of this process.
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, SET["LC_ALL"])


# LD_PRELOAD and lines of gdb's scripts cannot name a file with a blank in its name.
def _set_temporary_folder() -> None:
    for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if re.fullmatch(r"[\w./+-]+", folder, re.ASCII) and os.access(folder, os.W_OK):
            os.environ["TMPDIR"] = tempfile.tempdir = folder
            return


# `nohup make test &` ignores SIGHUP, SIGINT and SIGQUIT, and other parents ignore or block more.
# A program that is executed keeps both. A handler that does nothing ignores as well, and is reset
# in what is executed. Python ignores SIGPIPE and SIGXFSZ itself, and subprocess undoes that.
def _undo_ignored_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # An ignored SIGCHLD makes the kernel forget how children ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _do_nothing)


def _do_nothing(number: int, frame: Optional[FrameType]) -> None:
    pass


# An unlimited stack makes the kernel lay out a process from the bottom up, and without
# randomisation (setarch -R) each has the same addresses.
def _set_limits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != _STACK_BYTES and (hard == resource.RLIM_INFINITY or hard >= _STACK_BYTES):
        resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, hard))
    libc = ctypes.CDLL(None)
    if libc.personality(_ASK_PERSONALITY) != 0:
        libc.personality(0)
