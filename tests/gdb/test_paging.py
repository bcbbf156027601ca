"""gdb's pager stops what a person reads, and never what a program reads."""

import os
from typing import Any

from harness import ROOT
from harness.terminal import Terminal


def test_json_is_never_paged(sample: Any) -> None:
    line = [os.environ.get("GDB", "gdb"), "-nx", "-q", "-x", f"{ROOT}/gdbinit.example"]
    terminal = Terminal([*line, "-p", str(sample.live.pid), "-iex", "set pagination off"])
    try:
        terminal.read_until("(gdb) ")
        terminal.command("set height 4")
        terminal.command("set width 40")
        terminal.command("set pagination on")
        for command in ("leak-regions", "leak-check", "leak-heap", "leak-blocks", "leak"):
            assert '"notes": [' in terminal.command(f"{command} -json")
        # It is on again, also for what follows.
        terminal.type("leak-regions\n")
        terminal.read_until("without paging--")
    finally:
        terminal.end()
