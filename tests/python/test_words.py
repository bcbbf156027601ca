"""Splitting a line typed at gdb's prompt."""

import pytest
from gdb_leak.errors import UsageError
from gdb_leak.words import Word, tokenize


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  a\tb  ", [Word("a"), Word("b")]),
        ('"a b"', [Word("a b", True)]),
        ("'a b' c", [Word("a b", True), Word("c")]),
        ('""', [Word("", True)]),
        ("don't", [Word("don't")]),
        ("$sp +(132 * 1024)", [Word("$sp"), Word("+(132 * 1024)")]),
        ("&table[i + 1] x", [Word("&table[i + 1]"), Word("x")]),
        ("(a (b c) ')') d", [Word("(a (b c) ')')"), Word("d")]),
        ("'file.c'::table x", [Word("'file.c'::table"), Word("x")]),
    ],
)
def test_blanks_split_except_in_quotes_and_brackets(line: str, words: "list[Word]") -> None:
    assert tokenize(line) == words


@pytest.mark.parametrize(
    ("line", "raw"), [(r'"a\x00\n"', r"a\x00\n"), (r'"a\"b"', r"a\"b"), (r'"\\"', r"\\")]
)
def test_backslashes_are_kept_and_hide_the_quote(line: str, raw: str) -> None:
    assert tokenize(line) == [Word(raw, True)]


@pytest.mark.parametrize("line", ["f( x", "(a ] b", "((", "{ x"])
def test_unbalanced_bracket_is_an_ordinary_character(line: str) -> None:
    assert [word.raw for word in tokenize(line)] == line.split()


@pytest.mark.parametrize("line", ['"abc', "'abc", r'"abc\"', 'x "', '"\\'])
def test_quote_that_is_not_closed_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="unterminated quote at: "):
        tokenize(line)


def test_text_right_behind_a_quote_is_refused() -> None:
    with pytest.raises(UsageError, match="no blank after the closing quote"):
        tokenize('"abc"def')


def test_many_open_brackets_end_soon() -> None:
    assert len(tokenize("(" * 2000)) == 1
