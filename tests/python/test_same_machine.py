"""Telling by build-ids that a process on this machine is the one gdb reads."""

import ctypes
import os
from pathlib import Path
from typing import Optional

from gdb_leak.doors.same_machine import build_id, confirmed_maps

SELF = Path("/proc/self/exe").resolve()


def own_memory(address: int, length: int) -> Optional[bytes]:
    """Read this process as gdb would read another."""
    try:
        with Path("/proc/self/mem").open("rb", buffering=0) as file:
            file.seek(address)
            data = file.read(length)
    except (OSError, OverflowError):
        return None
    return data if len(data) == length else None


def test_own_mappings_are_confirmed() -> None:
    text = ctypes.create_string_buffer(b"here")
    confirmed = confirmed_maps(os.getpid(), str(SELF), own_memory)
    assert confirmed is not None
    spans = [line.split()[0].split("-") for line in confirmed.text.decode().splitlines()]
    at = ctypes.addressof(text)
    assert any(int(start, 16) <= at < int(end, 16) for start, end in spans)


def test_another_memory_is_not_confirmed() -> None:
    assert confirmed_maps(os.getpid(), str(SELF), lambda _address, _length: None) is None


def test_another_program_is_not_confirmed() -> None:
    assert confirmed_maps(os.getpid(), "/bin/no-such-program", own_memory) is None


def test_process_that_is_gone_is_not_confirmed() -> None:
    assert confirmed_maps(1 << 30, None, own_memory) is None


def test_build_id_of_what_is_no_program_is_none() -> None:
    for data in (b"", b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 200, bytes(200)):
        assert build_id(lambda offset, length, data=data: data[offset : offset + length]) is None
