"""What leak-check answers, in JSON and in text, and which options it takes."""

import re
import subprocess
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from harness.debuggers import DOOR, Answer, environment, gdb, gdb_line, shell
from harness.leaks import Owners, compile_leak, run_to_exit
from harness.terminal import COLOURED, PROMPT, Terminal

REFUSED, WRONG_USAGE = 1, 2
#: In the order in which valgrind sums them up (memcheck/mc_leakcheck.c, print_results).
VERDICTS = {
    "definite": "definitely_lost",
    "indirect": "indirectly_lost",
    "possible": "possibly_lost",
    "reachable": "still_reachable",
}
#: valgrind's Reachedness: which of two records as large comes first
#: (valgrind 3.19, memcheck/mc_include.h).
RANKS = {
    verdict: rank
    for rank, verdict in enumerate(
        ("still_reachable", "possibly_lost", "indirectly_lost", "definitely_lost")
    )
}
HEURISTICS = ("stdstring", "length64", "newarray", "multipleinheritance")

Ask = Callable[..., Answer]


@pytest.fixture(params=["gdb", "shell"])
def ask(request: pytest.FixtureRequest, owners: Owners) -> Ask:
    """Ask a door about the core of the program of leaks/owners.c."""

    def asked(*words: str) -> Answer:
        if request.param == "gdb":
            return owners.gdb("core", " ".join(("leak-check", *words)))
        return owners.shell("core", "check", *words)

    return asked


@pytest.fixture(scope="module")
def whole(owners: Owners) -> dict[str, Any]:
    """Return the answer with every record and every block."""
    return owners.shell("core", "check", "-json", "-list", "-show", "all").json()


def is_count(value: Any) -> bool:
    """Whether VALUE is ``{blocks, bytes}``, both numbers from 0 up."""
    return set(value) == {"blocks", "bytes"} and all(
        type(number) is int and number >= 0 for number in value.values()
    )


class TestJson:
    """The keys that scripts rely on, and what they hold."""

    def test_the_answer_has_its_keys(self, ask: Ask) -> None:
        answer = ask("-json").json()
        assert (answer["schema"], answer["command"]) == ("gdb-leak/check/1", "check")
        assert answer["sizes"] == "usable"
        assert all(type(note) is str for note in answer["notes"])
        assert (answer["target"]["kind"], answer["target"]["complete"]) == ("core", True)
        assert answer["limited"] is False

    def test_the_summary_counts_blocks_and_bytes_of_each_verdict(
        self, whole: dict[str, Any]
    ) -> None:
        assert list(whole["summary"]) == [*VERDICTS.values(), "suppressed"]
        assert all(is_count(count) for count in whole["summary"].values())
        assert whole["summary"]["suppressed"] == {"blocks": 0, "bytes": 0}
        assert all(whole["summary"][verdict]["blocks"] for verdict in VERDICTS.values())

    def test_a_record_has_all_keys_whatever_is_known(self, whole: dict[str, Any]) -> None:
        for record in whole["records"]:
            assert {
                *("verdict", "blocks", "bytes", "indirect", "size", "kind", "text"),
                *("stack", "sample"),
            } <= set(record)
            assert record["verdict"] in VERDICTS.values()
            assert type(record["blocks"]) is type(record["bytes"]) is type(record["size"]) is int
            assert record["bytes"] == record["blocks"] * record["size"]
            assert is_count(record["indirect"])
            assert record["kind"] in ("text", "zero", "pointers", "data")
            assert record["text"] is None or type(record["text"]) is str
            assert record["stack"] is None
            assert 0 < len(record["sample"]) <= record["blocks"]
            assert all(re.fullmatch(r"0x[0-9a-f]+", address) for address in record["sample"])

    def test_a_record_credits_a_lost_block_with_what_it_alone_held(
        self, whole: dict[str, Any], owners: Owners
    ) -> None:
        held = {record["sample"][0]: record["indirect"] for record in whole["records"]}
        assert held[hex(owners.at("leader"))] == {"blocks": 3, "bytes": 3 * 104}
        assert held[hex(owners.at("second"))] == {"blocks": 0, "bytes": 0}

    def test_roots_are_counted_by_kind(self, whole: dict[str, Any]) -> None:
        assert {"register", "stack", "tls", "data", "relro", "anon"} <= set(whole["roots"])
        for found in whole["roots"].values():
            assert set(found) == {"places", "pointers"}
        for kind in ("register", "stack", "tls", "data", "anon"):
            assert whole["roots"][kind]["pointers"] >= 1, kind

    def test_what_heuristics_saved_is_counted_by_each(self, whole: dict[str, Any]) -> None:
        assert list(whole["heuristics"]) == list(HEURISTICS)
        assert all(is_count(count) for count in whole["heuristics"].values())

    def test_blocks_are_there_only_when_they_are_asked_for(self, ask: Ask) -> None:
        assert "blocks" not in ask("-json").json()
        listed = ask("-json", "-list").json()
        assert listed["records"]
        assert listed["blocks"]
        for block in listed["blocks"]:
            assert {"address", "size", "verdict"} <= set(block)
            assert type(block["size"]) is int
            assert block["verdict"] in VERDICTS.values()
        addresses = [int(block["address"], 16) for block in listed["blocks"]]
        assert addresses == sorted(set(addresses))

    def test_the_allocators_own_blocks_have_no_verdict(
        self, whole: dict[str, Any], owners: Owners
    ) -> None:
        words = ("-kind", "allocator", "-list", "-limit", "unlimited", "-json")
        own = owners.shell("core", "blocks", *words).json()["blocks"]
        assert own
        judged = {block["address"] for block in whole["blocks"]}
        assert not judged & {block["address"] for block in own}


class TestShow:
    """``-show``: which records."""

    @pytest.mark.parametrize(
        "kinds",
        [*VERDICTS, "definite,reachable", "possible,definite,indirect", "all"],
    )
    def test_records_are_of_the_kinds_that_were_asked_for(
        self, owners: Owners, whole: dict[str, Any], kinds: str
    ) -> None:
        said = owners.shell("core", "check", "-json", "-show", kinds).json()
        shown = list(VERDICTS) if kinds == "all" else kinds.split(",")
        verdicts = {VERDICTS[kind] for kind in shown}
        assert said["records"] == [r for r in whole["records"] if r["verdict"] in verdicts]
        assert {record["verdict"] for record in said["records"]} == verdicts
        assert said["summary"] == whole["summary"]

    def test_by_default_they_are_those_of_definitely_and_possibly_lost_blocks(
        self, ask: Ask, whole: dict[str, Any]
    ) -> None:
        shown = ("definitely_lost", "possibly_lost")
        assert ask("-json").json()["records"] == [
            record for record in whole["records"] if record["verdict"] in shown
        ]

    @pytest.mark.parametrize("kinds", ["bogus", "definite,", "definite,all", "DEFINITE", "none"])
    def test_what_is_no_kind_is_refused_with_those_that_are(
        self, owners: Owners, kinds: str
    ) -> None:
        answer = owners.gdb("core", f"leak-check -show {kinds}")
        assert answer.status == REFUSED
        if "," in kinds and "all" in kinds:
            assert "all takes no other item beside it" in answer.error
        else:
            assert all(kind in answer.error for kind in (*VERDICTS, "all"))
        assert owners.shell("core", "check", "-show", kinds).status == WRONG_USAGE

    @pytest.mark.parametrize("names", ["bogus", "none,all", "stdstring,none"])
    def test_what_is_no_heuristic_is_refused_with_those_that_are(
        self, owners: Owners, names: str
    ) -> None:
        answer = owners.gdb("core", f"leak-check -heuristics {names}")
        assert answer.status == REFUSED
        if "none" in names:
            assert "none takes no other item beside it" in answer.error
        else:
            assert all(name in answer.error for name in HEURISTICS)
        assert owners.shell("core", "check", "-heuristics", names).status == WRONG_USAGE

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("-show",), "-show requires an argument"),
            (("-top", "many"), "many"),
            (("-zz",), "Unrecognized option at: -zz"),
            (("0x1000",), "0x1000"),
        ],
    )
    def test_mistakes_are_told_in_one_line(
        self, owners: Owners, words: tuple[str, ...], said: str
    ) -> None:
        assert said in owners.gdb("core", " ".join(("leak-check", *words))).error
        answer = owners.shell("core", "check", *words)
        assert (answer.status, said in answer.error) == (WRONG_USAGE, True)


class TestRecords:
    """Their order, and how many are shown."""

    def test_the_largest_is_last_as_valgrind_orders_them(self, whole: dict[str, Any]) -> None:
        # valgrind 3.19, memcheck/mc_leakcheck.c, cmp_LossRecords.
        keys = [
            (
                record["bytes"] + record["indirect"]["bytes"],
                RANKS[record["verdict"]],
                record["blocks"],
                int(record["sample"][0], 16),
            )
            for record in whole["records"]
        ]
        assert keys == sorted(keys)
        # The program has records that only the second, third, and last of these tell apart.
        for alike in (1, 2, 3):
            ties = [1 for one, other in zip(keys, keys[1:]) if one[:alike] == other[:alike]]
            assert ties, alike

    @pytest.mark.parametrize("top", [0, 1, 3, 1000])
    def test_top_shows_the_last_of_them(
        self, owners: Owners, whole: dict[str, Any], top: int
    ) -> None:
        said = owners.shell("core", "check", "-json", "-show", "all", "-top", str(top)).json()
        assert said["records"] == whole["records"][max(0, len(whole["records"]) - top) :]
        assert said["limited"] is (top < len(whole["records"]))
        assert said["summary"] == whole["summary"]

    def test_unlimited_shows_all_of_them(self, ask: Ask, whole: dict[str, Any]) -> None:
        said = ask("-json", "-show", "all", "-top", "unlimited").json()
        assert (said["records"], said["limited"]) == (whole["records"], False)

    def test_people_read_that_there_are_more(self, ask: Ask, whole: dict[str, Any]) -> None:
        text = ask("-show", "all", "-top", "2").stdout
        assert f"{len(whole['records'])} records, the 2 largest shown" in text.splitlines()
        assert "shown" not in ask("-show", "all").stdout


class TestText:
    """What people read."""

    def test_the_sum_stands_in_valgrinds_order_below_the_records(
        self, ask: Ask, whole: dict[str, Any]
    ) -> None:
        _, blank, tail = ask().stdout.partition("\n\n")
        assert blank
        lines = [" ".join(line.split()) for line in tail.splitlines()]
        wanted = []
        for verdict, count in whole["summary"].items():
            blocks = f"{count['blocks']} block{'' if count['blocks'] == 1 else 's'}"
            wanted.append(f"{verdict.replace('_', ' ')}: {count['bytes']:,} bytes in {blocks}")
        assert lines[: len(wanted)] == wanted

    def test_a_record_is_a_line(self, ask: Ask, owners: Owners) -> None:
        lines = [" ".join(line.split()) for line in ask("-show", "all").stdout.splitlines()]
        assert "BYTES BLOCKS INDIRECT SIZE VERDICT KIND FIRST AT TEXT" in lines
        leader, alike = owners.at("leader"), owners.at("equal0")
        line = f"104 bytes 1 +312 bytes in 3 104 definitely lost pointers 0x{leader:016x}"
        assert line in lines
        assert f"72 bytes 3 24 definitely lost text 0x{alike:016x} alike" in lines

    def test_listed_blocks_stand_first_with_their_verdicts(
        self, ask: Ask, whole: dict[str, Any]
    ) -> None:
        listed, _, rest = ask("-list").stdout.partition("\n\n")
        lines = [" ".join(line.split()) for line in listed.splitlines()]
        ours = [line for line in lines if re.match(r"0x[0-9a-f]{16} \d+ ", line)]
        assert ours == [
            f"0x{int(block['address'], 16):016x} {block['size']} "
            + block["verdict"].replace("_", " ")
            for block in whole["blocks"]
        ]
        assert "definitely lost:" in rest

    def test_bytes_of_the_target_are_never_printed_raw(self, ask: Ask, owners: Owners) -> None:
        for words in ((), ("-list",), ("-show", "all"), ("-json",)):
            said = ask(*words).stdout
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said), words
        assert f"0x{owners.at('escape'):016x}" in ask().stdout

    @pytest.mark.parametrize(("setting", "variables", "coloured"), COLOURED)
    def test_in_a_terminal_colour_follows_gdbs_style_and_no_color(
        self, owners: Owners, setting: str, variables: dict[str, str], coloured: bool
    ) -> None:
        # Before the core is there, whose threads are more lines than the terminal has.
        first = ("set pagination off", f"core-file {owners.core}")
        line = gdb_line(first, batch=False)
        terminal = Terminal(line, environment(TERM="xterm", **variables))
        try:
            terminal.read_until(PROMPT)
            terminal.command(f"set style enabled {setting}")
            said = terminal.command("leak-check")
        finally:
            terminal.end()
        assert ("m0x" in said) is coloured
        # Nor does the text of a block set colours of its own.
        assert "\x1b[31mred" not in said
        assert "definitely lost:" in said

    @pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
    def test_in_a_terminal_a_shell_heeds_no_color(
        self, owners: Owners, variables: dict[str, str], coloured: bool
    ) -> None:
        line = [".venv/bin/gdb-leak", "check", str(owners.core)]
        terminal = Terminal(line, environment(TERM="xterm", **variables))
        try:
            said = terminal.read_until("suppressed:")
        finally:
            terminal.end()
        assert ("\x1b[" in said) is coloured
        assert "\x1b[31mred" not in said


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("-show ", ["all", *VERDICTS]),
        ("-show def", ["definite"]),
        ("-show definite,", ["definite,indirect", "definite,possible", "definite,reachable"]),
        ("-show definite,po", ["definite,possible"]),
        (
            "-show reachable,possible,",
            ["reachable,possible,definite", "reachable,possible,indirect"],
        ),
        ("-heuristics s", ["stdstring"]),
        ("-heuristics stdstring,n", ["stdstring,newarray"]),
        ("-heuristics no", ["none"]),
        ("-top unl", ["unlimited"]),
    ],
)
def test_lists_are_completed_name_by_name(line: str, completed: list[str]) -> None:
    option = line.split()[0]
    offered = gdb(f"complete leak-check {line}").stdout.splitlines()
    assert offered == [f"leak-check {option} {word}" for word in completed]


def status_of(program: Path, core: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Return the shell's status with -error-exitcode 7 where PROGRAM ends, and the summary."""
    run_to_exit(program, core)
    answer = shell("check", core, "-error-exitcode", "7", "-json", *words)
    return answer.status, answer.json()["summary"]


@pytest.mark.parametrize(
    ("name", "lost", "status"),
    [("possibly_on", "possibly_lost", 7), ("interior_and_start", None, 0)],
)
def test_the_exit_code_is_for_blocks_that_are_definitely_or_possibly_lost(
    tmp_path: Path, name: str, lost: Optional[str], status: int
) -> None:
    given, summary = status_of(compile_leak(name, tmp_path / name), tmp_path / "core")
    assert {name for name in VERDICTS.values() if summary[name]["blocks"]} == {
        lost or "still_reachable"
    }
    assert given == status


def test_the_exit_code_does_not_depend_on_what_is_shown(owners: Owners) -> None:
    for words in (("-show", "reachable"), ("-top", "0")):
        assert owners.shell("core", "check", "-error-exitcode", "7", *words).status == 7


def test_the_exit_code_stays_where_the_answer_is_not_read(owners: Owners) -> None:
    line = [DOOR, "check", owners.core, "-error-exitcode", "7"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        assert asked.stdout is not None
        asked.stdout.close()
        assert asked.wait(60) == 7
        assert asked.stderr is not None
        assert asked.stderr.read() == b""


def test_a_live_process_and_its_core_give_each_block_one_verdict(
    owners: Owners, whole: dict[str, Any]
) -> None:
    for answer in (
        owners.gdb("live", "leak-check -json -list -show all"),
        owners.gdb("core", "leak-check -json -list -show all"),
        owners.shell("live", "check", "-json", "-list", "-show", "all"),
    ):
        said = answer.json()
        for key in ("summary", "records", "blocks"):
            assert said[key] == whole[key], key
