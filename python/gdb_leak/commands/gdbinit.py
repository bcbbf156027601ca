"""``gdb-leak gdbinit``: the one line that makes every gdb load gdb-leak."""

from collections.abc import Iterator

from gdb_leak.errors import UsageError
from gdb_leak.layout import Block, line
from gdb_leak.options import Command, Option
from gdb_leak.target import Request, Result, Value

COMMAND = Command(
    name="gdbinit",
    summary="Print the line that loads gdb-leak into gdb, or install it.",
    options=(
        Option("install", "Write the line into the gdbinit file, in a block with marks."),
        Option(
            "remove",
            "Take that block out of the gdbinit file, and delete the file where -install made it "
            "and nothing else is in it.",
        ),
    ),
    description=(
        "The gdbinit file is the one that gdb reads: ~/.config/gdb/gdbinit where it exists "
        "(gdb 11 and later), else ~/.gdbinit. Outside the block no byte of it changes."
    ),
    example=("", "gdb-leak gdbinit -install"),
    target=False,
)


def run(request: Request) -> Result:
    """Return the line, and what was done to which file."""
    # Here, because what it imports would cost every other command 10 ms.
    from gdb_leak import install

    installs, removes = request.parsed.flag("install"), request.parsed.flag("remove")
    if installs and removes:
        raise UsageError("-install and -remove exclude each other")
    values: dict[str, Value] = {
        "line": install.gdbinit_line(),
        "path": None,
        "changed": False,
        "deleted": False,
    }
    verb = ""
    if installs or removes:
        path = install.gdbinit_path(install.gdb_version())
        edit = install.install(path) if installs else install.remove(path)
        values.update(path=str(edit.path), changed=edit.changed, deleted=edit.deleted)
        if installs:
            verb = "written into" if edit.changed else "was already in"
        else:
            verb = "taken out of" if edit.changed else "was not in"
    return Result(COMMAND.name, None, values, [], verb)


def text(result: Result) -> Iterator[Block]:
    """Yield the line as gdb reads it, or what became of it."""
    values = result.values
    if result.data:
        gone = ", which is deleted: nothing else was in it" if values["deleted"] else ""
        yield line(f"the gdb-leak block {result.data} {values['path']}{gone}")
    else:
        yield line(str(values["line"]))
