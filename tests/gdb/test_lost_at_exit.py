"""Blocks that only stale words hold where a program ends, and those that its frames hold."""

import os
from pathlib import Path

import pytest
from harness.leaks import counts, run_to_exit
from harness.processes import compile_fixture

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="frames are unwound on x86-64 only"
)

BUILDS = [("-O0",), ("-O1",), ("-O2",)]


@pytest.mark.parametrize("flags", BUILDS, ids=" ".join)
def test_no_frame_of_exit_holds_what_main_left(flags: tuple[str, ...], tmp_path: Path) -> None:
    for place in range(12):
        name = f"place{place}"
        program = compile_fixture("lost_at_exit", tmp_path / name, *flags, f"-DPLACE={place}")
        stop = run_to_exit(program, tmp_path / f"{name}.core")
        assert counts(stop.check()["summary"]) == (1, 0, 0, 0), place


@pytest.mark.parametrize("flags", [("-O0",), ("-O2",)], ids=" ".join)
def test_a_frame_that_called_exit_keeps_its_variables(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    for place in (0, 5, 11):
        name = f"place{place}"
        options = (*flags, f"-DPLACE={place}", "-DEXITS")
        program = compile_fixture("lost_at_exit", tmp_path / name, *options)
        stop = run_to_exit(program, tmp_path / f"{name}.core")
        assert counts(stop.check()["summary"])[0] == 0, place
