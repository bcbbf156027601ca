"""valgrind's leak check of a whole run, and what its summary says."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.debuggers import environment

#: Its kinds of blocks, by the names that gdb-leak's JSON has for them.
VERDICTS = {
    "definitely_lost": "definitely lost",
    "indirectly_lost": "indirectly lost",
    "possibly_lost": "possibly lost",
    "still_reachable": "still reachable",
}
# Without the freeres options valgrind has libc and libstdc++ free what is theirs
# first, and blocks that those held change their verdict by that.
_OPTIONS = (
    "--leak-check=full",
    "--show-leak-kinds=all",
    "--run-libc-freeres=no",
    "--run-cxx-freeres=no",
    "--default-suppressions=no",
    "--error-limit=no",
    # By default its heap begins at 0x4a00000, and an aligned word below 2^32 anywhere in the
    # stack or the environment (sizes, texts of four bytes) points at a block by chance.
    "--aspace-minaddr=0x1d5a00000",
)
# Against hanging only: the machine may have much else to do.
_SECONDS = 200


@dataclass(frozen=True)
class Sum:
    """Blocks, and the bytes that were asked for."""

    blocks: int
    bytes: int


@dataclass(frozen=True)
class Report:
    """What valgrind printed of a run."""

    text: str

    @property
    def summary(self) -> dict[str, Sum]:
        """Blocks and bytes by the names of VERDICTS; all none where nothing was taken."""
        if "All heap blocks were freed -- no leaks are possible" in self.text:
            return {name: Sum(0, 0) for name in VERDICTS}
        return {name: self._sum(rf"{words}:") for name, words in VERDICTS.items()}

    @property
    def heuristics(self) -> dict[str, int]:
        """How many blocks each heuristic took for held by their start, by its name."""
        _, _, rest = self.text.partition("of which reachable via heuristic:\n")
        lines = re.findall(r"== +(\w+) *: [\d,]+ bytes in ([\d,]+) blocks", rest)
        return {name: _number(blocks) for name, blocks in lines if name != "suppressed"}

    def _sum(self, title: str) -> Sum:
        (found,) = re.findall(rf"== +{title} ([\d,]+) bytes in ([\d,]+) blocks", self.text)
        return Sum(_number(found[1]), _number(found[0]))


def missing() -> str:
    """Return why there is no valgrind to compare with; nothing when there is one."""
    return "" if shutil.which("valgrind") else "valgrind is not installed"


def check(program: Path, *arguments: str, options: tuple[str, ...] = ()) -> Report:
    """Return valgrind's leak check of PROGRAM at its end, with OPTIONS for valgrind.

    Standard input is empty, standard output a pipe. The program must end with 0.
    """
    done = subprocess.run(
        ["valgrind", *_OPTIONS, *options, str(program), *arguments],
        cwd=str(program.parent),
        env=environment(VALGRIND_OPTS=None),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_SECONDS,
    )
    text = done.stderr.decode("utf-8", "backslashreplace")
    assert done.returncode == 0, f"{program.name} under valgrind: {done.returncode}\n{text}"
    return Report(text)


def _number(text: str) -> int:
    return int(text.replace(",", ""))
