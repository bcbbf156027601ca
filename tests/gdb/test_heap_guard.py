"""A sound heap of which pages have other rights, or are missing: every block is listed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import pytest
from harness import cores, heaps
from harness.debuggers import gdb, shell
from harness.glibc import Glibc
from harness.heap_stops import differences
from harness.processes import Program

WAYS = ("none", "read", "nodump")
PLACES = ("inside", "header", "top")
FORMS = ("shell pid", "attached", "gdbserver", "gcore", "kernel core")
#: One way to read a process is enough for libraries of the matrix, and where pages can be read.
FEW = ("shell pid", "gcore", "kernel core")
LIST = ("-list", "-limit", "unlimited", "-state", "used")

Range = tuple[int, int]


@dataclass
class Guarded:
    """What was answered of the program with its pages changed, in each form."""

    process: Program
    folder: Path
    way: str
    place: str
    #: By form and command.
    said: dict[tuple[str, str], Any] = field(default_factory=dict)
    #: The pages whose bytes the form does not have.
    missing: dict[str, list[Range]] = field(default_factory=dict)

    def ranges(self, name: str) -> list[Range]:
        """Return start and end of all that was printed as NAME."""
        lines = [line.split() for line in self.process.lines]
        found = [line for line in lines if line[0] == name and len(line) == 3]
        return [(int(at, 16), int(at, 16) + int(size)) for _, at, size in found]

    def held(self) -> dict[int, int]:
        """Return the usable size of each block that the program holds, by address."""
        return {block.address: block.usable for block in heaps.held(self.folder)}

    def used(self, form: str) -> dict[int, int]:
        """Return the usable size of each block in use, by address, as FORM says."""
        listed = self.said[form, "blocks"]["blocks"]
        return {int(block["address"], 16): block["size"] for block in listed}

    def ask(self, form: str, path: Path, core: Path) -> None:
        """Ask what tests compare, in FORM."""
        commands = [("heap", ()), ("blocks", LIST)]
        if self.place == "header":
            commands.append(("check", ()))
        for command, words in commands:
            line = " ".join([f"leak-{command}", *words, "-json"])
            pid = self.process.pid
            if form == "attached":
                answer = gdb(line, pid=pid)
            elif form == "gdbserver":
                server = f"target remote | gdbserver --once --attach - {pid}"
                answer = gdb(server, line, "detach", program=path)
            else:
                target = pid if form == "shell pid" else core
                answer = shell(command, target, *words, "-json")
            self.said[form, command] = answer.json()
        saved: list[Range] = []
        if form.endswith("core"):
            saved = [(at, at + there) for at, _, there, _, _ in cores.loads(core) if there]
        self.missing[form] = [
            page
            for page in self.ranges("page")
            if form.endswith("core")
            and not any(start <= page[0] and page[1] <= end for start, end in saved)
        ]


@pytest.fixture(
    scope="module",
    params=[(way, place) for way in WAYS for place in PLACES],
    ids=lambda case: "-".join(case),
)
def guarded(
    request: pytest.FixtureRequest,
    library: Glibc,
    fixture_on: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Guarded:
    way, place = request.param
    path = fixture_on(library, "heap_guard")
    folder = tmp_path_factory.mktemp("guard")
    process = Program(path, way, place, str(folder), cwd=folder)
    made = Guarded(process, folder, way, place)
    try:
        process.wait_for("READY")
        for form in FORMS if library.root is None and way == "none" else FEW:
            if not form.endswith("core"):
                made.ask(form, path, path)
        made.ask("gcore", path, cores.gcore(process.pid, folder / "taken"))
        with cores.plain_core_pattern():
            made.ask("kernel core", path, cores.kernel_core(process))
    finally:
        process.end()
    return made


def forms(guarded: Guarded) -> list[str]:
    """Return the forms in which GUARDED was asked about."""
    return [form for form, command in guarded.said if command == "heap"]


def test_a_sound_heap_has_no_damage_whatever_its_pages_may(guarded: Guarded) -> None:
    for form in forms(guarded):
        said = guarded.said[form, "heap"]
        assert said["damage"] == [], form
        assert all(check["holds"] for check in said["checks"]), (form, said["checks"])


def test_every_block_whose_header_is_there_is_in_use_with_its_size(guarded: Guarded) -> None:
    for form in forms(guarded):
        missing = guarded.missing[form] if guarded.place == "header" else []
        large = guarded.ranges("large")
        hidden = [
            (
                start,
                max([end, *(other[1] for other in large if other[0] - 16 in range(start, end))]),
            )
            for start, end in missing
        ]
        # A header is 16 bytes before its block; a block that reaches into a missing page
        # from before it is known.
        held = {
            at: size
            for at, size in guarded.held().items()
            if not any(start <= at - 16 < end for start, end in hidden)
        }
        assert len(held) > len(guarded.held()) * 0.8
        assert not differences(held, guarded.used(form)), form


def test_a_mapped_block_without_its_header_is_rebuilt_from_what_malloc_counts(
    guarded: Guarded,
) -> None:
    if guarded.place != "header":
        pytest.skip("its header is there")
    at, end = guarded.ranges("large")[9]
    for form in forms(guarded):
        assert guarded.used(form).get(at) == end - at, form


def test_memory_that_is_not_judged_is_noted(guarded: Guarded) -> None:
    if guarded.place != "header":
        pytest.skip("all headers are there")
    for form in forms(guarded):
        notes = guarded.said[form, "check"]["notes"]
        told = [note for note in notes if "headers of chunks cannot be read" in note]
        heaps_only = guarded.ranges("page")[:-1]
        assert bool(told) == any(page in guarded.missing[form] for page in heaps_only), form
        assert not any("damaged" in note for note in notes), form
