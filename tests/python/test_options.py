"""Parsing and completing options, in gdb's words."""

import pytest
from gdb_leak.errors import UsageError
from gdb_leak.options import Operand, Option, Parsed, complete, parse
from gdb_leak.words import Word, tokenize

OPTIONS = (
    Option("i", "Ignore case."),
    Option("in", "A place.", "place", "WHERE"),
    Option("limit", "A limit.", "count", "COUNT"),
    Option("u16", "Two bytes."),
    Option("u64", "Eight bytes."),
    Option("as", "A style.", "choice", choices=("x8", "x4", "text")),
    Option("align", "A number.", "number", "N"),
)
ANY = (Operand("NEEDLE", least=0, most=None),)


def parsed(line: str) -> Parsed:
    return parse(OPTIONS, ANY, tokenize(line))


@pytest.mark.parametrize(
    "typed", ["-limit 10", "--limit 10", "--limit=10", "-limit=10", "-lim 10", "x -l 10"]
)
def test_option_is_taken_in_every_form(typed: str) -> None:
    assert parsed(typed).count("limit", 0) == 10


def test_exact_name_beats_a_prefix() -> None:
    assert parsed("-i").values == {"i": True}


def test_options_stand_before_and_after_operands() -> None:
    taken = parsed("-u64 5 -in heap 6")
    assert taken.operands == [Word("5"), Word("6")]
    assert taken.word("in") == Word("heap")


def test_two_dashes_end_options() -> None:
    assert parsed("-i -- -limit --").operands == [Word("-limit"), Word("--")]


def test_negative_number_is_an_operand() -> None:
    assert parsed("-u64 -1").operands == [Word("-1")]


def test_quoted_word_is_an_operand_whatever_it_begins_with() -> None:
    assert parsed('"-limit"').operands == [Word("-limit", True)]


@pytest.mark.parametrize("typed", ["unlimited", "u", "unlim"])
def test_count_takes_unlimited(typed: str) -> None:
    assert parsed(f"-limit {typed}").count("limit", 3) is None


def test_choice_takes_an_unambiguous_beginning() -> None:
    assert parsed("-as t").choice("as", "x8") == "text"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("-zz foo", "Unrecognized option at: -zz foo"),
        ("--zz", "Unrecognized option at: --zz"),
        ("-u 5", "Ambiguous option at: -u 5; it may be -u16, -u64"),
        ("-limt 5", "Unrecognized option at: -limt 5; did you mean -limit?"),
        ("-limit", "-limit requires an argument"),
        ("-limit --", "-limit requires an argument"),
        ("-limit foo", "Expected integer at: foo"),
        ("-limit -3", "integer -3 out of range"),
        ("-limit 9223372036854775808", "integer 9223372036854775808 out of range"),
        ("-i=3", "-i takes no argument"),
        ("-as x", 'Ambiguous item: "x". Valid arguments of -as are x8, x4, text'),
        ("-as zz", 'Undefined item: "zz". Valid arguments of -as are x8, x4, text'),
    ],
)
def test_mistakes_are_told_in_the_words_of_gdb(typed: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parsed(typed)
    assert str(error.value) == said


def test_missing_operand_is_named() -> None:
    with pytest.raises(UsageError, match=r"^START is missing$"):
        parse((), (Operand("START"), Operand("END", least=0)), [])


def test_operand_too_many_is_shown() -> None:
    with pytest.raises(UsageError, match=r"^Junk at end of arguments: c$"):
        parse((), (Operand("START"), Operand("END", least=0)), tokenize("a b c"))


@pytest.mark.parametrize(
    ("before", "word", "offered"),
    [
        ("", "-", ["-align", "-as", "-i", "-in", "-limit", "-u16", "-u64"]),
        ("", "--l", ["--limit"]),
        ("-as", "x", ["x8", "x4"]),
        ("-in", "st", ["stack"]),
        ("-limit", "", ["unlimited"]),
        ("-u", "x", []),
        ("--", "-", []),
    ],
)
def test_completion_offers_names_and_choices(before: str, word: str, offered: "list[str]") -> None:
    assert complete(OPTIONS, (), tokenize(before), word) == ("words", offered)


def test_completion_of_files_and_addresses_is_left_to_the_door() -> None:
    operands = (Operand("START", kind="address"), Operand("FILE", kind="file"))
    assert complete((), operands, [], "x")[0] == "address"
    assert complete((), operands, tokenize("x"), "y")[0] == "file"


REST = (Operand("PROGRAM", kind="file", rest=True), Operand("ARGUMENT", least=0, most=None))


@pytest.mark.parametrize("typed", ["-i prog -limit -- x", "-i -- prog -limit -- x"])
def test_what_follows_an_operand_that_takes_the_rest_is_no_option(typed: str) -> None:
    taken = parse(OPTIONS, REST, tokenize(typed))
    assert taken.values == {"i": True}
    assert [word.raw for word in taken.operands] == ["prog", "-limit", "--", "x"]


def test_no_option_is_offered_behind_an_operand_that_takes_the_rest() -> None:
    assert complete(OPTIONS, REST, [], "-li") == ("words", ["-limit"])
    assert complete(OPTIONS, REST, tokenize("prog"), "-li") == ("words", [])
    assert complete(OPTIONS, REST, tokenize("-i"), "pr") == ("file", [])
