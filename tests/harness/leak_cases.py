"""The programs of tests/fixtures/leaks that are compared with valgrind."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harness import glibc
from harness.leaks import compile_leak, library_flags


@dataclass(frozen=True)
class Case:
    """A program of tests/fixtures/leaks, and how many blocks have which verdict in the end."""

    name: str
    #: Definitely, indirectly, possibly lost, still reachable: as valgrind has it.
    blocks: tuple[int, int, int, int]
    #: Blocks of those that valgrind's heuristics took for held by their start.
    heuristics: dict[str, int] = field(default_factory=dict)
    #: For the compiler.
    flags: tuple[str, ...] = ()
    #: The program, where it has another name.
    fixture: str = ""
    #: What the program loads.
    library: str = ""
    #: Whether blocks of libc's own are among them, whose number differs between versions
    #: by more than the one block a thread (its table of thread-local variables).
    of_libc: bool = False

    @property
    def title(self) -> str:
        return " ".join((self.name, *self.flags[:1]))


_COW = ("-D_GLIBCXX_USE_CXX11_ABI=0",)

CASES = [
    # Shapes.
    Case("list_at_head", (1, 4, 0, 7)),
    Case("list_at_tail", (2, 5, 0, 11)),
    Case("list_at_tail", (2, 5, 0, 11), flags=("-O2",)),
    Case("list_at_tail", (2, 5, 0, 11), flags=("-no-pie",)),
    Case("list_double", (1, 4, 0, 13)),
    Case("list_long", (1, 49999, 0, 50000)),
    Case("tree", (2, 21, 0, 22)),
    Case("ring", (1, 4, 3, 4)),
    Case("cliques", (9, 10, 0, 0)),
    Case("self", (3, 1, 0, 1)),
    # Interior pointers.
    Case("interior", (1, 1, 3, 1)),
    Case("interior_and_start", (0, 0, 0, 4)),
    Case("possibly_on", (0, 0, 6, 0)),
    Case("both_ways", (1, 0, 1, 3)),
    Case("past_end", (1, 0, 0, 0)),
    Case("zeroed", (0, 0, 4, 0)),
    Case("search_tree", (0, 0, 2, 18)),
    # Those that heuristics take for pointers to the start.
    Case("length64", (1, 0, 1, 1), {"length64": 1}),
    Case("new_array", (1, 1, 1, 3), {"newarray": 1}),
    Case("new_array_empty", (1, 0, 0, 1)),
    Case("multiple_inheritance", (1, 1, 1, 3), {"multipleinheritance": 1}),
    Case("string_cow", (2, 1, 0, 4), {"stdstring": 1}, flags=_COW),
    # Words that are no pointers, or not where one is looked for.
    Case("unaligned", (1, 0, 0, 0)),
    Case("hidden", (2, 0, 0, 1)),
    Case("freed", (61, 0, 0, 0)),
    # Ways to take a block.
    Case("calloced", (2, 1, 0, 2)),
    Case("realloced", (6, 0, 0, 42)),
    Case("aligned", (2, 1, 0, 5)),
    Case("empty", (3, 0, 0, 1)),
    Case("strings", (2, 0, 0, 4)),
    Case("pool", (1, 5, 6, 6)),
    Case("mapped_blocks", (2, 2, 1, 3)),
    # C++.
    Case("string", (2, 1, 0, 4)),
    Case("exception", (0, 0, 2, 2), {"stdstring": 1}),
    Case("containers_held", (0, 0, 0, 188)),
    Case("containers_lost", (1, 184, 0, 4)),
    Case("containers_lost", (1, 184, 0, 4), flags=("-O2",)),
    # Roots.
    Case("mapped_table", (1, 0, 0, 4)),
    Case("relro", (2, 1, 0, 0)),
    Case("static", (0, 0, 0, 0), flags=("-static",), fixture="list_at_tail", of_libc=True),
    Case("static", (0, 0, 0, 0), flags=("-static-pie",), fixture="list_at_tail", of_libc=True),
    Case("registers", (1, 0, 2, 2)),
    Case("registers_dead", (1, 0, 2, 2), flags=("-DNOT_READ_AGAIN",), fixture="registers"),
    Case("registers_at_end", (1, 0, 0, 0)),
    Case("registers_vector", (1, 0, 0, 0)),
    Case("red_zone", (0, 0, 0, 1)),
    Case("stacks", (4, 8, 4, 9)),
    Case("stacks", (4, 8, 4, 9), flags=("-O2",)),
    Case("thread_ended", (2, 0, 1, 1)),
    Case("thread_ended_tls", (1, 0, 1, 1)),
    Case("thread_unjoined", (1, 0, 1, 1)),
    Case("own_stacks", (1, 0, 2, 5)),
    Case("arenas", (9, 39, 4, 64)),
    Case("beside_heap", (1, 0, 1, 1)),
    Case("tls", (1, 0, 1, 5)),
    Case("keys", (1, 0, 1, 82)),
    Case("coroutines", (1, 2, 0, 5)),
    Case("alternate_stack", (1, 0, 0, 4)),
    Case("alternate_inside", (0, 0, 0, 1)),
    Case("library", (1, 0, 1, 7), library="library_part", of_libc=True),
    Case("library_closed", (2, 1, 1, 0), library="library_part", of_libc=True),
    Case("library_tls", (0, 0, 5, 7), library="library_tls_part", of_libc=True),
    # What libc takes for itself.
    Case("environment", (1, 0, 0, 7), of_libc=True),
    Case("locale", (1, 0, 0, 139), of_libc=True),
    Case("stdio", (2, 0, 0, 4)),
]


class Built:
    """The programs of some cases, by the titles of these; each compiled when it is asked for."""

    def __init__(self, cases: Iterable[Case], folder: Path) -> None:
        """Have the programs of CASES in FOLDER."""
        self._cases = {case.title: case for case in cases}
        self._folder = folder
        self._programs: dict[str, Path] = {}

    def __getitem__(self, title: str) -> Path:
        """Return the program; a folder in place of one that cannot be linked here."""
        if title not in self._programs:
            self._programs[title] = self._compile(self._cases[title])
        return self._programs[title]

    def _compile(self, case: Case) -> Path:
        made = self._folder / case.title.replace(" ", "")
        # The loader keeps the path in blocks, whose sizes move those that it takes later. One of
        # these is held by its start only where it lies at a multiple of 64, and else by a pointer
        # into it (glibc 2.36, elf/dl-find_object.c, _dlfo_mappings_segment_allocate). With paths of
        # one length, modulo 64, it lies at the same multiple wherever the tests run.
        short = (40 - len(os.fsencode(made / case.name))) % 64
        made = made.with_name(made.name + "_" * short)
        made.mkdir()
        flags = case.flags
        if any(flag.startswith("-static") for flag in flags) and not glibc.compiles(*flags):
            return made
        if case.library:
            flags += library_flags(case.library, made)
        return compile_leak(case.fixture or case.name, made / case.name, *flags)
