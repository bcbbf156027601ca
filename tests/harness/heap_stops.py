"""Heap fixtures at rest: the process, a core of it, and what gdb-leak says of both."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import pytest

from harness import cores, heaps
from harness.debuggers import Answer, gdb, shell
from harness.glibc import Glibc
from harness.processes import Program

FORMS = ("core", "live")


@dataclass(frozen=True)
class Scenario:
    """A fixture program with arguments, and the way it is built and started.

    FOLDER among the arguments stands for the folder where it writes its notes.
    """

    name: str
    fixture: str
    arguments: tuple[str, ...] = ("FOLDER",)
    environment: tuple[tuple[str, str], ...] = ()
    #: For gcc.
    flags: tuple[str, ...] = ()
    #: The words before the program; LOADER and LIBRARIES stand for the library's.
    wrapper: tuple[str, ...] = ()
    word: int = 8


@dataclass
class Stop:
    """A program that waits, its notes, and what was answered about it."""

    program: Path
    process: Program
    #: Where it wrote its notes.
    folder: Path
    core: Path
    library: Glibc
    scenario: Scenario
    _answers: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)

    @property
    def places(self) -> dict[str, tuple[int, int]]:
        """Address and size by name, as printed."""
        return self.process.places

    def ask(self, form: str, command: str, *words: str) -> dict[str, Any]:
        """Return the shell's answer on one of FORMS; asked once."""
        key = (form, command, *words)
        if key not in self._answers:
            target = str(self.core) if form == "core" else str(self.process.pid)
            answer = shell(command, target, *words, "-json")
            assert answer.status == 0, f"gdb-leak {command} {target}: {answer.stderr}"
            self._answers[key] = answer.json()
        return self._answers[key]

    def heap(self, form: str) -> dict[str, Any]:
        """Return what ``heap`` answers."""
        return self.ask(form, "heap")

    def blocks(self, form: str, state: str) -> dict[int, int]:
        """Return usable size by address of all blocks in STATE but those of malloc itself."""
        answer = self.ask(form, "blocks", "-list", "-limit", "unlimited", "-state", state)
        listed = answer["blocks"]
        assert all(block["state"] == state for block in listed)
        assert len({block["address"] for block in listed}) == len(listed), "listed twice"
        # Since glibc 2.43 a cache may be made of a block that the program freed.
        return {
            int(block["address"], 16): block["size"]
            for block in listed
            if block["kind"] != "allocator"
        }

    def whatis(self, form: str, address: int) -> dict[str, Any]:
        """Return what ``whatis`` answers on ADDRESS."""
        return self.ask(form, "whatis", hex(address))

    def gdb(self, debug: Path, *commands: str) -> Answer:
        """Return what gdb answers on the core, with debug symbols from the folder DEBUG."""
        return gdb(
            f"set debug-file-directory {debug}",
            f'file "{self.program}"',
            f"core-file {self.core}",
            *commands,
        )


@contextmanager
def stopped(
    library: Glibc,
    scenario: Scenario,
    program: Path,
    folder: Path,
    core: bool = True,
) -> Iterator[Stop]:
    """Start PROGRAM, built for SCENARIO, and take a core; it ends with the context.

    The core goes as well: a gcore of many arenas has all that they reserve in it.
    """
    notes = folder / "notes"
    notes.mkdir(parents=True)
    arguments = [str(notes) if word == "FOLDER" else word for word in scenario.arguments]
    words = [*_wrapper(library, scenario), str(program), *arguments]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in scenario.environment:
            patch.setenv(name, value)
        process = Program(Path(words[0]), *words[1:], cwd=folder)
    taken = folder / "core.taken"
    try:
        process.wait_for("READY")
        if core:
            cores.gcore(process.pid, taken)
        yield Stop(program, process, notes, taken, library, scenario)
    finally:
        process.end()
        if taken.exists():
            taken.unlink()


def _wrapper(library: Glibc, scenario: Scenario) -> list[str]:
    if "LOADER" not in scenario.wrapper:
        return list(scenario.wrapper)
    names = {"LOADER": str(library.loader), "LIBRARIES": str(library.folder)}
    return [names.get(word, word) for word in scenario.wrapper]


def covering(blocks: dict[int, int], addresses: list[int]) -> Iterator[tuple[int, Optional[int]]]:
    """Yield each of ADDRESSES, sorted, with the start of the block that covers it, or None."""
    starts = sorted(blocks)
    at = 0
    for address in sorted(addresses):
        while at < len(starts) and starts[at] + blocks[starts[at]] <= address:
            at += 1
        inside = at < len(starts) and starts[at] <= address
        yield address, starts[at] if inside else None


def differences(held: dict[int, int], used: dict[int, int]) -> list[str]:
    """Return in words where USED lacks a block of HELD, or tells another size."""
    found = []
    for address, size in held.items():
        if used.get(address) != size:
            said = f"said to have {used[address]}" if address in used else "not in use"
            found.append(f"{address:#x} of {size} bytes is {said}")
    return found


#: The lists of free blocks, as the JSON names them.
LISTS = ("tcache", "fast", "unsorted", "small", "large")


def free_bytes(answer: dict[str, Any], *lists: str) -> int:
    """Return the bytes on LISTS, of an arena or of the total."""
    return sum(answer["free"][name]["bytes"] for name in lists or LISTS)


def arenas_as_said(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what ``heap`` answered of each arena, as far as malloc_info knows it."""
    return [
        {
            "system": arena["system"],
            "top": arena["top"],
            **{name: arena["free"][name] for name in LISTS if name != "tcache"},
        }
        for arena in answer["arenas"]
    ]


def arenas_by_glibc(folder: Path, word: int = 8) -> list[dict[str, Any]]:
    """Return the same from what malloc_info printed into FOLDER."""
    return [
        {
            "system": figures.system,
            "top": figures.top,
            **{
                name: {"blocks": sizes.blocks, "bytes": sizes.bytes}
                for name, sizes in (
                    ("fast", figures.fast),
                    ("unsorted", figures.unsorted),
                    ("small", figures.small),
                    ("large", figures.large),
                )
            },
        }
        for figures in heaps.arenas(folder, word)
    ]


def sums_as_said(answer: dict[str, Any]) -> dict[str, int]:
    """Return what ``heap`` answered, under mallinfo's names."""
    arenas = answer["arenas"]
    system = sum(arena["system"] for arena in arenas)
    # What lies in tcache counts as in use there.
    free = sum(free_bytes(arena, "fast", "unsorted", "small", "large") for arena in arenas)
    free += sum(arena["top"] for arena in arenas)
    return {
        "arena": system,
        "fordblks": free,
        "uordblks": system - free,
        "fsmblks": sum(arena["free"]["fast"]["bytes"] for arena in arenas),
        "smblks": sum(arena["free"]["fast"]["blocks"] for arena in arenas),
        "hblks": answer["mmapped"]["blocks"],
        "hblkhd": mapped_bytes(answer),
        "keepcost": arenas[0]["top"],
    }


def sums_by_glibc(folder: Path) -> dict[str, int]:
    """Return the same as mallinfo told it."""
    return {name: value for name, value in heaps.mallinfo(folder).items() if name != "ordblks"}


def held_differences(folder: Path, used: dict[int, int]) -> list[str]:
    """Return in words which blocks that the program holds are not in USED with their size."""
    return differences({block.address: block.usable for block in heaps.held(folder)}, used)


def mapped_bytes(answer: dict[str, Any]) -> int:
    """Return the bytes of mapped blocks as malloc counts them, held to those that were found.

    Since glibc 2.43 its sum grows by 16 too many for each that realloc moved
    (malloc/malloc.c, mremap_chunk); before, the two are equal.
    """
    mapped = answer["mmapped"]
    drift = mapped["counted"]["bytes"] - mapped["bytes"]
    # `2.43`, or what the structures allow: `2.43 or newer`, `2.35 to 2.41`.
    (minor,) = re.findall(r"^2\.(\d+)", answer["allocator"]["version"])
    assert drift == 0 or (int(minor) >= 43 and drift > 0 and drift % 16 == 0)
    counted: int = mapped["counted"]["bytes"]
    return counted


def freed_in_use(folder: Path, used: dict[int, int]) -> list[str]:
    """Return in words which blocks that the program freed lie in USED."""
    return [
        f"{address:#x} is said to lie in {start:#x}"
        for address, start in covering(used, heaps.freed(folder))
        if start is not None
    ]
