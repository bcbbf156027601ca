"""``leak-snapshot``: keep what later comparisons need of the target."""

import shlex
from collections.abc import Iterator
from typing import Optional

from gdb_leak import _native, operands, units
from gdb_leak.errors import UsageError
from gdb_leak.layout import Block, line
from gdb_leak.options import Command, Operand, Option
from gdb_leak.target import Request, Result, Step, Target, Value

COMMAND = Command(
    name="snapshot",
    summary="Keep the regions of the target for a later comparison.",
    operands=(
        Operand(
            "FILE",
            "where to keep it; without one it lasts as long as gdb and is called @1, @2, and "
            "so on.",
            "file",
            least=0,
        ),
    ),
    options=(Option("force", "Replace FILE where it exists."),),
    description=(
        "From a shell, all threads of a running process are stopped while its regions are read, and"
        " go on before the snapshot is written. A snapshot "
        "without FILE is written to PROGRAM.PID.snapshot in the current folder."
    ),
    example=("leak-snapshot", "gdb-leak snapshot 1234 before.snapshot"),
)


def run(request: Request) -> Result:
    """Return the name and the file of a snapshot that is now kept."""
    session = request.session
    session.hold()
    target = session.target()
    path: Optional[str] = None
    if request.parsed.operands:
        word = request.parsed.operands[0]
        if not session.shell and not word.quoted and word.raw.startswith("@"):
            raise UsageError(
                f"{word.raw} would name a snapshot of the session; a file is ./{word.raw}"
            )
        path = operands.file_path(word)
    elif session.shell:
        path = _free_path(target)
    taken = _native.take_snapshot(target.memory)
    # Writing it takes longer than taking it, and needs nothing of the target.
    notes = session.let_go()
    if path is not None:
        _native.save_snapshot(taken, path, request.parsed.flag("force"))
    kept = session.snapshots.keep(taken, path)
    values: dict[str, Value] = {
        "path": path,
        "taken": taken.taken,
        "regions": len(taken.regions("all")),
        "blocks": None,
        "name": None if session.shell else kept.name,
    }
    described, word_size = target.describe(), target.memory.word_size
    notes = [*target.all_notes(), *notes]
    result = Result(COMMAND.name, described, values, notes, None, word_size)
    if target.memory.source in ("process", "remote"):
        sides = [shlex.quote(str(path)), str(target.pid)] if session.shell else []
        typed = session.typed("diff-region", *sides)
        result.steps.append(Step("what grew, once it has run on", typed))
    return result


def text(result: Result) -> Iterator[Block]:
    """Yield one line: what is kept, and by which name."""
    values = result.values
    regions = units.counted(int(str(values["regions"])), "region")
    where = f"snapshot {values['name']}" if values["name"] else "snapshot"
    if values["path"]:
        where += f" in {values['path']}"
    yield line(f"{where}: {regions}")


# PROGRAM.PID.snapshot in the current folder, numbered where that is taken.
def _free_path(target: Target) -> str:
    # Here, because it would cost every other command 3 ms.
    from pathlib import Path

    # A core has the whole command line here.
    command = (target.memory.program or "core").split()
    parts = [Path(command[0]).name if command else "core"]
    if target.memory.pid is not None:
        parts.append(str(target.memory.pid))
    stem = ".".join(parts)
    path = Path(f"{stem}.snapshot")
    number = 1
    while path.exists() or path.is_symlink():
        number += 1
        path = Path(f"{stem}.{number}.snapshot")
    return str(path)
