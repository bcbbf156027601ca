"""The shell's door: ``gdb-leak COMMAND TARGET …``, without gdb."""

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional, TextIO

import gdb_leak
from gdb_leak import _native, manual, near, operands, options, units
from gdb_leak.commands import CHECK, SHELL_ONLY, TABLE, Entry
from gdb_leak.doors import terminal
from gdb_leak.doors.progress import ProgressLine
from gdb_leak.doors.suspension import Suspension
from gdb_leak.errors import Error, FileError, UsageError
from gdb_leak.options import Operand, Parsed
from gdb_leak.render import json as as_json
from gdb_leak.render import text as as_text
from gdb_leak.render.style import Style, escape, escape_lines
from gdb_leak.target import (
    Launch,
    Line,
    Place,
    Progress,
    Request,
    Result,
    Snapshots,
    Target,
    ThreadRegisters,
)
from gdb_leak.words import Word

__all__ = ["SHELL_TABLE", "ShellSession", "main"]

_ANSWERED, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130
#: All commands of this door, in the order in which help lists them.
SHELL_TABLE = (*TABLE, *SHELL_ONLY)

_MOST_PIDS = 1 << 22


class ShellSession:
    """One command from a shell: its TARGET, opened when it is needed."""

    shell = True

    def __init__(
        self, name: Optional[str], parsed: Parsed, stop: Optional[_native.Stop] = None
    ) -> None:
        """Take the NAME of the target, None where the command has none, and the options.

        :param stop: what holds it already, where it is a process.
        """
        self.snapshots = Snapshots()
        self._name = name
        self._executable = _path(parsed, "exe")
        self._sysroot = _path(parsed, "sysroot")
        self._hold = parsed.flag("stop")
        self._line = ProgressLine()
        self._suspension = Suspension()
        self.current: Optional[Target] = None
        self._stop = stop
        # Who gave it has to let the process go.
        self._given = stop is not None
        # The processes that the answer is made from.
        self._read: list[_native.Memory] = []

    def target(self, usage: bool = False) -> Target:
        """Return the target, opened; a process is held first where that was asked for.

        :raises UsageError: where the command has none.
        """
        if self.current is None:
            if self._name is None:
                raise UsageError("TARGET is missing")
            self.current = self._open(self._name, usage)
        return self.current

    def prepare(self, place: Place) -> None:
        """Do nothing: core files and processes are read directly."""

    def prepare_roots(self, threads: Optional[Sequence[ThreadRegisters]]) -> None:
        """Do nothing, as above."""

    def open(self, path: str) -> Target:
        """Return the core, snapshot or list of regions in the file PATH, or the process PATH."""
        return self._open(path, usage=False)

    def evaluate(self, expression: str) -> int:
        """Return the address or length that EXPRESSION spells."""
        value = units.parse_number(expression)
        if value < 0:
            raise UsageError(f"{expression} is negative, which is no address and no length")
        return value

    def integer(self, expression: str) -> int:
        """Return the number that EXPRESSION spells."""
        return units.parse_number(expression)

    def encode(self, text: str) -> bytes:
        """Return the bytes that were typed as TEXT."""
        return os.fsencode(text)

    def progress(self, verb: str) -> Optional[Progress]:
        """Return what shows how far VERB has come."""
        return self._line.function(verb)

    def clear_progress(self) -> None:
        """Take the line of progress away, before anything else is written."""
        self._line.clear()

    def verify(self) -> None:
        """Raise where a process that was read has ended or started another program."""
        for memory in self._read:
            memory.recheck()

    def hold(self) -> None:
        """Stop the process, once it is opened, for the length of this command."""
        self._hold = True

    def let_go(self) -> Sequence[str]:
        """Let the process run on, as :meth:`release` does, once it is seen to be the same."""
        if self._given:
            return []
        self.verify()
        self._read.clear()
        return self.release()

    def at_rest(self, target: Target) -> bool:
        """Whether TARGET is no process, or one that is held."""
        return target.memory.source != "process" or self.holds

    def registers(self, vector: bool) -> Optional[list[ThreadRegisters]]:
        """Return those of the threads of a process that is held, None of anything else."""
        if self._name is None:
            return None
        target = self.target()
        if self._stop is None:
            return None
        target.notes.extend(self._stop.register_notes(vector))
        found = [ThreadRegisters(*thread) for thread in self._stop.registers()]
        return found if vector else [thread._replace(vector=[]) for thread in found]

    def frame(self, thread: int, address: int) -> Optional[str]:  # noqa: ARG002
        """Return None: only gdb unwinds stacks."""
        return None

    def symbol(self, address: int) -> Optional[str]:
        """Return the symbol at ADDRESS in the words of gdb's ``info symbol``."""
        found = self.target().memory.symbol(address)
        if found is None:
            return None
        name, offset, module, section = found
        inside = f" + {offset}" if offset else ""
        return f"{name}{inside}{f' in section {section}' if section else ''} of {module}"

    def lines(self, address: int) -> list[Line]:
        """Return the calls at ADDRESS, inside of a call instruction, innermost first."""
        return [Line(*line) for line in self.target().memory.lines(address)]

    @property
    def holds(self) -> bool:
        """Whether a process is held."""
        return self._stop is not None

    def release(self) -> list[str]:
        """Let the process run on, and return a note that says for how long it was held."""
        if self._stop is None:
            return []
        seconds = self._stop.release()
        self._suspension.let()
        threads = units.counted(self._stop.threads, "thread")
        self._stop = None
        return [f"{threads} stopped for {seconds * 1000:.1f} ms"]

    def typed(self, command: str, *words: str) -> str:
        """Return what to type to ask COMMAND of the same target."""
        entry = _entry(command)
        takes = entry is not None and entry.command.target and self._name is not None
        target = [shlex.quote(str(self._name))] if takes else []
        for option, path in (("-exe", self._executable), ("-sysroot", self._sysroot)):
            if path is not None:
                target.extend([option, shlex.quote(path)])
        return " ".join(["gdb-leak", command, *target, *words])

    def set_variable(self, name: str, value: Optional[int], pointer: bool = False) -> None:
        """Do nothing: a shell has no such variables."""

    def _open(self, name: str, usage: bool) -> Target:
        pid = _pid(name)
        if pid is None:
            return Target(self._open_file(name), name)
        notes: list[str] = []
        if self._hold and self._stop is None:
            self._suspension.put_off()
            try:
                self._stop = _native.stop_process(pid)
            except BaseException:
                self._suspension.let()
                raise
        elif self._stop is None:
            notes.append("the process runs on: memory changes while it is read (-stop holds it)")
        memory = _native.open_process(pid, usage)
        self._read.append(memory)
        # The number may be that of a thread.
        return Target(memory, pid=memory.pid, notes=notes)

    def _open_file(self, name: str) -> _native.Memory:
        try:
            return _native.open_file(name, self._executable, self._sysroot)
        except Error:
            # The size of those is 0.
            if _in_proc(name):
                what = "is made while it is read: give the pid, or a copy of it"
                raise FileError(f"{name}: {what}") from None
            raise


def _in_proc(name: str) -> bool:
    with contextlib.suppress(OSError):
        return os.stat(name).st_dev == os.stat("/proc").st_dev  # noqa: PTH116, without the 3 ms of pathlib
    return False


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Answer the command in ARGUMENTS, ``sys.argv`` without them, and return the exit status."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:
        # `>&-`: there is nowhere to answer to.
        _error("standard output is closed")
        return _FAILED
    try:
        status = _serve(typed)
        sys.stdout.flush()
    except BrokenPipeError:
        _let_output_go()
        return _ANSWERED
    except OSError as error:
        # A full disk behind `> FILE`. What could not be written is not tried again at exit.
        _let_output_go()
        _error(f"the answer could not be written: {error.strerror}")
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


# Python flushes at exit, and would say that the reader is gone.
def _let_output_go() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _serve(typed: list[str]) -> int:
    if not typed:
        _error("a command is missing; gdb-leak -help lists them")
        return _USAGE
    first = typed[0].replace("--", "-", 1)
    if first in ("-version", "-v"):
        _print([f"gdb-leak {gdb_leak.__version__}\n"])
        return _ANSWERED
    if first in ("-help", "-h"):
        _print([_general_help()])
        return _ANSWERED
    if first == "help":
        return _help(typed[1:])
    entry = _entry(typed[0])
    if entry is None:
        return _unknown(typed, _meant(typed))
    return _answer(entry, [Word(word) for word in typed[1:]])


def _unknown(typed: list[str], meant: Optional[list[str]]) -> int:
    if meant is None:
        advice = "gdb-leak -help lists them"
    else:
        advice = f"did you mean gdb-leak {' '.join(map(_spelled, meant))}?"
    _error(f"no such command: {escape(typed[0])}; {advice}")
    return _USAGE


# As a shell reads it, unless it has what no terminal should get.
def _spelled(word: str) -> str:
    return escape(shlex.quote(word), sys.stderr.encoding)


# The line that was meant by one that begins with no command, None where nothing is like it.
def _meant(typed: list[str]) -> Optional[list[str]]:
    first, *rest = typed
    if first.isdigit() or os.path.isfile(first):  # noqa: PTH113, without the 3 ms of pathlib
        asked = bool(rest) and not rest[0].startswith("-")
        name = _command_meant(rest[0]) if asked else None
        if name is not None:
            return [name, first, *rest[1:]]
        return ["overview", first, *(rest[1:] if asked else rest)]
    name = _command_meant(first)
    return None if name is None else [name, *rest]


def _command_meant(typed: str) -> Optional[str]:
    # Its name in gdb.
    for entry in SHELL_TABLE:
        if typed == entry.command.prompt_name:
            return entry.command.name
    return near.meant(typed.removeprefix("leak-"), (entry.command.name for entry in SHELL_TABLE))


def _help(typed: list[str]) -> int:
    if not typed:
        _print([_general_help()])
        return _ANSWERED
    entry = _entry(typed[0])
    if entry is None:
        name = _command_meant(typed[0])
        return _unknown(typed, ["help", name] if name is not None else None)
    _print([manual.help_text(entry.command, from_shell=True) + "\n"])
    return _ANSWERED


def _answer(entry: Entry, words: list[Word]) -> int:
    command = entry.command
    session: Optional[ShellSession] = None
    try:
        taken = manual.options_of(command, from_shell=True)
        rest = any(operand.rest for operand in command.operands)
        every = Operand("WORD", least=0, most=None, rest=rest)
        parsed = options.parse(taken, (every,), words)
        if parsed.flag("help"):
            _print([manual.help_text(command, from_shell=True) + "\n"])
            return _ANSWERED
        if parsed.flag("version"):
            _print([f"gdb-leak {gdb_leak.__version__}\n"])
            return _ANSWERED
        session = ShellSession(_take_target(entry, parsed), parsed)
        options.check_operands(command.operands, parsed.operands)
        status = _run(entry, session, parsed)
    except UsageError as error:
        return _failed(entry, session, error, _USAGE)
    except Error as error:
        return _failed(entry, session, error, _FAILED)
    except BaseException:
        if session is not None:
            session.clear_progress()
            session.release()
        raise
    return status


def _run(entry: Entry, session: ShellSession, parsed: Parsed) -> int:
    result = entry.answer(Request(parsed, session))
    if result.launch is not None:
        return _launch(result.launch, parsed)
    # What is made while it is written is read from the process then.
    result.later.extend((session.verify, session.release))
    pieces = _pieces(entry, result, parsed, sys.stdout)
    status = _ANSWERED if result.status is None else result.status
    if not session.holds:
        return _printed(pieces, session, status)
    # Here, because it would cost every other answer 2 ms.
    import tempfile

    # The process is held while the answer is made, and no longer: a reader who pages through the
    # answer does not hold it.
    with tempfile.TemporaryFile(
        "w+", encoding="utf-8", errors="surrogateescape", newline=""
    ) as made:
        for piece in pieces:
            made.write(piece)
        made.seek(0)
        return _printed(iter(lambda: made.read(1 << 16), ""), session, status)


# With STATUS, however much of the answer was read (`| head`).
def _printed(pieces: Iterable[str], session: ShellSession, status: int) -> int:
    try:
        _print(pieces, session)
        sys.stdout.flush()
    except BrokenPipeError:
        _let_output_go()
    return status


def _pieces(entry: Entry, result: Result, parsed: Parsed, stream: TextIO) -> Iterator[str]:
    if parsed.flag("json"):
        return as_json.pieces(result)
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("", "dumb")
    width = terminal.width(stream.fileno()) if stream.isatty() else None
    style = Style(width is not None and not plain, stream.encoding, width)
    return as_text.pieces(result, entry.text(result), style)


def _launch(launch: Launch, parsed: Parsed) -> int:
    # Here, because it would cost every other command 5 ms.
    from gdb_leak.doors.launch import Report, run

    def judged(ended: Report, stream: TextIO) -> tuple[str, Optional[int]]:
        session = ShellSession(str(ended.pid), parsed, ended.stop)
        try:
            result = CHECK.answer(Request(parsed, session))
            result.notes.extend(ended.notes)
            # The process ends with the answer.
            result.steps.clear()
            result.values["end"] = ended.value()
            made = "".join(_pieces(CHECK, result, parsed, stream))
            if not parsed.flag("json"):
                line = f"== {ended.line(session.target().memory.program)}"
                made = escape(line, stream.encoding) + "\n" + made
        finally:
            session.clear_progress()
            session.release()
        return made, result.status

    return run(launch, judged)


def _failed(entry: Entry, session: Optional[ShellSession], error: Error, status: int) -> int:
    if session is not None:
        session.clear_progress()
        session.release()
    _error(f"{entry.command.name}: {escape(str(error), sys.stderr.encoding)}")
    return status


def _take_target(entry: Entry, parsed: Parsed) -> Optional[str]:
    command = entry.command
    if not command.target and not any(parsed.flag(name) for name in command.target_options):
        return None
    if not parsed.operands:
        raise UsageError("TARGET is missing: a core file or a pid")
    return parsed.operands.pop(0).raw


def _entry(name: str) -> Optional[Entry]:
    for entry in SHELL_TABLE:
        if entry.command.name == name:
            return entry
    return None


def _general_help() -> str:
    listed = manual.overview_text((entry.command for entry in SHELL_TABLE), from_shell=True)
    return f"""Hunt memory leaks in a core file or a running process.

Usage: gdb-leak COMMAND TARGET [OPTION]... [--] [OPERAND]...

TARGET is a core file, or the pid of a running process (./123 is a file).
The same commands are in gdb as leak-COMMAND; gdb-leak gdbinit says how.

Commands:
{listed}

gdb-leak help COMMAND tells more. gdb-leak -version prints the version.
Exit status: 0 for an answer, 1 for an error, 2 for wrong usage,
130 when interrupted.
"""


# All digits are a pid; a file of such a name is written ./123.
def _pid(name: str) -> Optional[int]:
    if not re.fullmatch(r"[0-9]+", name):
        return None
    pid = int(name[:20])
    if not 0 < pid <= _MOST_PIDS:
        raise UsageError(f"{name} is no pid (a file of that name is ./{name})")
    return pid


def _path(parsed: Parsed, name: str) -> Optional[str]:
    word = parsed.word(name)
    if word is None:
        return None
    path = operands.file_path(word)
    if not os.access(path, os.R_OK):
        raise FileError(f"-{name} {path}: no such file, or not to be read")
    return path


def _print(pieces: Iterable[str], session: Optional[ShellSession] = None) -> None:
    for piece in pieces:
        if session is not None:
            session.clear_progress()
        _write(sys.stdout, piece)


def _error(message: str) -> None:
    _write(sys.stderr, f"gdb-leak: {message}\n")


# Help has characters that an ASCII locale has not.
def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(escape_lines(text, stream.encoding))


if __name__ == "__main__":
    sys.exit(main())
