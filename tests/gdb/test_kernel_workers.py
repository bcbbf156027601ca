"""Workers that the kernel runs in a process: threads without a stack."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import cores
from harness.debuggers import gdb, shell
from harness.processes import Program, compile_fixture


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("ring")
    program = Program(compile_fixture("ring_worker", folder / "ring"), cwd=folder)
    try:
        program.wait_for("READY")
    except AssertionError:
        program.end()
        pytest.skip("the kernel does not let this user have an io_uring")
    yield program
    program.end()


def test_a_worker_of_the_kernel_runs_on_no_stack(ring: Program, tmp_path: Path) -> None:
    tasks = list(Path(f"/proc/{ring.pid}/task").iterdir())
    names = [(task / "comm").read_text().strip() for task in tasks]
    assert any(name.startswith("iou-wrk-") for name in names), names
    said: list[dict[str, Any]] = [
        shell("check", ring.pid, "-json").json(),
        gdb("leak-check -json", pid=ring.pid).json(),
        shell("check", cores.gcore(ring.pid, tmp_path / "saved"), "-json").json(),
    ]
    with cores.plain_core_pattern():
        said.append(shell("check", cores.kernel_core(ring), "-json").json())
    for answer in said:
        assert not any("run on stacks that" in note for note in answer["notes"])
        assert not any("registers of" in note for note in answer["notes"])
        assert answer["summary"]["definitely_lost"]["blocks"] == 1
