"""``-in heap`` is what ``leak-heap`` sums as the allocator's, wherever that lies."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import cores
from harness.debuggers import Answer, gdb, shell
from harness.mangler import VARIANTS, Core
from harness.processes import Program, compile_fixture

_HUGE = Path("/proc/sys/vm/nr_hugepages")
_NOTHING = "no such text anywhere in it"


def _owned(heap: dict[str, Any]) -> int:
    """Return the bytes that the account of the heap has for arenas and mapped blocks."""
    total = heap["total"]
    return int(total["writable"] + total["unwritable"] - total["other"])


def _same(heap: dict[str, Any], find: dict[str, Any], regions: dict[str, Any]) -> None:
    unreadable = sum(int(gap["end"], 16) - int(gap["start"], 16) for gap in find["unreadable"])
    assert find["searched"] + unreadable == _owned(heap) > 0
    # Whole regions, of which malloc may have a part.
    assert regions["total"]["size"] >= _owned(heap)
    assert heap["total"]["writable"] >= find["searched"]


def _from_shell(target: "int | Path") -> None:
    def ask(*words: str) -> Answer:
        return shell(words[0], target, "-json", *words[1:])

    _same(
        ask("heap").json(),
        ask("find", "-in", "heap", _NOTHING).json(),
        ask("regions", "-in", "heap").json(),
    )


@contextmanager
def _huge_pages(count: int) -> Iterator[None]:
    before = _HUGE.read_text()
    try:
        _HUGE.write_text(str(count))
    except OSError:
        pytest.skip("only root can reserve huge pages")
    try:
        if int(_HUGE.read_text()) < count:
            pytest.skip("the machine has no room for huge pages")
        yield
    finally:
        _HUGE.write_text(before)


@pytest.fixture
def running(
    programs: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Program]:
    """Start the program with arenas and mapped blocks, in the way that the parameter names."""
    way = request.param
    path, arguments, environment = programs["layout"], [], {}
    if way == "static":
        path = compile_fixture("layout", tmp_path / "static", "-static")
    elif way == "data in anonymous memory":
        arguments = ["remap"]
    elif way == "no brk":
        environment = {"GLIBC_TUNABLES": "glibc.malloc.top_pad=0:glibc.malloc.mmap_threshold=4096"}
    elif way == "huge pages":
        environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}
    with _huge_pages(64) if way == "huge pages" else _nothing():
        program = Program(path, *arguments, cwd=tmp_path, environment=environment)
        try:
            program.wait_for("READY")
            yield program
        finally:
            program.end()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


WAYS = ("dynamic", "static", "data in anonymous memory", "no brk", "huge pages")


@pytest.mark.parametrize("running", WAYS, indirect=True)
def test_the_heap_as_a_place_is_what_the_account_sums(running: Program, tmp_path: Path) -> None:
    _from_shell(running.pid)
    _from_shell(cores.gcore(running.pid, tmp_path / "saved"))
    # Linux leaves huge pages out of a core unless it is asked for them.
    Path(f"/proc/{running.pid}/coredump_filter").write_text("0x7f")
    with cores.plain_core_pattern():
        core = cores.kernel_core(running)
    _from_shell(core)
    bare = VARIANTS["no NT_FILE"](Core.read(core)).write(tmp_path / "bare")
    _from_shell(bare)
    for path in (core, bare):
        found = shell("find", path, "-json", "-in", "heap", "LAYOUT-").json()
        assert found["count"] == 50, path
        assert {match["block"]["state"] for match in found["matches"]} == {"used"}


@pytest.mark.parametrize("running", ["data in anonymous memory"], indirect=True)
def test_data_in_anonymous_memory_is_the_program_s_and_not_the_heap(running: Program) -> None:
    with cores.plain_core_pattern():
        core = cores.kernel_core(running)
    regions = shell("regions", core, "-json").json()["regions"]
    symbols = subprocess.run(["nm", str(running.path)], capture_output=True, text=True, check=True)
    (held,) = (line for line in symbols.stdout.splitlines() if line.endswith(" held"))
    base = min(int(r["start"], 16) for r in regions if r["name"] == str(running.path))
    address = base + int(held.split()[0], 16)
    (data,) = (r for r in regions if int(r["start"], 16) <= address < int(r["end"], 16))
    assert (data["kind"], data["name"]) == ("data", "")
    heaps = [r for r in regions if r["kind"] == "heap"]
    assert [r["name"] for r in heaps] == ["[heap]"]
    assert int(heaps[0]["start"], 16) > address


@pytest.mark.parametrize("running", ["dynamic"], indirect=True)
def test_a_reserve_counts_nowhere(running: Program, tmp_path: Path) -> None:
    # gcore reads reserves too, and the kernel maps pages of zeros for that: the process first.
    for target in (running.pid, tmp_path / "saved"):
        if target != running.pid:
            cores.gcore(running.pid, tmp_path / "saved")
        listed = shell("regions", target, "-json").json()
        reserves = [
            r
            for r in listed["regions"]
            if r["permissions"] == "---" and r["saved"] == 0 and not r["rss"]
        ]
        assert listed["total"]["reserved"] == sum(r["size"] for r in reserves) > 60 << 20
        kinds = shell("overview", target, "-json").json()["kinds"]
        assert sum(kind["size"] for kind in kinds) == listed["total"]["size"]
        every = shell("find", target, "-json", "-in", "all", _NOTHING).json()
        assert every["searched"] <= listed["total"]["size"]
        arena = shell("find", target, "-json", "-in", "arena", _NOTHING).json()
        writable = shell("find", target, "-json", _NOTHING).json()
        heap = shell("find", target, "-json", "-in", "heap", _NOTHING).json()
        assert arena["searched"] <= writable["searched"]
        assert heap["searched"] <= writable["searched"]


@pytest.mark.parametrize("command", [["find", "x"], ["strings"], ["regions"]])
@pytest.mark.parametrize("where", ["vdso", "0x10,0x20"])
def test_a_place_where_no_region_is_gets_a_note(
    sample: Any, command: list[str], where: str, tmp_path: Path
) -> None:
    name, *operands = command
    core = Core.read(sample.after)
    without = core.each(lambda one: [] if one.data[:4] == b"\x7fELF" else [one])
    path = without.write(tmp_path / "core")
    answer = shell(name, path, "-json", "-in", where, "--", *operands).json()
    assert [note for note in answer["notes"] if note.startswith(f"-in {where}: no memory")]


@pytest.mark.parametrize("running", ["dynamic"], indirect=True)
def test_a_snapshot_tells_a_reserve_from_a_page_that_nothing_may_read(
    running: Program, tmp_path: Path
) -> None:
    assert shell("snapshot", running.pid, tmp_path / "taken").status == 0
    process, taken = (
        shell("regions", target, "-json").json() for target in (running.pid, tmp_path / "taken")
    )
    assert taken["total"]["reserved"] == process["total"]["reserved"]
    hidden = [
        region for region in taken["regions"] if region["permissions"] == "---" and region["rss"]
    ]
    assert [region["rss"] for region in hidden] == [4096]


@pytest.mark.parametrize("command", [["find", "x"], ["strings"]])
def test_a_note_on_a_reserve_does_not_say_that_no_region_is_there(
    start: Any, command: list[str]
) -> None:
    name, *operands = command
    program = start("forms")
    # A thread with an arena of its own.
    program.stdin.write(b"t\n")
    program.stdin.flush()
    program.wait_for("READY")
    regions = shell("regions", program.pid, "-json").json()["regions"]
    reserve = next(one for one in regions if one["permissions"] == "---" and one["saved"] == 0)
    where = f"{reserve['start']},{reserve['end']}"
    notes = shell(name, program.pid, "-json", "-in", where, "--", *operands).json()["notes"]
    assert f"-in {where}: no memory of the target is there (a reserve holds no byte)" in str(notes)
    assert "no region" not in str(notes)


def test_the_heap_of_gdb_s_door_is_the_same(sample: Any) -> None:
    answer = gdb(
        "leak-heap -json",
        f'leak-find -json -in heap "{_NOTHING}"',
        "leak-regions -json -in heap",
        program=sample.path,
        core=sample.after,
    )
    _same(*answer.all_json())
