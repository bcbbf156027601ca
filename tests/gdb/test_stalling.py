"""Memory that may never be served: by userfaultfd, or by a file system that does not answer."""

import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from gdb_leak import _native
from harness import stalling
from harness.debuggers import DOOR, gdb, shell
from harness.processes import Program, compile_fixture

_PAGE = 4096
_PAGES = 64
#: As long as a file system is waited for.
_LIMIT = 2.0


def memory_of(pid: int) -> dict[str, int]:
    """Return the bytes of the process that are resident, and of its page tables, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) for name in ("VmRSS", "VmPTE", "VmSwap")}


def readers(of: Optional[int] = None) -> list[int]:
    """Return the processes that read for a gdb-leak, or for the process OF, and still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_bytes()
        except OSError:
            continue
        state, parent = stat.rpartition(b")")[2].split()[:2]
        if b"(gdb-leak-reads)" in stat and state not in b"ZX" and of in (None, int(parent)):
            found.append(int(folder.name))
    return found


def present(pid: int, start: int, size: int) -> int:
    """Return how many pages from START on the process has in memory."""
    with Path(f"/proc/{pid}/pagemap").open("rb") as pagemap:
        pagemap.seek(start // _PAGE * 8)
        entries = struct.unpack(f"{size // _PAGE}Q", pagemap.read(size // _PAGE * 8))
    return sum(entry >> 63 for entry in entries)


def mapping(pid: int, name: str, permissions: str) -> int:
    """Return where the process has mapped the file NAME with PERMISSIONS."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if line.endswith(f"/{name}") and line.split()[1] == permissions:
            return int(line.partition("-")[0], 16)
    raise AssertionError(f"{name} is not mapped {permissions}")


#: Reads a page, has the kernel drop it from the process, and reads it again when told to.
_AGAIN = """
import ctypes, os, sys
from gdb_leak import _native
pid, page = int(sys.argv[1]), int(sys.argv[2])
memory = _native.open_process(pid)
print(len(memory.read(page, 4096)), flush=True)
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
own = os.pidfd_open(pid)
MADVISE, PAGEOUT = 440, 21
system = ctypes.CDLL(None, use_errno=True)
system.syscall(MADVISE, own, ctypes.byref(Vector(page, 4096)), 1, PAGEOUT, 0)
print("dropped", flush=True)
sys.stdin.readline()
try:
    memory.read(page, 4096)
except Exception as error:
    print(error, flush=True)
"""


def ranges(gaps: list[dict[str, str]]) -> list[tuple[int, int]]:
    """Return the addresses of what could not be read."""
    return [(int(gap["start"], 16), int(gap["end"], 16)) for gap in gaps]


class TestUserfaultfd:
    """Ranges whose missing pages a thread or another process serves, which is stopped."""

    @pytest.fixture(params=["missing", "minor", "protected"])
    def program(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
        program = Program(compile_fixture("served", tmp_path / "served"), request.param)
        try:
            line = program.wait_for("READY")
            if line == "READY without":
                pytest.skip(f"this kernel has no userfaultfd for {request.param} pages")
            yield program
        finally:
            program.end()

    def test_pages_that_are_there_are_read_and_others_are_missing(self, program: Program) -> None:
        start, size = program.places["served"]
        answer = shell("find", program.pid, "MARK-page", "-in", "writable", "-stop", "-json").json()
        found = [int(match["address"], 16) for match in answer["matches"]]
        assert [address for address in found if start <= address < start + size] == [
            start + 3 * _PAGE
        ]
        missing = ranges(answer["unreadable"])
        served = any("userfaultfd serves them" in note for note in answer["notes"])
        if program.lines[-1] == "READY protected":
            assert not missing
            assert not served
            assert answer["target"]["complete"]
        else:
            assert missing == [(start, start + 3 * _PAGE), (start + 4 * _PAGE, start + size)]
            assert served
            assert not answer["target"]["complete"]

    def test_no_command_waits_for_them(self, program: Program) -> None:
        for command in (("check",), ("heap",), ("strings",), ("find", "x", "-in", "all")):
            name, *operands = command
            assert shell(name, program.pid, *operands, "-json").status == 0
        answer = gdb("leak-check -json", 'leak-find "MARK-page" -json', pid=program.pid)
        assert len(answer.all_json()) == 2
        assert answer.status == 0


@pytest.mark.skipif(not stalling.available(), reason="root alone may serve a file system")
class TestFileSystem:
    """A file system that another process serves, which does not answer any more."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> Path:
        files = tmp_path / "files"
        files.mkdir()
        pages = (f"MARK-page{number}".encode() for number in range(_PAGES))
        (files / "data").write_bytes(b"".join(page.ljust(_PAGE, b"\0") for page in pages))
        compile_fixture("maps_file", files / "maps_file")
        return files

    @pytest.fixture
    def server(self, files: Path, tmp_path: Path) -> Iterator[Any]:
        folder = tmp_path / "mounted"
        folder.mkdir()
        program = (str(folder / "maps_file"), str(folder / "data"))
        with stalling.served(files, folder, *program) as served:
            yield served

    def test_what_it_serves_is_read_as_long_as_it_answers(self, server: tuple[int, int]) -> None:
        answer = shell("find", server[1], "MARK-page", "-in", "all", "-json").json()
        # The program has written over the one in the second page of its own mapping.
        assert answer["count"] == 2 * _PAGES - 1
        answer = shell("check", server[1], "-json").json()
        assert answer["summary"]["definitely_lost"]["blocks"] == 1
        assert answer["target"]["complete"]

    def test_what_is_in_memory_is_found_and_the_rest_is_missing(
        self, server: tuple[int, int]
    ) -> None:
        stalling.stall(server[0])
        answer = shell("find", server[1], "MARK-page", "-in", "all", "-stop", "-json").json()
        # The first page of the mapping that is shared; of the other one the second is there.
        assert answer["count"] == 1
        missing = sum(end - start for start, end in ranges(answer["unreadable"]))
        assert missing >= (2 * _PAGES - 2) * _PAGE
        note = next(note for note in answer["notes"] if "not in memory" in note)
        assert "the file system (fuse.stalling) does not answer: " in note
        assert "/mounted/data" in note
        assert not answer["target"]["complete"]

    def test_a_block_is_held_by_a_page_that_is_in_memory(self, server: tuple[int, int]) -> None:
        stalling.stall(server[0])
        answer = shell("check", server[1], "-json").json()
        assert answer["summary"]["definitely_lost"]["blocks"] == 1
        assert any("of roots" in note and "missing" in note for note in answer["notes"])

    def test_the_process_is_let_go_and_nothing_of_gdb_leak_waits(
        self, server: tuple[int, int]
    ) -> None:
        stalling.stall(server[0])
        for command in ("check", "heap", "strings", "overview", "regions"):
            assert shell(command, server[1], "-json").status == 0
            assert "TracerPid:\t0\n" in Path(f"/proc/{server[1]}/status").read_text()

    def test_gdb_answers_and_ends(self, files: Path, tmp_path: Path) -> None:
        folder = tmp_path / "mounted"
        folder.mkdir()
        # A program that gdb can read.
        program = (str(files / "maps_file"), str(folder / "data"))
        with stalling.served(files, folder, *program) as (server, pid):
            stalling.stall(server)
            commands = (
                'leak-find -in all -json -- "MARK-page"',
                "leak-check -json",
                "leak-heap -json",
            )
            answer = gdb(*commands, pid=pid)
        found, check, _ = answer.all_json()
        assert answer.status == 0
        assert found["count"] == 1
        assert check["summary"]["definitely_lost"]["blocks"] == 1

    def test_what_reads_ends_once_the_file_system_is_gone(self, server: tuple[int, int]) -> None:
        before = readers()
        stalling.stall(server[0])
        assert shell("find", server[1], "MARK-page", "-json").status == 0
        os.kill(server[0], signal.SIGKILL)
        until = time.monotonic() + 30
        while set(readers()) - set(before):
            assert time.monotonic() < until, "a process that reads is left"
            time.sleep(0.01)

    def test_a_page_that_is_dropped_after_it_was_read_is_not_waited_for(
        self, server: tuple[int, int]
    ) -> None:
        page = mapping(server[1], "data", "r--s")
        line = [sys.executable, "-c", _AGAIN, str(server[1]), str(page)]
        with subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as reader:
            assert reader.stdout is not None
            assert reader.stdin is not None
            assert reader.stdout.readline() == "4096\n"
            assert reader.stdout.readline() == "dropped\n"
            if present(server[1], page, _PAGE):
                os.kill(server[0], signal.SIGKILL)
                pytest.skip("this kernel does not drop the page")
            stalling.stall(server[0])
            reader.stdin.write("\n")
            reader.stdin.flush()
            try:
                reader.wait(timeout=30)
            except subprocess.TimeoutExpired:
                # Its end answers what the reader waits for.
                os.kill(server[0], signal.SIGKILL)
                raise
            # The kernel may have kept the page for others.
            said = reader.stdout.read()
            assert not said or "does not answer" in said
            assert reader.returncode == 0

    def test_what_reads_outlives_the_thread_that_held_the_process(
        self, server: tuple[int, int]
    ) -> None:
        # Its own text is on that file system, so the program is opened while it is held.
        stop = _native.stop_process(server[1])
        memory = _native.open_process(server[1])
        stop.release()
        base = mapping(server[1], "maps_file", "r--p")
        (entry,) = struct.unpack("<Q", memory.read(base + 24, 8))
        symbol = memory.symbol(base + entry)
        assert symbol is not None
        assert symbol[0] == "_start"

    def test_ctrl_c_is_answered_while_it_is_waited_for(self, server: tuple[int, int]) -> None:
        stalling.stall(server[0])
        line = [str(DOOR), "find", str(server[1]), "MARK-page", "-stop"]
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
            while not readers(asked.pid):
                assert asked.poll() is None, "it ended first"
            begun = time.monotonic()
            asked.send_signal(signal.SIGINT)
            assert asked.wait(timeout=60) == 130
            # Without it, it would go on for the rest of the time and end with 0.
            assert time.monotonic() - begun < _LIMIT
        assert "TracerPid:\t0\n" in Path(f"/proc/{server[1]}/status").read_text()


class TestHarm:
    """Reading changes nothing of the process: no page is made for it, nor a table."""

    @pytest.fixture
    def program(self, tmp_path: Path) -> Iterator[Program]:
        program = Program(compile_fixture("ended_threads", tmp_path / "ended", "-pthread"))
        try:
            program.wait_for("READY")
            if memory_of(program.pid)["VmSwap"]:
                pytest.skip("some of it is swapped out, which reading brings back")
            yield program
        finally:
            program.end()

    def test_no_page_or_page_table_is_made_from_a_shell(
        self, tmp_path: Path, program: Program
    ) -> None:
        before = memory_of(program.pid)
        for command in (("check",), ("heap",), ("strings",), ("find", "x"), ("overview",)):
            name, *operands = command
            assert shell(name, program.pid, *operands).status == 0
            assert memory_of(program.pid) == before, name
        address, size = program.places["block"]
        words = ("dump", program.pid, f"{address:#x}", f"+{size}", "-out", tmp_path / "dumped")
        dumped = shell(*words)
        assert dumped.status == 0, dumped.stderr
        assert (tmp_path / "dumped").stat().st_size == size
        assert memory_of(program.pid) == before

    def test_pages_that_the_program_has_given_back_are_not_made_again(self, tmp_path: Path) -> None:
        program = Program(compile_fixture("gives_back", tmp_path / "gives_back"))
        try:
            program.wait_for("READY")
            start, size = program.places["pages"]
            memory = _native.open_process(program.pid)
            assert memory.read(start, size) == b"\1" * size
            program.press_key()
            program.wait_for("GONE")
            # What is known of pages is known for a moment.
            time.sleep(0.1)
            assert present(program.pid, start, size) == 0
            assert memory.read(start, size) == bytes(size)
            assert present(program.pid, start, size) == 0
        finally:
            program.end()

    def test_no_page_or_page_table_is_made_in_gdb(self, program: Program) -> None:
        status = f"shell grep -E '^Vm(RSS|PTE)' /proc/{program.pid}/status"
        # What gdb itself reads of the process, it has read by then.
        before = ("thread apply all backtrace", "leak", status)
        ours = ("leak-check", "leak-heap", "leak-strings", "leak-find x")
        answer = gdb(*before, *ours, status, pid=program.pid)
        assert answer.status == 0, answer.stderr
        found = re.findall(r"Vm(?:RSS|PTE):\s*[0-9]+ kB", answer.stdout)
        assert len(found) == 4
        assert found[:2] == found[2:]
