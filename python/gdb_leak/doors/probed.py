"""Stacks of a target whose mappings nobody lists: found by reading upwards."""

from collections.abc import Iterable
from typing import Callable, Optional

__all__ = ["stack_range", "stack_sections"]

Read = Callable[[int, int], Optional[bytes]]

_PAGE = 4096
_STEP = 64 << 10
#: A stack is taken to be no larger; the usual limit (ulimit -s) is 8 MiB.
_MOST = 8 << 20


def stack_range(stack_pointer: int, read: Read) -> Optional[tuple[int, int]]:
    """Return the readable range from the page of STACK_POINTER up, None without one.

    It ends at the first page that cannot be read, or after 8 MiB: what follows
    a stack without a hole cannot be told from it.
    """
    start = end = stack_pointer & -_PAGE
    step = _STEP
    while step >= _PAGE:
        if end + step - start <= _MOST and read(end, step) is not None:
            end += step
        else:
            step //= 2
    return (start, end) if end > start else None


def stack_sections(stack_pointers: Iterable[int], read: Read) -> list[tuple[int, int, str, str]]:
    """Return ``(start, end, permissions, name)`` of each stack, as sections have them."""
    found: list[tuple[int, int, str, str]] = []
    for stack_pointer in sorted(set(stack_pointers)):
        # The page of a thread further up may be in the stack below it already.
        if found and stack_pointer < found[-1][1]:
            continue
        span = stack_range(stack_pointer, read)
        if span is not None:
            found.append((*span, "rw-", ""))
    return found
