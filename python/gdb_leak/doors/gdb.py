"""gdb's door: the only file that imports gdb.

Finds the selected inferior's memory, registers the commands, and turns the package's
own errors into gdb's. Nothing here writes to the target, calls into it or resumes it.
"""

import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Callable, Optional, TypeVar, Union

import gdb

from gdb_leak import _native, manual, near, options
from gdb_leak.commands import TABLE, Entry
from gdb_leak.doors import (
    expressions,
    frames,
    gdb_says,
    gdb_terminal,
    gdb_text,
    held_core,
    lines,
    mappings,
    probed,
    registers,
)
from gdb_leak.doors.progress import ProgressLine
from gdb_leak.errors import Error, RequestError, UsageError
from gdb_leak.render import json as as_json
from gdb_leak.render import text as as_text
from gdb_leak.render.style import Style, escape, escape_lines
from gdb_leak.target import Place, Progress, Request, Snapshots, Target, ThreadRegisters
from gdb_leak.words import Word, tokenize

__all__ = ["GdbSession", "LeakCommand", "register"]

# After which a live target is not what it was.
_EVENTS = (
    *("cont", "exited", "memory_changed", "register_changed"),
    *("new_inferior", "inferior_deleted", "inferior_call"),
)
_NO_TARGET = (
    "no process and no core file: load one with core FILE, attach PID, or file PROGRAM and run"
)
_MOVING = (
    "threads are running, and gdb reads this target only while it is stopped: interrupt -a first"
)
_T = TypeVar("_T")
_execute = gdb_text.executing(gdb)


class GdbSession(lines.Lines):
    """One gdb: its selected inferior, and what is kept between commands."""

    shell = False
    gdb = gdb

    def __init__(self) -> None:
        """Keep nothing yet, and drop what is kept of a live target when it changes."""
        self.snapshots = Snapshots()
        self._line = ProgressLine()
        # By inferior number: what it was opened from, and the target.
        self._kept: dict[int, tuple[object, Target]] = {}
        self.current: Optional[Target] = None
        for name in _EVENTS:
            event = getattr(gdb.events, name, None)  # not every gdb has every event
            if event is not None:
                event.connect(self._drop_live)

    def begin(self) -> None:
        """Start a command: the target is looked for anew."""
        self.current = None

    def end(self) -> None:
        """End a command."""
        self.current = None
        self.clear_progress()

    def clear_progress(self) -> None:
        """Take the line of progress away, before anything else is written."""
        self._line.clear()

    def target(self, usage: bool = False) -> Target:
        """Return the selected inferior's target, opened.

        :param usage: whether the regions of a process are to have their RSS.
        :raises RequestError: where there is neither a process nor a core.
        """
        if self.current is None:
            self.current = self._find_target(usage)
        return self.current

    def prepare(self, place: Place) -> None:
        """Fetch the bytes of PLACE through gdb, where that is the only way."""
        memory = self.target().memory
        if memory.source != "remote":
            return
        if _running():
            raise RequestError(_MOVING)
        memory.fetch(place, _read)

    def prepare_roots(self, threads: Optional[Sequence[ThreadRegisters]]) -> None:
        """Fetch what roots are told by beside writable memory, where gdb is the only way."""
        self.target().memory.fetch_roots(threads, _read)

    def open(self, path: str) -> Target:
        """Return the core, snapshot or list of regions in the file PATH, opened."""
        return Target(_native.open_file(path, _program(), _sysroot()), path)

    def evaluate(self, expression: str) -> int:
        """Return the address or length that EXPRESSION stands for."""
        value = self.integer(expression)
        if value < 0:
            raise UsageError(f"{expression} is {value}, which is no address and no length")
        return value

    def integer(self, expression: str) -> int:
        """Return the number that EXPRESSION stands for, of an array or function its address.

        :raises RequestError: with gdb's own message, where it cannot evaluate it.
        """
        return expressions.integer(gdb, expression)

    def encode(self, text: str) -> bytes:
        """Return the bytes that were typed as TEXT."""
        try:
            return text.encode(_charset(), "surrogateescape")
        except (LookupError, UnicodeEncodeError):
            return text.encode("utf-8", "surrogateescape")

    def progress(self, verb: str) -> Optional[Progress]:
        """Return what shows how far VERB has come."""
        return self._line.function(verb)

    def verify(self) -> None:
        """Raise where the process that was read has ended or started another program."""
        if self.current is not None and self.current.memory.source == "process":
            self.current.memory.recheck()

    def hold(self) -> None:
        """Do nothing: gdb holds the process already, and a note says where it does not."""

    def let_go(self) -> Sequence[str]:
        """Do nothing: gdb goes on holding the process."""
        return ()

    def at_rest(self, target: Target) -> bool:
        """Whether no thread of TARGET runs: gdb holds the process, or there is none."""
        return target.memory.source == "core" or not _running()

    def registers(self, vector: bool) -> Optional[list[ThreadRegisters]]:
        """Return those of all threads, empty where gdb cannot ask one, None of a core."""
        memory = self.target().memory
        if memory.source == "core":
            return None

        def of_thread(thread: gdb.InferiorThread, frame: gdb.Frame) -> Optional[ThreadRegisters]:
            # gdb 10 cannot list the registers of an architecture.
            listed = getattr(frame.architecture(), "registers", lambda _: ())
            others = (register.name for register in listed("general"))
            machine = gdb_says.architecture(frame.architecture().name())
            ask, size = frame.read_register, memory.word_size
            return registers.of_thread(thread.ptid[1], ask, machine, size, vector, others)

        threads = gdb.selected_inferior().threads()
        read = {one.id: one for one in _of_each_thread(threads, of_thread) if one is not None}
        return [read.get(one.ptid[1]) or registers.unknown(one.ptid[1]) for one in threads]

    def frame(self, thread: int, address: int) -> Optional[str]:
        """Return the function in whose frame ADDRESS lies on the stack of THREAD."""
        wanted = (one for one in gdb.selected_inferior().threads() if one.ptid[1] == thread)
        found = _of_each_thread(wanted, lambda _, top: frames.holding(top, address, _name))
        return found[0] if found else None

    def symbol(self, address: int) -> Optional[str]:
        """Return what gdb's ``info symbol`` says of ADDRESS."""
        try:
            said = gdb_text.printed(_execute, f"info symbol {address:#x}")
        except gdb.error:
            return None
        return gdb_says.symbol(gdb_text.shown(said) or "")

    def typed(self, command: str, *words: str) -> str:
        """Return what to type to ask COMMAND of the same target."""
        return " ".join([f"leak-{command}", *words])

    def set_variable(self, name: str, value: Optional[int], pointer: bool = False) -> None:
        """Set $NAME, to void where VALUE is None; a pointer is a ``void *``, as from find."""
        typed = _as_pointer(value) if value is not None and pointer else value
        gdb.set_convenience_variable(name, typed)

    def _drop_live(self, _event: object) -> None:
        for number, (_, target) in list(self._kept.items()):
            if target.memory.source != "core":
                del self._kept[number]

    def _find_target(self, usage: bool) -> Target:
        inferior = gdb.selected_inferior()
        connection = _connection(inferior)
        if connection == "core":
            return self._kept_or(inferior, *_core(inferior))
        if connection is None or not inferior.pid:
            self._kept.pop(inferior.num, None)
            raise RequestError(_NO_TARGET)
        stopped = not _running()
        if connection == "native":
            # Asking for the RSS takes the kernel long for a large process.
            kept = self._kept.get(inferior.num)
            usage = usage or (kept is not None and kept[0] == ("native", inferior.pid, True))
            key: object = ("native", inferior.pid, usage)
            target = self._kept_or(inferior, key, lambda: _open_process(inferior.pid, usage))
        else:
            if not stopped:
                raise RequestError(_MOVING)
            key = ("remote", connection, inferior.pid, inferior.num)
            target = self._kept_or(inferior, key, lambda: _open_remote(inferior))
        if not stopped:
            # Nothing about a moving target is kept.
            self._kept.pop(inferior.num, None)
            running = "threads are running: memory changes while it is read"
            return Target(target.memory, target.path, target.pid, [*target.notes, running])
        return target

    def _kept_or(self, inferior: gdb.Inferior, key: object, opened: Callable[[], Target]) -> Target:
        kept = self._kept.get(inferior.num)
        gone = _gone(kept[1]) if kept is not None and kept[0] == key else None
        if kept is not None and kept[0] == key and gone is None:
            return kept[1]
        self._kept.pop(inferior.num, None)
        try:
            target = opened()
        except Error as error:
            # What was there before has ended, and is not a process that never existed.
            raise gone or error from None
        self._kept[inferior.num] = (key, target)
        return target


class LeakCommand(gdb.Command):
    """One command at gdb's prompt."""

    def __init__(self, entry: Entry, session: GdbSession, documentation: str) -> None:
        """Register ENTRY under its name at the prompt, with DOCUMENTATION as its help."""
        self._entry = entry
        self._session = session
        # gdb reads it while it registers the command.
        self.__doc__ = documentation
        super().__init__(entry.command.prompt_name, gdb.COMMAND_DATA)

    def invoke(self, argument: str, from_tty: bool) -> None:  # noqa: ARG002
        """Answer the command typed with ARGUMENT."""
        self.dont_repeat()
        name = self._entry.command.prompt_name
        self._session.begin()
        try:
            self._answer(argument)
        except Error as error:
            message = escape(str(error), gdb_terminal.charset(_charset()))
            raise gdb.GdbError(f"{name}: {message}") from None
        except (KeyboardInterrupt, gdb.error, gdb.GdbError):
            raise
        except BaseException as error:  # a panic of the native module is no Exception
            self._session.end()
            gdb.write(escape_lines(traceback.format_exc(), "ascii"), gdb.STDERR)
            raise gdb.GdbError(f"{name}: a bug of gdb-leak: {type(error).__name__}") from None
        finally:
            self._session.end()

    def complete(self, text: str, word: Optional[str]) -> Union[list[str], int]:
        """Return what may stand at the end of TEXT, whose last part gdb takes for WORD."""
        if word is None:
            # gdb asks for break characters in this way.
            return []
        cut = max(text.rfind(" "), text.rfind("\t")) + 1
        typed = text[cut:]
        try:
            before = tokenize(text[:cut])
        except UsageError:
            return []
        command = self._entry.command
        kind, names = options.complete(
            manual.options_of(command, False), command.operands, before, typed
        )
        if kind == "file":
            return gdb.COMPLETE_FILENAME
        if kind == "address":
            return gdb.COMPLETE_EXPRESSION
        # For gdb a word begins after the dash; it wants only what follows it.
        skipped = len(typed) - len(word) if typed.endswith(word) else 0
        return [name[skipped:] for name in names]

    def _answer(self, argument: str) -> None:
        command = self._entry.command
        words = tokenize(argument)
        if command.gdb_name and words:
            _check_spelling(words)
        parsed = options.parse(manual.options_of(command, False), command.operands, words)
        result = self._entry.answer(Request(parsed, self._session))
        result.later.append(self._session.verify)
        if parsed.flag("json"):
            with gdb_terminal.unpaged(gdb):
                self._write(as_json.pieces(result))
        else:
            width = gdb_terminal.width(gdb)
            style = Style(gdb_terminal.colour(gdb), gdb_terminal.charset(_charset()), width)
            self._write(as_text.pieces(result, self._entry.text(result), style))
        if result.status is not None:
            # Whatever else was to run does not; a process that was attached to is let go.
            gdb.execute(f"quit {result.status}")

    # Through gdb, so that its pager and `set logging` see it.
    def _write(self, pieces: Iterator[str]) -> None:
        for piece in pieces:
            self._session.clear_progress()
            gdb.write(piece)


# `leak check` is `leak` with an operand, which it does not take.
def _check_spelling(words: Sequence[Word]) -> None:
    first, *rest = words
    name = None if first.quoted else near.meant(first.raw, (entry.command.name for entry in TABLE))
    if name is not None and not first.raw.startswith("-"):
        meant = next(entry.command.prompt_name for entry in TABLE if entry.command.name == name)
        typed = " ".join([meant, *map(str, rest)])
        raise UsageError(f"takes no operands: {first}; did you mean {typed}?")


def register() -> None:
    """Register all commands; doing it again changes nothing."""
    global _session
    if _session is not None:
        return
    _session = GdbSession()
    listed = manual.overview_text((entry.command for entry in TABLE), False)
    for entry in TABLE:
        documentation = manual.help_text(entry.command)
        if entry.command.gdb_name:
            documentation += f"\n\nAll commands:\n\n{listed}"
        LeakCommand(entry, _session, documentation)


_session: Optional[GdbSession] = None


def _connection(inferior: gdb.Inferior) -> Optional[str]:
    stack = gdb_says.target_stack(gdb.execute("maint print target-stack", to_string=True))
    connection = getattr(inferior, "connection", None)
    return gdb_says.connection(stack, str(connection.type) if connection is not None else None)


# Why a process that was read before cannot be read any more, None where it can. It may have
# another program, and is opened anew; of a core the error is the answer.
def _gone(target: Target) -> Optional[Error]:
    try:
        target.memory.recheck()
    except Error as error:
        if target.memory.source == "process":
            return error
        raise
    return None


def _running() -> bool:
    return any(thread.is_running() for thread in gdb.selected_inferior().threads())


def _program() -> Optional[str]:
    progspace = gdb.current_progspace()
    if progspace is None:
        return None
    return gdb_text.path(gdb_text.of_member(_execute, lambda: progspace.filename))


def _sysroot() -> Optional[str]:
    sysroot = gdb_text.of_member(_execute, lambda: gdb.parameter("sysroot"))
    return gdb_says.sysroot(gdb_text.path(sysroot))


def _core(inferior: gdb.Inferior) -> tuple[object, Callable[[], Target]]:
    corefile = getattr(inferior, "corefile", None)
    name = gdb_text.of_member(_execute, lambda: getattr(corefile, "filename", None))
    path = gdb_text.path(name) or gdb_says.core_path(
        os.fsdecode(gdb_text.printed(_execute, "info files"))
    )
    if path is None:
        raise RequestError("gdb does not say which core file it has loaded")
    opened = held_core.path(path)
    identity: object = held_core.identity(opened)
    program, sysroot = _program(), _sysroot()
    key = ("core", path, identity, program, sysroot)
    return key, lambda: Target(_native.open_file(opened, program, sysroot), path)


def _open_process(pid: int, usage: bool) -> Target:
    notes = []
    if gdb.parameter("breakpoint always-inserted"):
        notes.append(
            "breakpoint always-inserted is on: code pages show breakpoints where gdb shows "
            "the original bytes"
        )
    return Target(_native.open_process(pid, usage), pid=pid, notes=notes)


def _open_remote(inferior: gdb.Inferior) -> Target:
    numbers = (inferior.pid, *(thread.ptid[1] for thread in inferior.threads()))
    maps, pid, notes = mappings.listed(
        _printed, errors=gdb.error, numbers=numbers, program=_program(), read=_read
    )
    sections: list[tuple[int, int, str, str]] = []
    stack_pointers = _of_each_thread(
        inferior.threads(), lambda _, frame: int(frame.read_register("sp"))
    )
    if maps is None:
        sections = [*mappings.sections(_printed), *probed.stack_sections(stack_pointers, _read)]
    order = "big" if "big" in gdb.execute("show endian", to_string=True) else "little"
    memory = _native.open_remote(
        _as_pointer(0).type.sizeof,
        "big" if order == "big" else "little",
        gdb_says.architecture(inferior.architecture().name()),
        maps,
        sections,
        stack_pointers,
        _read,
    )
    return Target(memory, pid=pid, notes=notes)


def _printed(command: str) -> bytes:
    return gdb_text.printed(_execute, command)


def _name(ask: Callable[[], object]) -> Optional[str]:
    return gdb_text.shown(gdb_text.of_member(_execute, ask))


def _read(address: int, length: int) -> Optional[bytes]:
    try:
        return gdb.selected_inferior().read_memory(address, length).tobytes()
    except gdb.MemoryError:
        return None
    except gdb.error as error:
        # The connection is gone, or speaks nonsense.
        raise RequestError(str(error)) from None


# Of each thread that is stopped, with its newest frame; the selected thread and
# frame are selected again afterwards.
def _of_each_thread(
    threads: Iterable[gdb.InferiorThread], ask: Callable[[gdb.InferiorThread, gdb.Frame], _T]
) -> list[_T]:
    thread = gdb.selected_thread()
    try:
        frame: Optional[gdb.Frame] = gdb.selected_frame()
    except gdb.error:
        frame = None
    answers: list[_T] = []
    try:
        for other in threads:
            try:
                other.switch()
                answers.append(ask(other, gdb.newest_frame()))
            except (gdb.error, ValueError):
                continue
    finally:
        if thread is not None and thread.is_valid():
            thread.switch()
            if frame is not None and frame.is_valid():
                frame.select()
    return answers


# A pointer in the target's width: `void *`, as gdb's own find has it, or to an
# integer where the language (rust, ada) has no type of that name.
def _as_pointer(value: int) -> gdb.Value:
    try:
        pointed = gdb.lookup_type("void")
    except gdb.error:
        pointed = gdb.Value(0).type
    return gdb.Value(value).cast(pointed.pointer())


def _charset() -> str:
    return gdb_says.charset(_execute("show host-charset"))
