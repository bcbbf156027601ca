"""The shell's door, many times and with limits: each command in a process of its own."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Optional

from harness import ROOT
from harness.debuggers import environment

# Starting Python takes longer than most answers: each command is a fork of one that is there.
_SERVER = """
import json, os, resource, signal, sys, time, traceback
from gdb_leak.doors.shell import main
for line in sys.stdin:
    words, seconds, data, out = json.loads(line)
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (data, data))
        signal.alarm(seconds)
        with open(out, "wb", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = 99
        try:
            status = main(words)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 98
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    _, status, usage = os.wait4(child, 0)
    took = time.monotonic() - begun
    print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss << 10, took]), flush=True)
"""


@dataclass
class Outcome:
    """What became of a command."""

    status: int
    #: The most resident bytes that it had.
    resident: int
    seconds: float
    output: str


class Door:
    """A door that stays open."""

    def __init__(self, folder: Path) -> None:
        """Start it; what commands print goes into FOLDER."""
        self._out = folder / "output"
        python = ROOT / ".venv" / "bin" / "python"
        self._server = subprocess.Popen(
            [python, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def __enter__(self) -> "Door":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        """End it."""
        self._server.communicate()

    def run(self, *words: str, seconds: int, data: int) -> Outcome:
        """Run a command that may take so many SECONDS and bytes of its own DATA."""
        asked = [list(words), seconds, data, str(self._out)]
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        status, resident, took = json.loads(self._server.stdout.readline())
        output = self._out.read_bytes()[: 1 << 20].decode("utf-8", "replace")
        return Outcome(status, resident, took, output)
