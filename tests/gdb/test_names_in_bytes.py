"""Names of files and functions that are not text in the locale, in gdb and from a shell."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from gdb_leak import _native
from harness import ROOT, cores
from harness.debuggers import Answer, environment, gdb, shell
from harness.processes import Program

#: Latin-1's e with an acute accent: no UTF-8.
ODD = os.fsdecode(b"\xe9")
SHOWN = "\\xe9"
LATIN = "en_US.ISO-8859-1"
LOCALES = ("C", "C.UTF-8", LATIN)
TRACEBACKS = ("Traceback", "UnicodeDecodeError", "UnicodeEncodeError", "a bug of gdb-leak")


class Named(NamedTuple):
    """The running program, the folder of it and its library, and a core."""

    program: Path
    library: Path
    live: Program
    core: Path
    locales: Path


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    root = tmp_path_factory.mktemp("named")
    if shutil.which("localedef") is None:
        pytest.skip("no localedef here, which makes a locale with another charset")
    locales = root / "locales"
    locales.mkdir()
    made = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(locales / LATIN)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"localedef makes no {LATIN}: {made.stderr.decode()}")
    folder = root / f"fold{ODD}r"
    folder.mkdir()
    source = folder / f"sourc{ODD}.c"
    shutil.copy(ROOT / "tests/fixtures/named_library.c", source)
    library, program = folder / f"lib{ODD}.so", folder / f"prog{ODD}"
    flags = ["gcc", "-g", "-O0"]
    subprocess.run([*flags, "-shared", "-fPIC", source, "-o", library], check=True)
    main = ROOT / "tests/fixtures/named.c"
    subprocess.run([*flags, main, library, "-Wl,-rpath,$ORIGIN", "-o", program], check=True)
    live = Program(program, cwd=folder)
    try:
        live.wait_for("READY")
        core = folder / f"cor{ODD}"
        plain = cores.gcore(live.pid, root / "core")
        yield Named(program, library, live, plain.rename(core), locales)
    finally:
        live.end()


def env(named: Named, locale: str) -> dict[str, str]:
    return environment(LC_ALL=locale, LOCPATH=str(named.locales))


def address(named: Named, name: str) -> str:
    return hex(named.live.places[name][0])


def commands(named: Named) -> tuple[str, ...]:
    odd, kept, call = (address(named, name) for name in ("odd", "kept", "call"))
    return (
        *("leak", "leak -json", "leak-regions -json", "leak-check -json", "leak-heap -json"),
        *(f"leak-whatis {odd} -json", f"leak-whatis {call} -json", f"leak-refs {kept} -path -json"),
        *("leak-blocks -json -list", f"leak-dump {call} +16 -json", "leak-strings -top 5 -json"),
        *("leak-snapshot -json", "leak-diff-region -json", "leak-regions", "leak-check -show all"),
    )


def check(answer: Answer, named: Named, count: int) -> dict[str, dict[str, Any]]:
    """Return the JSON answers by command, once nothing failed and names are byte by byte."""
    said = answer.stdout + answer.stderr
    assert not [word for word in TRACEBACKS if word in said], said
    assert not [line for line in answer.stderr.splitlines() if line.startswith("leak")], said
    found = answer.all_json()
    assert len(found) == count, said
    by_command = {one["command"]: one for one in found}
    names = {region["name"] for region in by_command["regions"]["regions"]}
    assert str(named.library).replace(ODD, SHOWN) in names
    assert "\ufffd" not in said
    return by_command


@pytest.mark.parametrize("locale", LOCALES)
class TestEveryLocale:
    def test_every_command_answers_on_a_live_process(self, named: Named, locale: str) -> None:
        answer = gdb(*commands(named), pid=named.live.pid, env=env(named, locale))
        found = check(answer, named, 12)
        assert SHOWN in found["overview"]["program"]

    def test_every_command_answers_on_a_core(self, named: Named, locale: str) -> None:
        answer = gdb(
            *commands(named), program=named.program, core=named.core, env=env(named, locale)
        )
        found = check(answer, named, 12)
        assert found["overview"]["target"]["path"] == str(named.core).replace(ODD, SHOWN)

    def test_every_command_answers_where_only_gdb_reads(self, named: Named, locale: str) -> None:
        # Without the program's name, which gdb cannot hand to the server.
        server = f"target remote | gdbserver --once --attach - {named.live.pid}"
        answer = gdb("set sysroot /", server, *commands(named), env=env(named, locale))
        check(answer, named, 12)

    def test_the_shell_answers_alike(self, named: Named, locale: str) -> None:
        for target in (named.live.pid, named.core):
            answer = shell("regions", target, "-json", env=env(named, locale))
            names = {region["name"] for region in answer.json()["regions"]}
            assert str(named.library).replace(ODD, SHOWN) in names
        path = answer.json()["target"]["path"]
        assert path == str(named.core).replace(ODD, SHOWN)

    def test_a_file_that_is_not_there_is_named_by_its_bytes(
        self, named: Named, locale: str
    ) -> None:
        answer = shell("regions", f"g{ODD}ne", env=env(named, locale))
        raw = b"g\xe9ne" if locale == LATIN else b"g\\xe9ne"
        assert raw.decode("utf-8", "backslashreplace") in answer.stderr

    def test_functions_of_frames_and_symbols_are_named(self, named: Named, locale: str) -> None:
        answer = gdb(
            f"leak-whatis {address(named, 'odd')} -json",
            "leak-blocks -list -size 344 -json -limit 1",
            pid=named.live.pid,
            env=env(named, locale),
        )
        whatis, blocks = answer.all_json()
        library = str(named.library).replace(ODD, SHOWN)
        assert whatis["symbol"] == f"o{SHOWN}d in section .text of {library}"
        (block,) = blocks["blocks"]
        answer = gdb(
            f"leak-refs {block['address']} -json", pid=named.live.pid, env=env(named, locale)
        )
        owners = {reference["owner"]["name"] for reference in answer.json()["references"]}
        assert "inn\u00e9r" in owners, answer.stdout

    def test_a_folder_of_such_bytes_may_be_the_current_one(
        self, named: Named, locale: str, tmp_path: Path
    ) -> None:
        here = tmp_path / f"h{ODD}re"
        here.mkdir()
        line = [os.environ.get("GDB", "gdb"), "-nx", "-batch", "-x", f"{ROOT}/gdbinit.example"]
        line += ["-p", str(named.live.pid), "-ex", "leak-snapshot taken -json"]
        line += ["-ex", "leak-diff-region taken -json"]
        done = subprocess.run(
            line, cwd=here, env=env(named, locale), capture_output=True, check=False
        )
        assert done.stdout.count(b'{"schema"') == 2, done.stderr
        assert (here / "taken").exists()


def test_pages_that_a_core_leaves_out_come_from_the_file_by_its_bytes(
    named: Named, tmp_path: Path
) -> None:
    program = Program(named.program, cwd=tmp_path)
    try:
        program.wait_for("READY")
        call = program.places["call"][0]
        # Mapped files are not dumped: core(5), bit 2 and 3.
        Path(f"/proc/{program.pid}/coredump_filter").write_text("0x33")
        with cores.plain_core_pattern():
            core = cores.kernel_core(program)
    finally:
        program.end()
    for locale in LOCALES:
        answer = shell("dump", core, hex(call), "+16", "-json", env=env(named, locale))
        first = answer.json()["lines"][0]
        assert first.startswith(f"{call:#018x}  "), first
        assert not [note for note in answer.json()["notes"] if "could not be read" in note]


def test_the_tracer_of_a_process_of_such_a_name_is_named(named: Named) -> None:
    stop = _native.stop_process(named.live.pid)
    try:
        answer = shell("check", named.live.pid)
    finally:
        stop.release()
    assert answer.status == 1
    assert "is traced by process" in answer.error


def test_a_host_charset_that_python_does_not_know_is_no_obstacle(named: Named) -> None:
    answer = gdb(
        *("set host-charset ARMSCII-8", "leak", "show host-charset"),
        program=named.program,
        core=named.core,
    )
    assert SHOWN in answer.stdout
    assert "a bug" not in answer.stderr
    assert "ARMSCII-8" in answer.stdout


def test_text_that_the_terminal_has_no_characters_for_is_escaped(named: Named) -> None:
    words = {"leak-decode 0xa9c3": {"C": "\\xc3\\xa9", "C.UTF-8": "\u00e9", LATIN: "\\xc3\\xa9"}}
    for typed, by_locale in words.items():
        for locale, expected in by_locale.items():
            answer = gdb(typed, env=env(named, locale))
            assert expected in answer.stdout, (locale, answer.stdout)
