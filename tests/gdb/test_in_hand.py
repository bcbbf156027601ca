"""Blocks that malloc's own functions have in hand are not lost."""

import json
import os
from pathlib import Path

import pytest
from harness.debuggers import gdb
from harness.processes import compile_fixture

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="calls of malloc are known by registers on x86-64 only"
)

# What may be used of the block that in_hand loses.
LOST = 792

# Steps through each call of free and realloc, and checks after every fifth instruction, others
# in the second round.
STEPS = """
import gdb, json
HOW = ("definitely", "indirectly", "possibly")
gdb.execute("tbreak work")
gdb.execute("run")
own = gdb.selected_frame().pc() >> 16
gdb.Breakpoint("free")
gdb.Breakpoint("realloc")
calls, seen = 0, []
while calls < 40:
    try:
        gdb.execute("continue", to_string=True)
        gdb.selected_frame().older().pc()
    except gdb.error:
        break
    if gdb.selected_frame().older().pc() >> 16 != own:
        continue
    calls += 1
    for step in range(400):
        frame = gdb.selected_frame()
        if frame.pc() >> 16 == own:
            break
        if step % 5 == calls % 5:
            answer = json.loads(gdb.execute("leak-check -json", to_string=True))
            lost = [answer["summary"][how + "_lost"]["bytes"] for how in HOW]
            seen.append([calls, step, frame.name(), lost])
        gdb.execute("stepi", to_string=True)
with open("seen.json", "w") as file:
    json.dump(seen, file)
"""


def test_a_block_in_hand_is_held_by_a_register(tmp_path: Path) -> None:
    program = compile_fixture("in_hand", tmp_path / "in_hand", "-O1", "-static")
    answer = gdb(
        "break freed",
        "run",
        "break _int_free",
        "continue",
        "leak-refs $rsi+16 -path -json",
        program=program,
    ).json()
    assert answer["verdict"] == "still_reachable"
    assert [row["owner"]["kind"] for row in answer["references"]] == ["register"]
    assert [row["owner"]["name"] for row in answer["path"]] == ["rsi"]
    assert [(row["offset"], row["interior"]) for row in answer["references"]] == [(-16, False)]
    assert [row["offset"] for row in answer["path"]] == [-16]


@pytest.mark.parametrize("flags", [(), ("-static",)], ids=["dynamic", "static"])
def test_a_block_that_a_call_of_malloc_has_in_hand_is_not_lost(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    program = compile_fixture("in_hand", tmp_path / "in_hand", "-O1", *flags)
    script = tmp_path / "steps.py"
    script.write_text(STEPS)
    gdb(f"cd {tmp_path}", f"source {script}", program=program)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert len(seen) > 200
    # malloc may look at the lost block beside the one that it has in hand.
    wrong = [row for row in seen if row[3] not in ([0, 0, 0], [LOST, 0, 0])]
    assert not wrong, (len(wrong), len(seen), wrong[:10])
    assert sum(row[3][0] == LOST for row in seen) > 0.9 * len(seen)
