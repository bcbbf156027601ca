"""A process that reserves far more memory than it uses."""

import os
import struct
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


def test_a_core_that_lacks_a_huge_segment_is_judged_at_once(sample: Any, tmp_path: Path) -> None:
    data = bytearray(sample.after.read_bytes())
    (table,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    headers = range(table, table + 56 * count, 56)
    # The last writable segment, the stack: it claims 32 PiB that the file does not have.
    stack = [at for at in headers if struct.unpack_from("<II", data, at) == (1, 6)][-1]
    struct.pack_into("<Q", data, stack + 40, 1 << 55)
    core = tmp_path / "core"
    core.write_bytes(data)
    os.utime(core, (1, 1))
    answer = shell("check", core, "-json").json()
    whole = shell("check", sample.after, "-json").json()
    assert answer["summary"] == whole["summary"]
    (missing,) = [note for note in answer["notes"] if "bytes of roots" in note]
    assert 1 << 54 < int(missing.split()[0]) < 1 << 55
