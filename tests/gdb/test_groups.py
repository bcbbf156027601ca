"""Texts that differ in numbers only are one group, with an example, in every command."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT
from harness.compilers import compile_program
from harness.cores import gcore
from harness.debuggers import gdb, shell
from harness.processes import Program, compile_fixture

COUNT = 1000
REQUESTS, LOST = 20_000, 2_000
CHAIN = 12
#: Bytes of addresses that can be read.
READABLE = "fsEV"


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Path]]:
    """Have numbered.c, and its core."""
    folder = tmp_path_factory.mktemp("numbered")
    program = Program(compile_fixture("numbered", folder / "numbered", "-O1", "-g"), str(COUNT))
    program.wait_for("READY")
    yield program, gcore(program.pid, folder / "core")
    program.end()


@pytest.fixture(params=["shell core", "shell live", "gdb core"])
def ask(request: pytest.FixtureRequest, numbered: tuple[Program, Path]) -> Any:
    """Ask about numbered.c."""
    program, core = numbered

    def asked(command: str, *words: str) -> Any:
        if request.param == "gdb core":
            line = " ".join((f"leak-{command}", *words))
            return gdb(line, program=program.path, core=core)
        return shell(command, core if request.param == "shell core" else program.pid, *words)

    return asked


def test_numbers_make_no_groups(ask: Any) -> None:
    groups = ask("blocks", "-json").json()["groups"]
    requests = next(group for group in groups if group["size"] == 56)
    assert (requests["text"], requests["blocks"]) == ("GET /item/# HTTP/1.1", COUNT)
    assert (requests["example"], requests["texts"]) == ("GET /item/0 HTTP/1.1", None)
    (sessions,) = [group for group in groups if group["size"] == 40]
    assert (sessions["text"], sessions["blocks"]) == ("session #", COUNT)


def test_groups_of_one_block_are_one_row_that_says_how_many_texts_there_are(ask: Any) -> None:
    answer = ask("blocks", "-json", "-size", "72").json()
    (words,) = answer["groups"]
    assert (words["text"], words["texts"], words["blocks"]) == (None, COUNT, COUNT)
    assert (words["example"], words["kind"]) == ("kkkkkk", "text")
    text = ask("blocks", "-size", "72").stdout
    assert f"{COUNT:,} different texts, for example kkkkkk" in text
    assert len(ask("blocks", "-json", "-size", "72", "-by", "text").json()["groups"]) == 50


def test_no_two_groups_of_one_block_have_equal_size_and_kind(ask: Any) -> None:
    groups = ask("blocks", "-json", "-limit", "unlimited", "-state", "all").json()["groups"]
    single = [(group["size"], group["kind"]) for group in groups if group["blocks"] == 1]
    assert len(single) == len(set(single))


def test_every_group_by_size_has_an_example_where_its_first_block_has_a_text(ask: Any) -> None:
    groups = ask("blocks", "-json", "-by", "size").json()["groups"]
    examples = {group["size"]: group["example"] for group in groups}
    assert examples[56] == "GET /item/0 HTTP/1.1"
    assert examples[40] == "session 00000000"


def test_records_of_a_check_are_by_template_too(ask: Any) -> None:
    records = ask("check", "-json", "-show", "all").json()["records"]
    kept = {(record["size"], record["text"], record["texts"]): record for record in records}
    assert kept[56, "GET /item/# HTTP/1.1", None]["blocks"] == COUNT
    assert kept[40, "session #", None]["example"] == "session 00000000"
    assert kept[72, None, COUNT]["blocks"] == COUNT


def test_strings_are_by_template_and_the_first_of_them_is_the_example(ask: Any) -> None:
    rows = ask("strings", "-json", "-in", "heap", "-top", "unlimited").json()["strings"]
    row = next(row for row in rows if row["text"] == "GET /item/# HTTP/1.1")
    assert (row["count"], row["example"]) == (COUNT, "GET /item/0 HTTP/1.1")
    assert row["bytes"] == sum(len(f"GET /item/{number} HTTP/1.1") for number in range(COUNT))
    (sessions,) = [row for row in rows if row["text"].startswith("session")]
    assert (sessions["text"], sessions["count"]) == ("session #", COUNT)


def test_strings_of_a_state_are_those_of_used_memory_or_of_free_blocks(ask: Any) -> None:
    texts = {
        state: {
            row["text"]: row["count"]
            for row in ask(
                "strings", "-json", "-in", "heap", "-state", state, "-top", "unlimited"
            ).json()["strings"]
        }
        for state in ("used", "free")
    }
    assert texts["used"]["GET /item/# HTTP/1.1"] == COUNT
    assert not any("freed" in text or text.startswith("d #") for text in texts["used"])
    # The links of free lists are written over the first sixteen bytes.
    assert not any("GET" in text for text in texts["free"])


def test_bytes_of_addresses_are_no_strings_unless_all_are_asked_for(ask: Any) -> None:
    def readable(*options: str) -> "tuple[int, int]":
        answer = ask("strings", "-json", "-top", "unlimited", *options).json()
        rows = answer["strings"]
        return sum(row["count"] for row in rows if READABLE in row["example"]), answer["addresses"]

    found, left_out = readable()
    # A few words are texts in whole, and no multiple of eight.
    assert found == 0
    assert left_out >= COUNT - 256
    everything, none = readable("-all")
    assert everything >= COUNT - 256
    assert none == 0


def test_few_members_of_a_cluster_are_listed_unless_more_are_asked_for(ask: Any) -> None:
    records = ask("check", "-json").json()["records"]
    (record,) = [record for record in records if record["size"] == 200]
    leader = record["sample"][0]
    text = ask("refs", leader).stdout
    assert f"its cluster, {CHAIN} lost blocks:" in text
    assert text.count("  200") == 5
    assert f"{CHAIN - 5} more (-limit unlimited lists all)" in text
    assert ask("refs", leader, "-limit", "unlimited").stdout.count("  200") == CHAIN
    cluster = ask("refs", leader, "-json").json()["cluster"]
    assert (cluster["blocks"], len(cluster["sample"])) == (CHAIN, CHAIN)


def test_a_long_string_is_cut_in_text_and_whole_in_json(tmp_path: Path) -> None:
    listed = tmp_path / "long.c"
    listed.write_text(
        "#include <stdio.h>\nstatic char text[3000];\n"
        "int main(void) { for (int i = 0; i < 2999; i++) text[i] = 'z'; puts(\"READY\");"
        " fflush(stdout); getchar(); return text[0] == 0; }\n"
    )
    program = Program(compile_program("gcc", listed, tmp_path / "long", "-O0"))
    try:
        program.wait_for("READY")
        (row,) = [
            row
            for row in shell("strings", program.pid, "-json").json()["strings"]
            if row["text"].startswith("zzzz")
        ]
        assert row["text"] == "z" * 2999
        text = shell("strings", program.pid).stdout
        assert f"{'z' * 97}...\n" in text
        assert max(map(len, text.splitlines())) < 150
    finally:
        program.end()


#: Holds each of 2,000 texts without digits twice, and a block of each of thirty sizes.
_TWICE = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static char *held[4030];
int main(void) {
    for (int i = 0; i < 4000; i++) {
        char *text = held[i] = calloc(1, 200);
        for (int at = 0, rest = i / 2; at < 9; at++, rest /= 8) text[at] = 'g' + rest % 8;
    }
    for (int i = 0; i < 30; i++) held[4000 + i] = calloc(1, 20000 + 16 * i);
    puts("READY"); fflush(stdout); getchar(); return held[9] == 0;
}
"""


def test_many_texts_of_two_blocks_are_the_first_row(tmp_path: Path) -> None:
    source = tmp_path / "twice.c"
    source.write_text(_TWICE)
    program = Program(compile_program("gcc", source, tmp_path / "twice", "-O0"))
    try:
        program.wait_for("READY")
        core = gcore(program.pid, tmp_path / "core")
    finally:
        program.end()
    answer = shell("blocks", core, "-json", "-limit", "unlimited").json()
    first = answer["groups"][0]
    assert (first["blocks"], first["texts"], first["text"]) == (4000, 2000, None)
    assert (first["size"], first["example"]) == (200, "ggggggggg")
    assert len(answer["groups"]) < 100
    text = shell("blocks", core).stdout.splitlines()
    assert text[1].endswith("2,000 different texts, for example ggggggggg")
    # What the next steps name can be asked about.
    block = shell("whatis", core, first["sample"][0], "-json").json()
    assert block["block"]["size"] == 200
    assert shell("refs", core, first["sample"][0], "-path", "-json").json()["verdict"]
    records = shell("check", core, "-json", "-show", "all").json()["records"]
    assert (records[-1]["blocks"], records[-1]["texts"]) == (4000, 2000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Have the core of server.cc after its first requests."""
    folder = tmp_path_factory.mktemp("server")
    source = ROOT / "tests" / "fixtures" / "server.cc"
    path = compile_program("g++", source, folder / "server", "-O2", "-g", "-pthread")
    program = Program(path, str(REQUESTS))
    program.wait_for("READY")
    yield gcore(program.pid, folder / "core")
    program.end()


class TestServer:
    """A server with three threads: requests that leak, and a map that grows."""

    def test_its_blocks_are_few_groups_with_the_lost_requests_among_the_first_ten(
        self, server: Path
    ) -> None:
        answer = shell("blocks", server, "-json", "-limit", "unlimited").json()
        groups = answer["groups"]
        assert len(groups) <= 50
        assert any(
            group["text"] == "GET /item/# HTTP/1.1" and group["blocks"] > LOST * 9 // 10
            for group in groups[:10]
        )
        assert groups == sorted(groups, key=lambda group: -group["bytes"])

    def test_its_lost_requests_are_the_last_record(self, server: Path) -> None:
        answer = shell("check", server, "-json").json()
        lost = answer["summary"]
        # Copies that calls left in frames of threads that wait may hold a few.
        for verdict in ("definitely_lost", "indirectly_lost"):
            assert LOST - 5 <= lost[verdict]["blocks"] <= LOST
        assert len(answer["records"]) < 10
        last = answer["records"][-1]
        assert last["verdict"] == "definitely_lost"
        assert last["example"].startswith("GET /item/")

    def test_its_strings_are_few_rows(self, server: Path) -> None:
        answer = shell("strings", server, "-in", "heap", "-json", "-top", "4").json()
        texts = {row["text"]: row["count"] for row in answer["strings"]}
        assert texts["user-#@clients.example.com"] == REQUESTS
        assert texts["trace # of #"] == REQUESTS
