"""gdb in batch, and the shell's door."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from harness import ROOT

#: The debugger under test.
GDB = os.environ.get("GDB", "gdb")
#: The shell's door, of the wheel that was installed.
DOOR = ROOT / ".venv" / "bin" / "gdb-leak"
# Against hanging only: the machine may have much else to do.
_SECONDS = 200


@dataclass
class Answer:
    """What a command printed, and its exit status."""

    stdout: str
    stderr: str
    status: int

    def json(self) -> dict[str, Any]:
        """Return the one JSON object that was printed."""
        found = self.all_json()
        assert len(found) == 1, f"{len(found)} JSON lines in:\n{self.stdout}\n{self.stderr}"
        return found[0]

    def all_json(self) -> list[dict[str, Any]]:
        """Return the JSON objects that were printed, in order."""
        lines = self.stdout.splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"schema"')]

    @property
    def error(self) -> str:
        """The one line on standard error that is ours."""
        ours = [line for line in self.stderr.splitlines() if line.startswith(("leak", "gdb-leak:"))]
        assert len(ours) == 1, f"{len(ours)} lines of ours in:\n{self.stderr}"
        return ours[0]


def environment(**changed: Optional[str]) -> dict[str, str]:
    """Return the environment for a debugger: no network, no colour, CHANGED over it."""
    made = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DEBUGINFOD_URLS", "NO_COLOR", "PYTHONPATH")
    }
    made.update({"LC_ALL": "C.UTF-8", "TERM": "dumb"})
    for name, value in changed.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = value
    return made


def gdb_line(
    commands: tuple[str, ...],
    program: Optional[Path] = None,
    core: Optional[Path] = None,
    pid: Optional[int] = None,
    batch: bool = True,
) -> list[str]:
    """Return the words that start gdb with the leak commands, and COMMANDS after them."""
    line = [GDB, "-nx", *(["-batch"] if batch else []), "-x", "gdbinit.example"]
    if pid is not None:
        line += ["-p", str(pid)]
    if program is not None:
        line.append(str(program))
    if core is not None:
        line += ["-core", str(core)]
    for command in commands:
        line += ["-ex", command]
    return line


def gdb(
    *commands: str,
    program: Optional[Path] = None,
    core: Optional[Path] = None,
    pid: Optional[int] = None,
    cwd: Path = ROOT,
    env: Optional[dict[str, str]] = None,
) -> Answer:
    """Return what a gdb in batch answers to COMMANDS, on a core or a process."""
    return _run(gdb_line(commands, program, core, pid), cwd, env)


def shell(
    *words: Union[str, int, Path],
    cwd: Path = ROOT,
    env: Optional[dict[str, str]] = None,
    wrapper: tuple[str, ...] = (),
) -> Answer:
    """Return what ``gdb-leak WORDS`` answers, started through the words of WRAPPER."""
    return _run([*wrapper, str(DOOR), *map(str, words)], cwd, env)


def _run(line: list[str], cwd: Path, env: Optional[dict[str, str]]) -> Answer:
    done = subprocess.run(
        line,
        cwd=str(cwd),
        env=env or environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_SECONDS,
    )
    return Answer(
        done.stdout.decode("utf-8", "backslashreplace"),
        done.stderr.decode("utf-8", "backslashreplace"),
        done.returncode,
    )
