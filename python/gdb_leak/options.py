"""One declaration of a command's options, for both doors.

From a :class:`Command` come parsing, completion and help (:mod:`gdb_leak.manual`).
Mistakes are told in gdb's own words, as its option framework has them
(gdb 13.1, cli/cli-option.c).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from gdb_leak import near, units
from gdb_leak.errors import UsageError
from gdb_leak.words import Word

__all__ = [
    "PLACES",
    "Command",
    "Operand",
    "Option",
    "Parsed",
    "check_operands",
    "complete",
    "parse",
]

#: The places that ``-in`` knows by name, offered by completion. Any kind of
#: region is a place too.
PLACES = (
    "all",
    "anon",
    "arena",
    "brk",
    "data",
    "file",
    "heap",
    "special",
    "stack",
    "thread-stack",
    "vdso",
    "writable",
)


class Option(NamedTuple):
    """One option of a command.

    ``kind`` says what its argument is: ``flag`` (none), ``count`` (a number or
    ``unlimited``), ``number``, ``choice`` (one of ``choices``), ``list`` (some of
    ``choices``, with commas, or one of ``alone``), ``age`` (in nanoseconds), ``text``,
    ``file``, ``place`` or ``address``. All but the last four are checked while parsing; the
    rest is handed on as a :class:`Word`.
    """

    name: str
    help: str
    kind: str = "flag"
    argument: str = ""
    choices: tuple[str, ...] = ()
    shell_only: bool = False
    alone: tuple[str, ...] = ()

    @property
    def takes_argument(self) -> bool:
        """Whether a word follows the option."""
        return self.kind != "flag"

    @property
    def label(self) -> str:
        """The option as help shows it: ``-limit COUNT|unlimited``."""
        if not self.takes_argument:
            return f"-{self.name}"
        argument = self.argument or "|".join(self.choices)
        if self.kind == "count":
            argument += "|unlimited"
        return f"-{self.name} {argument}"


class Operand(NamedTuple):
    """One operand as the usage line names it, and what completes it.

    ``rest`` is for words that are another program's: once the first of them was
    met, nothing that follows is an option, nor ends options.
    """

    name: str
    help: str = ""
    kind: str = "text"
    least: int = 1
    most: Optional[int] = 1
    #: The least at the shell's door, where it is not the same.
    shell_least: Optional[int] = None
    rest: bool = False


class Command(NamedTuple):
    """The declaration of one command.

    ``name`` is without the door's prefix (``find``); ``summary`` is one
    sentence with a full stop; ``target`` tells whether a shell takes a TARGET
    before the operands, ``target_options`` the options that make it take one
    all the same, ``files`` whether its operands are cores, ``json`` whether it
    has an answer of its own; ``example`` holds ``(gdb line, shell line)``.
    """

    name: str
    summary: str
    operands: tuple[Operand, ...] = ()
    options: tuple[Option, ...] = ()
    description: str = ""
    variables: str = ""
    example: tuple[str, str] = ("", "")
    target: bool = True
    target_options: tuple[str, ...] = ()
    files: bool = False
    gdb_name: str = ""
    json: bool = True

    @property
    def prompt_name(self) -> str:
        """The name at gdb's prompt: ``leak-find``."""
        return self.gdb_name or f"leak-{self.name}"


class Parsed:
    """What was typed: values by option name, and the operands in order.

    An option that was not given has no entry in ``values``.
    """

    def __init__(self, values: Optional[Mapping[str, object]] = None) -> None:
        """Take the values by option name, and no operands yet."""
        self.values = dict(values or {})
        self.operands: list[Word] = []

    def flag(self, name: str) -> bool:
        """Whether the flag NAME was given."""
        return name in self.values

    def count(self, name: str, default: Optional[int]) -> Optional[int]:
        """Return the count given for NAME, None for ``unlimited``, else DEFAULT."""
        value = self.values.get(name, default)
        assert value is None or isinstance(value, int)
        return value

    def choice(self, name: str, default: str) -> str:
        """Return the choice given for NAME, else DEFAULT."""
        value = self.values.get(name, default)
        assert isinstance(value, str)
        return value

    def names(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names in the list given for NAME, else DEFAULT."""
        value = self.values.get(name, default)
        assert isinstance(value, tuple)
        return value

    def word(self, name: str) -> Optional[Word]:
        """Return the word given for NAME, None without one."""
        value = self.values.get(name)
        assert value is None or isinstance(value, Word)
        return value


def parse(options: Sequence[Option], operands: Sequence[Operand], words: Sequence[Word]) -> Parsed:
    """Return what WORDS say, for a command with OPTIONS and OPERANDS.

    Options stand anywhere; ``--`` ends them. A word that was quoted, ``-`` and
    a word of ``-`` and a digit are operands.

    :raises UsageError: in gdb's words, where WORDS do not fit.
    """
    named = {option.name: option for option in options}
    parsed = Parsed()
    at = 0
    while at < len(words):
        word = words[at]
        if word == Word("--"):
            parsed.operands.extend(words[at + 1 :])
            break
        if not _is_option(word):
            parsed.operands.append(word)
            at += 1
            if _takes_rest(operands, len(parsed.operands)):
                parsed.operands.extend(words[at:])
                break
            continue
        rest = " ".join(map(str, words[at:]))
        name, equals, inline = word.raw.lstrip("-").partition("=")
        option = named[_full_name(name, named, rest)]
        at += 1
        if not option.takes_argument:
            if equals:
                raise UsageError(f"-{option.name} takes no argument")
            parsed.values[option.name] = True
            continue
        if equals:
            argument = Word(inline, word.quoted)
        elif at < len(words) and words[at] != Word("--"):
            argument = words[at]
            at += 1
        else:
            raise UsageError(f"-{option.name} requires an argument")
        parsed.values[option.name] = _value(option, argument)
    check_operands(operands, parsed.operands)
    return parsed


def complete(
    options: Sequence[Option], operands: Sequence[Operand], before: Sequence[Word], word: str
) -> tuple[str, list[str]]:
    """Return what may stand where WORD is being typed after the words BEFORE.

    :returns: a kind and the candidates in order; the kind is ``words`` where
        the candidates are all there is, ``file`` or ``address`` where the door
        is to complete by its own means.
    """
    named = {option.name: option for option in options}
    given = sum(1 for earlier in before if not _is_option(earlier))
    ended = Word("--") in before or _takes_rest(operands, given)
    if not ended and before and _is_option(before[-1]) and "=" not in before[-1].raw:
        try:
            option = named[_full_name(before[-1].raw.lstrip("-"), named, "")]
        except UsageError:
            return "words", []
        if option.takes_argument:
            if option.kind == "list":
                return "words", _list_candidates(option, word)
            return _candidates(option.kind, option.choices, word)
    if word.startswith("-") and not ended:
        typed = word.lstrip("-")
        dashes = "--" if word.startswith("--") else "-"
        return "words", sorted(dashes + name for name in named if name.startswith(typed))
    if operands:
        operand = operands[min(given, len(operands) - 1)]
        return _candidates(operand.kind, (), word)
    return "words", []


def _candidates(kind: str, choices: Sequence[str], word: str) -> tuple[str, list[str]]:
    if kind in ("file", "address"):
        return kind, []
    offered: Mapping[str, Sequence[str]] = {
        "choice": choices,
        "place": PLACES,
        "count": ("unlimited",),
    }
    return "words", [name for name in offered.get(kind, ()) if name.startswith(word)]


# What may follow the last comma, with all that stands before it.
def _list_candidates(option: Option, word: str) -> list[str]:
    before, comma, last = word.rpartition(",")
    names = option.choices if comma else (*option.choices, *option.alone)
    taken = before.split(",")
    return [before + comma + name for name in names if name.startswith(last) and name not in taken]


# Whether the last of as many operands as were GIVEN is one that takes all words after it.
def _takes_rest(operands: Sequence[Operand], given: int) -> bool:
    return given > 0 and bool(operands) and operands[min(given, len(operands)) - 1].rest


# No option begins with a digit, so that `-u64 -1` needs no `--`.
def _is_option(word: Word) -> bool:
    raw = word.raw
    return (
        not word.quoted and len(raw) > 1 and raw[0] == "-" and not raw[1].isdigit() and raw != "--"
    )


def _full_name(typed: str, named: Mapping[str, Option], rest: str) -> str:
    if typed in named:
        return typed
    matching = [name for name in named if typed and name.startswith(typed)]
    if not matching:
        meant = near.meant(typed, named)
        advice = f"; did you mean -{meant}?" if meant is not None else ""
        raise UsageError(f"Unrecognized option at: {rest}{advice}")
    if len(matching) > 1:
        candidates = ", ".join(f"-{name}" for name in sorted(matching))
        raise UsageError(f"Ambiguous option at: {rest}; it may be {candidates}")
    return matching[0]


def _value(option: Option, argument: Word) -> object:
    if option.kind == "count":
        return units.parse_count(argument.raw)
    if option.kind == "number":
        return units.parse_number(argument.raw)
    if option.kind == "age":
        return units.parse_age(argument.raw)
    if option.kind == "choice":
        return _choice(option, argument.raw)
    if option.kind == "list":
        return _list(option, argument.raw)
    return argument


def _list(option: Option, typed: str) -> tuple[str, ...]:
    names = typed.split(",")
    if len(names) == 1 and names[0] in option.alone:
        return (names[0],)
    alone = [name for name in names if name in option.alone]
    if alone:
        raise UsageError(f"-{option.name} {typed}: {alone[0]} takes no other item beside it")
    unknown = [name for name in names if name not in option.choices]
    if unknown:
        valid = ", ".join((*option.choices, *option.alone))
        raise UsageError(
            f'Undefined item: "{unknown[0]}". Valid arguments of -{option.name} are {valid}'
        )
    return tuple(dict.fromkeys(names))


def _choice(option: Option, typed: str) -> str:
    if typed in option.choices:
        return typed
    matching = [choice for choice in option.choices if typed and choice.startswith(typed)]
    if len(matching) == 1:
        return matching[0]
    mistake = "Ambiguous" if matching else "Undefined"
    valid = ", ".join(option.choices)
    raise UsageError(f'{mistake} item: "{typed}". Valid arguments of -{option.name} are {valid}')


def check_operands(operands: Sequence[Operand], given: Sequence[Word]) -> None:
    """Check that as many words were GIVEN as OPERANDS ask for.

    :raises UsageError: where one is missing, or one too many.
    """
    least = 0
    most: Optional[int] = 0
    for operand in operands:
        least += operand.least
        most = None if most is None or operand.most is None else most + operand.most
    if len(given) < least:
        missing: list[str] = []
        for operand in operands:
            missing.extend([operand.name] * operand.least)
        raise UsageError(f"{missing[len(given)]} is missing")
    if most is not None and len(given) > most:
        extra = " ".join(map(str, given[most:]))
        raise UsageError(
            f"Junk at end of arguments: {extra}" if most else f"takes no operands: {extra}"
        )
