"""Answers as text and as JSON."""

import json
from collections.abc import Iterator, Sequence

import pytest
from gdb_leak.layout import Columns, Made, Span, line
from gdb_leak.render import json as as_json
from gdb_leak.render import text as as_text
from gdb_leak.render.text import Style, escape
from gdb_leak.target import Pieces, Result, Value


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
    assert shown(Columns("><<", rows)) == " 1  a\\x01  x\n22  b      y\n"


def test_columns_leave_no_blanks_at_the_end() -> None:
    assert shown(Columns("<<<", [["a", "b", ""], ["", "", ""]])) == "a  b\n\n"


def test_rows_are_taken_a_batch_at_a_time() -> None:
    taken = []

    def rows() -> Iterator[Sequence[str]]:
        for number in range(2500):
            taken.append(number)
            yield [str(number)]

    pieces = as_text.pieces(Result("find", None, {}), [Columns("<", rows())], Style())
    next(pieces)
    assert len(taken) == 1000
    assert len("".join(pieces).split("\n")) == 1501


def test_colour_is_outside_the_padding_and_off_by_default() -> None:
    rows = [[Span("a", "address"), "b"], [Span("aa", "address"), "b"]]
    assert "\x1b" not in shown(Columns("<<", rows))
    assert shown(Columns("<<", rows), style=Style(True, "utf-8")).startswith(
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
