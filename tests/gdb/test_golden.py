"""What every command prints, live and from a core, in text and JSON.

The files are tests/golden/TARGET-NAME.txt and .json; the first line is the
command as typed. `pytest --update-golden` writes them anew.
"""

import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import golden, truth
from harness.debuggers import Answer, gdb, shell

#: By name: the command, with HEAP, BEFORE and OUT for what differs.
COMMANDS = {
    "overview": "leak",
    "regions": "leak-regions -in heap",
    "regions-by-size": "leak-regions -in stack -sort size",
    "find": 'leak-find "leaked" -in heap -limit 3',
    "find-word": "leak-find -u64 0x6d2064656b61656c -in heap -align 8 -limit 2",
    "find-hex": "leak-find -hex 66 72 65 65 64 -in heap",
    "find-regex": r"leak-find -regex wrote:\x20[a-z]+ -in heap",
    "find-nothing": 'leak-find "nobody wrote this" -in heap',
    "dump": "leak-dump HEAP+0xaa0 +64",
    "dump-words": "leak-dump HEAP+0xaa0 +16 -as x4",
    "dump-text": "leak-dump HEAP+0xaa0 +64 -as text",
    "dump-out": "leak-dump HEAP+0xab0 +16 -out OUT",
    "decode": "leak-decode 0x6d2064656b61656c 0x00000079726f6d65",
    "decode-text": 'leak-decode -text "leaked memory"',
    "decode-at": "leak-decode -at HEAP+0xab0 -count 2",
    "strings": "leak-strings -in heap -min 12 -top 1",
    "snapshot": "leak-snapshot OUT",
    "diff-region": "leak-diff-region BEFORE",
    "blocks": "leak-blocks",
    "blocks-by-size": "leak-blocks -by size -state all",
    "blocks-list": "leak-blocks -list -size 2056 -limit 2",
    "whatis": "leak-whatis HEAP+0xab5",
    "whatis-free": "leak-whatis HEAP+0x2a0",
    "refs": "leak-refs HEAP+0xab0 -path",
    # Last: once it was run others show verdicts too.
    "check": "leak-check",
    "check-all": "leak-check -show all -list",
}
#: Where libc and the kernel decide most sizes.
OF_THE_MACHINE = ("overview", "snapshot", "regions-by-size")
TARGETS = ("live", "core")


@dataclass
class Said:
    """What every command said of one target."""

    texts: dict[str, str]
    answers: dict[str, dict[str, Any]]
    normal: golden.Normal


def typed(command: str, sample: Any, out: Path) -> str:
    command = re.sub(
        r"HEAP\+(0x[0-9a-f]+)", lambda match: hex(sample.heap.start + int(match[1], 16)), command
    )
    return command.replace("BEFORE", str(sample.before)).replace("OUT", str(out))


@pytest.fixture(scope="module")
def said(sample: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    machine, libc = platform.machine(), tuple(map(int, platform.libc_ver()[1].split(".")[:2]))
    if machine != "x86_64" or not (2, 30) <= libc <= (2, 41):
        pytest.skip(f"the files are of x86_64 and glibc 2.30 to 2.41, not {machine} and {libc}")
    folder = tmp_path_factory.mktemp("out")
    return {target: ask(target, sample, folder) for target in TARGETS}


def ask(target: str, sample: Any, folder: Path) -> Said:
    commands = []
    for name, command in COMMANDS.items():
        for form in ("text", "json"):
            line = typed(command, sample, folder / f"{target}.{name}.{form}")
            commands += [
                f"echo @@{name}.{form}\\n",
                line if form == "text" else re.sub(r"^(\S+)", r"\1 -json", line),
            ]
    if target == "live":
        answer = gdb(*commands, "echo @@end\\n", pid=sample.live.pid)
    else:
        answer = gdb(*commands, "echo @@end\\n", program=sample.path, core=sample.after)
    parts = [part.partition("\n") for part in answer.stdout.split("@@")[1:-1]]
    by_name = {name: text for name, _, text in parts}
    texts = {name: by_name[f"{name}.text"] for name in COMMANDS}
    answers = {name: Answer(by_name[f"{name}.json"], answer.stderr, 0).json() for name in COMMANDS}
    files = [
        (folder / f"{target}.{name}.{form}", "OUT")
        for name in COMMANDS
        for form in ("text", "json")
    ]
    files += [(sample.before, "BEFORE"), (sample.after, "CORE"), (sample.path, "PROGRAM")]
    # A core by gdb has the first 80 bytes of a command line.
    files.append((Path(str(sample.path)[:80]), "PROGRAM"))
    mappings = truth.parse_maps(sample.maps_after.read_text())
    return Said(texts, answers, golden.Normal(mappings, files, sample.live.pid))


def compare(file: str, text: str, request: pytest.FixtureRequest) -> None:
    path = golden.FOLDER / file
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert path.exists(), f"no {file}: pytest --update-golden writes it"
    assert text == path.read_text()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", COMMANDS)
def test_text_is_as_before(
    said: dict[str, Said], target: str, name: str, request: pytest.FixtureRequest
) -> None:
    text = said[target].normal.text(said[target].texts[name])
    if name in OF_THE_MACHINE or name.startswith("regions"):
        text = golden.sizes_named(text)
    if name == "overview":
        text = golden.kinds_sorted(text)
    compare(f"{target}-{name}.txt", f"{COMMANDS[name]}\n{text}", request)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_as_before(
    said: dict[str, Said], target: str, name: str, request: pytest.FixtureRequest
) -> None:
    answer = dict(said[target].answers[name])
    if name == "overview":
        answer["kinds"] = sorted(answer["kinds"], key=lambda kind: kind["kind"])
        # As in the text: which ones follow the heap depends on the environment.
        first, *others = answer["largest"]
        answer["largest"] = [first, *(dict.fromkeys(other, "…") for other in others)]
    text = said[target].normal.json(answer, name in OF_THE_MACHINE)
    command = re.sub(r"^(\S+)", r"\1 -json", COMMANDS[name])
    compare(f"{target}-{name}.json", f"{command}\n{text}", request)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_answer_has_the_common_keys(said: dict[str, Said], name: str) -> None:
    for target in TARGETS:
        answer = said[target].answers[name]
        command = COMMANDS[name].split()[0].partition("-")[2] or "overview"
        assert answer["command"] == command
        assert re.fullmatch(rf"gdb-leak/{command}/\d+", answer["schema"])
        assert isinstance(answer["notes"], list)
        assert set(answer["target"]) >= {"kind", "arch", "word_size", "byte_order", "complete"}


@pytest.mark.parametrize("target", TARGETS)
def test_every_golden_file_is_of_a_command(target: str) -> None:
    wanted = {f"{target}-{name}.{form}" for name in COMMANDS for form in ("txt", "json")}
    assert {path.name for path in golden.FOLDER.glob(f"{target}-*")} == wanted


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name not in ("snapshot", "dump-out")]
)
def test_the_shell_answers_as_gdb_does(said: dict[str, Said], sample: Any, name: str) -> None:
    command, *words = typed(COMMANDS[name], sample, Path()).replace('"', "").split()
    if name == "decode-text":
        words = ["-text", "leaked memory"]
    if name == "find-nothing":
        words = ["nobody wrote this", "-in", "heap"]
    short = command.partition("-")[2] or "overview"
    if short == "diff-region":
        words.append(str(sample.after))
    elif short != "decode" or "-at" in words:
        words.insert(0, str(sample.after))
    answer = shell(short, *words, "-json").json()
    expected = dict(said["core"].answers[name])
    # What to type next is in the door's own words; without -at decode has no TARGET in a shell.
    for own in ("next", "target"):
        answer.pop(own, None)
        expected.pop(own, None)
    assert answer == expected
