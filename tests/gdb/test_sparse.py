"""A process that reserves far more memory than it uses."""

from pathlib import Path
from typing import Any

from harness.debuggers import shell


def tables(pid: int) -> int:
    """Return the KiB of page tables that the process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmPTE:"))
    return int(line.split()[1])


def test_reading_a_reserve_costs_the_process_no_page_tables(start: Any) -> None:
    program = start("sparse")
    before = tables(program.pid)
    answer = shell("find", program.pid, "needle in a reserve", "-in", "anon", "-json").json()
    start_of_text, _ = program.places["text"]
    assert [place["address"] for place in answer["matches"]] == [hex(start_of_text)]
    assert answer["searched"] > 16 << 30
    # 16 GiB of pages that were all read once would need 32 MiB.
    assert tables(program.pid) - before < 1024
