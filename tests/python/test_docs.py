r"""README and docs: what they show is what happens.

A ``console`` block is run where the sample was built and its cores were taken:
``$ `` lines by a shell, ``(gdb) `` lines in the gdb that the line before them
started. Each line shown must be in the output, in the order shown; ``…`` stands
for anything, and alone on a line for any lines. Addresses, sizes, times, pids
and folders may differ; an address that was shown stands in later commands for
the one that was really there. A ``python`` or ``gdb`` block whose first line
names a file (``# grown.py``) is that file in the same folder.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest
from gdb_leak.doors.shell import SHELL_TABLE

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
RUN = [page for page in PAGES if "\n```console\n" in page.read_text(encoding="utf-8")]
PATIENCE = 60.0

#: What may differ, and what stands in its place. Two sizes may not: they are
#: those of the hunt, the same wherever malloc is glibc's.
_DIFFERS = re.compile(
    r"(?P<skip>…)"
    r"|(?P<address>\b0x(?:0{4}|[0-9a-f]{6,12}\b)[0-9a-f]*\b)"
    r"|(?P<size>(?<![\d.+])(?!132 KiB|264 KiB)\d+(?:\.\d+)? (?:bytes?|[KMG]iB)\b)"
    r"|(?P<time>\d+\.\d+ ms)"
    r"|(?P<pid>(?:\b(?:pid|process)|==) \d+)"
    r"|(?P<regions>\b\d+ regions)"
    r"|(?P<folder>(?<![\w.])/(?:[\w.+-]+/)+)"
    r"|(?P<blanks>\s+)"
)
_STANDS = {
    "skip": r".*?",
    "address": r"(0x[0-9a-f]+)",
    "size": r"\d+(?:\.\d+)? (?:bytes?|[KMG]iB)",
    "time": r"\d+\.\d+ ms",
    "pid": r"(?:pid|process|==) \d+",
    "regions": r"\d+ regions?",
    "folder": r"/(?:\S+/)*",
    "blanks": r"\s+",
}
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")


class Step(NamedTuple):
    """A line typed at a prompt, and the lines shown below it."""

    prompt: str
    typed: str
    shown: list[str]


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def steps(block: str) -> list[Step]:
    found: list[Step] = []
    for line in block.splitlines():
        prompt, _, typed = line.partition(" ")
        if prompt in ("$", "(gdb)") and typed:
            found.append(Step(prompt, typed, []))
        elif line.strip():
            assert found, f"no prompt before: {line}"
            found[-1].shown.append(line)
    return found


def pattern(shown: str) -> tuple[re.Pattern[str], list[str]]:
    """Return what a line of output must match, and the addresses that were shown."""
    parts: list[str] = []
    addresses: list[str] = []
    at = 0
    shown = shown.strip()
    for match in _DIFFERS.finditer(shown):
        parts.append(re.escape(shown[at : match.start()]))
        kind = str(match.lastgroup)
        parts.append(_STANDS[kind])
        if kind == "address":
            addresses.append(match.group())
        at = match.end()
    parts.append(re.escape(shown[at:]))
    return re.compile("".join(parts) + r"\Z"), addresses


class Reader:
    """Reads one page, and remembers which addresses stand for which."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.real: dict[int, str] = {}

    def run(self, block: str) -> None:
        wanted = steps(block)
        while wanted:
            step = wanted.pop(0)
            assert step.prompt == "$", f"no gdb was started for: {step.typed}"
            inside: list[Step] = []
            while wanted and wanted[0].prompt == "(gdb)":
                inside.append(wanted.pop(0))
            if not inside:
                self.compare(step, self.output(self.now(step.typed)))
                continue
            for number, typed in enumerate(inside):
                # One gdb for each prefix: an address that a line shows may be
                # used in the next.
                parts = ["echo @@\\n", self.now(typed.typed)]
                before = [self.now(earlier.typed) for earlier in inside[:number]]
                arguments = " ".join(f"-ex {shlex.quote(part)}" for part in [*before, *parts])
                output = self.output(f"{self.now(step.typed)} -batch {arguments}")
                self.compare(typed, output.partition("@@\n")[2])

    def now(self, typed: str) -> str:
        """Return what to type here, where addresses are not those of the page."""
        return _ADDRESS.sub(
            lambda match: self.real.get(int(match.group(), 16), match.group()), typed
        )

    def output(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
            encoding="utf-8",
            errors="backslashreplace",
        )
        return done.stdout

    def compare(self, step: Step, output: str) -> None:
        lines = iter(output.splitlines())
        for shown in step.shown:
            if shown.strip() == "…":
                continue
            wanted, addresses = pattern(shown)
            for line in lines:
                match = wanted.match(line.strip())
                if match:
                    break
            else:
                pytest.fail(f"`{step.typed}` does not show\n  {shown}\nbut\n{output}")
            real = zip(addresses, match.groups())
            self.real.update((int(then, 16), hex(int(now, 16))) for then, now in real)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a person who has installed gdb-leak."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if name != "DEBUGINFOD_URLS"}
    bin_folder = Path(sys.executable).parent
    environment = {
        **kept,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "LC_ALL": "C.UTF-8",
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
    }
    subprocess.run(["gdb-leak", "gdbinit", "-install"], env=environment, check=True)
    return environment


@pytest.fixture(scope="module")
def hunt(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the folder with the sample, its cores and maps, and the environment with its PID."""
    for tool in ("gdb", "gcc", "pmap"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here")
    folder = tmp_path_factory.mktemp("hunt")
    source = ROOT / "tests/fixtures/sample.c"
    subprocess.run(["gcc", "-g", "-O0", "-o", folder / "sample", source], check=True)
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            ["./sample"], cwd=folder, stdin=subprocess.PIPE, stdout=said, bufsize=0
        )
    try:
        assert process.stdin is not None
        for name, calls in (("before", 1), ("after", 101)):
            _wait_until(
                lambda calls=calls: f"called {calls} times" in (folder / "said").read_text()
            )
            _take(process.pid, name, folder, environment)
            if name == "before":
                process.stdin.write(b"\n")
        yield folder, {**environment, "PID": str(process.pid)}
    finally:
        process.kill()
        process.communicate()


def _take(pid: int, name: str, folder: Path, environment: dict[str, str]) -> None:
    gcore = ["gdb", "-nx", "-batch", "-p", str(pid), "-ex", f"gcore core.{name}"]
    subprocess.run(gcore, cwd=folder, env=environment, capture_output=True, check=True)
    with (folder / f"pmap.{name}").open("wb") as saved:
        subprocess.run(["pmap", "-x", str(pid)], stdout=saved, env=environment, check=True)
    (folder / f"maps.{name}").write_text(Path(f"/proc/{pid}/maps").read_text())


def _wait_until(reached: object) -> None:
    assert callable(reached)
    end = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < end, "the sample does not go on"
        time.sleep(0.02)


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_what_a_page_shows_is_what_happens(page: Path, hunt: tuple[Path, dict[str, str]]) -> None:
    folder, environment = hunt
    for block in [*blocks(page, "python"), *blocks(page, "gdb")]:
        named = re.match(r"# (\w+\.\w+)\n", block)
        if named:
            (folder / named.group(1)).write_text(block)
    reader = Reader(folder, environment)
    for block in blocks(page, "console"):
        reader.run(block)


def test_the_hunt_is_among_what_is_shown() -> None:
    shown = "".join(blocks(ROOT / "README.md", "console"))
    for wanted in ("102 matches", "+132 KiB", "Pattern not found.", "leaked memory"):
        assert wanted in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not heading or heading in headings(linked), f"{page.name} links to {target}"


def headings(page: Path) -> list[str]:
    """Return the anchors of a page, made as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in found]


def test_every_page_in_docs_can_be_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    names = {entry.command.prompt_name for entry in SHELL_TABLE}
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w./-])leak-[a-z]+(?:-[a-z]+)*(?![\w/])", text):
        assert name in names or name == "leak-x", f"{page.name} names {name}"


#: A line that answers, for each command that has keys in docs/scripting.md.
ANSWERS = {
    "overview": "core.after",
    "regions": "core.after",
    "find": "core.after leaked -limit 1",
    "dump": "core.after {heap} +16",
    "decode": "0x6d2064656b61656c",
    "strings": "core.after -top 1",
    "snapshot": "core.after {folder}/keys.snapshot -force",
    "diff-region": "core.before core.after",
    "heap": "core.after",
    "blocks": "core.after -limit 1",
    "check": "core.after -list",
    "refs": "core.after {block}",
    "whatis": "core.after {heap}",
    "doctor": "",
    "gdbinit": "",
}
COMMON = {"schema", "command", "target", "notes"}


def key_table() -> dict[str, set[str]]:
    """Return what docs/scripting.md lists: the keys of each command's answer."""
    text = (ROOT / "docs/scripting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", text, re.MULTILINE)
    # What stands in brackets is inside of the key before it.
    flat = [(name, re.sub(r"\([^()]*\)", "", cell)) for name, cell in rows]
    return {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in flat}


#: They start a program, which answers; keys of `run` are held by tests/gdb/test_run.py.
PROGRAMS = ("run", "record")


@pytest.mark.parametrize(
    "name",
    [entry.command.name for entry in SHELL_TABLE if entry.command.name not in PROGRAMS],
)
def test_keys_in_the_page_on_scripting_are_those_of_the_answers(
    name: str, hunt: tuple[Path, dict[str, str]]
) -> None:
    folder, environment = hunt
    heap: Optional[re.Match[str]] = re.search(
        r"^([0-9a-f]+)-.*\[heap\]$", (folder / "maps.after").read_text(), re.MULTILINE
    )
    assert heap is not None

    def answered(command: str, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            ["gdb-leak", command, *words, "-json"],
            cwd=folder,
            env=environment,
            capture_output=True,
            check=True,
            encoding="utf-8",
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    (first,) = answered("find", "core.after", "leaked", "-limit", "1")["matches"]
    places = {"heap": f"0x{heap[1]}", "block": first["block"]["address"], "folder": folder}
    answer = answered(name, *ANSWERS[name].format(**places).split())
    assert set(answer) >= COMMON
    assert key_table()[name] == set(answer) - COMMON
