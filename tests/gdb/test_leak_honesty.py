"""Where no verdict can be given, or not a sure one: that is said, with the direction."""

import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from harness import ROOT, cores, glibc
from harness.debuggers import gdb, shell
from harness.leaks import Owners, owners_at_rest
from harness.processes import Program, compile_fixture

REFUSED = 1
WHOLE = ("-json", "-list", "-show", "all")
CHECK = " ".join(("leak-check", *WHOLE))
CALLS, USABLE = 101, 2056
#: In which direction verdicts may be wrong.
SEEM_LOST = "seem lost"
MAY_BE_MISSING = "lost blocks may be missing"

_ENV = Path("/usr/bin/env")


@dataclass(frozen=True)
class Stranger:
    """A way to have the sample without glibc's malloc."""

    #: As notes name the allocator.
    name: str
    #: A library that takes malloc's place.
    library: str = ""
    #: musl's compiler, with what it is to be told.
    flags: Optional[tuple[str, ...]] = None

    @property
    def title(self) -> str:
        return " ".join((self.name, *(self.flags or ())))


STRANGERS = [
    Stranger("jemalloc", "libjemalloc.so.2"),
    Stranger("tcmalloc", "libtcmalloc_minimal.so.4"),
    Stranger("mimalloc", "libmimalloc.so.2"),
    Stranger("musl", flags=()),
    Stranger("musl", flags=("-static",)),
]


def library(name: str) -> Optional[str]:
    """Return the path of the library NAME, None where the loader has none of it."""
    told = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False)
    found = [line.split(" => ")[1] for line in told.stdout.splitlines() if f"\t{name} " in line]
    return found[0] if found else None


@contextmanager
def at_last_wait(path: Path, folder: Path, *words: str) -> Iterator[Program]:
    """Have the sample in PATH wait after its last call, started with WORDS before it."""
    program = Program(_ENV, *words, str(path), cwd=folder)
    try:
        program.wait_for("called 1 times")
        program.press_key()
        program.wait_for(f"called {CALLS} times")
        yield program
    finally:
        program.end()


@pytest.fixture(scope="module", params=STRANGERS, ids=lambda stranger: stranger.title)
def stranger(
    request: pytest.FixtureRequest,
    programs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Stranger, Program, Path]]:
    """Have the sample run with another allocator, and a core of it."""
    case: Stranger = request.param
    folder = tmp_path_factory.mktemp("stranger")
    words, path = [], programs["sample"]
    if case.flags is None:
        found = library(case.library)
        if found is None:
            pytest.skip(f"{case.library} is not installed")
        words = [f"LD_PRELOAD={found}"]
    else:
        if not shutil.which("musl-gcc"):
            pytest.skip("musl-gcc is not installed")
        path = folder / "sample"
        source = ROOT / "tests" / "fixtures" / "sample.c"
        subprocess.run(["musl-gcc", "-g", *case.flags, "-o", path, source], check=True)
    with at_last_wait(path, folder, *words) as live:
        yield case, live, cores.gcore(live.pid, folder / "taken")


def no_verdict(answer: dict[str, Any], *reasons: str) -> None:
    """Check that ANSWER judges no block, and that its first note gives the REASONS."""
    assert all(count == {"blocks": None, "bytes": None} for count in answer["summary"].values()), (
        answer["summary"]
    )
    assert {"definitely_lost", "still_reachable", "suppressed"} <= set(answer["summary"])
    assert answer["records"] == answer["blocks"] == []
    first = answer["notes"][0]
    assert first.startswith("no verdict"), answer["notes"]
    for reason in reasons:
        assert reason in first


class TestOtherAllocators:
    """Blocks that glibc's malloc did not give out are not judged."""

    def test_there_is_no_verdict_and_the_allocator_is_named(
        self, stranger: tuple[Stranger, Program, Path]
    ) -> None:
        case, live, core = stranger
        no_verdict(shell("check", live.pid, *WHOLE).json(), case.name)
        no_verdict(shell("check", core, *WHOLE).json(), case.name)
        no_verdict(gdb(CHECK, pid=live.pid).json(), case.name)
        no_verdict(gdb(CHECK, core=core).json(), case.name)

    def test_nothing_is_taken_for_no_leak(self, stranger: tuple[Stranger, Program, Path]) -> None:
        case, _, core = stranger
        answer = shell("check", core)
        assert "no verdict" in answer.stdout
        assert "definitely lost:" not in answer.stdout
        assert case.name in answer.stdout + answer.stderr
        assert shell("check", core, "-json").json()["blocks"] == []

    def test_other_commands_refuse_or_leave_it_out(
        self, stranger: tuple[Stranger, Program, Path]
    ) -> None:
        _, live, core = stranger
        found = shell("find", core, "leaked memory", "-verdict", "-json").json()
        assert found["count"] >= CALLS
        assert {match["verdict"] for match in found["matches"]} == {None}
        address = found["matches"][0]["address"]
        assert shell("refs", core, address).status == REFUSED
        whatis = shell("whatis", core, address, "-json").json()
        assert whatis["verdict"] is whatis["references"] is None
        lost = shell("blocks", live.pid, "-state", "lost", "-json")
        assert lost.status == REFUSED or lost.json()["groups"] == []


@pytest.mark.parametrize("flag", ["-static", "-static-pie"])
def test_a_static_program_is_judged(tmp_path: Path, flag: str) -> None:
    if not glibc.compiles(flag):
        pytest.skip(f"gcc cannot link with {flag} here")
    path = compile_fixture("sample", tmp_path / "sample", flag)
    with at_last_wait(path, tmp_path) as live:
        core = cores.gcore(live.pid, tmp_path / "taken")
        for target in (live.pid, core):
            said = shell("check", target, *WHOLE).json()
            assert not [note for note in said["notes"] if "verdict" in note]
            alike = [block for block in said["blocks"] if block["size"] == USABLE]
            seem_held = [one["address"] for one in alike if one["verdict"] != "definitely_lost"]
            assert len(alike) == CALLS
            # Linkers leave out of a -static program what unwinding starts with: a word of a
            # frame that nobody reads may hold a block there, and nothing else does.
            assert len(seem_held) <= (flag == "-static")
            for address in seem_held:
                (reference,) = shell("refs", target, address, "-json").json()["references"]
                assert reference["owner"]["kind"] == "frame"


def test_a_program_that_took_no_block_yet_has_no_verdict(programs: dict[str, Path]) -> None:
    no_verdict(gdb("break main", "run", CHECK, program=programs["sample"]).json(), "no heap")


def verdicts(answer: dict[str, Any]) -> dict[int, str]:
    """Return the verdict of each block, by address."""
    return {int(block["address"], 16): block["verdict"] for block in answer["blocks"]}


def edited(core: Path, out: Path, address: int) -> Path:
    """Return OUT, CORE without the bytes of the segment that ADDRESS lies in."""
    data = bytearray(core.read_bytes())
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for at in range(table, table + size * count, size):
        kind, _, _, start, _, _, length = struct.unpack_from("<IIQQQQQ", data, at)
        if kind == 1 and start <= address < start + length:
            struct.pack_into("<Q", data, at + 32, 0)
    out.write_bytes(data)
    return out


class TestMissingMemory:
    """A core without all writable memory: the first note says so, and that more seems lost."""

    def said(self, answer: dict[str, Any], least: int) -> dict[int, str]:
        first = answer["notes"][0]
        assert SEEM_LOST in first, answer["notes"]
        assert any(int(word) >= least for word in first.split() if word.isdigit()), first
        return verdicts(answer)

    @pytest.mark.parametrize(
        ("place", "blocks"),
        [("page", ["mapped"]), ("data", ["symbol", "start", "middle", "short", "end", "inside"])],
    )
    def test_a_segment_without_bytes(
        self, owners: Owners, tmp_path: Path, place: str, blocks: list[str]
    ) -> None:
        (table,) = re.findall(r"= (0x[0-9a-f]+)", owners.gdb("core", "p/x (long)&table").stdout)
        address = owners.at("page") if place == "page" else int(table, 16)
        core = edited(owners.core, tmp_path / "core", address)
        whole = verdicts(shell("check", owners.core, *WHOLE).json())
        said = self.said(shell("check", core, *WHOLE).json(), 4096)
        changed = {at for at in whole if said.get(at) != whole[at]}
        assert {owners.at(name) for name in blocks} <= changed
        assert all(said[at] in ("definitely_lost", "indirectly_lost") for at in changed)

    # A core by gcore shows nothing of such memory: docs/limits.md.
    def test_a_table_that_is_not_to_be_dumped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PAGE_NOT_DUMPED", "1")
        with owners_at_rest(tmp_path) as own, cores.plain_core_pattern():
            whole = verdicts(shell("check", own.live.pid, *WHOLE).json())
            own.core.unlink()
            core = cores.kernel_core(own.live)
            answer = shell("check", core, *WHOLE).json()
        said = self.said(answer, 4096)
        assert said.pop(own.at("mapped")) == "definitely_lost"
        assert whole.pop(own.at("mapped")) == "still_reachable"
        assert said == whole

    def test_a_core_without_private_memory_has_no_verdict(self, tmp_path: Path) -> None:
        with owners_at_rest(tmp_path) as own, cores.plain_core_pattern():
            Path(f"/proc/{own.live.pid}/coredump_filter").write_text("0")
            own.core.unlink()
            core = cores.kernel_core(own.live)
        answer = shell("check", core, *WHOLE).json()
        no_verdict(answer)
        assert answer["target"]["complete"] is False

    def test_a_cut_core_says_so_or_has_no_verdict(self, owners: Owners, tmp_path: Path) -> None:
        data = owners.core.read_bytes()
        whole = verdicts(shell("check", owners.core, *WHOLE).json())
        core = tmp_path / "core"
        saved = [
            (offset, size) for _, _, size, offset, how in cores.loads(owners.core) if "w" in how
        ]
        for offset, size in saved[:: max(1, len(saved) // 8)]:
            core.write_bytes(data[: offset + size // 2])
            answer = shell("check", core, *WHOLE)
            if answer.status != 0:
                assert "core" in answer.error
            elif answer.json()["blocks"]:
                said = self.said(answer.json(), 1)
                # Whatever is judged in another way seems lost; none seems held that is not.
                held = [at for at in said if said[at] == "still_reachable" != whole.get(at)]
                assert not held, [hex(at) for at in held]
            else:
                no_verdict(answer.json())


def without_registers(core: Path, out: Path, which: slice) -> Path:
    """Return OUT, CORE without the registers of those of its threads that WHICH takes."""
    data = bytearray(core.read_bytes())
    (table,) = struct.unpack_from("<Q", data, 32)
    kind, _, offset, _, _, size, *_ = struct.unpack_from("<IIQQQQQ", data, table)
    assert kind == 4  # PT_NOTE
    found = []
    at = offset
    while at < offset + size:
        name, length, note = struct.unpack_from("<III", data, at)
        if note == 1:  # NT_PRSTATUS
            found.append(at)
        at += 12 + (name + 3) // 4 * 4 + (length + 3) // 4 * 4
    for at in found[which]:
        struct.pack_into("<I", data, at + 8, 0x7FFF)
    out.write_bytes(data)
    return out


class TestWithoutRegisters:
    """Pointers may be in registers: without these there is no verdict."""

    def test_a_core_without_any(self, owners: Owners, tmp_path: Path) -> None:
        core = without_registers(owners.core, tmp_path / "core", slice(None))
        no_verdict(shell("check", core, *WHOLE).json(), "registers")
        answer = shell("blocks", core, "-state", "lost")
        assert answer.status == REFUSED
        assert "registers" in answer.error
        found = shell("find", core, "red", "-verdict", "-json").json()
        assert {match["verdict"] for match in found["matches"]} == {None}
        # Who points at a block can be told, and what that makes of it cannot.
        refs = shell("refs", core, hex(owners.at("symbol")), "-json").json()
        assert refs["verdict"] is None
        assert refs["references"][0]["owner"]["name"] == "table"
        assert any(note.startswith("no verdict") for note in refs["notes"])

    def test_a_core_without_those_of_one_thread_says_what_may_be_wrong(
        self, owners: Owners, tmp_path: Path
    ) -> None:
        core = without_registers(owners.core, tmp_path / "core", slice(1, None))
        answer = shell("check", core, *WHOLE).json()
        said, whole = verdicts(answer), verdicts(shell("check", owners.core, *WHOLE).json())
        wrong = {at for at in whole if said.get(at) != whole[at]}
        assert wrong <= {owners.at("register")}
        if said and wrong:
            assert "thread" in answer["notes"][0], answer["notes"]
            assert SEEM_LOST in answer["notes"][0]

    @pytest.mark.parametrize("form", ["maps", "snapshot"])
    def test_what_lists_regions_only_is_refused(
        self, sample: Any, tmp_path: Path, form: str
    ) -> None:
        file = sample.maps_after
        if form == "snapshot":
            file = tmp_path / "taken"
            assert shell("snapshot", sample.after, file).status == 0
        for words in (("check",), ("refs", "0x1000"), ("blocks", "-state", "lost")):
            command, *rest = words
            answer = shell(command, file, *rest)
            assert answer.status == REFUSED
            assert "holds no byte" in answer.error

    def test_threads_that_run_in_a_gdb_that_does_not_stop_all(self, tmp_path: Path) -> None:
        with owners_at_rest(tmp_path) as own:
            answer = gdb(
                "set non-stop on",
                f"attach {own.live.pid}",
                "thread 2",
                "continue &",
                CHECK,
                "thread 1",
                "continue &",
                CHECK,
                "interrupt -a",
                "detach",
                program=own.live.path,
            )
        said = [line for line in answer.stderr.splitlines() if line.startswith("leak-check")]
        # One line for each, and no answer that torn reads could make wrong.
        assert len(said) == 2
        assert all("threads are running" in line for line in said)
        assert answer.all_json() == []


def test_gdbserver_gives_the_answers_of_the_process(owners: Owners) -> None:
    lines = (
        CHECK,
        *(f"leak-refs -json -path {owners.at(name):#x}" for name in ("end", "frame", "register")),
        f"leak-refs -json {owners.at('tls'):#x}",
    )
    live = owners.gdb("live", *lines).all_json()
    server = f"target remote | gdbserver --attach - {owners.live.pid}"
    remote = gdb(server, *lines, "detach", program=owners.live.path).all_json()
    assert {answer["target"]["kind"] for answer in remote} == {"remote"}
    for one, other in zip(live, remote):
        for answer in (one, other):
            answer.pop("target")
            answer.pop("notes")
            # What of a remote process is resident is not known.
            answer.pop("coverage", None)
        assert one == other


#: What stands in a broken header, made of its size and flags.
DAMAGE: dict[str, Callable[[int], int]] = {
    "size0": lambda _: 0,
    "past": lambda size: size & 7 | 0x7FFF0000,
    "misaligned": lambda size: size | 8,
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owners]:
    """Have a program whose headers are broken, and mended again."""
    with owners_at_rest(tmp_path_factory.mktemp("damaged")) as made:
        yield made


class TestDamagedHeap:
    """Blocks beside the damage are judged as before; what damaged ones held counts as held."""

    def damaged(self, own: Owners, name: str, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what is said before, and with the header of the block NAME broken."""
        header = own.at(name) - 8
        with Path(f"/proc/{own.live.pid}/mem").open("rb") as memory:
            memory.seek(header)
            (size,) = struct.unpack("<Q", memory.read(8))
        before, after = gdb(
            CHECK,
            f"set var *(unsigned long *){header:#x} = {DAMAGE[kind](size):#x}",
            CHECK,
            f"set var *(unsigned long *){header:#x} = {size:#x}",
            pid=own.live.pid,
        ).all_json()
        return before, after

    @pytest.mark.parametrize("kind", DAMAGE)
    @pytest.mark.parametrize(
        ("name", "held"),
        [
            ("middle", ()),
            ("escape", ()),
            ("leader", ("first", "second", "third")),
            ("second", ("third",)),
        ],
    )
    def test_every_other_block_keeps_its_verdict_or_is_held_by_what_is_damaged(
        self, own: Owners, kind: str, name: str, held: tuple[str, ...]
    ) -> None:
        before, after = self.damaged(own, name, kind)
        assert before["notes"] == []
        first = after["notes"][0]
        assert "damaged" in first, after["notes"]
        assert MAY_BE_MISSING in first
        true, said = verdicts(before), verdicts(after)
        said.pop(own.at(name), None)
        true.pop(own.at(name))
        wanted = {**true, **{own.at(led): "still_reachable" for led in held}}
        wrong = [
            f"{address:#x}: {verdict}, said to be {said.get(address, 'no block')}"
            for address, verdict in wanted.items()
            if said.get(address) != verdict
        ]
        assert not wrong, wrong
        assert set(said) == set(wanted)

    def test_no_command_says_twice_what_is_damaged(self, own: Owners) -> None:
        header, whole = own.at("middle") - 8, own.at("leader")
        word = f"*(unsigned long *){header:#x}"
        answers = gdb(
            f"set $size = {word}",
            f"set var {word} = 0",
            "leak-blocks -state lost -json",
            f"set var {word} = 0",
            f"leak-whatis {whole:#x} -json",
            f"set var {word} = 0",
            f"leak-refs {whole:#x} -json",
            f"set var {word} = 0",
            f"leak-find -pointer {whole:#x} -verdict -json",
            f"set var {word} = $size",
            pid=own.live.pid,
        ).all_json()
        assert len(answers) == 4
        for answer in answers:
            notes = answer["notes"]
            assert any("the heap is damaged" in note for note in notes), answer["command"]
            assert len(set(notes)) == len(notes), (answer["command"], notes)
