"""Finding stacks by reading upwards."""

from typing import Callable, Optional

import pytest
from gdb_leak.doors.probed import stack_range, stack_sections


def memory(start: int, end: int) -> Callable[[int, int], Optional[bytes]]:
    """Return what reads zeros from START to END and nothing else."""

    def read(address: int, length: int) -> Optional[bytes]:
        return bytes(length) if start <= address and address + length <= end else None

    return read


@pytest.mark.parametrize("pages", [1, 2, 15, 16, 17, 33, 2048])
def test_stack_ends_at_the_first_page_that_cannot_be_read(pages: int) -> None:
    end = 0x7000 + pages * 4096
    assert stack_range(0x7ABC, memory(0x7000, end)) == (0x7000, end)


def test_stack_is_cut_after_eight_mebibytes() -> None:
    assert stack_range(0x7000, memory(0, 1 << 30)) == (0x7000, 0x7000 + (8 << 20))


def test_stack_pointer_into_nothing_has_no_stack() -> None:
    assert stack_range(0x7000, memory(0, 0x7000)) is None


def test_two_pointers_into_one_stack_are_one_section() -> None:
    assert stack_sections([0x9000, 0x7010, 0x7000], memory(0x7000, 0xA000)) == [
        (0x7000, 0xA000, "rw-", "")
    ]
