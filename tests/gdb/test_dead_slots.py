"""Words of live frames that no code touches: none that anybody reads, and those that are left over.

What is held against: what the program knows of its pointers, gdb's frames and variables, and
programs that run on after all words and registers said to be dead were overwritten.
"""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gdb_leak import _native
from harness import ROOT, cores
from harness.debuggers import gdb, shell
from harness.overwriting import overwritten
from harness.processes import Program, compile_fixture

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="frames are unwound on x86-64 only"
)

FLAVOURS = {
    "O0": ("-O0",),
    "O1": ("-O1",),
    "O2": ("-O2",),
    "O2 without frame pointers": ("-O2", "-fomit-frame-pointer"),
    "O2 with frame pointers": ("-O2", "-fno-omit-frame-pointer"),
    "O3": ("-O3", "-mavx2"),
    "Os": ("-Os", "-fcf-protection=none"),
}
FUNCTIONS = (
    *("plain", "in_register", "array", "by_address", "by_value", "varargs", "ten_arguments"),
    *("last_call", "variable_size", "jumps_back", "aligned", "switches", "seldom", "large"),
    *(
        "interrupted",
        "faulted",
        "by_index",
        "computed_goto",
        "far_index",
        "table_of_structures",
        "home_area",
        "marks_its_place",
        "jumps_back_by_pointer",
    ),
)
#: Whose frames have room that nothing touches, whatever they are compiled with.
ROOMY = ("plain", "large")


@dataclass
class Frames:
    """A program that waits with some functions on its stack, as a core."""

    memory: _native.Memory
    frames: list[_native.Frame]
    #: The block that is lost, and each function's own.
    lost: int
    own: dict[str, int]

    @property
    def dead(self) -> dict[int, int]:
        """Words that are dead, by address."""
        ranges = [pair for frame in self.frames for pair in frame.dead]
        return {at: self.word(at) for start, end in ranges for at in range(start, end, 8)}

    @property
    def stack(self) -> dict[int, int]:
        """All words that are above the stack pointer and not above what was unwound."""
        start, end = self.frames[0].stack_pointer, self.frames[-1].cfa
        return {at: self.word(at) for at in range(start, end, 8)}

    def word(self, address: int) -> int:
        """Return the word at ADDRESS."""
        (word,) = struct.unpack("<Q", self.memory.read(address, 8))
        return int(word)

    def named(self, name: str) -> list[_native.Frame]:
        """Return the frames of a function."""
        symbols = [(frame, self.memory.symbol(frame.pc)) for frame in self.frames]
        return [frame for frame, symbol in symbols if symbol and symbol[0].split(".")[0] == name]

    def verdicts(self) -> dict[int, str]:
        """Return the verdict of each block."""
        heap = _native.open_heap(self.memory)
        assert heap is not None
        check = _native.check(self.memory, heap)
        assert check.untouched == 8 * len(self.dead)
        return {address: verdict for address, _, verdict, *_ in check.rows(0, heap.units)}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compile the fixture in each flavour."""
    folder = tmp_path_factory.mktemp("dead_slots")
    return {
        name: compile_fixture("dead_slots", folder / name.replace(" ", "-"), *flags)
        for name, flags in FLAVOURS.items()
    }


def waiting(program: Path, folder: Path, *functions: str) -> Frames:
    """Return the frames of PROGRAM where it waits in the last of FUNCTIONS."""
    process = Program(program, *functions, cwd=folder)
    try:
        process.wait_for("READY")
        core = cores.gcore(process.pid, folder / "core")
    finally:
        process.end()
    memory = _native.open_file(str(core))
    ((_, frames, _),) = _native.frames(memory)
    own = {name: address for name, (address, _) in process.places.items()}
    return Frames(memory, frames, own.pop("lost"), own)


@pytest.fixture(scope="module", params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def chain(
    flavour: str, compiled: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Frames:
    """All functions on one stack."""
    return waiting(compiled[flavour], tmp_path_factory.mktemp("chain"), *FUNCTIONS)


def test_all_frames_are_unwound(chain: Frames) -> None:
    assert all(chain.named(name) for name in ROOMY)
    assert len(chain.named("go_on")) == len(FUNCTIONS) + 1
    assert chain.named("main")


def test_no_pointer_of_a_function_is_dead(chain: Frames) -> None:
    dead, stack = chain.dead, chain.stack
    for name in FUNCTIONS:
        places = {at for at, word in stack.items() if word == chain.own[name]}
        assert places - dead.keys(), f"the block of {name} is nowhere that is alive"


@pytest.mark.parametrize("flags", [("-O0",), ("-O2",)], ids=["O0", "O2"])
def test_the_child_of_a_vfork_keeps_what_its_parent_goes_on_with(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    program = compile_fixture("vforked", tmp_path / "vforked", *flags)
    with subprocess.Popen([program], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"READY\n"
            children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()
            answer = shell("check", int(children), "-stop", "-json").json()
        finally:
            parent.kill()
    assert answer["summary"]["still_reachable"]["blocks"] == 1
    assert answer["summary"]["definitely_lost"]["blocks"] == 0


def test_what_is_dead_is_left_over(chain: Frames) -> None:
    # Whatever was written before the stack was filled is not below it.
    dead = chain.dead
    assert dead
    (first, *_) = chain.named("main")
    below = {at: word for at, word in dead.items() if at < first.stack_pointer}
    assert sum(word == chain.lost for word in below.values()) >= len(ROOMY)


def test_blocks_of_all_functions_are_held(chain: Frames) -> None:
    verdicts = chain.verdicts()
    assert {name: verdicts[chain.own[name]] for name in FUNCTIONS} == dict.fromkeys(
        FUNCTIONS, "still_reachable"
    )


@pytest.mark.parametrize(
    ("built", "name"),
    [
        (built, name)
        for built in FLAVOURS
        for name in (FUNCTIONS if built in ("O0", "O2") else ROOMY)
    ],
)
def test_each_function_holds_its_block(
    built: str, name: str, compiled: dict[str, Path], tmp_path: Path
) -> None:
    found = waiting(compiled[built], tmp_path, name)
    verdicts = found.verdicts()
    assert verdicts[found.own[name]] == "still_reachable"
    (*_, frame) = found.named("go_on")
    assert frame.unclear is None
    if name in ROOMY:
        assert all(frame.unclear is None for frame in found.named(name))
        assert [word for word in found.dead.values() if word == found.lost]
        assert verdicts[found.lost] == "definitely_lost"


#: Prints pc and CFA of each frame, the innermost first, and the variables of each at -O0.
ASK = """python
import json
rows, variables = [], []
frame = gdb.newest_frame()
while frame is not None:
    older = frame.older()
    if frame.type() == gdb.NORMAL_FRAME and older is not None:
        rows.append((frame.pc(), int(older.read_register("rsp")) & (1 << 64) - 1))
    try:
        block = frame.block()
    except RuntimeError:
        block = None
    while block is not None and not block.is_static and not block.is_global:
        for symbol in block:
            if symbol.is_variable or symbol.is_argument:
                value = symbol.value(frame)
                if value.address is not None and value.type.sizeof:
                    variables.append((symbol.name, int(value.address), value.type.sizeof))
        block = None if block.function else block.superblock
    frame = older
print("ROWS", json.dumps([rows, variables]))
end
"""


def asked(core: Path, program: object, folder: Path, threads: str = "") -> list[Any]:
    """Return what gdb says of the frames of CORE, of each thread."""
    script = folder / "ask.gdb"
    script.write_text(ASK)
    lines = [f"thread apply all source {script}"] if threads else [f"source {script}"]
    answer = gdb("set backtrace past-main on", *lines, program=Path(str(program)), core=core)
    rows = [line for line in answer.stdout.splitlines() if line.startswith("ROWS ")]
    assert rows, answer.stdout + answer.stderr
    return [json.loads(line.partition(" ")[2]) for line in rows]


def hold_frames(core: Path, program: object, folder: Path, least: int) -> None:
    """Fail unless each thread of CORE has the frames that gdb finds, and LEAST or more in all."""
    said = asked(core, program, folder, "all")
    theirs = {tuple(rows[0]): rows for rows, _ in said}
    own = _native.frames(_native.open_file(str(core)))
    assert len(own) == len(said)
    count = 0
    for _, frames, _ in own:
        if frames:
            rows = [(frame.pc, frame.cfa) for frame in frames]
            count += len(rows)
            assert rows == [tuple(row) for row in theirs[rows[0]]][: len(rows)]
    assert count >= least


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Any]:
    """Start a program of this machine; with a core of it once it sleeps."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> Path:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        started.append(process)
        assert process.stdout is not None
        while b"READY" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.2)
        return cores.gcore(process.pid, tmp_path / "core")

    yield start
    for process in started:
        process.kill()
        process.communicate()


DEEP = """
import threading, time
def deep(n):
    if n:
        return max([n], key=lambda _: deep(n - 1))
    done.set()
    time.sleep(1000)
for n in (3, 9, 15):
    done = threading.Event()
    threading.Thread(target=deep, args=(n,), daemon=True).start()
    done.wait()
print("READY", flush=True)
time.sleep(1000)
"""


def test_frames_of_python_are_those_that_gdb_finds(running: Any, tmp_path: Path) -> None:
    hold_frames(running(sys.executable, "-c", DEEP), sys.executable, tmp_path, 100)


def test_frames_of_gdb_are_those_that_gdb_finds(running: Any, tmp_path: Path) -> None:
    script = tmp_path / "deep.py"
    script.write_text(DEEP)
    program = os.environ.get("GDB", "gdb")
    core = running(program, "-nx", "-batch", "-x", str(script))
    regions = _native.open_file(str(core)).regions("all")
    (path,) = {region.name for region in regions if region.name.endswith("bin/gdb")}
    hold_frames(core, path, tmp_path, 100)


def test_frames_of_a_chain_are_those_that_gdb_finds(
    flavour: str, compiled: dict[str, Path], tmp_path: Path
) -> None:
    waiting(compiled[flavour], tmp_path, *FUNCTIONS)
    hold_frames(tmp_path / "core", compiled[flavour], tmp_path, 2 * len(FUNCTIONS))


#: Variables of the fixtures that their functions read after the call that they wait in.
READ_AGAIN = ("kept", "list", "place")


@pytest.mark.parametrize("fixture", ["dead_slots", "sample", "threads"])
def test_no_variable_that_is_read_again_is_dead(fixture: str, request: Any, tmp_path: Path) -> None:
    if fixture == "dead_slots":
        program = request.getfixturevalue("compiled")["O0"]
        waiting(program, tmp_path, *FUNCTIONS)
        core = tmp_path / "core"
    else:
        start = request.getfixturevalue("start")
        process = start(fixture)
        program, core = process.path, cores.gcore(process.pid, tmp_path / "core")
    own = _native.frames(_native.open_file(str(core)))
    dead = [pair for _, frames, _ in own for frame in frames for pair in frame.dead]
    assert dead
    said = asked(core, program, tmp_path, "all")
    variables = [row for _, rows in said for row in rows]
    assert variables
    for name, address, size in variables:
        # Others are not read again, or were never written.
        if name not in READ_AGAIN:
            continue
        assert not [1 for start, end in dead if start < address + size and address < end], name


WORK = """
import decimal, json, re, threading
def work(n):
    for i in range(n):
        json.loads(json.dumps({"a": [i] * 20}))
        re.sub("a", "b", "banana" * 20)
        decimal.Decimal(i).sqrt()
threads = [threading.Thread(target=work, args=(4000,)) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sorted(map(str, range(30000)), key=lambda text: text[::-1])[:9])
"""


@pytest.mark.parametrize("flags", [("-O0",), ("-O2",), ("-O2", "-fno-omit-frame-pointer")])
def test_exceptions_find_their_way_over_frames_whose_dead_words_were_overwritten(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    source, program = ROOT / "tests/fixtures/unwound.cc", tmp_path / "unwound"
    subprocess.run(["g++", *flags, "-o", str(program), str(source)], check=True)
    count = overwritten((str(program),))
    assert count.words > 20
    assert count.registers > 20


def test_python_runs_on_where_what_is_dead_was_overwritten() -> None:
    count = overwritten((sys.executable, "-c", WORK))
    assert count.words > 500
    assert count.registers > 50


def test_a_compiler_runs_on_where_what_is_dead_was_overwritten(tmp_path: Path) -> None:
    # The compiler itself: gcc only waits for it.
    (cc1,) = subprocess.run(
        ["gcc", "-print-prog-name=cc1"], capture_output=True, text=True, check=True
    ).stdout.split()
    source = tmp_path / "source.i"
    preprocessed = ["gcc", "-E", str(ROOT / "tests/fixtures/heap_traffic.c"), "-o", str(source)]
    subprocess.run(preprocessed, check=True)
    count = overwritten((cc1, "-quiet", "-O2", str(source), "-o", "-"))
    assert count.words > 50
    assert count.registers > 20


SHELL = """
declare -A seen
for i in {1..6000}; do
    word=${RANDOM:+w}$((i * 7919 % 997)); seen[$word]+="$i "; text=${seen[$word]//1/one}
    case $text in *one*) ((count++)) ;; esac
done
echo $count ${#seen[@]} ${seen[w5]}
"""


def test_a_shell_runs_on_where_what_is_dead_was_overwritten() -> None:
    count = overwritten(("bash", "-c", SHELL))
    assert count.words > 50
    assert count.registers > 20


def test_sort_runs_on_where_what_is_dead_was_overwritten(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text("".join(f"{i * 7919 % 200003} {i % 17}\n" for i in range(200000)))
    count = overwritten(("sort", "--parallel=2", "-k2n", "-k1", str(lines)))
    assert count.words > 20
    assert count.registers > 20
