"""``gdb-leak record``: the program in the place of gdb-leak, and what cannot be recorded."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from harness.debuggers import environment, shell
from harness.recordings import LIBRARY

RECORDER = ("SAMPLE", "DEPTH", "MEMORY", "ONLY")
#: Prints LD_PRELOAD and the recorder's variables.
SHOW = 'echo "$LD_PRELOAD|' + "|".join(f"$GDB_LEAK_RECORD_{name}" for name in RECORDER) + '"'


def compiled(out: Path, source: str, *flags: str) -> Path:
    line = ["gcc", "-x", "c", "-", "-o", str(out), *flags]
    subprocess.run(line, input=source, text=True, check=True)
    return out


def test_the_programs_status_and_outputs_are_its_own(runs: Path) -> None:
    answer = shell("record", "-depth", 20, runs, "arguments", "-depth", "--", "x")
    assert (answer.stdout, answer.stderr) == ("arguments\n-depth\n--\nx\n", "")
    assert shell("record", "--", runs, "status", 7).status == 7
    assert shell("record", runs, "raise", 15).status == -signal.SIGTERM
    assert shell("record", runs, "pipe").status == -signal.SIGPIPE


def test_options_are_variables_for_the_recorder() -> None:
    plain = shell("record", "sh", "-c", SHOW)
    assert plain.stdout == f"{LIBRARY}||||\n"
    options = ("-sample", "512K", "-depth", 20, "-memory", "1G")
    answer = shell("record", *options, "sh", "-c", SHOW)
    assert answer.stdout == f"{LIBRARY}|{512 << 10}|20|{1 << 30}|\n"


def test_what_was_preloaded_before_still_is(tmp_path: Path) -> None:
    other = compiled(tmp_path / "other.so", "int other;", "-shared", "-fPIC")
    made = environment(LD_PRELOAD=f"{other} {LIBRARY}")
    answer = shell("record", "sh", "-c", SHOW, env=made)
    assert answer.stdout.startswith(f"{LIBRARY}:{other}|")


def test_the_locale_of_the_program_is_not_changed() -> None:
    made = environment(LC_ALL=None, LANG=None, LC_CTYPE=None)
    answer = shell("record", "sh", "-c", 'echo "[$LC_CTYPE]"', env=made)
    assert answer.stdout == "[]\n"


@pytest.mark.parametrize(
    "option", [("-depth", 0), ("-depth", 256), ("-sample", "x"), ("-memory", 0)]
)
def test_numbers_out_of_range_are_wrong_usage(option: tuple[str, object]) -> None:
    answer = shell("record", option[0], str(option[1]), "true")
    assert (answer.status, answer.stdout) == (2, "")


@pytest.mark.parametrize("command", ["record", "run"])
def test_a_missing_recorder_is_said(runs: Path, tmp_path: Path, command: str) -> None:
    # Other tests use the installed one at the same time: a copy of the package lacks it.
    package = LIBRARY.parents[1]
    shutil.copytree(package, tmp_path / package.name, ignore=lambda *_: {LIBRARY.name})
    answer = shell(command, runs, "arguments", env=environment(PYTHONPATH=str(tmp_path)))
    assert (answer.status, answer.stdout) == (1, "")
    missing = tmp_path / LIBRARY.relative_to(package.parent)
    begins = f"gdb-leak: {command}: {missing}: the recorder is not there: "
    assert answer.error.startswith(begins)
    (missing.parent / "missing.txt").write_text("it knows x86-64 only, and this is sparc\n")
    answer = shell(command, runs, "arguments", env=environment(PYTHONPATH=str(tmp_path)))
    assert answer.error == f"{begins}it knows x86-64 only, and this is sparc"


@pytest.mark.parametrize("command", ["record", "run"])
def test_what_cannot_be_executed_is_said(runs: Path, tmp_path: Path, command: str) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    for program, rule in (
        ("nonesuch-program", "is not in PATH"),
        (tmp_path / "nonesuch", "No such file"),
        (tmp_path, "not a regular file"),
        (plain, "Permission denied"),
    ):
        answer = shell(command, program)
        assert (answer.status, answer.stdout) == (1, "")
        assert f"{program}: cannot be executed: " in answer.error
        assert rule in answer.error


@pytest.mark.parametrize("command", ["record", "run"])
def test_what_cannot_be_recorded_is_refused_with_the_rule(tmp_path: Path, command: str) -> None:
    source = "int main(void) { return 0; }"
    musl = "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"
    own = source + " void *malloc(unsigned long n) { return (void *)n; }"
    text = tmp_path / "text"
    text.write_text("echo\n")
    text.chmod(0o755)
    narrow = bytearray(compiled(tmp_path / "narrow", source).read_bytes())
    narrow[4] = 1
    (tmp_path / "narrow").write_bytes(narrow)
    other = bytearray(compiled(tmp_path / "other", source).read_bytes())
    other[18] = 183
    (tmp_path / "other").write_bytes(other)
    static = compiled(tmp_path / "static", source, "-static")
    script = tmp_path / "script"
    script.write_text(f"#!{static} -x\n")
    script.chmod(0o755)
    found = {
        static: "linked statically",
        compiled(tmp_path / "pie", source, "-static-pie"): "linked statically",
        compiled(tmp_path / "musl", source, musl): "musl",
        compiled(tmp_path / "own", own, "-fno-builtin", "-rdynamic"): "defines malloc",
        tmp_path / "narrow": "32-bit",
        tmp_path / "other": "another machine",
        text: "neither an ELF program nor a script",
    }
    for program, rule in found.items():
        answer = shell(command, program)
        assert (answer.status, answer.stdout) == (1, "")
        assert f"{command}: {program}: cannot be recorded: " in answer.error
        assert rule in answer.error
    answer = shell(command, script)
    assert answer.status == 1
    assert f"{static}: cannot be recorded: it is linked statically" in answer.error


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to somebody else")
def test_a_program_with_rights_of_its_own_is_refused(runs: Path, tmp_path: Path) -> None:
    program = Path(shutil.copy(runs, tmp_path / "program"))
    for user, group, mode in ((65534, -1, 0o4755), (0, 65534, 0o2755)):
        os.chown(program, user, group)
        program.chmod(mode)
        answer = shell("record", program)
        assert answer.status == 1
        assert "set-uid, set-gid" in answer.error
    # With its caller's rights it has none to gain.
    os.chown(program, 0, 0)
    program.chmod(0o6755)
    assert shell("record", program, "status", 5).status == 5


def test_scripts_run_as_they_would_alone(tmp_path: Path) -> None:
    for first in ("#!/bin/sh", "#!/usr/bin/env sh", "#!/usr/bin/env -S sh -u"):
        script = tmp_path / "script"
        script.write_text(f'{first}\necho "$0" "$@"\nexit 4\n')
        script.chmod(0o755)
        for command in ("record", "run"):
            answer = shell(command, script, "-a", "b c")
            assert (answer.status, answer.stdout) == (4, f"{script} -a b c\n")


def test_the_recorder_stays_where_env_finds_the_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/usr/bin/env sh\ncat /proc/$$/cmdline | tr '\\0' '\\n'\n")
    script.chmod(0o755)
    answer = shell("run", script)
    assert answer.stdout == f"sh\n{script}\n"
