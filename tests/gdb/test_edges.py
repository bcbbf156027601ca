"""Texts in the places where a search goes wrong, in every form of one stop."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import cores, truth
from harness.debuggers import Answer, gdb
from harness.processes import Program

TEXTS = {
    "end": "<in the last bytes>",
    "hole": "<before the hole>",
    "page": "<across two pages>",
    "mib1": "<across 1 MiB>",
    "mib2": "<across 2 MiB>",
    "mib3": "<across 3 MiB>",
    "touch": "<across two mappings>",
    "overlap": "<aaaa>",
}
FORMS = ("live", "gdbserver", "gcore", "kernel core")
#: The mappings that the texts are in; beside them `<aaaa>` is in .rodata.
_COMMANDS = [f'leak-find -json -in all "{text}"' for text in TEXTS.values()]


@dataclass
class Edges:
    """What each form of one stop answers, and what is true of it."""

    places: dict[str, tuple[int, int]]
    true: dict[str, list[int]]
    overlaps: list[int]
    answers: dict[str, dict[str, dict[str, Any]]]
    overlapping: dict[str, dict[str, Any]]
    writable: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def edges(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Edges:
    folder = tmp_path_factory.mktemp("edges")
    program = Program(programs["edges"], cwd=folder)
    try:
        program.wait_for("READY")
        first = program.places["overlap"][0]
        true = {
            name: truth.places(truth.process_runs(program.pid), text.encode())
            for name, text in TEXTS.items()
        }
        overlaps = [first + 1, first + 2, first + 3]
        commands = [
            *_COMMANDS,
            f'leak-find -json "aa" -in {first:#x},{first + 6:#x}',
            f'leak-find -json "{TEXTS["touch"]}"',
        ]
        taken = {"live": gdb(*commands, pid=program.pid)}
        taken["gdbserver"] = gdb(
            "set sysroot /",
            f"target remote | gdbserver --once - --attach {program.pid}",
            *commands,
            "detach",
            program=program.path,
        )
        saved = cores.gcore(program.pid, folder / "saved")
        taken["gcore"] = gdb(*commands, program=program.path, core=saved)
        with cores.plain_core_pattern():
            core = cores.kernel_core(program)
        taken["kernel core"] = gdb(*commands, program=program.path, core=core)
    finally:
        program.end()
    answers, overlapping, writable = {}, {}, {}
    for form, answer in taken.items():
        *found, overlapping[form], writable[form] = parsed(answer, len(commands))
        answers[form] = dict(zip(TEXTS, found))
    return Edges(program.places, true, overlaps, answers, overlapping, writable)


def parsed(answer: Answer, count: int) -> list[dict[str, Any]]:
    found = answer.all_json()
    assert len(found) == count, answer.stdout + answer.stderr
    return found


def addresses(answer: dict[str, Any]) -> list[int]:
    return [int(match["address"], 16) for match in answer["matches"]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_at_an_edge_is_found_once(edges: Edges, form: str, name: str) -> None:
    assert addresses(edges.answers[form][name]).count(edges.places[name][0]) == 1


@pytest.mark.parametrize("form", FORMS)
def test_every_form_finds_what_a_naive_scan_finds(edges: Edges, form: str) -> None:
    found = {name: addresses(answer) for name, answer in edges.answers[form].items()}
    assert found == edges.true


@pytest.mark.parametrize("form", FORMS)
def test_overlapping_places_all_count(edges: Edges, form: str) -> None:
    assert addresses(edges.overlapping[form]) == edges.overlaps


@pytest.mark.parametrize("form", FORMS)
def test_a_text_that_ends_beyond_the_place_is_not_in_it(edges: Edges, form: str) -> None:
    # Its last bytes lie in a read-only mapping, and writable was asked for.
    assert edges.writable[form]["count"] == 0


@pytest.mark.parametrize("form", FORMS)
def test_every_form_names_the_region_of_a_match(edges: Edges, form: str) -> None:
    for name in TEXTS:
        place = edges.places[name][0]
        (region,) = (
            match["region"]
            for match in edges.answers[form][name]["matches"]
            if int(match["address"], 16) == place
        )
        assert int(region["start"], 16) <= place < int(region["end"], 16)
        assert region["kind"] == "anon"
