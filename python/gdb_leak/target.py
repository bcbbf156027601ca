"""What a command may ask of the door that it came through.

Plain data and a protocol: which memory, how an address is evaluated, which
snapshots are kept. Nothing here reads memory or imports gdb.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    NamedTuple,
    Optional,
    Protocol,
    Union,
)

from gdb_leak.errors import RequestError
from gdb_leak.options import Parsed

if TYPE_CHECKING:
    from gdb_leak._native import Memory

__all__ = [
    "Kept",
    "Launch",
    "Line",
    "Pieces",
    "Request",
    "Result",
    "Session",
    "Snapshots",
    "Target",
    "ThreadRegisters",
    "Watch",
]

Place = Union[str, tuple[int, int]]
Progress = Callable[[int, int], None]
#: What JSON can hold, before it is written.
Value = Union[None, bool, int, float, str, Sequence["Value"], dict[str, "Value"], "Pieces"]


class Target:
    """An opened target: its memory and where it came from."""

    def __init__(
        self,
        memory: "Memory",
        path: Optional[str] = None,
        pid: Optional[int] = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Take the MEMORY, the PATH or PID that it was opened by, and NOTES of the door."""
        self.memory = memory
        self.path = path
        self.pid = pid
        self.notes = list(notes)

    def describe(self) -> dict[str, Value]:
        """Return the ``target`` of a JSON answer."""
        memory = self.memory
        described: dict[str, Value] = {"kind": memory.source}
        if self.path is not None or self.pid is None:
            described["path"] = _shown(self.path)
        if self.pid is not None:
            described["pid"] = self.pid
        described.update(
            arch=memory.arch,
            word_size=memory.word_size,
            byte_order=memory.byte_order,
            complete=memory.complete,
        )
        return described

    def all_notes(self) -> list[str]:
        """Return what makes the target less than whole, each said once."""
        return list(dict.fromkeys([*self.memory.notes, *self.notes]))

    def late_notes(self, result: "Result") -> list[str]:
        """Return the notes that RESULT lacks: what is missing is known once it was asked for."""
        said = {*result.notes, *result.reworded}
        return [note for note in self.memory.notes if note not in said]


# In the form that all texts have: in a Latin-1 locale, names of files have another.
def _shown(path: Optional[str]) -> Optional[str]:
    if path is None or path.isascii():
        return path
    return os.fsencode(path).decode("utf-8", "surrogateescape")


class Kept(NamedTuple):
    """A snapshot taken in this session: ``@1``, or the file that it is in."""

    name: str
    memory: "Memory"
    path: Optional[str]


class ThreadRegisters(NamedTuple):
    """What the registers of a thread hold, in the shape that the native module gives.

    ``general`` and ``vector`` are names and values; of vector registers the
    words of the target that are not zero, each named after the smallest
    register that it is in: the words of ``ymm3`` are ``xmm3[0]``, ``xmm3[1]``,
    ``ymm3[2]`` and ``ymm3[3]``.
    """

    id: int
    stack_pointer: Optional[int]
    thread_pointer: Optional[int]
    general: list[tuple[str, int]]
    vector: list[tuple[str, int]]


class Line(NamedTuple):
    """A call at an address of code: the function, and where in its source it was left.

    ``file`` is the whole path that the compiler recorded; ``module`` the file
    that the code was loaded from. What is not known is None.
    """

    function: Optional[str]
    file: Optional[str] = None
    line: Optional[int] = None
    module: Optional[str] = None


class Snapshots:
    """The snapshots taken in this session, oldest first."""

    def __init__(self) -> None:
        """Start with none."""
        self._kept: list[Kept] = []

    def keep(self, memory: "Memory", path: Optional[str]) -> Kept:
        """Keep MEMORY, and return it with the name that it is called by from now on."""
        kept = Kept(f"@{len(self._kept) + 1}", memory, path)
        self._kept.append(kept)
        return kept

    def latest(self) -> Kept:
        """Return the snapshot taken last.

        :raises RequestError: where there is none.
        """
        if not self._kept:
            raise RequestError(
                "no BEFORE is given, and this session has no snapshot (leak-snapshot takes one)"
            )
        return self._kept[-1]

    def named(self, name: str) -> Optional[Kept]:
        """Return the snapshot called NAME (``@1``), None where NAME is no such name.

        :raises RequestError: where NAME has that form but is not taken.
        """
        if not (name.startswith("@") and name[1:].isdigit()):
            return None
        for kept in self._kept:
            if kept.name == name:
                return kept
        names = ", ".join(kept.name for kept in self._kept) or "none"
        raise RequestError(f"no snapshot {name} in this session (kept: {names})")


class Session(Protocol):
    """The door, as a command sees it."""

    shell: bool
    snapshots: Snapshots
    #: The target, where the command has opened it.
    current: Optional[Target]

    def target(self, usage: bool = False) -> Target:
        """Return the target, opened.

        :param usage: whether the regions of a process are to have their RSS.
        :raises RequestError: where there is none, with what to do about it.
        """

    def prepare(self, place: Place) -> None:
        """Make the bytes of PLACE readable, where the target is read through gdb."""

    def prepare_roots(self, threads: Optional[Sequence[ThreadRegisters]]) -> None:
        """Make what roots are told by beside writable memory readable, likewise.

        :param threads: as :meth:`registers` gives them.
        """

    def open(self, path: str) -> Target:
        """Return the core, snapshot or list of regions in the file PATH, opened."""

    def evaluate(self, expression: str) -> int:
        """Return the number or address that EXPRESSION stands for, from 0 up.

        :raises UsageError: where it stands for none.
        """

    def integer(self, expression: str) -> int:
        """Return the number that EXPRESSION stands for, negative ones too."""

    def encode(self, text: str) -> bytes:
        """Return the bytes that were typed as TEXT."""

    def progress(self, verb: str) -> Optional[Progress]:
        """Return a function that shows how far VERB (``searching``) has come."""

    def verify(self) -> None:
        """Raise where a process that was read has ended or started another program.

        :raises ProcessError: what was read of it is worth nothing then.
        """

    def hold(self) -> None:
        """Stop the process for the length of this command, where the door can."""

    def let_go(self) -> Sequence[str]:
        """Let a process that is held run on: all that the answer takes of it was read.

        Return notes, such as for how long it was held.

        :raises ProcessError: where it has ended or started another program meanwhile.
        """

    def at_rest(self, target: Target) -> bool:
        """Whether TARGET stays as it is until the command ends."""

    def registers(self, vector: bool) -> Optional[list[ThreadRegisters]]:
        """Return the registers of the target's threads, as far as they can be read.

        None where the door knows no more than the target's own memory
        (``thread_registers``): of a core, and of a process that is not held.
        What is left out becomes a note of the target.

        :param vector: whether vector registers are to be read, too.
        """

    def symbol(self, address: int) -> Optional[str]:
        """Return the symbol at ADDRESS with its offset and file, None where none is known."""

    def lines(self, address: int) -> list[Line]:
        """Return the calls at ADDRESS, innermost first where functions were inlined there.

        The last is the function whose frame it is. Empty where nothing is known.

        :param address: one inside of the call: of a return address the one before it.
        """

    def frame(self, thread: int, address: int) -> Optional[str]:
        """Return the function in whose frame ADDRESS lies on the stack of THREAD, where known."""

    def typed(self, command: str, *words: str) -> str:
        """Return what to type to ask COMMAND (``check``) of the same target.

        :param words: options and operands, spelled as they are typed there.
        """

    def set_variable(self, name: str, value: Optional[int], pointer: bool = False) -> None:
        """Set the debugger's variable $NAME, to void where VALUE is None."""


class Request(NamedTuple):
    """One command as typed, and the door that it came through."""

    parsed: Parsed
    session: Session


class Pieces:
    """A list of values made in pieces, once, when it is written."""

    def __init__(self, make: Callable[[], Iterator[Sequence[Value]]]) -> None:
        """Take MAKE, which yields the values some at a time."""
        self._make = make

    def __iter__(self) -> Iterator[Sequence[Value]]:
        """Yield the values, some at a time."""
        return self._make()


class Watch(NamedTuple):
    """How a program that was started is followed, to be judged where it ends.

    ``function`` is where it is judged instead, when it calls that for the first
    time; ``children`` whether the processes that it starts are judged too;
    ``log`` the file for reports, with ``%p`` for the process; ``unjudged`` the status to
    end with where a process could not be judged, None where the program's own counts.
    """

    function: Optional[str]
    children: bool
    log: Optional[str]
    unjudged: Optional[int] = None


class Launch(NamedTuple):
    """A program to run in place of an answer, with the recorder.

    ``words`` are those that it gets, the first names it; ``settings`` are the
    variables of its environment that are the recorder's. Without ``watch`` it
    takes the place of gdb-leak.
    """

    words: tuple[str, ...]
    library: str
    settings: Mapping[str, str]
    watch: Optional[Watch] = None


class Step(NamedTuple):
    """What to type next: what it shows, and the whole line."""

    purpose: str
    command: str


class Result:
    """The answer to a request: plain data, and native tables where there are many rows.

    ``values`` are the keys of the JSON answer, in order, after the common
    ones; ``data`` is what the command's own text is made from; ``later`` has
    what is called when everything was made, and may return notes.
    """

    def __init__(
        self,
        command: str,
        target: Optional[dict[str, Value]],
        values: dict[str, Value],
        notes: Sequence[str] = (),
        data: Any = None,
        word_size: int = 8,
    ) -> None:
        """Take the command's name, what describes its target, and the answer."""
        self.command = command
        self.target = target
        self.values = values
        self.notes = list(notes)
        #: Notes of the target that ``notes`` have in other words.
        self.reworded: Sequence[str] = ()
        self.data = data
        self.word_size = word_size
        self.later: list[Callable[[], Optional[Sequence[str]]]] = []
        #: What a text begins with, before all notes.
        self.heading: Optional[str] = None
        #: What the shell or gdb is to end with, where the answer asks for that.
        self.status: Optional[int] = None
        #: What to type next, said on a terminal.
        self.steps: list[Step] = []
        #: The program that is to run instead of an answer being printed.
        self.launch: Optional[Launch] = None

    def finish(self) -> None:
        """Add the notes that are known now that everything was made."""
        for tell in self.later:
            self.notes.extend(tell() or ())
        self.later.clear()
