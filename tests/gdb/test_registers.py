"""The registers of all threads: of a process in gdb and from a shell, and of its cores."""

import json
import signal
import time
from pathlib import Path
from typing import Any, Optional

import pytest
from gdb_leak import _native
from gdb_leak.commands import TABLE
from gdb_leak.doors.shell import ShellSession
from gdb_leak.manual import options_of
from gdb_leak.options import Operand, parse
from gdb_leak.target import ThreadRegisters
from gdb_leak.words import Word
from harness import cores, glibc, truth
from harness.debuggers import Answer, gdb
from harness.processes import Program, compile_fixture

START = "python import json; from gdb_leak.doors.gdb import GdbSession; session = GdbSession()"
ASK = "python print('REGISTERS', json.dumps(session.registers(True)))"


def printed(answer: Answer) -> list[Optional[list[ThreadRegisters]]]:
    """Return what ASK printed, each time."""
    found = []
    for line in answer.stdout.splitlines():
        if line.startswith("REGISTERS "):
            threads = json.loads(line.partition(" ")[2])
            found.append(None if threads is None else as_threads(threads))
    assert found, answer.stdout + answer.stderr
    return found


def as_threads(threads: Any) -> list[ThreadRegisters]:
    """Return THREADS as the native module and JSON have them, in one form."""
    return [
        ThreadRegisters(
            *numbers, *([(str(n), int(v)) for n, v in part] for part in (general, vector))
        )
        for *numbers, general, vector in threads
    ]


def in_gdb(program: Program) -> list[ThreadRegisters]:
    """Return what gdb's door says of the process."""
    (found,) = printed(gdb(START, ASK, pid=program.pid))
    assert found is not None
    return found


def of_core(core: Path) -> list[ThreadRegisters]:
    """Return what the native module says of a core."""
    return as_threads(_native.open_file(str(core)).thread_registers())


def shell_session(target: object, *words: str) -> ShellSession:
    """Return the shell's door for TARGET, as `gdb-leak regions TARGET WORDS` has it."""
    (command,) = (entry.command for entry in TABLE if entry.command.name == "regions")
    operands = (Operand("WORD", least=0, most=None),)
    parsed = parse(options_of(command, from_shell=True), operands, [Word(word) for word in words])
    return ShellSession(str(target), parsed)


def threads_of(program: Program) -> dict[int, int]:
    """Return the number of each thread that keeps values, and which one it is."""
    return {program.pid: 1, program.places["other"][1]: 2}


def vector_size(program: Program) -> int:
    """Return how many bytes a vector register has."""
    return program.places["vector"][1]


def kept_vectors(number: int, size: int) -> dict[str, int]:
    """Return the words that thread NUMBER keeps in SIZE bytes of each vector register."""
    stems = ["xmm"] * 2 + ["ymm"] * 2 + ["zmm"] * 4
    words = {"st3[0]": 0x5A5A0000BEEF0000 + number}
    for index in range(size // 8):
        words[f"{stems[index]}5[{index}]"] = 0x5A5A0000FADE0000 + number * 256 + index
        if size == 64:
            words[f"{stems[index]}21[{index}]"] = 0x5A5A0000FEED0000 + number * 256 + index
    return words


def hold_what_is_kept(threads: list[ThreadRegisters], program: Program, size: int) -> None:
    """Fail unless THREADS have what the program keeps, and nothing of it where it is not."""
    found = {thread.id: thread for thread in threads}
    assert found.keys() == threads_of(program).keys()
    for number, which in threads_of(program).items():
        general, vector = dict(found[number].general), dict(found[number].vector)
        assert len(general) == len(found[number].general) == 18
        assert general["r12"] == 0x5A5A0000C0DE0000 + which
        kept = kept_vectors(which, size)
        assert {name: vector.get(name) for name in kept} == kept
        others = [name for name, value in vector.items() if value >> 32 == 0x5A5A0000]
        if size == vector_size(program):
            assert sorted(others) == sorted(kept)
        assert found[number].stack_pointer == general["rsp"]


def hold_pointers(threads: list[ThreadRegisters], pid: int) -> None:
    """Fail unless each thread's pointers lead into its stack and to its control block."""
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for thread in threads:
            assert thread.stack_pointer is not None
            assert thread.thread_pointer is not None
            # fs:0 has the address of itself.
            memory.seek(thread.thread_pointer)
            assert memory.read(8) == thread.thread_pointer.to_bytes(8, "little")
            mappings = [m for m in truth.maps(pid) if m.start <= thread.stack_pointer < m.end]
            assert [mapping.permissions for mapping in mappings] == ["rw-"]


@pytest.fixture
def program(start: Any) -> Program:
    found: Program = start("registers")
    return found


def test_the_values_are_nowhere_in_memory(program: Program) -> None:
    memory = b"".join(data for _, data in truth.process_runs(program.pid))
    for which in (1, 2):
        values = [0x5A5A0000C0DE0000 + which, *kept_vectors(which, 64).values()]
        assert not [value for value in values if value.to_bytes(8, "little") in memory]


class TestInGdb:
    """A process that gdb holds."""

    def test_the_registers_of_all_threads_are_read(self, program: Program) -> None:
        # Of AVX-512 see below: gdb before 14 looks for it where Intel has it.
        threads = in_gdb(program)
        hold_what_is_kept(threads, program, min(vector_size(program), 32))
        hold_pointers(threads, program.pid)

    def test_they_are_called_and_are_as_in_a_core_that_gdb_writes(
        self, program: Program, tmp_path: Path
    ) -> None:
        core = tmp_path / "core"
        (live,) = printed(gdb(START, ASK, f"gcore {core}", pid=program.pid))
        assert live is not None
        in_order = [(*thread[:3], sorted(thread[3]), sorted(thread[4])) for thread in live]
        of_it = [(*thread[:3], sorted(thread[3]), sorted(thread[4])) for thread in of_core(core)]
        assert sorted(in_order) == sorted(of_it)

    def test_vector_registers_are_read_only_when_asked_for(self, program: Program) -> None:
        ask = ASK.replace("True", "False")
        (threads,) = printed(gdb(START, ask, pid=program.pid))
        assert threads is not None
        assert [(len(thread.general), thread.vector) for thread in threads] == [(18, [])] * 2

    def test_the_selected_thread_and_frame_stay_selected(self, program: Program) -> None:
        show = "python print('AT', gdb.selected_thread().num, gdb.selected_frame().level())"
        answer = gdb("thread 2", "frame 1", START, ASK, show, pid=program.pid)
        hold_what_is_kept(printed(answer)[0] or [], program, 16)
        assert "\nAT 2 1\n" in answer.stdout

    def test_of_a_thread_that_runs_nothing_is_known(self, program: Program) -> None:
        (threads,) = printed(
            gdb(
                "set non-stop on",
                f"attach {program.pid}",
                "thread 2",
                "continue &",
                START,
                ASK,
                "interrupt",
                "detach",
            )
        )
        assert threads is not None
        known = {thread.id: bool(thread.general) for thread in threads}
        assert len(known) > 1
        assert [thread for thread, told in known.items() if told] == [program.pid]

    def test_a_core_knows_them_itself(self, program: Program, tmp_path: Path) -> None:
        core = cores.gcore(program.pid, tmp_path / "core")
        assert printed(gdb(START, ASK, program=program.path, core=core)) == [None]

    def test_gdbserver_gives_them_too(self, program: Program) -> None:
        (threads,) = printed(
            gdb(
                "set sysroot /",
                f"target remote | gdbserver --once - --attach {program.pid}",
                START,
                ASK,
                "detach",
                program=program.path,
            )
        )
        hold_what_is_kept(threads or [], program, min(vector_size(program), 32))


class TestFromAShell:
    """A process that is held for the length of a command."""

    def test_the_registers_of_all_threads_are_read(self, program: Program) -> None:
        session = shell_session(program.pid, "-stop")
        threads = session.registers(vector=True)
        session.release()
        assert threads is not None
        # What nix reads ends with xmm.
        hold_what_is_kept(as_threads(threads), program, 16)
        hold_pointers(threads, program.pid)
        assert [thread.id for thread in threads] == list(threads_of(program))
        said = [note for note in session.target().notes if "ymm" in note]
        assert len(said) == (vector_size(program) > 16)

    def test_vector_registers_are_given_only_when_asked_for(self, program: Program) -> None:
        session = shell_session(program.pid, "-stop")
        threads = session.registers(vector=False)
        session.release()
        assert threads is not None
        assert [(len(thread.general), thread.vector) for thread in threads] == [(18, [])] * 2
        assert session.target().notes == []

    def test_of_a_process_that_runs_on_nothing_is_known(self, program: Program) -> None:
        session = shell_session(program.pid)
        assert session.registers(vector=True) is None
        registers = session.target().memory.thread_registers()
        assert [(thread[0], thread[3], thread[4]) for thread in registers] == [
            (number, [], []) for number in threads_of(program)
        ]

    def test_a_core_knows_them_itself(self, program: Program, tmp_path: Path) -> None:
        core = cores.gcore(program.pid, tmp_path / "core")
        assert shell_session(core).registers(vector=True) is None

    def test_a_process_whose_main_thread_ended_has_those_of_the_others(self, start: Any) -> None:
        program = start("holds", "leader")
        program.press_key()
        until = time.monotonic() + 10
        while ") Z " not in Path(f"/proc/{program.pid}/stat").read_text():
            assert time.monotonic() < until
        task = Path(f"/proc/{program.pid}/task")
        stop = _native.stop_process(program.pid)
        (thread,) = as_threads(stop.registers())
        notes = stop.register_notes(vector=False)
        stop.release()
        others = {int(path.name) for path in task.iterdir()} - {program.pid}
        assert {thread.id} == others
        assert (len(thread.general), notes) == (18, [])


def test_a_core_of_gcore_has_them(program: Program, tmp_path: Path) -> None:
    threads = of_core(cores.gcore(program.pid, tmp_path / "core"))
    hold_what_is_kept(threads, program, min(vector_size(program), 32))
    hold_pointers(threads, program.pid)


def test_a_core_of_the_kernel_has_them(program: Program, kernel_core: Any) -> None:
    hold_what_is_kept(of_core(kernel_core(program)), program, vector_size(program))


class TestWordsOfFourBytes:
    """A 32-bit program on this 64-bit machine."""

    @pytest.fixture
    def narrow(self, tmp_path: Path) -> Any:
        flags = ("-m32", "-msse2", "-nostdlib", "-static")
        if not glibc.compiles(*flags, source="void _start(void) {}"):
            pytest.skip(f"gcc has no {' '.join(flags)} here")
        program = Program(compile_fixture("registers32", tmp_path / "registers32", *flags))
        try:
            program.wait_for("READY")
            yield program
        finally:
            program.end()

    def hold(self, threads: list[ThreadRegisters], program: Program, vector: bool) -> None:
        (thread,) = threads
        general, words = dict(thread.general), dict(thread.vector)
        assert thread.id == program.pid
        assert sorted(general) == ["eax", "ebp", "ebx", "ecx", "edi", "edx", "esi", "esp"]
        assert (general["esi"], general["edx"]) == (0x5A5AC0DE, 1)
        assert thread.stack_pointer == general["esp"]
        kept = {f"xmm5[{index}]": 0x5A5AF000 + index for index in range(4)} if vector else {}
        assert words == kept
        (stack,) = (m for m in truth.maps(program.pid) if m.name == "[stack]")
        assert stack.start <= general["esp"] < stack.end

    def test_in_gdb(self, narrow: Program) -> None:
        self.hold(in_gdb(narrow), narrow, vector=True)

    def test_from_a_shell(self, narrow: Program) -> None:
        session = shell_session(narrow.pid, "-stop")
        threads = session.registers(vector=True)
        session.release()
        self.hold(as_threads(threads), narrow, vector=False)
        assert [note for note in session.target().notes if "32-bit" in note] != []

    def test_in_a_core_of_gcore(self, narrow: Program, tmp_path: Path) -> None:
        self.hold(of_core(cores.gcore(narrow.pid, tmp_path / "core")), narrow, vector=True)

    def test_in_a_core_of_the_kernel(self, narrow: Program, kernel_core: Any) -> None:
        with_maps = truth.maps(narrow.pid)
        threads = of_core(kernel_core(narrow))
        assert dict(threads[0].general)["esi"] == 0x5A5AC0DE
        assert dict(threads[0].vector) == {f"xmm5[{n}]": 0x5A5AF000 + n for n in range(4)}
        (stack,) = (mapping for mapping in with_maps if mapping.name == "[stack]")
        assert stack.start <= (threads[0].stack_pointer or 0) < stack.end


@pytest.mark.skipif(bool(glibc.lacks_aarch64()), reason=f"not installed: {glibc.lacks_aarch64()}")
def test_a_core_of_aarch64_has_them(tmp_path: Path) -> None:
    emulator, *words = glibc.aarch64("registers", tmp_path / "registers")
    program = Program(emulator, *map(str, words), cwd=tmp_path)
    try:
        program.wait_for("READY")
        program.signal(signal.SIGABRT)
        program.wait()
        (core,) = tmp_path.glob("qemu_*.core")
    finally:
        program.end()
    found = {thread.id: thread for thread in of_core(core)}
    assert found.keys() == threads_of(program).keys()
    for number, which in threads_of(program).items():
        general = dict(found[number].general)
        assert len(general) == 32
        assert general["x19"] == 0x5A5A0000C0DE0000 + which
        assert general["sp"] == found[number].stack_pointer
