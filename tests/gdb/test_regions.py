"""The address space from a process and from cores, against /proc/PID/maps at the same stop."""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import cores, truth
from harness.debuggers import gdb, shell
from harness.processes import Program

Region = tuple[int, int, str]

#: What gcore leaves out: the kernel's own data, which /proc/PID/smaps marks as
#: I/O memory.
GCORE_LEAVES_OUT = ("[vvar]", "[vvar_vclock]")


@dataclass
class Stop:
    """One stop of the program with threads, as every form answers for it."""

    maps: list[truth.Mapping]
    places: dict[str, tuple[int, int]]
    answers: dict[str, dict[str, Any]]

    def true(self) -> list[Region]:
        return [(mapping.start, mapping.end, mapping.permissions) for mapping in self.maps]

    def regions(self, form: str) -> list[Region]:
        return [
            (int(region["start"], 16), int(region["end"], 16), region["permissions"])
            for region in self.answers[form]["regions"]
        ]

    def kinds(self, form: str) -> Counter[str]:
        return Counter(region["kind"] for region in self.answers[form]["regions"])

    def region_of(self, form: str, place: str) -> dict[str, Any]:
        address = self.places[place][0]
        (found,) = (
            region
            for region in self.answers[form]["regions"]
            if int(region["start"], 16) <= address < int(region["end"], 16)
        )
        return found


@pytest.fixture(scope="module")
def stop(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Stop:
    folder = tmp_path_factory.mktemp("threads")
    program = Program(programs["threads"], cwd=folder)
    try:
        program.wait_for("READY")
        maps = truth.maps(program.pid)
        command = "leak-regions -json"
        answers = {"live": gdb(command, pid=program.pid).json()}
        answers["shell"] = shell("regions", program.pid, "-json").json()
        answers["gdbserver"] = gdb(
            "set sysroot /",
            f"target remote | gdbserver --once - --attach {program.pid}",
            command,
            "detach",
            program=program.path,
        ).json()
        saved = cores.gcore(program.pid, folder / "saved")
        answers["gcore"] = gdb(command, program=program.path, core=saved).json()
        with cores.plain_core_pattern():
            core = cores.kernel_core(program)
        answers["kernel core"] = gdb(command, program=program.path, core=core).json()
    finally:
        program.end()
    return Stop(maps, program.places, answers)


FORMS = ("live", "shell", "gdbserver", "gcore", "kernel core")
CORES = ("gcore", "kernel core")


@pytest.mark.parametrize("form", ["live", "shell", "gdbserver"])
def test_a_process_has_the_regions_of_its_maps(stop: Stop, form: str) -> None:
    assert stop.regions(form) == stop.true()


def test_a_kernel_core_has_the_regions_of_the_maps_without_exception(stop: Stop) -> None:
    assert stop.regions("kernel core") == stop.true()
    assert stop.answers["kernel core"]["target"]["complete"] is True


def test_gcore_has_the_ranges_of_the_maps_but_for_the_kernels_own(stop: Stop) -> None:
    spans = [mapping.span for mapping in stop.maps if mapping.name not in GCORE_LEAVES_OUT]
    found = [(start, end) for start, end, _ in stop.regions("gcore")]
    assert sorted(set(spans) - set(found)) == []
    assert sorted(set(found) - set(spans)) == []


def test_gcore_has_the_permissions_of_the_maps_or_a_note_says_which_differ(stop: Stop) -> None:
    true = {mapping.span: mapping.permissions for mapping in stop.maps}
    differing = {
        (hex(start), hex(end)): (permissions, true[start, end])
        for start, end, permissions in stop.regions("gcore")
        if (start, end) in true and true[start, end] != permissions
    }
    # gcore writes a mapping without permissions as a readable segment, and
    # that of `none` holds nothing that shows it.
    assert set(differing.values()) <= {("r--", "---")}
    if differing:
        notes = " ".join(stop.answers["gcore"]["notes"])
        assert "PROT_NONE" in notes or "---" in notes


@pytest.mark.parametrize("form", FORMS)
def test_the_reserve_of_an_arena_has_no_permissions(stop: Stop, form: str) -> None:
    for number in range(3):
        arena = stop.region_of(form, f"arena{number}")
        end = int(arena["end"], 16)
        (behind,) = (permissions for start, _, permissions in stop.regions(form) if start == end)
        assert behind == "---"


@pytest.mark.parametrize("form", FORMS)
def test_the_guard_of_a_threads_stack_has_no_permissions(stop: Stop, form: str) -> None:
    for number in range(3):
        start = int(stop.region_of(form, f"stack{number}")["start"], 16)
        (below,) = (permissions for _, end, permissions in stop.regions(form) if end == start)
        assert below == "---"


@pytest.mark.parametrize("form", FORMS)
def test_every_thread_has_a_stack_and_an_arena(stop: Stop, form: str) -> None:
    for number in range(3):
        assert stop.region_of(form, f"stack{number}")["kind"] == "thread-stack"
        assert stop.region_of(form, f"arena{number}")["kind"] == "arena"
    # Each with its guard.
    assert stop.kinds(form)["thread-stack"] == 2 * 3


@pytest.mark.parametrize("form", FORMS)
def test_heap_stack_and_vdso_are_each_there_once(stop: Stop, form: str) -> None:
    kinds = stop.kinds(form)
    assert (kinds["heap"], kinds["stack"], kinds["vdso"]) == (1, 1, 1)


@pytest.mark.parametrize("form", FORMS)
def test_the_heap_and_the_stack_are_where_the_maps_say(stop: Stop, form: str) -> None:
    for kind, name in (("heap", "[heap]"), ("stack", "[stack]"), ("vdso", "[vdso]")):
        (true,) = (mapping.span for mapping in stop.maps if mapping.name == name)
        (found,) = (
            (int(region["start"], 16), int(region["end"], 16))
            for region in stop.answers[form]["regions"]
            if region["kind"] == kind
        )
        assert found == true


@pytest.mark.parametrize("form", FORMS)
def test_the_writable_parts_of_modules_are_data(stop: Stop, form: str) -> None:
    true = {
        mapping.span
        for mapping in stop.maps
        if mapping.name.startswith("/")
        and "w" in mapping.permissions
        and not mapping.name.endswith("(deleted)")
    }
    data = {
        (int(region["start"], 16), int(region["end"], 16))
        for region in stop.answers[form]["regions"]
        if region["kind"] == "data"
    }
    assert true <= data


@pytest.mark.parametrize("form", FORMS)
def test_mapped_files_have_their_names(stop: Stop, form: str) -> None:
    named = {mapping.span: mapping.name for mapping in stop.maps if mapping.name.startswith("/")}
    found = {
        (int(region["start"], 16), int(region["end"], 16)): region["name"]
        for region in stop.answers[form]["regions"]
    }
    assert {span: found[span] for span in named} == named


@pytest.mark.parametrize("form", FORMS)
def test_the_total_is_the_sum_of_the_regions_that_are_memory(stop: Stop, form: str) -> None:
    answer = stop.answers[form]
    used = [region for region in answer["regions"] if not _reserve(region)]
    assert answer["total"]["size"] == sum(region["size"] for region in used)
    assert answer["total"]["saved"] == sum(region["saved"] for region in answer["regions"])
    reserved = sum(region["size"] for region in answer["regions"]) - answer["total"]["size"]
    assert answer["total"]["reserved"] == reserved >= 3 * (60 << 20)


def _reserve(region: dict[str, Any]) -> bool:
    nothing = region["saved"] == 0 and not region["rss"]
    return region["permissions"] == "---" and nothing


def test_a_process_shows_what_is_resident_and_dirty(stop: Stop) -> None:
    for region in stop.answers["live"]["regions"]:
        assert 0 <= region["dirty"] <= region["rss"] <= region["size"]


@pytest.mark.parametrize("form", CORES)
def test_a_core_shows_what_it_saved(stop: Stop, form: str) -> None:
    for name in ("stack0", "arena1", "readonly"):
        region = stop.region_of(form, name)
        assert region["saved"] == region["size"]
        assert region["rss"] is None


def test_regions_can_be_sorted_by_size(sample: Any) -> None:
    answer = gdb("leak-regions -json -sort size", program=sample.path, core=sample.after).json()
    sizes = [region["size"] for region in answer["regions"]]
    assert sizes == sorted(sizes, reverse=True)


def test_a_place_bounds_the_regions(sample: Any) -> None:
    answer = gdb("leak-regions -json -in heap", program=sample.path, core=sample.after).json()
    (heap,) = answer["regions"]
    assert (int(heap["start"], 16), int(heap["end"], 16)) == sample.heap.span


class TestAMovedProgram:
    """A core whose program is not where it was, or is another build by now."""

    @pytest.fixture
    def core(self, programs: dict[str, Path], tmp_path: Path) -> Path:
        program = Program(shutil.copy(programs["sample"], tmp_path / "moved"), cwd=tmp_path)
        try:
            program.wait_for("waiting")
            core = cores.gcore(program.pid, tmp_path / "core")
            (tmp_path / "maps").write_text(Path(f"/proc/{program.pid}/maps").read_text())
            return core
        finally:
            program.end()

    def text_pages(self, core: Path) -> list[tuple[int, int, str]]:
        return [
            (*mapping.span, mapping.permissions)
            for mapping in truth.parse_maps((core.parent / "maps").read_text())
            if mapping.name.endswith("/moved")
        ]

    def answered(self, core: Path, *words: str) -> tuple[list[Region], str]:
        answer = shell("regions", core, "-json", *words).json()
        wanted = {start for start, *_ in self.text_pages(core)}
        found = [
            (int(region["start"], 16), int(region["end"], 16), region["permissions"])
            for region in answer["regions"]
            if int(region["start"], 16) in wanted
        ]
        return found, " ".join(answer["notes"])

    def test_its_permissions_are_unknown_and_a_note_says_so(self, core: Path) -> None:
        (core.parent / "moved").rename(core.parent / "elsewhere")
        found, notes = self.answered(core)
        assert [span[:2] for span in found] == [span[:2] for span in self.text_pages(core)]
        assert "???" in {permissions for *_, permissions in found}
        assert "moved" in notes

    def test_another_build_is_not_believed(self, core: Path, programs: dict[str, Path]) -> None:
        (core.parent / "moved").unlink()
        shutil.copy(programs["edges"], core.parent / "moved")
        found, notes = self.answered(core)
        assert "???" in {permissions for *_, permissions in found}
        assert "build-id" in notes

    def test_with_exe_it_is_whole_again(self, core: Path) -> None:
        (core.parent / "moved").rename(core.parent / "elsewhere")
        found, notes = self.answered(core, "-exe", str(core.parent / "elsewhere"))
        assert found == self.text_pages(core)
        assert "moved" not in notes

    def test_with_sysroot_it_is_whole_again(self, core: Path, tmp_path: Path) -> None:
        root = tmp_path / "root"
        there = root / str(core.parent / "moved").lstrip("/")
        there.parent.mkdir(parents=True)
        (core.parent / "moved").rename(there)
        found, _ = self.answered(core, "-sysroot", str(root))
        assert found == self.text_pages(core)

    def test_in_gdb_the_program_given_to_gdb_counts(self, core: Path) -> None:
        moved = (core.parent / "moved").rename(core.parent / "elsewhere")
        answer = gdb("leak-regions -json", program=moved, core=core).json()
        wanted = self.text_pages(core)
        found = [
            (int(region["start"], 16), int(region["end"], 16), region["permissions"])
            for region in answer["regions"]
        ]
        assert set(wanted) <= set(found)
