"""Real programs with the recorder before them, and the bounds that it keeps."""

import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from harness import ROOT, recorder
from harness.processes import Program

SAMPLED = {"sample": 65536}
#: What CPython has in its own regression tests and needs nothing but itself.
MODULES = ("test_json", "test_re", "test_threading", "test_fork1", "test_struct", "test_gc")


def both(
    line: Sequence[str], cwd: Path, **asked: int
) -> "tuple[subprocess.CompletedProcess[bytes], subprocess.CompletedProcess[bytes]]":
    """Run LINE alone and recorded, in turns; what it said and how it ended."""
    return once(line, cwd, {}), once(line, cwd, recorder.settings(**asked))


def once(
    line: Sequence[str], cwd: Path, environment: dict[str, str]
) -> "subprocess.CompletedProcess[bytes]":
    """Run LINE in ENVIRONMENT; what it said and how it ended."""
    return subprocess.run(
        list(line),
        cwd=cwd,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(cwd), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=280,
        check=False,
    )


def alike(line: Sequence[str], cwd: Path, **asked: int) -> bytes:
    """Hold LINE to say and do the same recorded as alone, and return what it said."""
    alone, recorded = both(line, cwd, **asked)
    assert recorded.returncode == alone.returncode == 0, recorded.stderr
    assert recorded.stdout == alone.stdout
    assert recorded.stderr == alone.stderr
    return alone.stdout


@pytest.mark.parametrize("asked", [{}, SAMPLED], ids=["each", "sampled"])
@pytest.mark.parametrize("compiler", ["gcc", "g++"])
def test_a_compiler_makes_the_same_object(
    tmp_path: Path, compiler: str, asked: dict[str, int]
) -> None:
    name = "graph_big.c" if compiler == "gcc" else "unwound.cc"
    source = ROOT / "tests" / "fixtures" / name
    made = []
    for environment in ({}, recorder.settings(**asked)):
        out = tmp_path / "made.o"
        subprocess.run(
            [compiler, "-O2", "-g", "-c", "-o", str(out), str(source)],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", **environment},
            check=True,
        )
        made.append(out.read_bytes())
    assert made[0] == made[1]


def test_git_keeps_its_history(tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("no git here")
    steps = (
        f"{git} init -q . && {git} config user.email a@b && {git} config user.name a && "
        f"for i in 1 2 3 4 5; do seq $((i * 1000)) > f$i; {git} add .; "
        f"GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z' "
        f"{git} commit -q -m $i; done; {git} gc -q; {git} fsck; {git} log --format=%H"
    )
    said = []
    for name, environment in (("alone", {}), ("recorded", recorder.settings())):
        folder = tmp_path / name
        folder.mkdir()
        done = subprocess.run(
            ["sh", "-c", steps],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **environment},
            capture_output=True,
            timeout=100,
            check=True,
        )
        said.append((done.stdout, done.stderr))
    assert said[0] == said[1]
    assert said[0][0].count(b"\n") == 5


def test_gdb_debugs(tmp_path: Path) -> None:
    program = recorder.build("sample.c", tmp_path)
    line = ["gdb", "-nx", "-batch", "-ex", "break leak_func", "-ex", "run", "-ex", "info args"]
    # Whatever gdb runs is recorded as well: its own words alone are compared.
    alone, recorded = both([*line, "-ex", "bt", str(program)], tmp_path)
    assert recorded.returncode == alone.returncode == 0
    for said in (alone.stdout, recorded.stdout):
        assert b"Breakpoint 1, leak_func" in said
        assert b"in main ()" in said


def test_a_shell_with_pipelines(tmp_path: Path) -> None:
    steps = "for i in $(seq 50); do echo $i | sort -n | sed s/1/x/ | awk '{print $1 $1}'; done"
    assert alike(["bash", "-c", steps], tmp_path).count(b"\n") == 50


@pytest.fixture(scope="module")
def own_tests(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the line that runs tests of a Python, which pass alone."""
    pythons = [sys.executable, "/usr/bin/python3"]
    for python in pythons:
        known = subprocess.run([python, "-c", "import test.test_json"], capture_output=True)
        if known.returncode == 0:
            break
    else:
        pytest.skip("no Python here has its regression tests")
    line = [python, "-m", "test", "-q", *MODULES]
    alone = once(line, tmp_path_factory.mktemp("alone"), {})
    assert alone.returncode == 0, alone.stdout
    return line


@pytest.mark.parametrize("asked", [{}, SAMPLED], ids=["each", "sampled"])
def test_python_passes_its_own_tests(
    own_tests: list[str], tmp_path: Path, asked: dict[str, int]
) -> None:
    recorded = once(own_tests, tmp_path, recorder.settings(**asked))
    assert recorded.returncode == 0, recorded.stdout


def test_what_does_not_fit_is_counted_and_harms_nobody(tmp_path: Path) -> None:
    program = recorder.build("recorder_fill.c", tmp_path)
    live = Program(program, "1000000", "32", environment=recorder.settings(memory=8 << 20))
    try:
        _, recording = recorder.ready(live)
        assert recording.dropped > 500_000
        assert len(recording.blocks) + recording.dropped >= 1_000_000
        kept = {block.size for block in recording.blocks.values()}
        assert kept >= set(range(32, 49))
    finally:
        live.end()


@pytest.mark.parametrize("limit", [64 << 10, 1 << 20])
def test_little_address_space_is_enough_or_said(tmp_path: Path, limit: int) -> None:
    program = recorder.build("sample.c", tmp_path)
    done = subprocess.run(
        ["sh", "-c", f"ulimit -v {limit}; exec {program}"],
        env={"PATH": "/usr/bin:/bin", **recorder.settings()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stderr.splitlines()
    assert all(line.startswith("gdb-leak: cannot record: ") for line in lines)
    assert "called 101 times" in done.stdout


def test_code_that_was_unloaded_is_not_taken_for_what_came_after(tmp_path: Path) -> None:
    program = recorder.build("recorder_unload.c", tmp_path)
    words = []
    for name, frame in (("first", 100), ("second", 4000), ("third", 100)):
        flags = (f"-DNAME={name}", f"-DFRAME={frame}", "-O1")
        folder = tmp_path / name
        folder.mkdir()
        words += [str(recorder.library("recorder_part.c", folder, *flags)), name]
    live = Program(program, *words, environment=recorder.settings())
    try:
        told, recording = recorder.ready(live)
        assert recording.generation == 3
        bases = {line.split()[2] for line in told.rest if line.startswith("base")}
        # The loader put at least two at one place, or else nothing is shown here.
        assert len(bases) < 3
        for address, (function, _, size) in told.blocks.items():
            block = recording.blocks[address]
            assert block.size == size
            _, caller, main, *_ = recording.frames(block.stack)
            generation = recording.generation_of(block.stack)
            module = next(
                module
                for module in recording.modules
                if module.start <= caller < module.end and module.since <= generation < module.until
            )
            assert module.path == words[words.index(function) - 1]
            assert recording.functions_at(main) == ["main"]
    finally:
        live.end()


@pytest.mark.parametrize("rate", [4096, 65536])
def test_samples_stand_for_what_is_alive(tmp_path: Path, rate: int) -> None:
    program = recorder.build("recorder_fill.c", tmp_path)
    count = 200_000
    live = Program(program, str(count), "32", environment=recorder.settings(sample=rate))
    try:
        _, recording = recorder.ready(live)
        assert recording.sample == rate
        sizes = [block.size for block in recording.blocks.values() if 32 <= block.size <= 48]
        chances = {size: 1 - math.exp(-size / rate) for size in range(32, 49)}
        error = math.sqrt(sum((1 - chances[size]) / chances[size] ** 2 for size in sizes))
        assert abs(sum(1 / chances[size] for size in sizes) - count) < 5 * error
    finally:
        live.end()
