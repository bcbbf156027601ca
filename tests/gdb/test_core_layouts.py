"""Cores with unusual segment tables and notes, held against gdb; dumps that are of no process."""

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gdb_leak import _native
from harness import cores
from harness.debuggers import gdb, shell
from harness.mangler import LOAD, NOTE, PAGE, VARIANTS, Core, Segment
from harness.processes import Program

#: What a page of a segment without saved bytes is for gdb.
ZEROS = hashlib.sha256(bytes(PAGE)).hexdigest()
#: Blocks of the program: those that nothing holds, and those that something does.
LOST, HELD = 40, 11
SIZE = 1000

_DIGESTS = """
import gdb, hashlib, json
inferior = gdb.selected_inferior()
found = {}
for page in json.load(open("pages.json")):
    try:
        found[page] = hashlib.sha256(bytes(inferior.read_memory(page, 4096))).hexdigest()
    except gdb.MemoryError:
        found[page] = None
json.dump(found, open("digests.json", "w"))
"""


@pytest.fixture(scope="module")
def saved(
    programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Core]]:
    """Return the program and a core of it by the kernel."""
    folder = tmp_path_factory.mktemp("layout")
    program = Program(programs["layout"], cwd=folder)
    try:
        program.wait_for("READY")
        with cores.plain_core_pattern():
            yield program.path, Core.read(cores.kernel_core(program))
    finally:
        program.end()


def _saved_pages(core: Core) -> list[int]:
    loads = [one for one in core.segments if one.kind == LOAD and one.address < 1 << 63]
    return [one.address + at for one in loads for at in range(0, len(one.data), PAGE)]


def _digests_by_gdb(program: Path, core: Path, pages: list[int]) -> dict[int, str]:
    (core.parent / "pages.json").write_text(json.dumps(pages))
    script = core.parent / "digests.py"
    script.write_text(_DIGESTS)
    gdb(f"source {script}", program=program, core=core, cwd=core.parent)
    found = json.loads((core.parent / "digests.json").read_text())
    return {int(page): digest for page, digest in found.items()}


def _digests(core: Path, pages: list[int]) -> dict[int, str]:
    memory = _native.open_file(str(core))
    return {page: hashlib.sha256(memory.read(page, PAGE)).hexdigest() for page in pages}


def _verdicts(answer: dict[str, Any]) -> Counter[str]:
    return Counter(block["verdict"] for block in answer["blocks"] if block["size"] == SIZE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_unusual_core_has_the_bytes_that_gdb_reads_and_the_same_verdicts(
    saved: tuple[Path, Core], variant: str, tmp_path: Path
) -> None:
    program, core = saved
    path = VARIANTS[variant](core).write(tmp_path / "core")
    pages = _saved_pages(core)
    by_gdb = _digests_by_gdb(program, path, pages)
    assert _digests(path, pages) == by_gdb
    assert sum(digest != ZEROS for digest in by_gdb.values()) > 40
    answer = shell("check", path, "-list", "-json").json()
    assert _verdicts(answer) == {"definitely_lost": LOST, "still_reachable": HELD}
    found = shell("find", path, "-json", "-in", "heap", "LAYOUT-").json()
    assert found["count"] == LOST + HELD - 1


def test_a_heap_all_of_which_was_made_inaccessible_is_read(
    saved: tuple[Path, Core], tmp_path: Path
) -> None:
    whole = VARIANTS["as it is"](saved[1]).write(tmp_path / "whole")
    regions = shell("regions", whole, "-json").json()["regions"]
    heaps = {
        int(region["start"], 16)
        for region in regions
        if region["kind"] in ("heap", "arena", "anon") and region["permissions"] == "rw-"
    }
    path = (
        saved[1]
        .each(lambda one: [replace(one, flags=0)] if one.address in heaps else [one])
        .write(tmp_path / "core")
    )
    hidden = shell("regions", path, "-json").json()
    assert sum(region["permissions"] == "---" for region in hidden["regions"]) > len(heaps)
    found, before = (shell("check", file, "-list", "-json").json() for file in (path, whole))
    assert _verdicts(found) == {"definitely_lost": LOST, "still_reachable": HELD}
    assert found["judged"] == "all"
    # What the arena keeps in reserve was never written.
    assert found["coverage"] == before["coverage"]


def test_a_check_says_that_blocks_with_mappings_of_their_own_are_missing(
    saved: tuple[Path, Core], tmp_path: Path
) -> None:
    whole = VARIANTS["as it is"](saved[1]).write(tmp_path / "whole")
    listed = shell("blocks", whole, "-list", "-limit", "unlimited", "-json").json()["blocks"]
    mapped = [int(block["address"], 16) for block in listed if block["arena"] is None]
    assert len(mapped) == 2
    # Two at once: malloc's counts tell where one is.
    path = (
        saved[1]
        .each(lambda one: [replace(one, data=b"")] if _holds(one, mapped) else [one])
        .write(tmp_path / "core")
    )
    told = "blocks with mappings of their own may be missing from the answer"
    for target, count in ((whole, 0), (path, 1)):
        notes = shell("check", target, "-json").json()["notes"]
        assert [told in note for note in notes].count(True) == count, notes
    assert told in gdb("leak-check", core=path).stdout


def _holds(segment: Segment, addresses: list[int]) -> bool:
    end = segment.address + segment.size
    return segment.kind == LOAD and any(segment.address <= at < end for at in addresses)


def test_permissions_that_no_segment_has_are_those_of_the_modules_headers(
    saved: tuple[Path, Core], tmp_path: Path
) -> None:
    told = []
    for name in ("as it is", "no flags"):
        path = VARIANTS[name](saved[1]).write(tmp_path / f"core.{len(told)}")
        answer = shell("regions", path, "-json").json()
        files = {
            region["start"]: region["permissions"]
            for region in answer["regions"]
            if region["name"].startswith("/")
        }
        told.append(files)
    assert told[0] == told[1]
    (note,) = (note for note in answer["notes"] if "flagged writable" in note)
    assert note.startswith("no segment of the core is flagged writable")


@pytest.mark.parametrize(
    ("variant", "told"),
    [
        ("stale copies behind", "overlap others that come before them in the file"),
        ("overlapping by a page", "overlap others that come before them in the file"),
        ("twice", "overlap others that come before them in the file"),
        ("a segment of 2^63 bytes", "size 0x8000000000000000 is larger than any address space"),
        ("a segment that wraps", "size 0x20000 leads beyond the end of the address space"),
    ],
)
def test_what_is_dropped_of_a_core_makes_it_incomplete_and_a_note_says_what(
    saved: tuple[Path, Core], variant: str, told: str, tmp_path: Path
) -> None:
    path = VARIANTS[variant](saved[1]).write(tmp_path / "core")
    answer = shell("regions", path, "-json").json()
    assert answer["target"]["complete"] is False
    assert [told in note for note in answer["notes"]].count(True) == 1


@pytest.mark.parametrize("variant", ["as it is", "backwards", "a reservation before each"])
def test_a_core_of_which_nothing_is_dropped_is_complete(
    saved: tuple[Path, Core], variant: str, tmp_path: Path
) -> None:
    path = VARIANTS[variant](saved[1]).write(tmp_path / "core")
    assert shell("regions", path, "-json").json()["target"]["complete"] is True


@pytest.mark.parametrize(
    ("variant", "told"),
    [
        ("NT_FILE with pages of 0", "page size 0x0 is not a power of two"),
        ("NT_FILE with pages of 2^62", "page size 0x4000000000000000 is not a power of two"),
        ("NT_FILE with too large a count", "needs as many terminated names"),
        ("NT_FILE with names cut", "needs as many terminated names, and there are 0"),
    ],
)
def test_a_malformed_nt_file_is_reported_with_its_place(
    saved: tuple[Path, Core], variant: str, told: str, tmp_path: Path
) -> None:
    path = VARIANTS[variant](saved[1]).write(tmp_path / "core")
    notes = shell("regions", path, "-json").json()["notes"]
    (note,) = (note for note in notes if note.startswith("NT_FILE at 0x"))
    assert told in note


def test_without_nt_file_regions_have_the_names_that_the_loader_knows(
    saved: tuple[Path, Core], tmp_path: Path
) -> None:
    program, core = saved
    path = VARIANTS["no NT_FILE"](core).write(tmp_path / "core")
    answer = shell("regions", path, "-json").json()
    data = {region["name"] for region in answer["regions"] if region["kind"] == "data"}
    assert str(program) in data
    assert any("libc" in name for name in data)
    relocated = shell("check", path, "-json").json()["roots"]["relro"]
    assert relocated["pointers"] == 1


def test_memory_that_was_made_inaccessible_after_it_was_written_is_searched(
    programs: dict[str, Path], saved: tuple[Path, Core], tmp_path: Path
) -> None:
    path = VARIANTS["as it is"](saved[1]).write(tmp_path / "core")
    regions = shell("regions", path, "-json", "-in", "writable").json()["regions"]
    (hidden,) = (region for region in regions if region["permissions"] == "---")
    assert hidden["saved"] == hidden["size"] == PAGE
    searched = shell("find", path, "-json", "nothing like this").json()["searched"]
    assert searched == sum(region["saved"] for region in regions)


def test_memory_that_was_made_inaccessible_counts_in_coverage_as_in_the_total(
    saved: tuple[Path, Core], tmp_path: Path
) -> None:
    path = VARIANTS["as it is"](saved[1]).write(tmp_path / "core")
    answer = shell("heap", path, "-json").json()
    assert answer["coverage"]["writable"] == answer["total"]["writable"]


def test_a_note_that_leads_beyond_the_end_is_reported_with_its_place(
    saved: tuple[Path, Core], tmp_path: Path
) -> None:
    def cut(segment: Segment) -> Segment:
        if segment.kind != NOTE:
            return segment
        broken = b"\x05\0\0\0\xff\xff\0\0\x01\0\0\0CORE\0\0\0\0"
        return Segment(NOTE, 0, 0, 0, segment.data + broken)

    core = saved[1]
    changed = Core(core.header, tuple(map(cut, core.segments)))
    answer = shell("regions", changed.write(tmp_path / "core"), "-json").json()
    (note,) = (note for note in answer["notes"] if note.startswith("note at 0x"))
    assert "lengths 5 and 65535 lead beyond the end of the notes" in note
    assert len(answer["regions"]) > 10


class TestDumpsOfNoProcess:
    """Each is named in one line, and nothing is made up of it."""

    @pytest.mark.parametrize(
        ("owner", "named"),
        [
            ("QEMU", "is a dump of a QEMU guest's memory"),
            ("VMCOREINFO", "is a dump of a kernel (vmcore)"),
            ("Xen", "is a dump of a Xen domain's memory"),
        ],
    )
    def test_notes_name_a_machine_s_memory(
        self, saved: tuple[Path, Core], owner: str, named: str, tmp_path: Path
    ) -> None:
        from harness.mangler import Note

        core = saved[1].notes(lambda notes: [Note(owner.encode() + b"\0", 0, b"x" * 64), *notes])
        error = shell("check", core.write(tmp_path / "core")).error
        assert named in error
        assert "not a core of a process" in error

    def test_segments_at_physical_addresses_alone_do_too(
        self, saved: tuple[Path, Core], tmp_path: Path
    ) -> None:
        def moved(loaded: list[Segment]) -> list[Segment]:
            return [
                Segment(LOAD, 6, 0, len(one.data), one.data, physical=one.address & 0xFFFFFFFF)
                for one in loaded
                if one.data
            ]

        error = shell("check", saved[1].loads(moved).write(tmp_path / "core")).error
        assert "is a dump of physical memory" in error

    @pytest.mark.parametrize(
        ("start", "named"),
        [
            (b"KDUMP   ", "is a dump of a kernel (kdump"),
            (b"DISKDUMP", "is a dump of a kernel (diskdump"),
            (b"MDMP", "is a minidump"),
            (b"PAGEDU64", "is a dump of a Windows kernel"),
            (b"EMiL", "is a dump of physical memory (LiME)"),
        ],
    )
    def test_the_first_bytes_name_other_formats(
        self, start: bytes, named: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "dump"
        path.write_bytes(start + bytes(4096))
        error = shell("find", path, "x").error
        assert named in error
        assert error.endswith("not a core of a process")


def test_headers_of_no_memory_that_lead_beyond_the_end_lose_nothing(
    sample: Any, tmp_path: Path
) -> None:
    data = bytearray(sample.after.read_bytes())
    (table,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    # The last header is made one of another type than a segment's, whose bytes lead anywhere.
    struct.pack_into("<I4xQ", data, table + 56 * (count - 1), 0x6474E551, 15 << 60)
    core = tmp_path / "core"
    core.write_bytes(data)
    notes = shell("regions", core, "-json").json()["notes"]
    assert not any("cut short at" in note for note in notes)
    (note,) = [note for note in notes if "beyond the end" in note]
    assert note.startswith("1 program header of the core leads beyond the end of the file, none of")
