"""What takes long says so before, and shows how far it is where a terminal is there to see it."""

import os
import pty
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAGE = str(ROOT / "scripts" / "stage")
SAID = "==> compiling (about 1 minute)"
TYPED = [STAGE, "compiling (about 1 minute)", "printf", "<%s>", "@quiet", "a b", "", "@quiet"]


def test_a_stage_is_one_line_and_a_quiet_command_elsewhere() -> None:
    done = subprocess.run(TYPED, capture_output=True, text=True, check=True)
    assert done.stderr == SAID + "\n"
    assert done.stdout == "<--quiet><a b><><--quiet>"


def test_a_stage_on_a_terminal_lets_the_command_show_its_progress() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(TYPED, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
    assert done.stdout == "<a b><>"
    assert os.read(ours, 100).decode().rstrip() == SAID
    os.close(theirs)
    os.close(ours)


def test_a_stage_ends_as_its_command_does() -> None:
    assert subprocess.run([STAGE, "x", "false"], capture_output=True, check=False).returncode == 1


def test_nothing_that_compiles_or_fetches_is_silent() -> None:
    for name in ("Makefile", "scripts/setup", "scripts/build-recorder"):
        text = (ROOT / name).read_text().replace("\\\n", " ")
        for line in text.splitlines():
            compiles = re.search(r"\b(cargo (test|rustc)|maturin build|-r requirements)\b", line)
            # What is only put together is run by a stage afterwards.
            later = line.startswith("set -- ") and "stage 'compiling the recorder" in text
            if compiles and not later and "#" not in line and "GDB_LEAK_SOAK" not in line:
                assert "stage " in line or "$(STAGE)" in line, f"{name}: {line}"
