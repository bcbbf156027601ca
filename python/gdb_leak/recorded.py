"""What the recorder kept of blocks, as commands ask for it: stacks, requested bytes, ages."""

import time
from typing import TYPE_CHECKING, Optional

from gdb_leak import _native, stacks, units
from gdb_leak.errors import RequestError
from gdb_leak.options import Option
from gdb_leak.stacks import Frame
from gdb_leak.target import Line, Request, Target, Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Callable

    from gdb_leak import layout
    from gdb_leak._native import Allocation, Heap, Recording, Region, StackFrame

__all__ = [
    "AGE",
    "Recorded",
    "is_own",
    "newest",
    "opened",
    "own_ranges",
    "region_names",
    "required",
]

#: Functions of C++ that only hand a request on.
_HANDING_ON = ("operator new(", "operator new[](")

#: What regions of the recorder are called.
_OWN = "[gdb-leak record]"

AGE = Option(
    "age",
    "Take blocks only that were allocated at least T ago: 10s, 5m, 2h, 1d, 200ms. Those that "
    "were not recorded have no age and are left out.",
    "age",
    "T",
)


class Recorded:
    """The recording of a heap, with what is known of its code; each place is looked up once."""

    def __init__(self, request: Request, target: Target, recording: "Recording") -> None:
        """Take the RECORDING of TARGET."""
        self._session = request.session
        self._target = target
        self._stacks: dict[int, list[Frame]] = {}
        self._lines: dict[int, list[Line]] = {}
        self.recording = recording
        #: The time that is now, in the recording's own units.
        self.now = recording.now(time.monotonic_ns() if self.alive else None)

    @property
    def alive(self) -> bool:
        """Whether the process is one of this machine, whose clock goes on."""
        return self._target.memory.source == "process"

    def of(self, index: int) -> "Optional[Allocation]":
        """Return what was recorded of the block with the number INDEX, None where nothing was."""
        return self.recording.of(index)

    def stack(self, number: Optional[int]) -> Optional[list[Frame]]:
        """Return the stack NUMBER, innermost call first, None where it is not known."""
        if not number:
            return None
        if number not in self._stacks:
            frames: list[Frame] = []
            for frame in self.recording.stack(number):
                frames.extend(stacks.frames(frame.pc, self._known(frame)))
            self._stacks[number] = frames
        return self._stacks[number]

    def stack_value(self, number: Optional[int]) -> Value:
        """Return the JSON of the stack NUMBER, null where it is not known."""
        stack = self.stack(number)
        return None if stack is None else stacks.stack_value(stack)

    def stack_lines(self, number: Optional[int]) -> "Iterator[layout.Line]":
        """Yield a line for each call of the stack NUMBER, as valgrind writes them.

        Nothing below ``main``, as valgrind does; JSON has all calls.
        """
        yield from stacks.stack_lines(_down_to_main(self.stack(number)), indent="   ")

    def age(self, allocation: "Allocation") -> int:
        """Return the nanoseconds since ALLOCATION."""
        return self.recording.nanoseconds(max(0, self.now - allocation.time))

    def callers(self, allocation: "Optional[Allocation]") -> str:
        """Return who asked for a block: ``my_alloc < leak_func < main``, ``""`` where not known."""
        stack = self.stack(allocation.stack) if allocation is not None else None
        names = [frame.line.function or hex(frame.pc) for frame in _down_to_main(stack)[1:]]
        while names and names[0].startswith(_HANDING_ON):
            names.pop(0)
        return " < ".join(names)

    def value(self, allocation: "Optional[Allocation]") -> Value:
        """Return the JSON of ALLOCATION: ``{size, thread, age, stack}``, the age in seconds."""
        if allocation is None:
            return None
        return {
            "size": allocation.size,
            "thread": allocation.thread,
            "age": round(self.age(allocation) / 10**9, 3),
            "stack": self.stack_value(allocation.stack),
        }

    # Code that was unloaded is looked up in its file: something else may be there by now.
    def _known(self, frame: "StackFrame") -> list[Line]:
        if frame.unloaded is not None:
            path, build_id, address = frame.unloaded
            found = self._target.memory.lines_of_file(path, build_id, address)
            return [Line(*line) for line in found] or [Line(None, module=path)]
        if frame.address not in self._lines:
            lines = self._session.lines(frame.address)
            if frame.function is not None:
                # The lines of the recorder's own source say nothing about the program.
                module = lines[-1].module if lines else None
                lines = [Line(frame.function, module=module)]
            self._lines[frame.address] = lines
        return self._lines[frame.address]


def own_ranges(request: Request, target: Target) -> list[tuple[int, int]]:
    """Return the ranges of TARGET that belong to the recorder, none where it recorded nothing."""
    if target.memory.source not in ("core", "process"):
        return []
    progress = request.session.progress("looking for a recording")
    return _native.recorder_ranges(target.memory, progress)


def region_names(ranges: "Sequence[tuple[int, int]]") -> "Callable[[Region], str]":
    """Return a function that names regions; those in RANGES, the recorder's, by what they are.

    The kernel names them itself where it can; a core names nothing.
    """

    def name(region: "Region") -> str:
        return region.name or (_OWN if is_own(region, ranges) else "")

    return name


def is_own(region: "Region", ranges: "Sequence[tuple[int, int]]") -> bool:
    """Return whether REGION is within one of the RANGES of the recorder."""
    return any(start <= region.start and region.end <= end for start, end in ranges)


def _down_to_main(stack: Optional[list[Frame]]) -> list[Frame]:
    names = [frame.line.function for frame in stack or []]
    end = names.index("main") + 1 if "main" in names else len(names)
    return (stack or [])[:end]


def opened(
    request: Request, target: Target, heap: "Optional[Heap]", notes: list[str], whole: bool = True
) -> Optional[Recorded]:
    """Return what was recorded of the blocks of HEAP, None where nothing was.

    NOTES get what cannot be read, and where the WHOLE heap is told of what the recording lacks.
    """
    if heap is None:
        return None
    progress = request.session.progress("reading the recording")
    recording, unread = _native.recording(target.memory, heap, progress)
    notes.extend(unread)
    if recording is None:
        return None
    if whole:
        notes.extend(recording.notes)
    return Recorded(request, target, recording)


def required(recorded: Optional[Recorded], option: str) -> Recorded:
    """Return RECORDED, which OPTION asks for.

    :raises RequestError: where nothing was recorded.
    """
    if recorded is None:
        raise RequestError(
            f"{option}: nothing was recorded: start the program with gdb-leak record -- PROGRAM"
        )
    return recorded


def newest(request: Request, recorded: Optional[Recorded], notes: list[str]) -> Optional[int]:
    """Return the latest time that -age takes, in the recording's own units, None without -age.

    NOTES get since when ages are counted.

    :raises RequestError: where nothing was recorded.
    """
    age = request.parsed.count("age", None)
    if age is None:
        return None
    known = required(recorded, "-age")
    since = "now" if known.alive else "the last recorded call, since the target has no clock here"
    notes.append(f"ages are counted from {since}; -age takes {units.age_text(age)} and more")
    return known.recording.before(known.now, age)
