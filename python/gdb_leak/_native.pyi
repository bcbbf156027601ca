"""The native module: reads, searches, decodes and compares memory.

Addresses, sizes and counts are integers, sizes in bytes. Every function that
goes over memory lets other Python threads run, answers Ctrl-C within a few
hundredths of a second with ``KeyboardInterrupt``, and calls ``progress(done,
total)`` with bytes about ten times a second once it has worked for a second.
Errors are those of :mod:`gdb_leak.errors`.
"""

from collections.abc import Sequence
from typing import Callable, Final, Literal, Optional, Union, final

__all__ = [
    "Change",
    "Contents",
    "Difference",
    "Dump",
    "Matches",
    "Memory",
    "Needle",
    "Region",
    "Stop",
    "Strings",
    "__version__",
    "contents",
    "diff",
    "dump",
    "find",
    "open_file",
    "open_process",
    "open_remote",
    "save_snapshot",
    "stop_process",
    "strings",
    "text_to_words",
    "unescape",
    "words_to_text",
    "write_range",
]

__version__: Final[str]

_ByteOrder = Literal["little", "big"]
_Place = Union[str, tuple[int, int]]
_Progress = Optional[Callable[[int, int], None]]

@final
class Region:
    """One mapping of a target."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def saved(self) -> int: ...
    @property
    def permissions(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def rss(self) -> Optional[int]: ...
    @property
    def dirty(self) -> Optional[int]: ...

@final
class Memory:
    """An opened target: a core, a process, a remote target, or a list of regions."""

    @property
    def source(self) -> Literal["core", "process", "remote", "snapshot", "maps"]: ...
    @property
    def arch(self) -> Optional[str]: ...
    @property
    def word_size(self) -> int: ...
    @property
    def byte_order(self) -> _ByteOrder: ...
    @property
    def complete(self) -> bool: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def program(self) -> Optional[str]: ...
    @property
    def pid(self) -> Optional[int]: ...
    @property
    def threads(self) -> list[int]: ...
    @property
    def taken(self) -> Optional[str]: ...
    def regions(self, place: _Place) -> list[Region]: ...
    def region_at(self, address: int) -> Optional[Region]: ...
    def read(self, start: int, length: int) -> bytes: ...
    def recheck(self) -> None: ...
    def fetch(self, place: _Place, read: Callable[[int, int], Optional[bytes]]) -> None: ...

@final
class Stop:
    """All threads of a process held by ptrace until :meth:`release`."""

    @property
    def threads(self) -> int: ...
    def release(self) -> float: ...

def open_file(
    path: str, executable: Optional[str] = None, sysroot: Optional[str] = None
) -> Memory: ...
def open_process(pid: int, usage: bool = False) -> Memory: ...
def open_remote(
    word_size: int,
    byte_order: _ByteOrder,
    arch: Optional[str],
    maps: Optional[str],
    sections: Sequence[tuple[int, int, str, str]],
    stack_pointers: Sequence[int],
    read: Callable[[int, int], Optional[bytes]],
) -> Memory: ...
def stop_process(pid: int) -> Stop: ...
def save_snapshot(memory: Memory, path: Optional[str], force: bool = False) -> Memory: ...

@final
class Needle:
    """What is looked for."""

    @staticmethod
    def text(raw: bytes, terminated: bool = False, ignore_case: bool = False) -> Needle: ...
    @staticmethod
    def hex(digits: str) -> Needle: ...
    @staticmethod
    def integer(value: int, size: int, byte_order: _ByteOrder) -> Needle: ...
    @staticmethod
    def utf16(
        text: str, byte_order: _ByteOrder, terminated: bool = False, ignore_case: bool = False
    ) -> Needle: ...
    @staticmethod
    def pointer(value: int, memory: Memory) -> Needle: ...
    @staticmethod
    def pointers_into(start: int, end: int, memory: Memory) -> Needle: ...
    @staticmethod
    def regex(pattern: str, ignore_case: bool = False) -> Needle: ...
    @property
    def hex_bytes(self) -> str: ...

def unescape(raw: bytes) -> bytes: ...

@final
class Matches:
    """The places found; rows are made when asked for."""

    @property
    def count(self) -> int: ...
    @property
    def last(self) -> Optional[int]: ...
    @property
    def searched(self) -> int: ...
    @property
    def unreadable(self) -> list[tuple[int, int]]: ...
    def __len__(self) -> int: ...
    def rows(self, start: int, stop: int) -> list[tuple[int, int, str, Optional[Region]]]: ...

def find(
    memory: Memory,
    needle: Needle,
    place: _Place,
    align: Optional[int] = None,
    limit: Optional[int] = None,
    progress: _Progress = None,
) -> Matches: ...

@final
class Dump:
    """Lines of memory, made in pieces."""

    @property
    def missing(self) -> int: ...
    def piece(self, most: int = 65536) -> str: ...

def dump(memory: Memory, start: int, length: int, style: str, fold: bool = True) -> Dump: ...
def write_range(
    memory: Memory,
    start: int,
    length: int,
    path: str,
    force: bool = False,
    progress: _Progress = None,
) -> int: ...
def words_to_text(words: Sequence[int], size: int, byte_order: _ByteOrder) -> str: ...
def text_to_words(text: bytes, size: int, byte_order: _ByteOrder) -> list[int]: ...

@final
class Strings:
    """Printable strings of a target, most frequent first."""

    @property
    def rows(self) -> list[tuple[str, int, int, int]]: ...
    @property
    def distinct(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def untracked(self) -> int: ...
    @property
    def searched(self) -> int: ...
    @property
    def unreadable(self) -> list[tuple[int, int]]: ...

def strings(
    memory: Memory,
    place: _Place,
    minimum: int = 4,
    top: Optional[int] = None,
    progress: _Progress = None,
) -> Strings: ...

@final
class Contents:
    """The strings in some ranges, most frequent first, with the distance at which each repeats."""

    @property
    def rows(self) -> list[tuple[str, int, int, int, Optional[int], int]]: ...
    @property
    def untracked(self) -> int: ...
    @property
    def unreadable(self) -> list[tuple[int, int]]: ...

def contents(
    memory: Memory,
    ranges: Sequence[tuple[int, int]],
    minimum: int = 4,
    top: Optional[int] = None,
    progress: _Progress = None,
) -> Contents: ...

@final
class Change:
    """A region that grew, shrank, appeared or went."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def before(self) -> int: ...
    @property
    def after(self) -> int: ...
    @property
    def new_ranges(self) -> list[tuple[int, int]]: ...
    @property
    def gone_ranges(self) -> list[tuple[int, int]]: ...
    @property
    def permissions(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...

@final
class Difference:
    """What changed between two lists of regions."""

    @property
    def grown(self) -> list[Change]: ...
    @property
    def shrunk(self) -> list[Change]: ...
    @property
    def new(self) -> list[Change]: ...
    @property
    def gone(self) -> list[Change]: ...
    @property
    def growth(self) -> int: ...
    @property
    def same_program(self) -> bool: ...
    @property
    def notes(self) -> list[str]: ...

def diff(before: Memory, after: Memory) -> Difference: ...
