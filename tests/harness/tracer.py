"""Holding a process by ptrace as a debugger does, to change what its registers hold."""

import ctypes
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from gdb_leak.target import ThreadRegisters

# Numbers of linux/ptrace.h and linux/wait.h.
_SEIZE, _INTERRUPT, _GETREGS, _POKEUSER, _CONT, _DETACH = 0x4206, 0x4207, 12, 6, 7, 17
_EVENT_STOP, _WALL = 128, 0x40000000
#: The general registers in the order of `user_regs_struct` (sys/user.h, x86-64).
_NAMES = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx"),
    *("rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base"),
    *("ds", "es", "fs", "gs"),
)
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_LIBC.ptrace.restype = ctypes.c_long


class Held:
    """The threads of a process, all of them stopped."""

    def __init__(self, pid: int) -> None:
        """Stop the process; raises ProcessLookupError where it has ended."""
        self._leader = pid
        self._threads: list[int] = []
        seen: set[int] = set()
        # A thread that is not stopped yet may start others.
        while new := {int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()} - seen:
            seen |= new
            self._threads += [thread for thread in sorted(new) if _stop(thread, pid)]
        if pid not in self._threads:
            self.let_go()
            raise ProcessLookupError(pid)

    def registers(self) -> list[ThreadRegisters]:
        """Return the registers of each thread, as the module takes them."""
        return [_registers(thread) for thread in self._threads]

    def poke(self, thread: int, values: Mapping[str, int]) -> None:
        """Put VALUES into registers of a thread, by their names."""
        for name, value in values.items():
            _request(_POKEUSER, thread, 8 * _NAMES.index(name), value)

    def let_go(self) -> None:
        """Let all threads go on."""
        for thread in self._threads:
            try:
                _request(_DETACH, thread)
            except ProcessLookupError:
                # It was ended meanwhile: the process does not go before this is waited for.
                if thread != self._leader:
                    os.waitpid(thread, _WALL)


@contextmanager
def held(pid: int) -> Iterator[Held]:
    """Hold a process for the length of a block."""
    found = Held(pid)
    try:
        yield found
    finally:
        found.let_go()


def _request(request: int, thread: int, place: int = 0, data: int = 0) -> None:
    if _LIBC.ptrace(request, thread, place, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(thread))


def _stop(thread: int, leader: int) -> bool:
    """Seize a thread and wait until it stopped; False where it has ended."""
    try:
        _request(_SEIZE, thread)
    except (ProcessLookupError, PermissionError):
        return False
    # One that is ending cannot be stopped, but it is waited for.
    with suppress(ProcessLookupError):
        _request(_INTERRUPT, thread)
    while True:
        looked = os.WSTOPPED | os.WEXITED | os.WNOWAIT | _WALL
        found = os.waitid(os.P_PID, thread, looked)
        ended = found is None or found.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)
        if ended and thread == leader:
            # Its parent waits for it.
            return False
        _, status = os.waitpid(thread, _WALL)
        if ended:
            return False
        if status >> 16 == _EVENT_STOP:
            return True
        # A signal came first: it is handed on, and the stop is still to come.
        with suppress(ProcessLookupError):
            _request(_CONT, thread, 0, os.WSTOPSIG(status))


def _registers(thread: int) -> ThreadRegisters:
    words = ctypes.create_string_buffer(8 * len(_NAMES))
    _request(_GETREGS, thread, 0, ctypes.addressof(words))
    values = dict(zip(_NAMES, struct.unpack(f"<{len(_NAMES)}Q", words.raw)))
    return ThreadRegisters(thread, values["rsp"], values["fs_base"], list(values.items()), [])
