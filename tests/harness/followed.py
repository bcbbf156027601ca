"""A reader of a process, stopped by ptrace at each system call that is about that process.

What is to happen to the process happens at one of these stops, so that nothing depends on
time: each step of the reader is met once.
"""

import ctypes
import os
import signal
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Optional

from harness import ROOT
from harness.debuggers import DOOR, Answer, environment

# Numbers of linux/ptrace.h and linux/wait.h.
_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_GOOD, _CLONE, _EXITKILL, _WALL = 1, 8, 1 << 20, 0x40000000
_ENTRY = 1
#: System calls of x86-64 with a descriptor in their first argument, with a path in their second,
#: and with the number of a process or thread in the argument of that index.
_BY_DESCRIPTOR = {0: "read", 5: "fstat", 8: "lseek", 17: "pread64", 217: "getdents64"}
_BY_PATH = {257: "openat", 262: "newfstatat", 267: "readlinkat"}
_BY_NUMBER = {101: ("ptrace", 1), 310: ("process_vm_readv", 0)}

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_LIBC.ptrace.restype = ctypes.c_long


class Step(NamedTuple):
    """A system call about the process: its name, the file or request, and how often it was made."""

    call: str
    about: str
    time: int


def steps(words: tuple[str, ...], pid: int) -> tuple[Answer, list[Step]]:
    """Return the answer of the shell's door to WORDS about the process, and all its steps."""
    seen: list[Step] = []
    return _follow(words, pid, seen.append), seen


def changed_at(words: tuple[str, ...], pid: int, step: Step, change: Callable[[], None]) -> Answer:
    """Return the answer where CHANGE is made before STEP."""
    pending = [step]

    def look(seen: Step) -> None:
        if seen in pending:
            pending.remove(seen)
            change()

    return _follow(words, pid, look)


def _follow(words: tuple[str, ...], pid: int, look: Callable[[Step], None]) -> Answer:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        reader = subprocess.Popen(
            [str(DOOR), words[0], str(pid), *words[1:]],
            cwd=str(ROOT),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            # A group of its own: its threads can be waited for, and nothing else is.
            start_new_session=True,
            preexec_fn=lambda: _LIBC.ptrace(_TRACEME, 0, None, None),
        )
        try:
            status = _trace(reader.pid, pid, look)
        finally:
            reader.returncode = -1
        out.seek(0)
        err.seek(0)
        return Answer(out.read().decode(), err.read().decode(), status)


def _trace(reader: int, pid: int, look: Callable[[Step], None]) -> int:
    counts: Counter[tuple[str, str]] = Counter()
    begun = False
    while True:
        thread, status = os.waitpid(-reader, _WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if thread == reader:
                return os.waitstatus_to_exitcode(status)
            continue
        number = os.WSTOPSIG(status)
        passed = 0
        if not begun:
            _LIBC.ptrace(_SETOPTIONS, thread, None, _GOOD | _CLONE | _EXITKILL)
            begun = True
        elif number == signal.SIGTRAP | 0x80:
            found = _call(thread, pid)
            if found is not None:
                counts[found] += 1
                look(Step(*found, counts[found]))
        elif status >> 16 == 0 and number not in (signal.SIGTRAP, signal.SIGSTOP):
            passed = number
        _LIBC.ptrace(_SYSCALL, thread, None, passed)


# The call that a thread is about to make, where it is about the process.
def _call(thread: int, pid: int) -> Optional[tuple[str, str]]:
    area = ctypes.create_string_buffer(88)
    size = _LIBC.ptrace(_GET_SYSCALL_INFO, thread, len(area), ctypes.addressof(area))
    if size < 80 or area.raw[0] != _ENTRY:
        return None
    call, *arguments = struct.unpack_from("<7Q", area.raw, 24)
    folder = f"/proc/{pid}"
    if call in _BY_NUMBER:
        name, index = _BY_NUMBER[call]
        about = str(arguments[0]) if name == "ptrace" else ""
        return (name, about) if arguments[index] == pid else None
    if call in _BY_DESCRIPTOR:
        name, path = _BY_DESCRIPTOR[call], _link(thread, arguments[0])
    elif call in _BY_PATH:
        name, path = _BY_PATH[call], _text(thread, arguments[1])
        if not path.startswith("/") and arguments[0] < 1 << 31:
            path = f"{_link(thread, arguments[0])}/{path}"
    else:
        return None
    if path != folder and not path.startswith(f"{folder}/"):
        return None
    return name, path[len(folder) :].replace(f"/{pid}", "/PID").replace(" (deleted)", "")


def _link(thread: int, descriptor: int) -> str:
    try:
        return str(Path(f"/proc/{thread}/fd/{descriptor}").readlink())
    except OSError:
        return ""


def _text(thread: int, address: int) -> str:
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        # As much as there is of its page.
        return memory.read(-address % 4096 or 4096).partition(b"\0")[0].decode(errors="replace")
