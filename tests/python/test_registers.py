"""Which registers gdb is asked for, and what their words are called."""

import sys
from collections.abc import Mapping
from typing import Any, Union

import pytest
from gdb_leak.doors.registers import of_thread


class Value:
    """A value of gdb's: a number of SIZE bytes, or what has members or elements."""

    def __init__(self, content: Any, size: int = 8) -> None:
        """Take a number, a mapping of members, or a list of elements."""
        self._content = content
        self.type = self
        self.sizeof = size

    def __int__(self) -> int:
        return int(self._content)

    def __getitem__(self, key: Union[str, int]) -> "Value":
        try:
            found = self._content[key]
        except (KeyError, IndexError):
            raise RuntimeError("no such member") from None
        if found is None:
            raise RuntimeError("value is not available")
        return found if isinstance(found, Value) else Value(found, self.sizeof)

    def format_string(self, format: str) -> str:  # noqa: A002
        assert format == "x"
        return hex(self._content)


class Registers:
    """Reads registers as a frame does, and remembers what it was asked for."""

    def __init__(self, known: Mapping[str, Value]) -> None:
        """Take the registers that there are."""
        self._known = known
        self.asked: list[str] = []

    def __call__(self, name: str) -> Value:
        self.asked.append(name)
        if name not in self._known:
            raise ValueError(f"Invalid register `{name}'")
        return self._known[name]


def vector(words: list[Any], size: int = 8) -> Value:
    """Return a register with these words of SIZE bytes, as gdb has those of x86."""
    return Value({f"v{len(words)}_int{size * 8}": Value(words, size)})


RAX = {"rax": Value(1)}


def words_of(architecture: str, word_size: int, known: Mapping[str, Value]) -> dict[str, int]:
    """Return the words of vector registers among those that are KNOWN."""
    found = of_thread(1, Registers(known), architecture, word_size, vector=True)
    assert found is not None
    return dict(found.vector)


@pytest.mark.parametrize(
    ("architecture", "word_size", "spelled"),
    [
        ("x86_64", 8, "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip"),
        ("x86_64", 4, "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip"),
        ("i386", 4, "eax ebx ecx edx esi edi ebp esp"),
        ("aarch64", 8, " ".join(f"x{number}" for number in range(31)) + " sp"),
        ("armv7", 4, "r0 r1 r2 r3 r4 r5 r6 r7 r8 r9 r10 r11 r12 sp lr"),
        ("s390", 8, " ".join(f"r{number}" for number in range(16))),
        ("powerpc", 8, " ".join(f"r{n}" for n in range(32) if n != 13) + " ctr lr"),
        ("powerpc", 4, " ".join(f"r{n}" for n in range(32) if n != 2) + " ctr lr"),
        (
            "riscv",
            8,
            "ra sp gp t0 t1 t2 fp s1 a0 a1 a2 a3 a4 a5 a6 a7 "
            "s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6",
        ),
    ],
)
def test_general_registers_are_those_of_the_machine(
    architecture: str, word_size: int, spelled: str
) -> None:
    names = spelled.split()
    known = {name: Value(number) for number, name in enumerate([*names, "pc", "eflags", "fs_base"])}
    found = of_thread(7, Registers(known), architecture, word_size, vector=False)
    assert found is not None
    assert found.id == 7
    assert found.general == list(zip(names, range(len(names))))


def test_a_machine_that_is_not_known_has_what_gdb_lists() -> None:
    found = of_thread(1, Registers({"d0": Value(5)}), "m68k", 4, vector=True, others=["d0", "d1"])
    assert found is not None
    assert (found.general, found.vector) == ([("d0", 5)], [])


def test_a_number_that_gdb_has_as_a_negative_one_is_an_address() -> None:
    known = {"eax": Value(-1, 4), "sp": Value(-16, 4)}
    found = of_thread(1, Registers(known), "i386", 4, vector=False)
    assert found is not None
    assert (found.general, found.stack_pointer) == ([("eax", 0xFFFF_FFFF)], 0xFFFF_FFF0)


def test_a_thread_whose_registers_cannot_be_read_is_none() -> None:
    assert of_thread(1, Registers({}), "x86_64", 8, vector=True) is None


def test_the_thread_pointer_is_the_machines() -> None:
    x86 = of_thread(1, Registers({**RAX, "fs_base": Value(9)}), "x86_64", 8, vector=False)
    aarch64 = of_thread(
        1, Registers({"x0": Value(1), "tpidr": Value(8)}), "aarch64", 8, vector=False
    )
    without = of_thread(1, Registers({**RAX, "sp": Value(7)}), "x86_64", 8, vector=False)
    assert x86 is not None
    assert aarch64 is not None
    assert without is not None
    assert (x86.thread_pointer, aarch64.thread_pointer) == (9, 8)
    assert (without.stack_pointer, without.thread_pointer) == (7, None)


def test_a_word_has_the_name_of_the_smallest_register_that_it_is_in() -> None:
    known = {
        **RAX,
        "zmm3": vector([1, 2, 3, 4, 5, 0, 0, 8]),
        "zmm0": vector([0] * 8),
        "zmm21": vector([0, 0, 7] + [0] * 5),
    }
    assert words_of("x86_64", 8, known) == {
        "xmm3[0]": 1,
        "xmm3[1]": 2,
        "ymm3[2]": 3,
        "ymm3[3]": 4,
        "zmm3[4]": 5,
        "zmm3[7]": 8,
        "ymm21[2]": 7,
    }


def test_the_largest_registers_that_there_are_are_read() -> None:
    avx = {**RAX, "ymm0": vector([1, 0, 0, 0]), "ymm15": vector([0, 0, 0, -1])}
    assert words_of("x86_64", 8, avx) == {"xmm0[0]": 1, "ymm15[3]": 2**64 - 1}
    sse = {**RAX, "xmm0": vector([1, 0]), "xmm15": vector([0, 2])}
    assert words_of("x86_64", 8, sse) == {"xmm0[0]": 1, "xmm15[1]": 2}
    narrow = {"eax": Value(1, 4), "ymm7": vector([0, 1, 0, 0, 2, 0, 0, 0], 4)}
    narrow["ymm0"] = vector([0] * 8, 4)
    assert words_of("i386", 4, narrow) == {"xmm7[1]": 1, "ymm7[4]": 2}


def test_where_the_upper_half_is_not_available_the_lower_one_is_read() -> None:
    known = {
        **RAX,
        "ymm0": vector([1, 2, None, None]),
        "xmm0": vector([1, 2]),
    }
    assert words_of("x86_64", 8, known) == {"xmm0[0]": 1, "xmm0[1]": 2}


def test_registers_that_a_machine_has_not_are_asked_for_once() -> None:
    registers = Registers({**RAX, "xmm0": vector([1, 0]), "xmm1": vector([2, 0])})
    of_thread(1, registers, "x86_64", 8, vector=True)
    assert [name for name in registers.asked if name.startswith(("zmm", "ymm"))] == ["zmm0", "ymm0"]


def test_of_the_floating_point_stack_the_part_that_mmx_uses_is_read() -> None:
    known = {**RAX, "st3": Value(0xFFFF_0000_0001_0000_0002, 10)}
    assert words_of("x86_64", 8, known) == {"st3[0]": 0x1_0000_0002}
    assert words_of("i386", 4, {**known, "eax": Value(1, 4)}) == {"st3[0]": 2, "st3[1]": 1}


def test_vector_registers_of_aarch64_are_read() -> None:
    known = {"x0": Value(1), "v5": Value({"d": Value({"u": Value([0, sys.maxsize])})})}
    assert words_of("aarch64", 8, known) == {"v5[1]": sys.maxsize}
