"""Programs that a shell starts through gdb-leak, with the recorder in them."""

import contextlib
import errno
import functools
import hashlib
import os
import resource
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, NamedTuple, NoReturn, Optional, TextIO

from gdb_leak import _native, recording
from gdb_leak.doors.log import Log
from gdb_leak.errors import Error, FileError
from gdb_leak.render.style import escape
from gdb_leak.target import Launch, Value, Watch

__all__ = ["Report", "run"]

#: What gdb-leak gets and the program is meant by.
_HANDED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_CANNOT_EXECUTE = 127
_SIGNALLED = 128
_FAILED = 1
_LONGEST_NAME = 100


class Report(NamedTuple):
    """A process to report on: how it ends, None where it does not, and what holds it."""

    pid: int
    status: Optional[int]
    stop: _native.Stop
    watch: Watch

    @property
    def notes(self) -> list[str]:
        """What makes the report another one than was asked for."""
        if self.status is None or self.watch.function is None:
            return []
        return [f"{self.watch.function} was not called: this is the end of the program"]

    def value(self) -> Value:
        """Return the JSON: ``{status, signal}``, of which one is null, or both."""
        if self.status is None:
            return {"status": None, "signal": None}
        number = os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else None
        code = os.WEXITSTATUS(self.status) if number is None else None
        return {"status": code, "signal": number}

    def line(self, program: Optional[str]) -> str:
        """Return what becomes of the process, in which PROGRAM runs."""
        name = program or "?"
        if len(name) > _LONGEST_NAME:
            name = name[:_LONGEST_NAME] + "..."
        if self.status is None:
            return f"{self.pid}: {name} calls {self.watch.function}"
        if os.WIFSIGNALED(self.status):
            return f"{self.pid}: {name} is ended by {_signal_name(os.WTERMSIG(self.status))}"
        return f"{self.pid}: {name} ends with status {os.WEXITSTATUS(self.status)}"


#: Makes the report on a process for a stream, and the status that it asks for.
Judge = Callable[[Report, TextIO], tuple[str, Optional[int]]]


class _Prepared(NamedTuple):
    program: str
    words: list[str]
    environment: dict[str, str]

    def execute(self) -> NoReturn:
        """Run the program in place of this process, as if it had been started directly.

        :raises OSError: where the system refuses.
        """
        # Python ignores these, and a program starts with what is ignored.
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored, signal.SIG_DFL)
        os.execve(self.program, self.words, self.environment)  # noqa: S606


def run(launch: Launch, judge: Judge) -> int:
    """Run the program, and return the status to end with.

    :raises FileError: where it cannot be recorded or executed.
    """
    prepared = _prepared(launch)
    if launch.watch is None:
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            prepared.execute()
        except OSError as cause:
            raise _not_executed(prepared, cause.errno) from None
    return _watched(prepared, launch.watch, Log(launch.watch.log), judge)


def _prepared(launch: Launch) -> _Prepared:
    environment = _environment()
    name = launch.words[0]
    program, words, file = _native.recordable(name, os.get_exec_path(environment))
    if os.geteuid() != 0 and _has_capabilities(file):
        raise FileError(
            f"{file}: cannot be recorded: it has capabilities, and the loader preloads nothing then"
        )
    environment.update(launch.settings)
    library = _without_blanks(launch.library)
    environment["LD_PRELOAD"] = recording.preloaded(library, environment.get("LD_PRELOAD", ""))
    return _Prepared(program, [*(words or [name]), *launch.words[1:]], environment)


# As gdb-leak got it. Observed: in the C locale Python sets LC_CTYPE for itself and for
# whatever it starts (PEP 538), where it was not set.
def _environment() -> dict[str, str]:
    found = dict(os.environ)
    with contextlib.suppress(OSError):
        first = Path("/proc/self/environ").read_bytes().split(b"\0")
        if not any(item.startswith(b"LC_CTYPE=") for item in first):
            found.pop("LC_CTYPE", None)
    return found


def _has_capabilities(file: str) -> bool:
    try:
        return bool(os.getxattr(file, "security.capability"))
    except OSError:
        return False


# LD_PRELOAD cannot quote: where the path has what it reads, a link in a folder of ours has not.
def _without_blanks(library: str) -> str:
    if not _read_by_loader(library):
        return library
    folder = Path(tempfile.gettempdir()) / f"gdb-leak-{os.geteuid()}"
    own = hashlib.sha256(os.fsencode(library)).hexdigest()[:16]
    link = folder / own / Path(library).name
    if _read_by_loader(str(link)):
        raise FileError(f"{library}: LD_PRELOAD takes no path with blanks, colons or $")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # Others may write to the folder above: what is preloaded must come from this user only.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise FileError(f"{folder}: is not a folder of this user's alone")
    link.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(library)
    return str(link)


def _read_by_loader(path: str) -> bool:
    return any(letter in " \t\n\r\f\v:$" for letter in path)


def _not_executed(prepared: _Prepared, number: Optional[int]) -> FileError:
    return FileError(f"{prepared.program}: cannot be executed: {os.strerror(number or 0)}")


def _watched(prepared: _Prepared, watch: Watch, log: Log, judge: Judge) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    go, let_go = os.pipe()
    refused, refuse = os.pipe()
    pid = os.fork()
    if pid == 0:
        _begin(prepared, watch.children, go, let_go, refuse)
    os.close(go)
    os.close(refuse)
    try:
        follow = _native.Follow(pid, watch.function, watch.children)
    except BaseException:
        # It reads the end of the pipe, and ends.
        os.close(let_go)
        os.close(refused)
        os.waitpid(pid, 0)
        raise
    with _signals_handed_on(pid, follow):
        os.write(let_go, b"g")
        os.close(let_go)
        # Closed when the program is executed.
        number = os.read(refused, 16)
        os.close(refused)
        if number:
            while follow.next() is not None:
                pass
            raise _not_executed(prepared, int(number))
        asked = _follow(follow, watch, log, judge)
    if asked is not None:
        return asked
    return _FAILED if follow.status is None else _end_as(follow.status)


# In the child: nothing of this process may come of it, whatever happens.
def _begin(prepared: _Prepared, children: bool, go: int, let_go: int, refuse: int) -> NoReturn:
    try:
        os.close(let_go)
        if os.read(go, 1) == b"g":
            if not children:
                prepared.environment[recording.ONLY] = str(os.getpid())
            prepared.execute()
    except OSError as cause:
        os.write(refuse, str(cause.errno or errno.EINVAL).encode())
    finally:
        os._exit(_CANNOT_EXECUTE)


# The program decides what a key or a signal means; this process waits for it.
@contextlib.contextmanager
def _signals_handed_on(pid: int, follow: _native.Follow) -> Iterator[None]:
    def hand_on(number: int, _frame: object) -> None:
        if follow.status is None:
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    before = {}
    for number in (signal.SIGINT, signal.SIGQUIT, *_HANDED_ON):
        before[number] = signal.getsignal(number)
        if before[number] is not signal.SIG_IGN:
            ignored = number in (signal.SIGINT, signal.SIGQUIT)
            signal.signal(number, signal.SIG_IGN if ignored else hand_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _follow(follow: _native.Follow, watch: Watch, log: Log, judge: Judge) -> Optional[int]:
    asked: Optional[int] = None
    reported = False
    while True:
        held = follow.next()
        if held is None:
            # A process of which nothing was seen was not judged either.
            return asked if reported else watch.unjudged
        reported = True
        report = Report(*held, watch)
        interrupts = signal.getsignal(signal.SIGINT)
        # Ctrl-C while it is judged is for the judgement: the program has ended, or stands.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            status = log.report(report.pid, functools.partial(judge, report))
            asked = _graver(asked, status, watch)
        except (Error, OSError) as cause:
            asked = _graver(asked, watch.unjudged, watch)
            _tell(f"process {report.pid}: {cause}")
        except KeyboardInterrupt:
            asked = _graver(asked, watch.unjudged, watch)
            _tell(f"process {report.pid}: interrupted while it was judged")
        finally:
            report.stop.release()
            signal.signal(signal.SIGINT, interrupts)


# With several processes, the status for lost blocks takes precedence over status 3.
def _graver(asked: Optional[int], status: Optional[int], watch: Watch) -> Optional[int]:
    if status is None or (status == watch.unjudged and asked is not None):
        return asked
    return status


def _tell(message: str) -> None:
    sys.stderr.write(f"gdb-leak: run: {escape(message, sys.stderr.encoding)}\n")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# As the program ended: the shell sees what it would have seen.
def _end_as(status: int) -> int:
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        # The core, if any, is the program's.
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    return _SIGNALLED + number
