"""Core files: by gcore, by the kernel, and built from the ELF specification's figures."""

import fcntl
import resource
import signal
import struct
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.debuggers import gdb
from harness.processes import Program

_PATTERN = Path("/proc/sys/kernel/core_pattern")


def gcore(pid: int, out: Path) -> Path:
    """Return OUT, a core of the process PID by gdb, which lets it run on."""
    answer = gdb(f'gcore "{out}"' if " " in str(out) else f"gcore {out}", pid=pid)
    assert out.exists(), answer.stdout + answer.stderr
    return out


def kernel_core(program: Program) -> Path:
    """Return the core that the kernel writes when PROGRAM aborts, into a folder of its own."""
    # SIGABRT: shells start background jobs with SIGQUIT ignored.
    program.signal(signal.SIGABRT)
    program.wait()
    found = sorted(program.folder.glob("core*"))
    assert len(found) == 1, f"cores in {program.folder}: {found}"
    return found[0]


@contextmanager
def plain_core_pattern() -> Iterator[None]:
    """Have the kernel write cores into the folder of the process, and restore that.

    The pattern is the whole machine's: other test runs wait until this is over.
    """
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("no core may be written here: the hard limit of their size is 0")
    with _PATTERN.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = held.read().strip()
        if before.startswith("core") and "/" not in before:
            yield
            return
        try:
            _PATTERN.write_text("core")
        except OSError:
            pytest.skip(f"kernel.core_pattern is {before!r} and only root can change it")
        try:
            yield
        finally:
            _PATTERN.write_text(before)


def loads(core: Path) -> list[tuple[int, int, int, int, str]]:
    """Return (address, size in memory, size in the file, offset, permissions) of each segment.

    Of a little-endian 64-bit core, as the ELF specification has it.
    """
    data = core.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    found = []
    for at in range(table, table + size * count, size):
        kind, flags, offset, address, _, saved, length = struct.unpack_from("<IIQQQQQ", data, at)
        if kind == 1:
            spelled = "".join(
                letter if flags & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1))
            )
            found.append((address, length, saved, offset, spelled))
    return found


def sparse_core(out: Path, size: int, address: int = 0x10_0000_0000) -> Path:
    """Return OUT, a core with one writable segment of SIZE bytes at ADDRESS, all of it a hole."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        4,  # ET_CORE
        62,  # EM_X86_64
        1,
        0,
        64,
        0,
        0,
        64,
        56,
        2,
        0,
        0,
        0,
    )
    # gdb reads no core without a thread: an empty NT_PRSTATUS of x86-64.
    note = struct.pack("<III8s", 5, 336, 1, b"CORE\0\0\0\0") + bytes(336)
    notes_at, memory_at = 64 + 2 * 56, 4096
    with out.open("wb") as file:
        file.write(header)
        file.write(struct.pack("<IIQQQQQQ", 4, 4, notes_at, 0, 0, len(note), 0, 4))
        file.write(struct.pack("<IIQQQQQQ", 1, 6, memory_at, address, 0, size, size, 4096))
        file.write(note)
        file.truncate(memory_at + size)
    return out


def core_of_segments(out: Path, count: int) -> Path:
    """Return OUT, a core of one thread and COUNT separate writable pages, none of them saved."""
    data = bytearray(sparse_core(out, 0).read_bytes())
    # p_type and p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
    table = array("Q", [6 << 32 | 1, 0, 0, 0, 0, 4096, 4096]) * count
    table[2::7] = array("Q", range(0x10_0000_0000, 0x10_0000_0000 + count * 8192, 8192))
    notes, at = data[64 : 64 + 56], len(data)
    # The ELF specification: what e_phnum has no room for is in sh_info of the first section.
    section = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, count + 1, 0, 0)
    struct.pack_into("<QQ", data, 32, at + 64, at)
    struct.pack_into("<HHHH", data, 56, 0xFFFF, 64, 1, 0)
    out.write_bytes(bytes(data) + section + bytes(notes) + table.tobytes())
    return out


def full_core(out: Path, size: int) -> Path:
    """Return OUT, the same without holes: each page ends with a one."""
    sparse_core(out, size)
    piece = (bytes(4095) + b"\1") * 256
    with out.open("r+b") as file:
        file.seek(4096)
        for _ in range(0, size, len(piece)):
            file.write(piece)
    return out
