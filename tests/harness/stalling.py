"""A file system that stops to answer, in a mount namespace of its own.

Run as a program: ``stalling.py FOLDER FILES PROGRAM...`` serves the files of the folder FILES at
FOLDER, through /dev/fuse, and starts PROGRAM there. On SIGUSR1 it answers no more. Linux,
include/uapi/linux/fuse.h, has the few requests that reading a file takes.
"""

import ctypes
import errno
import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.processes import wait_until_it_sleeps

_NEW_MOUNTS = 0x20000
_PRIVATE = 1 << 18 | 1 << 14
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS = 1, 2, 3, 14, 15, 17
_RELEASE, _FLUSH, _INIT, _BATCH_FORGET = 18, 25, 26, 42
_KEEP_CACHE = 2
_HEADER = struct.Struct("<IIQQIIII")
_LIBC = ctypes.CDLL(None, use_errno=True)


def available() -> bool:
    """Whether this machine lets us serve a file system."""
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


@contextmanager
def served(files: Path, folder: Path, *program: str) -> Iterator[tuple[int, int]]:
    """Serve FILES at FOLDER to PROGRAM, and give the numbers of the server and the program."""
    line = [sys.executable, "-m", "harness.stalling", str(folder), str(files), *program]
    tests = Path(__file__).parents[1]
    with subprocess.Popen(line, cwd=str(tests), stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"READY\n"
            found = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
            wait_until_it_sleeps(int(found))
            yield server.pid, int(found)
        finally:
            # Its end answers whatever waits.
            server.kill()


def stall(server: int) -> None:
    """Have the SERVER answer no more from now on."""
    os.kill(server, signal.SIGUSR1)
    bit = 1 << signal.SIGUSR1 - 1
    pending = bit
    while pending & bit:
        status = Path(f"/proc/{server}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        pending = int(lines["SigPnd"], 16) | int(lines["ShdPnd"], 16)
    wait_until_it_sleeps(server)


class _Server:
    def __init__(self, files: Path) -> None:
        self._names = sorted(file.name for file in files.iterdir())
        self._bytes = [(files / name).read_bytes() for name in self._names]

    def answer(self, what: int, node: int, body: bytes) -> bytes:
        """Return the answer to a request; OSError is one, too."""
        if what == _INIT:
            # Read ahead as a server would have it, one request after the other.
            limits = struct.pack("<HHIIHHIIII", 12, 12, 1 << 16, 1, 0, 0, 0, 0, 0, 0)
            return struct.pack("<IIII", 7, 31, 1 << 16, 1) + limits + bytes(12)
        if what == _LOOKUP:
            name = body.rstrip(b"\0").decode()
            if name not in self._names:
                raise OSError(errno.ENOENT, name)
            node = self._names.index(name) + 2
            return struct.pack("<QQQQII", node, 0, 3600, 3600, 0, 0) + self._attributes(node)
        if what == _GETATTR:
            return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
        if what == _OPEN:
            # Another who opens the file does not have the kernel drop its pages.
            return struct.pack("<QII", 0, _KEEP_CACHE, 0)
        if what == _READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return self._bytes[node - 2][offset : offset + size]
        if what == _STATFS:
            return bytes(80)
        if what in (_RELEASE, _FLUSH):
            return b""
        raise OSError(errno.ENOSYS, str(what))

    def _attributes(self, node: int) -> bytes:
        if node == 1:
            mode, size = stat.S_IFDIR | 0o755, 0
        else:
            mode, size = stat.S_IFREG | 0o755, len(self._bytes[node - 2])
        blocks = -(-size // 512)
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, blocks, *[0] * 6, mode, 1, *[0] * 5)


def _main(folder: str, files: str, *program: str) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    if _LIBC.unshare(_NEW_MOUNTS) or _LIBC.mount(None, b"/", None, _PRIVATE, None):
        raise OSError(ctypes.get_errno(), "unshare")
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if _LIBC.mount(b"stalling", folder.encode(), b"fuse.stalling", 0, options):
        raise OSError(ctypes.get_errno(), "mount")
    stalled = False

    def stop_answering(*_: object) -> None:
        nonlocal stalled
        stalled = True

    signal.signal(signal.SIGUSR1, stop_answering)
    server = _Server(Path(files))
    if os.fork() == 0:
        os.close(device)
        # It ends with the server.
        _LIBC.prctl(1, signal.SIGKILL)
        os.execv(program[0], program)  # noqa: S606
    while True:
        request = os.read(device, 1 << 17)
        _, what, unique, node = _HEADER.unpack_from(request)[:4]
        while stalled:
            signal.pause()
        if what in (_FORGET, _BATCH_FORGET):
            continue
        try:
            body, error = server.answer(what, node, request[_HEADER.size :]), 0
        except OSError as cause:
            body, error = b"", -(cause.errno or errno.EIO)
        os.write(device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


if __name__ == "__main__":
    _main(*sys.argv[1:])
