"""Function, file and line of code: both doors, binutils' addr2line, and gdb's own backtrace."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import pytest
from gdb_leak import manual, options
from gdb_leak.commands import overview
from gdb_leak.doors.shell import ShellSession
from harness import ROOT, cores
from harness.debuggers import environment, gdb
from harness.processes import Program

SOURCE = ROOT / "tests" / "fixtures" / "lines.cc"
#: Of tests/fixtures/lines.cc at -O2, by the return addresses that it prints: innermost first.
CALLS = [
    ["shapes::Box::Box(int)"],
    ["void* shapes::Box::fill<double>(double)"],
    ["shapes::(anonymous namespace)::hidden(int*)"],
    ["innermost", "middle", "outermost(int*)"],
    ["main::{lambda(int*)#1}::operator()(int*) const [clone .isra.0]"],
    ["operator new(unsigned long)"],
]
#: A call: function, path, line, module.
Called = list[Any]


@dataclass
class Subject:
    """The program that waits, a core of it, and the return addresses that it printed."""

    live: Program
    core: Path
    addresses: list[int]
    #: Where the program's file starts in memory.
    base: int


def compiled(path: Path, *flags: str) -> Path:
    """Return the fixture, compiled into the file PATH."""
    subprocess.run(["g++", "-O2", "-g", *flags, "-o", str(path), str(SOURCE)], check=True)
    return path


def started(path: Path) -> tuple[Program, list[int], int]:
    """Return the program at PATH once it waits, its addresses and its base."""
    program = Program(path)
    program.wait_for("READY")
    addresses = [int(line, 16) - 1 for line in program.lines if line.startswith("0x")]
    maps = Path(f"/proc/{program.pid}/maps").read_text().splitlines()
    base = next(int(line.partition("-")[0], 16) for line in maps if line.endswith(str(path)))
    return program, addresses, base


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    folder = tmp_path_factory.mktemp("lines")
    program, addresses, base = started(compiled(folder / "program"))
    try:
        core = cores.gcore(program.pid, folder / "core")
        yield Subject(program, core, addresses, base)
    finally:
        program.end()


def by_gdb(addresses: list[int], *before: str, **target: Any) -> list[list[Called]]:
    """Return what gdb's door says of ADDRESSES."""
    ask = (
        "python import json; from gdb_leak.doors import gdb as door; "
        f"print('@' + json.dumps([door._session.lines(one) for one in {addresses}]))"
    )
    answer = gdb(*before, ask, **target)
    lines = [line for line in answer.stdout.splitlines() if line.startswith("@")]
    assert len(lines) == 1, answer.stdout + answer.stderr
    found: list[list[Called]] = json.loads(lines[0][1:])
    return found


def by_shell(addresses: list[int], target: object) -> list[list[Called]]:
    """Return what the shell's door says of them."""
    session = ShellSession(
        str(target), options.parse(manual.options_of(overview.COMMAND, True), (), [])
    )
    return [[list(line) for line in session.lines(one)] for one in addresses]


def by_binutils(path: Path, addresses: list[int]) -> list[list[list[str]]]:
    """Return function and ``FILE:LINE`` of each call at ADDRESSES in the file PATH."""
    found = []
    for address in addresses:
        done = subprocess.run(
            ["addr2line", "-i", "-f", "-C", "-e", str(path), hex(address)],
            check=True,
            capture_output=True,
            text=True,
        )
        lines = [line.split(" (discriminator")[0] for line in done.stdout.splitlines()]
        found.append([list(pair) for pair in zip(lines[::2], lines[1::2])])
    return found


def names(found: list[list[Called]]) -> list[list[Optional[str]]]:
    return [[line[0] for line in lines] for lines in found]


@pytest.mark.parametrize("form", ["live", "core"])
def test_both_doors_say_what_binutils_say(subject: Subject, form: str) -> None:
    if form == "live":
        target: dict[str, Any] = {"pid": subject.live.pid}
        shown: object = subject.live.pid
    else:
        target = {"program": subject.live.path, "core": subject.core}
        shown = subject.core
    found = by_gdb(subject.addresses, **target)
    assert found == by_shell(subject.addresses, shown)
    assert names(found) == CALLS
    linked = [address - subject.base for address in subject.addresses]
    said = by_binutils(subject.live.path, linked)
    for lines, expected in zip(found, said):
        places = [f"{path}:{number}" for _, path, number, _ in lines]
        assert places == [place for _, place in expected]
        assert {module for *_, module in lines} == {str(subject.live.path)}


def test_of_a_remote_target_gdb_knows_the_functions(subject: Subject) -> None:
    local = by_shell(subject.addresses, subject.live.pid)
    found = by_gdb(
        subject.addresses,
        "set sysroot /",
        f"target remote | gdbserver --once - --attach {subject.live.pid}",
        program=subject.live.path,
    )
    for lines, expected in zip(found, local):
        assert len(lines) == len(expected)
        # Where inlined functions were called from gdb does not say.
        assert lines[0][1:] == expected[0][1:]
        assert {line[3] for line in lines} == {str(subject.live.path)}
    inlined = found[3]
    assert [line[0].partition("(")[0] for line in inlined] == ["innermost", "middle", "outermost"]
    assert found[-1][0][0] == "operator new(unsigned long)"


def test_a_library_without_debug_information_has_its_symbols(subject: Subject) -> None:
    # The program waits in the system call of pause(2).
    answer = gdb("echo @", "info symbol $pc", "echo @", "p/x (long) $pc", pid=subject.live.pid)
    said, value = (part.split("\n")[0] for part in answer.stdout.split("@")[1:3])
    ((line, *_),) = by_shell([int(value.split()[-1], 16)], subject.live.pid)
    # The function has several names.
    assert {line[0].strip("_"), said.split()[0].strip("_")} <= {"pause", "libc_pause"}
    assert "libc" in line[3]


#: Runs the program up to each call of called_from, and asks both for each frame.
WALK = """
import gdb, json
from gdb_leak.doors import gdb as door

gdb.execute("break called_from")
gdb.execute("run")
stops = []
while True:
    frames, inner, newest = [], [], True
    frame = gdb.newest_frame()
    while frame is not None and frame.is_valid():
        place = frame.find_sal()
        symtab = place.symtab
        inner.append([frame.name(), symtab and symtab.fullname(), place.line or None])
        if frame.type() != gdb.INLINE_FRAME:
            pc = frame.pc() - (0 if newest else 1)
            frames.append([inner, door._session.lines(pc)])
            inner, newest = [], False
        frame = frame.older()
    stops.append(frames)
    if len(stops) == 6:  # then it waits without end
        break
    gdb.execute("continue")
print("@" + json.dumps(stops))
gdb.execute("kill")
"""


@pytest.mark.parametrize("flags", [("-O0",), ("-O2",), ("-O3", "-flto"), ("-O2", "-gdwarf-4")])
def test_a_stopped_program_has_the_frames_that_gdb_shows(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    path = compiled(tmp_path / "program", *flags)
    (tmp_path / "walk.py").write_text(WALK)
    answer = gdb(f"source {tmp_path}/walk.py", program=path)
    lines = [line for line in answer.stdout.splitlines() if line.startswith("@")]
    assert len(lines) == 1, answer.stdout + answer.stderr
    stops = json.loads(lines[0][1:])
    assert len(stops) == 6
    compared = 0
    for frames in stops:
        # The newest is not in a call: of several lines at one instruction gdb takes another.
        for shown, ours in frames[1:]:
            if shown[-1][1] != str(SOURCE):
                continue
            compared += 1
            assert [line[1:3] for line in ours] == [line[1:] for line in shown]
            for (name, *_), (function, *_) in zip(shown, ours):
                assert name.split("(")[0] in function.replace("{lambda(int*)#1}::", "<lambda>")
    assert compared >= 10


def test_debug_information_that_debuginfod_fetched_is_read(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "program"
    shutil.copy(subject.live.path, path)
    notes = subprocess.run(
        ["readelf", "--notes", str(path)], check=True, capture_output=True, text=True
    )
    build_id = notes.stdout.partition("Build ID: ")[2].split()[0]
    cache = tmp_path / "cache" / build_id
    cache.mkdir(parents=True)
    kept = cache / "debuginfo"
    subprocess.run(["objcopy", "--only-keep-debug", str(path), str(kept)], check=True)
    subprocess.run(["strip", str(path)], check=True)
    program, addresses, _ = started(path)
    try:
        assert names(by_shell(addresses, program.pid))[3] == [None]
        monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(cache.parent))
        assert names(by_shell(addresses, program.pid))[3] == CALLS[3]
        env = environment(DEBUGINFOD_CACHE_PATH=str(cache.parent))
        assert names(by_gdb(addresses, pid=program.pid, env=env))[3] == CALLS[3]
    finally:
        program.end()


def test_an_unloaded_module_is_told_by_its_file(subject: Subject) -> None:
    session = ShellSession(
        str(os.getpid()), options.parse(manual.options_of(overview.COMMAND, True), (), [])
    )
    memory = session.target().memory
    notes = subprocess.run(
        ["readelf", "--notes", str(subject.live.path)], check=True, capture_output=True, text=True
    )
    build_id = bytes.fromhex(notes.stdout.partition("Build ID: ")[2].split()[0])
    path = str(subject.live.path)
    linked = subject.addresses[3] - subject.base
    found = memory.lines_of_file(path, build_id, linked)
    assert [line[0] for line in found] == CALLS[3]
    assert memory.lines_of_file(path, b"", linked) == []
    assert memory.lines_of_file(path, build_id[::-1], linked) == []
