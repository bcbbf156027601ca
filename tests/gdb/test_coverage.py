"""How much of the writable memory an answer judged: silence is never "nothing is lost"."""

import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, cores
from harness.debuggers import gdb, shell
from harness.processes import Program, compile_fixture

UNJUDGED = 3
LOST = 9
MIB = 1 << 20
WARNING = ('-DWARNING="mimalloc: warning: "',)
TEXTS = (*WARNING, '-DERROR="mimalloc: error: "')
#: By way: what the program is compiled with.
WAYS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "lost": (),
    "own": (),
    "blank": (),
    "little": (),
    "gone": (),
    "linked": TEXTS,
    "named": ("-DNAMED",),
    "text": WARNING,
    "texts": TEXTS,
}


@pytest.fixture(scope="session")
def covered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compile the program for each way."""
    folder = tmp_path_factory.mktemp("covered")
    return {way: compile_fixture("covered", folder / way, *flags) for way, flags in WAYS.items()}


@pytest.fixture
def start(covered: dict[str, Path], tmp_path: Path) -> Iterator[Any]:
    """Return what starts the program in a WAY with so many MIB, until it waits."""
    begun = []

    def started(way: str, mib: int = 0, strip: bool = False) -> Program:
        path = covered[way]
        if strip:
            path = tmp_path / way
            subprocess.run(["strip", "-o", path, covered[way]], check=True)
        program = Program(path, way, str(mib), cwd=tmp_path)
        begun.append(program)
        program.wait_for("READY")
        return program

    yield started
    for program in begun:
        program.end()


def resident(pid: int) -> int:
    """Return the resident bytes of what a process may write to."""
    total, counted = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if re.match(r"[0-9a-f]+-[0-9a-f]+$", words[0]):
            counted = words[1][1] == "w"
        elif words[0] == "Rss:" and counted:
            total += int(words[1]) * 1024
    return total


def writable(target: Any) -> int:
    answer = shell("regions", target, "-in", "writable", "-json").json()
    size: int = answer["total"]["size"]
    return size


def check(target: Any, *options: str) -> dict[str, Any]:
    return shell("check", target, "-json", *options).json()


class TestABareProgram:
    """Of a program whose memory is all malloc's, everything is judged."""

    def test_resident_memory_is_counted_as_the_kernel_does(self, start: Any) -> None:
        live = start("plain")
        before = resident(live.pid)
        for name in ("check", "heap"):
            found = shell(name, live.pid, "-json").json()
            assert found["judged"] == "all"
            # Reading it may make the kernel map pages of zeros, which are not resident.
            assert found["coverage"] == {
                "judged": before,
                "writable": writable(live.pid),
                "resident": before,
            }
            before = resident(live.pid)

    def test_of_a_core_bytes_are_those_of_mappings(self, start: Any, tmp_path: Path) -> None:
        live = start("plain")
        core = cores.gcore(live.pid, tmp_path / "core")
        for name in ("check", "heap"):
            found = shell(name, core, "-json").json()
            size = writable(core)
            assert found["judged"] == "all"
            assert found["coverage"] == {"judged": size, "writable": size}

    def test_the_first_line_says_so(self, start: Any) -> None:
        live = start("plain")
        for answer in (shell("check", live.pid), shell("heap", live.pid)):
            first = answer.stdout.splitlines()[0]
            assert re.fullmatch(r"judged (\S+) of \1 KiB of resident writable memory", first), (
                answer.stdout
            )

    def test_nothing_lost_ends_with_zero(self, start: Any) -> None:
        live = start("plain")
        assert shell("check", live.pid, "-error-exitcode", LOST).status == 0


class TestMemoryOfNoKnownHeap:
    """Memory that a program mapped itself is not judged, and that is said first."""

    @pytest.mark.parametrize("way", ["own", "linked"])
    def test_it_is_said_with_its_size(self, start: Any, way: str) -> None:
        live = start(way, 20)
        first = shell("check", live.pid).stdout.splitlines()[0]
        assert re.match(
            r"judged 0\.[2-9] of 20\.\d MiB of resident writable memory; "
            r"20 MiB of anonymous memory belong to no known heap",
            first,
        ), first
        found = check(live.pid)
        assert found["judged"] == "partly"
        assert found["coverage"]["resident"] - found["coverage"]["judged"] >= 20 * MIB
        assert any("belong to no known heap" in note for note in found["notes"])

    @pytest.mark.parametrize("mib", [4, 20])
    def test_a_check_does_not_pass(self, start: Any, tmp_path: Path, mib: int) -> None:
        live = start("own", mib)
        core = cores.gcore(live.pid, tmp_path / "core")
        for target in (live.pid, core):
            assert shell("check", target, "-error-exitcode", LOST).status == UNJUDGED
        line = f"leak-check -error-exitcode {LOST}"
        assert gdb(line, "shell touch ran-on", pid=live.pid).status == UNJUDGED
        assert gdb(line, core=core).status == UNJUDGED

    def test_a_megabyte_passes(self, start: Any) -> None:
        live = start("own", 1)
        assert check(live.pid)["judged"] == "partly"
        assert shell("check", live.pid, "-error-exitcode", LOST).status == 0

    def test_a_mapping_too_large_for_the_loaders_own_is_not_judged(
        self, start: Any, tmp_path: Path
    ) -> None:
        live = start("little")
        core = cores.gcore(live.pid, tmp_path / "core")
        for target in (live.pid, core):
            found = check(target)
            assert found["judged"] == "partly"
            most = found["coverage"].get("resident", found["coverage"]["writable"])
            assert most - found["coverage"]["judged"] >= 48 << 10

    def test_what_was_never_touched_counts_nowhere(self, start: Any, tmp_path: Path) -> None:
        live = start("blank", 200)
        found = check(live.pid)
        assert found["judged"] == "all"
        assert found["coverage"]["writable"] > 200 * MIB > found["coverage"]["resident"]
        core = cores.gcore(live.pid, tmp_path / "core")
        for target in (live.pid, core):
            assert shell("check", target, "-error-exitcode", LOST).status == 0

    def test_without_the_option_the_status_is_that_of_an_answer(self, start: Any) -> None:
        assert shell("check", start("own", 20).pid).status == 0

    def test_judged_memory_is_never_more_than_there_is(self, start: Any, tmp_path: Path) -> None:
        for way in ("plain", "own", "blank", "linked"):
            live = start(way, 8)
            core = cores.gcore(live.pid, tmp_path / f"core.{way}")
            for target in (live.pid, core):
                for name in ("check", "heap"):
                    found = shell(name, target, "-json").json()["coverage"]
                    most = found.get("resident", found["writable"])
                    assert 0 < found["judged"] <= most <= found["writable"]

    def test_heap_and_check_count_the_same(self, start: Any, tmp_path: Path) -> None:
        live = start("own", 8)
        core = cores.gcore(live.pid, tmp_path / "core")
        one, other = check(core), shell("heap", core, "-json").json()
        assert (one["coverage"], one["judged"]) == (other["coverage"], other["judged"])
        assert one["coverage"]["writable"] == other["total"]["writable"]


def archive(library: str) -> str:
    """Return where gcc finds the static LIBRARY; skip the test where it is not installed."""
    line = ["gcc", f"-print-file-name={library}"]
    found = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip(f"{library} is not installed")
    return found


class TestAllocatorsThatAreLinkedIn:
    """They are named where two signs agree, and no verdict depends on that."""

    @pytest.mark.parametrize(
        ("way", "strip"), [("linked", False), ("linked", True), ("named", False)]
    )
    def test_it_is_named(self, start: Any, tmp_path: Path, way: str, strip: bool) -> None:
        live = start(way, 8, strip)
        core = cores.gcore(live.pid, tmp_path / "core")
        for target in (live.pid, core):
            first = shell("check", target).stdout.splitlines()[0]
            assert first.endswith("(mimalloc is linked into the program)"), first

    @pytest.mark.parametrize(("way", "mib"), [("text", 8), ("texts", 0)])
    def test_its_texts_alone_say_nothing(self, start: Any, way: str, mib: int) -> None:
        first = shell("check", start(way, mib).pid).stdout.splitlines()[0]
        assert "mimalloc" not in first

    def test_gdb_leak_has_none_of_the_texts(self) -> None:
        from gdb_leak import _native

        own = Path(_native.__file__).read_bytes()
        for text in (b"mimalloc: warning: ", b"mimalloc: error: ", b"<jemalloc>: "):
            assert text not in own

    @pytest.mark.parametrize(
        ("name", "library", "more"),
        [("jemalloc", "libjemalloc.a", ("-lm",)), ("tcmalloc", "libtcmalloc_minimal.a", ("-lm",))],
    )
    @pytest.mark.parametrize("strip", [False, True])
    def test_a_real_one_is_named(
        self, tmp_path: Path, name: str, library: str, more: tuple[str, ...], strip: bool
    ) -> None:
        found = archive(library)
        source = ROOT / "tests" / "fixtures" / "covered.c"
        path = tmp_path / "covered"
        line = ["gcc", "-g", "-pthread", "-o", path, source, "-Wl,--whole-archive", found]
        subprocess.run([*line, "-Wl,--no-whole-archive", "-lstdc++", *more], check=True)
        if strip:
            subprocess.run(["strip", path], check=True)
        live = Program(path, "plain", "8", cwd=tmp_path)
        try:
            live.wait_for("READY")
            first, *rest = shell("check", live.pid).stdout.splitlines()
            assert f"({name} is linked into the program)" in first
            assert any("no verdict" in line for line in rest)
            assert shell("check", live.pid, "-error-exitcode", LOST).status == UNJUDGED
            found = check(live.pid)
            assert (found["judged"], found["coverage"]["judged"]) == ("none", 0)
        finally:
            live.end()


#: By allocator: Debian's library, and a function of it that gives out blocks.
LIBRARIES = {
    "mimalloc": ("libmimalloc.so.2.0", "mi_malloc"),
    "jemalloc": ("libjemalloc.so.2", "malloc"),
    "tcmalloc": ("libtcmalloc_minimal.so.4", "malloc"),
}
#: What tells them by their texts.
NAMES = (b"mimalloc: ", b"<jemalloc>", b"malloc.conf", b"Bytes in use by", b"Bytes in central")


def without_names(found: Path, path: Path) -> Path:
    """Copy the file FOUND to PATH with other texts in the place of its allocator's."""
    contents = found.read_bytes()
    for name in NAMES:
        contents = contents.replace(name, b"x" * len(name))
    path.write_bytes(contents)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_fixture("beside", tmp_path_factory.mktemp("beside") / "beside", "-ldl")


class TestAllocatorsWithoutNames:
    """Stripped, without a text of theirs, under another name: their tables show them."""

    @pytest.mark.parametrize("blocks", [300, 4000])
    @pytest.mark.parametrize("name", LIBRARIES)
    def test_one_beside_glibc_is_named_and_does_not_pass(
        self, beside: Path, tmp_path: Path, name: str, blocks: int
    ) -> None:
        file, function = LIBRARIES[name]
        library = Path("/usr/lib/x86_64-linux-gnu") / file
        if not library.exists():
            pytest.skip(f"{file} is not installed")
        copy = without_names(library, tmp_path / "own.so")
        # jemalloc wants static storage for each thread, of which the loader keeps little.
        room = {"GLIBC_TUNABLES": "glibc.rtld.optional_static_tls=65536"}
        words = (str(copy), function, str(blocks))
        live = Program(beside, *words, cwd=tmp_path, environment=room)
        try:
            live.wait_for("READY")
            core = cores.gcore(live.pid, tmp_path / "core")
            for target in (live.pid, core):
                found = check(target)
                assert found["judged"] == "partly"
                (note,) = (note for note in found["notes"] if "belong to no known heap" in note)
                assert note.endswith(f"({name} is linked into the program)")
                answer = shell("check", target, "-error-exitcode", LOST)
                # The loader has an inner pointer only to what it knows of a library of which
                # others hold the start: possibly lost for valgrind too.
                lost = found["summary"]["possibly_lost"]["blocks"] > 0
                # What 300 blocks are in is less than 1 MiB as a rule.
                allowed = {UNJUDGED} if blocks == 4000 else {0, UNJUDGED}
                assert answer.status in ({LOST} if lost else allowed), answer.stdout
        finally:
            live.end()

    @pytest.mark.parametrize(
        ("name", "library"), [("jemalloc", "libjemalloc.a"), ("tcmalloc", "libtcmalloc_minimal.a")]
    )
    def test_one_in_the_place_of_glibc_s_is_named(
        self, tmp_path: Path, name: str, library: str
    ) -> None:
        found = archive(library)
        linked, path = tmp_path / "linked", tmp_path / "covered"
        line = ["gcc", "-pthread", "-s", "-o", linked, ROOT / "tests" / "fixtures" / "covered.c"]
        line += ["-Wl,--whole-archive", found, "-Wl,--no-whole-archive", "-lstdc++", "-lm"]
        subprocess.run(line, check=True)
        live = Program(without_names(linked, path), "plain", "8", cwd=tmp_path)
        try:
            live.wait_for("READY")
            first = shell("check", live.pid).stdout.splitlines()[0]
            assert f"({name} is linked into the program)" in first
            assert shell("check", live.pid, "-error-exitcode", LOST).status == UNJUDGED
        finally:
            live.end()

    def test_tables_of_pointers_are_no_allocator_s(self, tmp_path: Path) -> None:
        path = compile_fixture("pointers", tmp_path / "pointers")
        live = Program(path, cwd=tmp_path)
        try:
            live.wait_for("READY")
            first = shell("check", live.pid).stdout.splitlines()[0]
            assert first.endswith("belong to no known heap"), first
        finally:
            live.end()


class TestRun:
    """A program that is run to be judged does not pass unjudged."""

    def run(self, *words: Any) -> Any:
        return shell("run", "-error-exitcode", LOST, *words)

    def test_the_recorders_own_memory_counts_nowhere(self, covered: dict[str, Path]) -> None:
        answer = self.run("-json", "--", covered["plain"], "plain")
        assert answer.status == 0, answer.stderr
        line = next(line for line in answer.stderr.splitlines() if line.startswith("{"))
        assert '"judged": "all"' in line
        assert int(re.findall(r'"writable": (\d+)', line)[0]) < 2 * MIB

    def test_lost_blocks_come_before_what_was_not_judged(self, covered: dict[str, Path]) -> None:
        assert self.run("--", covered["lost"], "lost", "20").status == LOST

    @pytest.mark.parametrize("way", ["own", "linked"])
    def test_memory_of_no_known_heap_does_not_pass(
        self, covered: dict[str, Path], way: str
    ) -> None:
        answer = self.run("--", covered[way], way, "20")
        assert answer.status == UNJUDGED
        assert "belong to no known heap" in answer.stderr
        assert shell("run", "--", covered[way], way, "20").status == 0

    def test_of_several_processes_lost_blocks_count_most(self, covered: dict[str, Path]) -> None:
        for order in (("lost 0", "own 20"), ("own 20", "lost 0")):
            script = "; ".join(f"{covered[word.split()[0]]} {word} </dev/null" for word in order)
            assert self.run("-trace-children", "--", "/bin/sh", "-c", script).status == LOST


class TestAHeapThatIsNotInTheCore:
    """Its blocks get no verdict, and what is left does not pass for the program."""

    @pytest.fixture
    def without(self, start: Any) -> Path:
        """Return a core of a program that lost blocks, without any memory of its own."""
        live = start("lost", 0)
        # File mappings and huge pages alone.
        Path(f"/proc/{live.pid}/coredump_filter").write_text("0x3c")
        with cores.plain_core_pattern():
            return cores.kernel_core(live)

    def test_there_is_no_verdict(self, without: Path) -> None:
        answer = shell("check", without, "-json", "-error-exitcode", "9")
        found = answer.json()
        assert answer.status == 3
        assert found["judged"] == "none"
        assert found["coverage"]["judged"] == 0
        assert found["summary"]["definitely_lost"] == {"blocks": None, "bytes": None}
        assert found["notes"][0].startswith("no verdict: no block of the heap is known")

    def test_the_account_says_how_much_it_is(self, without: Path) -> None:
        found = shell("heap", without, "-json").json()
        (note,) = [note for note in found["notes"] if "bytes of the heap at" in note]
        assert f"{int(note.split()[0]) / 1024:.1f} KiB of the heap cannot be judged" in " ".join(
            found["notes"]
        )

    @pytest.mark.parametrize("part", [0.3, 0.8])
    def test_a_part_of_it_is_not_all(self, start: Any, tmp_path: Path, part: float) -> None:
        core = Path(cores.gcore(start("lost").pid, tmp_path / "core"))
        whole = check(core)
        found = check(without_end_of_heap(core, tmp_path / "cut", part))
        assert found["judged"] == "partly"
        assert found["coverage"]["judged"] < whole["coverage"]["judged"]
        (roots,) = [note for note in found["notes"] if "bytes of roots" in note] or ["0 bytes"]
        assert int(roots.split()[0]) == 0, "memory of the heap counts as roots"

    # Of 200 KiB of blocks most, or the last few and what is free.
    @pytest.mark.parametrize(("part", "status"), [(0.3, UNJUDGED), (0.8, 0)])
    def test_a_tenth_of_a_small_heap_does_not_pass_either(
        self, start: Any, tmp_path: Path, part: float, status: int
    ) -> None:
        core = Path(cores.gcore(start("plain").pid, tmp_path / "core"))
        cut = without_end_of_heap(core, tmp_path / "cut", part)
        assert shell("check", cut, "-error-exitcode", LOST).status == status

    def test_blocks_of_pages_that_a_process_cannot_show_have_no_verdict(self, start: Any) -> None:
        live = start("gone")
        if "READY gone" not in live.lines:
            pytest.skip("no userfaultfd here")
        answer = shell("check", live.pid, "-json", "-error-exitcode", LOST)
        found = answer.json()
        assert (answer.status, found["judged"]) == (UNJUDGED, "partly")
        # 160 blocks of 1008 bytes, less what is in the pages before and after.
        (said,) = [note for note in found["notes"] if "of the heap cannot be judged" in note]
        assert 130 < float(said.split()[0]) < 160


def without_end_of_heap(core: Path, out: Path, part: float) -> Path:
    """Return OUT: CORE with only the first PART of the bytes of its heap."""
    data = bytearray(core.read_bytes())
    (table,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    (heap,) = [r for r in shell("regions", core, "-json").json()["regions"] if r["kind"] == "heap"]
    for at in range(table, table + 56 * count, 56):
        kind, _, _, address, _, size = struct.unpack_from("<IIQQQQ", data, at)
        if kind == 1 and address == int(heap["start"], 16):
            struct.pack_into("<Q", data, at + 32, int(size * part) & -4096)
    out.write_bytes(data)
    return out
