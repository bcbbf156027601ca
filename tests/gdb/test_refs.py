"""Who points at a block, and what that makes of it: leak-refs, whatis, find and blocks."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.debuggers import Answer, gdb, shell
from harness.leaks import Owners, owners_at_rest

REFUSED = 1
USABLE = 104

#: By name of the block: who owns the word that points at it, where both doors say the same.
#: A name is one of the program's, or of what the thread is; an offset is within the owner.
OWNERS: dict[str, dict[str, Any]] = {
    "symbol": {"kind": "symbol", "name": "table", "offset": 16},
    "start": {"kind": "symbol", "name": "chain", "offset": 0},
    "middle": {"kind": "block", "name": "start", "offset": 8},
    "register": {"kind": "register", "name": "r13", "thread": "second"},
    "tls": {"kind": "tls", "name": "TLS", "thread": "second"},
    "of_main": {"kind": "tls", "name": "TLS", "thread": "main"},
    "inside": {"kind": "symbol", "name": "inside", "offset": 0},
    "first": {"kind": "block", "name": "leader", "offset": 0},
    "second": {"kind": "block", "name": "leader", "offset": 24},
    "third": {"kind": "block", "name": "second", "offset": 8},
}
#: What became of some of them.
VERDICTS = {
    "symbol": "still_reachable",
    "inside": "possibly_lost",
    "leader": "definitely_lost",
    "third": "indirectly_lost",
}
#: Names by what the blocks are alike in: size, kind, text.
GROUPS = {
    (1000, "data", "[31mred"): ("escape",),
    (200, "zero", None): ("like0", "like1"),
    (USABLE, "pointers", None): ("second", "leader"),
    (USABLE, "zero", None): ("inside", "first", "third"),
    (24, "text", "alike"): ("equal0", "equal1", "equal2"),
    (72, "text", "alone"): ("equal3",),
    (56, "text", "other"): ("equal5",),
}


@pytest.fixture(params=["gdb live", "gdb core", "shell live", "shell core"])
def door(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return a door, and what it is asked about."""
    door, form = request.param.split()
    return door, form


@pytest.fixture(params=["gdb live", "shell core"])
def either(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the same of both doors, where what it is asked about makes no difference."""
    door, form = request.param.split()
    return door, form


def refs(owners: Owners, door: tuple[str, str], name: str, *words: str) -> Answer:
    """Return what leak-refs answers on the block called NAME."""
    address = hex(owners.at(name))
    if door[0] == "gdb":
        return owners.gdb(door[1], " ".join(("leak-refs", address, *words)))
    return owners.shell(door[1], "refs", address, *words)


def all_refs(owners: Owners, door: tuple[str, str], *names: str) -> list[dict[str, Any]]:
    """Return what it answers in JSON on each of NAMES."""
    if door[0] == "shell":
        return [refs(owners, door, name, "-json").json() for name in names]
    lines = [f"leak-refs {owners.at(name):#x} -json" for name in names]
    return owners.gdb(door[1], *lines).all_json()


def wanted(owners: Owners, owner: dict[str, Any]) -> dict[str, Any]:
    """Return OWNER with the addresses and numbers of this process."""
    made = dict(owner)
    if made["kind"] == "block":
        made["name"] = hex(owners.at(made["name"]))
    if "thread" in made:
        made["thread"] = owners.second if made["thread"] == "second" else owners.live.pid
    return made


def test_each_owner_is_named(owners: Owners, door: tuple[str, str]) -> None:
    for (name, owner), said in zip(OWNERS.items(), all_refs(owners, door, *OWNERS)):
        (reference,) = said["references"]
        assert reference["owner"] == wanted(owners, owner), name
        assert said["count"] == 1
        assert said["limited"] is False
        offset = 24 if name == "inside" else 0
        assert (reference["offset"], reference["interior"]) == (offset, offset != 0), name
        assert (reference["from"] is None) == (owner["kind"] == "register"), name
        if owner["kind"] == "block":
            start = owners.at(owner["name"])
            assert int(reference["from"], 16) == start + owner["offset"], name


def test_memory_that_has_no_name_is_a_region_with_an_offset(
    owners: Owners, door: tuple[str, str]
) -> None:
    (said,) = all_refs(owners, door, "mapped")
    (reference,) = said["references"]
    owner = reference["owner"]
    place = owners.at("page") + 256
    assert (owner["kind"], int(reference["from"], 16)) == ("region", place)
    assert int(owner["name"], 16) + owner["offset"] == place


def test_gdb_names_the_function_whose_frame_it_is(owners: Owners) -> None:
    for form in ("live", "core"):
        (said,) = all_refs(owners, ("gdb", form), "frame")
        (reference,) = said["references"]
        assert reference["owner"] == {
            "kind": "frame",
            "name": "keep_in_frame",
            "thread": owners.live.pid,
        }


def test_a_shell_names_the_stack_and_its_thread(owners: Owners) -> None:
    for form in ("live", "core"):
        (said,) = all_refs(owners, ("shell", form), "frame")
        (reference,) = said["references"]
        owner = {"kind": "frame", "name": "stack", "thread": owners.live.pid}
        assert reference["owner"] == owner


def test_people_read_where_it_stands_how_it_points_and_who_owns_it(
    owners: Owners, door: tuple[str, str]
) -> None:
    texts = {
        "symbol": "to its start  table+0x10",
        "middle": f"to its start  block 0x{owners.at('start'):016x}+0x8",
        "register": f"to its start  register r13 of thread {owners.second}",
        "tls": f"to its start  TLS of thread {owners.second}",
        "inside": "into it, +0x18  inside",
        "frame": f"to its start  frame of keep_in_frame of thread {owners.live.pid}"
        if door[0] == "gdb"
        else f"to its start  stack of thread {owners.live.pid}",
    }
    for name, text in texts.items():
        lines = refs(owners, door, name).stdout.splitlines()
        verdict = "possibly lost" if name == "inside" else "still reachable"
        assert f"block 0x{owners.at(name):016x} of {USABLE}, {verdict}" in lines
        (line,) = [line for line in lines if text in line]
        assert re.match(r"  |0x[0-9a-f]{16}  ", line), line
        assert "1 reference" in lines


class TestPath:
    """``-path``: why it is alive."""

    def test_it_is_the_shortest_and_each_step_is_named(
        self, owners: Owners, either: tuple[str, str]
    ) -> None:
        path = refs(owners, either, "end", "-path", "-json").json()["path"]
        assert [step["owner"] for step in path] == [
            {"kind": "symbol", "name": "shortcut", "offset": 0},
            {"kind": "block", "name": hex(owners.at("short")), "offset": 32},
        ]
        assert [step["to"] for step in path] == [hex(owners.at(n)) for n in ("short", "end")]
        assert int(path[1]["from"], 16) == owners.at("short") + 32
        assert all(step["offset"] == 0 for step in path)

    def test_it_goes_through_every_block_of_a_chain(
        self, owners: Owners, either: tuple[str, str]
    ) -> None:
        path = refs(owners, either, "middle", "-path", "-json").json()["path"]
        assert [step["owner"]["name"] for step in path] == ["chain", hex(owners.at("start"))]

    def test_it_begins_in_a_register_a_frame_or_inside(
        self, owners: Owners, either: tuple[str, str]
    ) -> None:
        for name, kind, offset in (("register", "register", 0), ("frame", "frame", 0)):
            (step,) = refs(owners, either, name, "-path", "-json").json()["path"]
            assert (step["owner"]["kind"], step["offset"]) == (kind, offset)
        (step,) = refs(owners, either, "inside", "-path", "-json").json()["path"]
        assert (step["owner"]["name"], step["offset"]) == ("inside", 24)

    def test_people_read_a_line_for_each_step(
        self, owners: Owners, either: tuple[str, str]
    ) -> None:
        said = refs(owners, either, "end", "-path").stdout
        steps = said.partition("why it is alive:\n")[2].splitlines()[:2]
        short, end = owners.at("short"), owners.at("end")
        assert re.fullmatch(rf"0x[0-9a-f]{{16}}  shortcut +-> 0x{short:016x}", steps[0])
        assert steps[1] == f"0x{short + 32:016x}  block 0x{short:016x}+0x20  -> 0x{end:016x}"

    def test_there_is_none_unless_asked_for(self, owners: Owners) -> None:
        for words in ((), ("-path",)):
            said = refs(owners, ("shell", "core"), "end", "-json", *words).json()
            assert (said["path"] is None) == (not words)
        assert "alive" not in refs(owners, ("shell", "core"), "end").stdout

    def test_no_root_leads_to_a_lost_block(self, owners: Owners, either: tuple[str, str]) -> None:
        for name in ("leader", "third"):
            assert refs(owners, either, name, "-path", "-json").json()["path"] is None
            said = refs(owners, either, name, "-path").stdout
            assert "no root leads here" in said
            assert "alive" not in said


class TestCluster:
    """A lost block with those that are lost with it."""

    def test_it_is_that_of_its_leader_which_comes_first(
        self, owners: Owners, either: tuple[str, str]
    ) -> None:
        members = [hex(owners.at(name)) for name in ("leader", "first", "second", "third")]
        for said in all_refs(owners, either, "leader", "first", "third"):
            assert said["cluster"] == {"blocks": 4, "sample": members}

    def test_people_read_who_holds_the_others(
        self, owners: Owners, either: tuple[str, str]
    ) -> None:
        said = refs(owners, either, "third").stdout
        told = said.partition("its cluster, 4 lost blocks:\n")[2].splitlines()[:4]
        assert [int(line.split()[0], 16) for line in told] == [
            owners.at(name) for name in ("leader", "first", "second", "third")
        ]
        assert ["definitely lost, holds the others" in line for line in told] == [
            True,
            *[False] * 3,
        ]

    def test_the_limit_bounds_it_and_the_rest_is_counted(self, owners: Owners) -> None:
        said = refs(owners, ("shell", "core"), "leader", "-limit", "2", "-json").json()
        assert said["cluster"]["blocks"] == 4
        assert said["cluster"]["sample"] == [hex(owners.at(name)) for name in ("leader", "first")]
        assert "2 more" in refs(owners, ("shell", "core"), "leader", "-limit", "2").stdout

    def test_a_block_that_lost_nothing_else_is_alone(self, owners: Owners) -> None:
        said = refs(owners, ("shell", "core"), "escape", "-json").json()
        assert said["cluster"] == {"blocks": 1, "sample": [hex(owners.at("escape"))]}
        assert "its cluster" not in refs(owners, ("shell", "core"), "escape").stdout

    def test_a_block_that_is_not_lost_has_none(self, owners: Owners) -> None:
        for name in ("end", "inside"):
            assert refs(owners, ("shell", "core"), name, "-json").json()["cluster"] is None


class TestAddresses:
    """Which block an address means."""

    def test_any_byte_of_a_block_means_the_block(
        self, owners: Owners, either: tuple[str, str]
    ) -> None:
        address = owners.at("end")
        start = refs(owners, either, "end", "-json").json()
        inside = address + USABLE - 1
        if either[0] == "gdb":
            said = owners.gdb(either[1], f"leak-refs {inside:#x} -json").json()
        else:
            said = owners.shell(either[1], "refs", hex(inside), "-json").json()
        assert said["references"] == start["references"]
        assert said["block"] == {
            "address": hex(address),
            "size": USABLE,
            "offset": USABLE - 1,
            "state": "used",
        }

    def test_in_gdb_it_is_an_expression(self, owners: Owners) -> None:
        for form in ("live", "core"):
            said = owners.gdb(form, "leak-refs -json table[2]").json()
            assert said["block"]["address"] == hex(owners.at("symbol"))

    @pytest.mark.parametrize(
        ("place", "rule"),
        [
            ("freed", "lies in a free block (tcache): nothing there is in use"),
            ("malloc's own", "lies in a block that is malloc's own: it is in no verdict"),
            ("page", "no block in use holds {} (leak-whatis tells what is there)"),
            ("unmapped", "no block in use holds {} (leak-whatis tells what is there)"),
        ],
    )
    def test_what_is_no_block_in_use_is_told_in_one_line(
        self, owners: Owners, either: tuple[str, str], place: str, rule: str
    ) -> None:
        if place == "malloc's own":
            # The cache of the main thread is the first block of its heap.
            words = ("-state", "used", "-kind", "allocator", "-list", "-json")
            (own, *_) = owners.shell("core", "blocks", *words).json()["blocks"]
            address = own["address"]
        else:
            address = "0x10" if place == "unmapped" else hex(owners.at(place))
        if either[0] == "gdb":
            answer = owners.gdb(either[1], f"leak-refs {address}")
        else:
            answer = owners.shell(either[1], "refs", address)
        assert answer.status == REFUSED
        assert rule.format(address) in answer.error
        assert address in answer.error

    def test_what_is_no_address_is_wrong_usage_in_a_shell(self, owners: Owners) -> None:
        for words in ((), ("table",), ("-1",)):
            assert owners.shell("core", "refs", *words).status == 2
        assert "nothing_of_that_name" in owners.gdb("core", "leak-refs nothing_of_that_name").error


def test_the_limit_bounds_what_is_listed_and_all_are_counted(owners: Owners) -> None:
    (whole, some, none) = (
        refs(owners, ("shell", "core"), "end", "-json", *words).json()
        for words in ((), ("-limit", "1"), ("-limit", "0"))
    )
    assert (len(whole["references"]), whole["count"], whole["limited"]) == (2, 2, False)
    assert (some["references"], some["count"], some["limited"]) == (
        whole["references"][:1],
        2,
        True,
    )
    assert (none["references"], none["count"], none["limited"]) == ([], 2, True)
    text = refs(owners, ("shell", "core"), "end", "-limit", "1").stdout
    assert "2 references, 1 listed (-limit unlimited lists all)" in text


class TestWhatis:
    """``leak-whatis`` of a block: its verdict, and who points at it."""

    def whatis(self, owners: Owners, either: tuple[str, str], address: int, *words: str) -> Answer:
        if either[0] == "gdb":
            return owners.gdb(either[1], " ".join((f"leak-whatis {address:#x}", *words)))
        return owners.shell(either[1], "whatis", hex(address), *words)

    def test_it_has_the_verdict_and_the_references(
        self, owners: Owners, either: tuple[str, str]
    ) -> None:
        for name, verdict in VERDICTS.items():
            said = self.whatis(owners, either, owners.at(name) + 9, "-json").json()
            assert said["verdict"] == verdict, name
            assert said["references"] == refs(owners, either, name, "-json").json()["references"]
            assert said["count"] == len(said["references"])

    def test_people_read_both(self, owners: Owners, either: tuple[str, str]) -> None:
        text = self.whatis(owners, either, owners.at("third")).stdout
        assert re.search(r"^verdict +indirectly lost$", text, re.MULTILINE)
        assert re.search(r"^referred +by 1 word \(leak-refs lists them\)$", text, re.MULTILINE)
        owner = f"to its start from block 0x{owners.at('second'):016x}+0x8"
        assert re.search(rf"^ +{re.escape(owner)}$", text, re.MULTILINE)

    def test_what_is_not_in_use_has_neither(self, owners: Owners, either: tuple[str, str]) -> None:
        for name in ("freed", "page"):
            said = self.whatis(owners, either, owners.at(name), "-json").json()
            assert said["verdict"] is said["references"] is None
            assert "referred" not in self.whatis(owners, either, owners.at(name)).stdout


class TestLostBlocks:
    """``leak-blocks -state lost``."""

    def blocks(self, owners: Owners, either: tuple[str, str], *words: str) -> dict[str, Any]:
        if either[0] == "gdb":
            return owners.gdb(either[1], " ".join(("leak-blocks -state lost", *words))).json()
        return owners.shell(either[1], "blocks", "-state", "lost", *words).json()

    def test_they_are_grouped_whichever_way_they_are_lost(
        self, owners: Owners, either: tuple[str, str]
    ) -> None:
        said = self.blocks(owners, either, "-json")
        groups = {
            (group["size"], group["kind"], group["text"]): group["sample"]
            for group in said["groups"]
        }
        assert len(groups) == len(said["groups"])
        for alike, names in GROUPS.items():
            assert groups[alike] == [hex(owners.at(name)) for name in names]
        assert sum(group["blocks"] for group in said["groups"]) == said["count"]

    def test_they_are_listed_by_address_and_are_those_of_leak_check(
        self, owners: Owners, either: tuple[str, str]
    ) -> None:
        said = self.blocks(owners, either, "-list", "-json")
        checked = owners.shell(either[1], "check", "-list", "-json").json()
        lost = [b for b in checked["blocks"] if b["verdict"] != "still_reachable"]
        assert [block["address"] for block in said["blocks"]] == sorted(
            (block["address"] for block in lost), key=lambda address: int(address, 16)
        )
        assert (said["count"], said["bytes"]) == (len(lost), sum(b["size"] for b in lost))
        assert all(block["state"] == "used" for block in said["blocks"])

    def test_size_and_kind_choose_among_them(self, owners: Owners, either: tuple[str, str]) -> None:
        said = self.blocks(owners, either, "-list", "-size", str(USABLE), "-kind", "zero", "-json")
        addresses = [int(block["address"], 16) for block in said["blocks"]]
        assert addresses == [owners.at(name) for name in ("inside", "first", "third")]


FIND = 'leak-find -json "this one is"'
NAMES = ("leaves", "drops")


def found(answer: dict[str, Any]) -> list[tuple[int, str, Any]]:
    """Return of each match in a block that block, its state and its verdict."""
    return [
        (int(match["block"]["address"], 16), match["block"]["state"], match["verdict"])
        for match in answer["matches"]
        if match["block"]
    ]


class TestFind:
    """The verdicts of matches: those of this stop, and of no other."""

    @pytest.fixture
    def own(self, tmp_path: Path) -> Iterator[Owners]:
        """Have a program that a test may have run on."""
        with owners_at_rest(tmp_path) as made:
            yield made

    @pytest.mark.parametrize("form", ["live", "core"])
    def test_they_are_shown_after_a_check_and_with_the_option(
        self, owners: Owners, form: str
    ) -> None:
        before, _, after = owners.gdb(form, FIND, "leak-check -json", FIND).all_json()
        wanted = owners.gdb(form, FIND + " -verdict").json()
        told = [(owners.at(name), "used", "still_reachable") for name in NAMES]
        assert [match["verdict"] for match in before["matches"]] == [None] * len(before["matches"])
        assert found(after) == found(wanted) == told

    def test_in_a_shell_they_are_shown_with_the_option_alone(self, owners: Owners) -> None:
        for form in ("live", "core"):
            said = owners.shell(form, "find", "this one is", "-verdict", "-json").json()
            assert found(said) == [(owners.at(name), "used", "still_reachable") for name in NAMES]
            plain = owners.shell(form, "find", "this one is", "-json").json()
            assert [match["verdict"] for match in plain["matches"]] == [None] * 2

    def test_people_read_them(self, owners: Owners) -> None:
        leader, place = owners.at("escape"), f"-in {owners.at('escape'):#x},+64"
        text = owners.gdb("core", f'leak-find "red" {place} -verdict').stdout
        assert f"block 0x{leader:016x}+0x7 of 1000, used, definitely lost" in text

    @pytest.mark.parametrize("on", ["continue", "next"])
    def test_none_is_left_of_the_stop_before(self, own: Owners, on: str) -> None:
        # Stops in `change`, and behind it; in between one block is freed and one is dropped.
        run_on = ["break changed", "continue"] if on == "continue" else ["next"] * 3
        before, after, anew = own.gdb(
            "live",
            "break change",
            f"shell echo > /proc/{own.live.pid}/fd/0",
            "continue",
            "leak-check -show definite",
            FIND,
            *run_on,
            FIND,
            FIND + " -verdict",
        ).all_json()
        leaves, drops = (own.at(name) for name in NAMES)
        assert found(before) == [(at, "used", "still_reachable") for at in (leaves, drops)]
        assert found(after) == [(leaves, "free", None), (drops, "used", None)]
        assert found(anew) == [(leaves, "free", None), (drops, "used", "definitely_lost")]

    def test_none_is_left_after_gdb_wrote_to_memory(self, own: Owners) -> None:
        _, after, anew = own.gdb(
            "live", "leak-check -json", "set var dropping = 0", FIND, FIND + " -verdict"
        ).all_json()
        assert [match["verdict"] for match in after["matches"]] == [None] * 2
        assert found(anew)[1] == (own.at("drops"), "used", "definitely_lost")


def test_the_commands_leave_the_thread_and_frame_that_were_selected(owners: Owners) -> None:
    for form in ("live", "core"):
        answer = owners.gdb(
            form,
            "thread 2",
            "frame 1",
            "python import json; print(json.dumps([gdb.selected_thread().num, "
            "gdb.selected_frame().name()]))",
            f"leak-refs {owners.at('frame'):#x} -path",
            "leak-check",
            "python print(json.dumps([gdb.selected_thread().num, gdb.selected_frame().name()]))",
        )
        before, after = [json.loads(s) for s in answer.stdout.splitlines() if s.startswith("[2,")]
        assert before == after


def test_no_verdict_is_told_of_a_list_of_regions(sample: Any) -> None:
    for command in ("check", "refs", "whatis"):
        words = [] if command == "check" else ["0x1000"]
        answer = shell(command, sample.pmap_after, *words)
        assert answer.status == REFUSED
        assert "lists regions and holds no byte of them" in answer.error
    assert "no process and no core file" in gdb("leak-check").error
    assert "no process and no core file" in gdb("leak-refs 0x1000").error
