"""The registers of a thread that gdb reads: which of them, and what their words are called.

The same registers under the same names as the native module has them of a core
(``src/source/registers.rs``).
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Callable, Optional

from gdb_leak.target import ThreadRegisters

__all__ = ["of_thread", "unknown"]

#: Reads a register by its name; a ``gdb.error`` is a RuntimeError.
Read = Callable[[str], Any]

_MISSING = (RuntimeError, ValueError)
_NUMBERED = re.compile(r"(.*?)(\d+)-(\d+)")

# By what gdb calls the machine, and the size of its words. Left out are the
# instruction pointer of all machines but x86-64, whose stacks are unwound, flags,
# selectors, and whichever points at the thread's control block.
_GENERAL = {
    ("x86_64", 8): "rax rbx rcx rdx rsi rdi rbp rsp r8-15 rip gs_base",
    # x32: pointers of four bytes in the same registers.
    ("x86_64", 4): "rax rbx rcx rdx rsi rdi rbp rsp r8-15 rip gs_base",
    ("i386", 4): "eax ebx ecx edx esi edi ebp esp",
    ("aarch64", 8): "x0-30 sp",
    ("arm", 4): "r0-12 sp lr",
    ("s390", 8): "r0-15",
    ("s390", 4): "r0-15",
    ("powerpc", 8): "r0-12 r14-31 ctr lr",
    ("powerpc", 4): "r0-1 r3-31 ctr lr",
    ("rs6000", 8): "r0-12 r14-31 ctr lr",
    ("riscv", 8): "ra sp gp t0-2 fp s1 a0-7 s2-11 t3-6",
    ("riscv", 4): "ra sp gp t0-2 fp s1 a0-7 s2-11 t3-6",
}
_THREAD_POINTERS = {"x86_64": "fs_base", "aarch64": "tpidr"}

#: Largest first, with their bytes: the smaller ones are parts of them.
_X86_VECTORS = (("zmm", 64), ("ymm", 32), ("xmm", 16))


def of_thread(
    number: int,
    read: Read,
    architecture: str,
    word_size: int,
    vector: bool,
    others: Iterable[str] = (),
) -> Optional[ThreadRegisters]:
    """Return the registers of thread NUMBER, None where none of them can be read.

    :param architecture: as :func:`gdb_leak.doors.gdb_says.architecture` has it.
    :param others: the general registers of a machine that is not known here.
    """
    machine = "arm" if architecture.startswith("arm") else architecture
    spelled = _GENERAL.get((machine, word_size))
    names = _names(spelled) if spelled is not None else others
    general = [(name, value) for name in names if (value := _value(read, name)) is not None]
    if not general:
        return None
    return ThreadRegisters(
        number,
        _value(read, "sp"),
        _value(read, _THREAD_POINTERS[machine]) if machine in _THREAD_POINTERS else None,
        general,
        list(_vectors(read, machine, word_size)) if vector else [],
    )


def unknown(number: int) -> ThreadRegisters:
    """Return what is known of thread NUMBER where none of its registers can be read."""
    return ThreadRegisters(number, None, None, [], [])


def _names(spelled: str) -> Iterator[str]:
    for word in spelled.split():
        match = _NUMBERED.fullmatch(word)
        if match is None:
            yield word
        else:
            yield from (f"{match[1]}{number}" for number in range(int(match[2]), int(match[3]) + 1))


def _value(read: Read, name: str) -> Optional[int]:
    try:
        value = read(name)
        # gdb has most of them as signed numbers.
        return int(value) & (1 << 8 * int(value.type.sizeof)) - 1
    except _MISSING:
        return None


# The words that are not zero.
def _vectors(read: Read, machine: str, word_size: int) -> Iterator[tuple[str, int]]:
    if machine == "aarch64":
        for number in range(32):
            yield from _named("v", number, _words(read, f"v{number}", ("d", "u"), 2))
        return
    if machine not in ("x86_64", "i386"):
        return
    largest = 0
    for number in range(16 if machine == "x86_64" else 8):
        for stem, size in _X86_VECTORS[largest:]:
            count = size // word_size
            words = _words(read, f"{stem}{number}", (f"v{count}_int{8 * word_size}",), count)
            if words:
                yield from _x86_named(number, words, word_size)
                break
            # What the first register has not, no other one has.
            largest += number == 0 and largest < len(_X86_VECTORS) - 1
    if machine == "x86_64" and largest == 0:
        count = 64 // word_size
        for number in range(16, 32):
            words = _words(read, f"zmm{number}", (f"v{count}_int{8 * word_size}",), count)
            yield from _x86_named(number, words, word_size)
    for number in range(8):
        yield from _named("st", number, _x87_words(read, f"st{number}", word_size))


# A word has the name of the smallest register that it is in.
def _x86_named(number: int, words: list[int], word_size: int) -> Iterator[tuple[str, int]]:
    for index, word in enumerate(words):
        if word:
            at = index * word_size
            stem = "xmm" if at < 16 else "ymm" if at < 32 else "zmm"
            yield f"{stem}{number}[{index}]", word


def _named(stem: str, number: int, words: list[int]) -> Iterator[tuple[str, int]]:
    return ((f"{stem}{number}[{index}]", word) for index, word in enumerate(words) if word)


# The words of the array that FIELDS lead to; empty where not all can be had.
def _words(read: Read, name: str, fields: tuple[str, ...], count: int) -> list[int]:
    try:
        value = read(name)
        # Each step makes a value: 11 microseconds for eight words, 76 with the steps for each.
        for field in fields:
            value = value[field]
        mask = (1 << 8 * int(value[0].type.sizeof)) - 1
        return [int(value[index]) & mask for index in range(count)]
    except _MISSING:
        return []


# The lowest eight of ten bytes, which is what MMX uses of them.
def _x87_words(read: Read, name: str, word_size: int) -> list[int]:
    try:
        low = int(read(name).format_string(format="x"), 16) & (1 << 64) - 1
    except _MISSING:
        return []
    return [low] if word_size == 8 else [low & 0xFFFF_FFFF, low >> 32]
