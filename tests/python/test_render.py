"""Answers as text and as JSON."""

import json
from collections.abc import Iterator, Sequence

import pytest
from gdb_leak.layout import Column, Columns, Made, Span, columns, line
from gdb_leak.render import json as as_json
from gdb_leak.render import text as as_text
from gdb_leak.render.style import Style, escape
from gdb_leak.target import Pieces, Result, Step, Value


def shown(*blocks: object, style: "Style | None" = None, notes: Sequence[str] = ()) -> str:
    result = Result("find", None, {}, list(notes))
    return "".join(as_text.pieces(result, blocks, style or Style(encoding="utf-8")))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain", "plain"),
        ("\x1b[31m", r"\x1b[31m"),
        (r"\xff", r"\xff"),
        ("a\nb", r"a\x0ab"),
        ("é", "é"),
        ("\udcff", r"\xff"),
        ("\ud800", r"\xed\xa0\x80"),
        ("\u202e", r"\xe2\x80\xae"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@pytest.mark.parametrize("encoding", ["ascii", "ANSI_X3.4-1968", "no-such-charset"])
def test_text_that_the_locale_has_not_is_escaped(encoding: str) -> None:
    assert escape("é", encoding) == r"\xc3\xa9"


def test_columns_line_up_after_escaping() -> None:
    rows = [[Span("1", "address"), "a\x01", "x"], ["22", "b", "y"]]
    assert shown(Columns(columns("><<"), rows)) == " 1  a\\x01  x\n22  b      y\n"


def test_columns_leave_no_blanks_at_the_end() -> None:
    assert shown(Columns(columns("<<<"), [["a", "b", ""], ["", "", ""]])) == "a  b\n\n"


def test_rows_are_taken_a_batch_at_a_time() -> None:
    taken = []

    def rows() -> Iterator[Sequence[str]]:
        for number in range(2500):
            taken.append(number)
            yield [str(number)]

    pieces = as_text.pieces(Result("find", None, {}), [Columns(columns("<"), rows())], Style())
    next(pieces)
    assert len(taken) == 1000
    assert len("".join(pieces).split("\n")) == 1501


def test_colour_is_outside_the_padding_and_off_by_default() -> None:
    rows = [[Span("a", "address"), "b"], [Span("aa", "address"), "b"]]
    assert "\x1b" not in shown(Columns(columns("<<"), rows))
    assert shown(Columns(columns("<<"), rows), style=Style(True, "utf-8")).startswith(
        "\x1b[34ma\x1b[m   b\n"
    )


def test_notes_come_first_and_late_ones_last() -> None:
    result = Result("dump", None, {}, ["early"])
    result.later.append(lambda: ["late"])
    text = "".join(as_text.pieces(result, [Made("body\n"), line("total")], Style()))
    assert text == "note: early\nbody\ntotal\nnote: late\n"


def test_json_is_one_line_with_the_common_keys() -> None:
    values: dict[str, Value] = {"count": 2, "block": None}
    text = "".join(as_json.pieces(Result("find", {"kind": "core"}, values, ["a\nb"])))
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "schema": "gdb-leak/find/1",
        "command": "find",
        "target": {"kind": "core"},
        "count": 2,
        "block": None,
        "notes": ["a\nb"],
    }


@pytest.mark.parametrize("pieces", [[], [[]], [["a"]], [["a", "b"], [], ["c"]]])
def test_json_list_made_in_pieces_is_a_list(pieces: "list[list[Value]]") -> None:
    result = Result("find", None, {"matches": Pieces(lambda: iter(pieces))})
    read = json.loads("".join(as_json.pieces(result)))
    assert read["matches"] == [value for some in pieces for value in some]


def test_json_is_ascii_and_escapes_bytes_that_are_no_text() -> None:
    text = "".join(as_json.pieces(Result("find", {"path": "caf\xe9\udcff"}, {})))
    assert text.isascii()
    assert json.loads(text)["target"]["path"] == "caf\xe9\\xff"


def test_late_notes_are_in_the_json() -> None:
    result = Result("dump", None, {})
    result.later.append(lambda: ["late"])
    assert json.loads("".join(as_json.pieces(result)))["notes"] == ["late"]


def at(width: int) -> Style:
    return Style(encoding="utf-8", width=width)


def test_a_table_that_fits_is_shown_whole() -> None:
    rows = [[Span("0x0000000000001000", "address"), "name"]]
    assert shown(Columns(columns("<<"), rows), style=at(24)) == "0x0000000000001000  name\n"


def test_addresses_lose_their_zeros_before_any_text_is_cut() -> None:
    table = Columns(
        [Column("<"), Column("<", least=4)], [[Span("0x0000000000001000", "address"), "some text"]]
    )
    assert shown(table, style=at(20)) == "0x1000  some text\n"
    assert shown(table, style=at(14)) == "0x1000  some …\n"


def test_a_path_is_cut_at_its_start() -> None:
    table = Columns([Column("<", least=4, tail=True)], [["/usr/lib/libc.so.6"]])
    assert shown(table, style=at(10)) == "…libc.so.6\n"


def test_a_cut_is_marked_in_what_the_locale_has() -> None:
    table = Columns([Column("<", least=4)], [["a long text"]])
    assert shown(table, style=Style(encoding="ascii", width=8)) == "a lon...\n"


def test_columns_are_left_out_by_rank_and_the_empty_ones_first() -> None:
    table = Columns(
        [Column("<"), Column("<", rank=1), Column("<", rank=2), Column("<", rank=1)],
        [["AAAA", "BBBB", "CCCC", "DDDD"], ["a", "b", "c", ""]],
    )
    assert shown(table, style=at(22)).startswith("AAAA  BBBB  CCCC  DDDD\n")
    assert shown(table, style=at(20)) == "AAAA  BBBB  CCCC\na     b     c\n"
    assert shown(table, style=at(15)) == "AAAA  BBBB\na     b\n"
    assert shown(table, style=at(4)) == "AAAA\na\n"


def test_an_empty_column_is_left_out_before_any_text_is_cut() -> None:
    table = Columns(
        [Column("<"), Column("<", rank=1), Column("<", least=4)],
        [["AAAA", "BBBB", "CCCC"], ["a", "", "a long text"]],
    )
    assert shown(table, style=at(17)) == "AAAA  CCCC\na     a long text\n"
    assert shown(table, style=at(14)) == "AAAA  CCCC\na     a long …\n"


def test_columns_of_equal_width_are_cut_by_the_same() -> None:
    table = Columns([Column("<", least=1), Column("<", least=1)], [["a" * 20, "b" * 20]])
    assert shown(table, style=at(32)) == f"{'a' * 14}…  {'b' * 14}…\n"


def test_a_wide_character_is_two_columns_and_an_accent_none() -> None:
    rows = [["日本", "x"], ["abcd", "y"], ["e\u0301", "z"]]
    assert shown(Columns(columns("<<"), rows)) == "日本  x\nabcd  y\ne\u0301     z\n"


@pytest.mark.parametrize(
    ("tail", "width", "cut"),
    [
        (False, 7, "日本語…"),
        (False, 6, "日本…"),
        (True, 7, "…語日本"),
        (True, 6, "…日本"),
    ],
)
def test_no_wide_character_is_cut_in_two(tail: bool, width: int, cut: str) -> None:
    table = Columns([Column("<", least=2, tail=tail)], [["日本語日本語日本"]])
    assert shown(table, style=at(width)) == f"{cut}\n"


def test_one_text_that_is_too_wide_is_in_short_form_beside_others_that_have_none() -> None:
    rows = [[Span("a long text to cut", short="short text")], [Span("without a short form")]]
    table = Columns([Column("<", least=4)], rows)
    assert shown(table, style=at(10)) == "short text\nwithout a…\n"


def test_an_address_without_zeros_keeps_no_other_long() -> None:
    rows = [
        ["START", "SIZE", "NAME"],
        [Span("0x0000000000001000", "address"), "8 KiB", "a long name"],
        [Span("0xffffffffff600000", "address"), "4", "vsyscall"],
    ]
    table = Columns([Column("<"), Column(">"), Column("<", least=4)], rows)
    assert shown(table, style=at(28)).splitlines() == [
        "START    SIZE  NAME",
        "0x1000  8 KiB  a long name",
        "0xffffffffff600000  4  vsys…",
    ]


def test_an_address_takes_no_room_of_a_column_that_is_left_out() -> None:
    rows = [
        ["START", "SIZE", "NAME"],
        [Span("0x0000000000001000", "address"), "8 KiB", "a long name"],
        [Span("0xffffffffff600000", "address"), "4", "vsyscall"],
    ]
    table = Columns([Column("<"), Column(">", rank=1), Column("<", rank=2, least=8)], rows)
    said = shown(table, style=at(20))
    assert "START" in said
    assert max(map(len, said.splitlines())) <= 20


def test_a_line_of_wide_characters_is_broken_by_its_columns() -> None:
    lines = shown(line("日本語 " * 12), style=at(30)).splitlines()
    assert len(lines) > 2
    assert all(len(one.replace(" ", "")) * 2 + one.count(" ") <= 30 for one in lines)


def test_what_has_to_be_shown_is_shown_where_it_is_wider() -> None:
    assert shown(Columns(columns("<<"), [["aaaa", "bbbb"]]), style=at(5)) == "aaaa  bbbb\n"


def test_a_text_goes_on_under_its_column_and_no_word_is_broken() -> None:
    table = Columns(
        [Column("<"), Column("<", least=8, wrap=True)], [["why", "one two threefourfive six"]]
    )
    assert shown(table, style=at(14)) == "why  one two\n     threefourfive\n     six\n"


def test_in_a_file_nothing_is_cut_and_nothing_left_out() -> None:
    table = Columns(
        [Column("<", least=1), Column("<", rank=1), Column("<", least=4, wrap=True)],
        [["a" * 60, "b" * 60, "c " * 60]],
    )
    assert shown(table) == f"{'a' * 60}  {'b' * 60}  {'c ' * 60}\n"


@pytest.mark.parametrize("width", [20, 30, 47])
def test_a_line_of_text_is_broken_between_words(width: int) -> None:
    text = "note: one two three four five six seven eight nine ten"
    lines = shown(line(Span(text, "note")), style=at(width)).splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(one.strip() for one in lines) == text
    assert all(one.startswith("  ") for one in lines[1:])


def test_a_command_to_type_is_never_broken() -> None:
    result = Result("heap", None, {})
    command = "gdb-leak check /a/long/path/to/a/core.file -exe /the/program"
    result.steps.append(Step("which blocks are lost", command))
    assert "".join(as_text.pieces(result, [], at(40))).splitlines()[-1] == f"  {command}"
    assert "".join(as_text.pieces(result, [], Style())) == ""
