"""``gdb-leak doctor``: what stands between a person and a leak hunt on this machine."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gdb_leak.layout import Block, Column, Columns, Span, line
from gdb_leak.options import Command
from gdb_leak.target import Request, Result, Value

if TYPE_CHECKING:
    from gdb_leak.install import Check

COMMAND = Command(
    name="doctor",
    summary="Say whether gdb-leak can work here, and what to do if not.",
    description=(
        "Starts the gdb that would run (GDB in the environment names another), loads gdb-leak "
        "into it and attaches it to a process; starts a program with the recorder. Changes nothing."
    ),
    example=("", "gdb-leak doctor"),
    target=False,
)


def run(_request: Request) -> Result:
    """Return the checks, each with what was found."""
    # Here, because what it imports would cost every other command 10 ms.
    from gdb_leak import install

    checks = install.doctor()
    listed: list[Value] = [
        {
            "name": check.name,
            "ok": check.ok,
            "detail": check.detail,
            "advice": check.advice or None,
        }
        for check in checks
    ]
    return Result(COMMAND.name, None, {"checks": listed}, [], checks)


def text(result: Result) -> Iterator[Block]:
    """Yield one line a check, and then one a piece of advice."""
    checks: list[Check] = result.data
    yield Columns(
        (Column("<"), Column("<"), Column("<", least=20, wrap=True)),
        ([Span(check.name, "kind"), "ok" if check.ok else "no", check.detail] for check in checks),
    )
    for check in checks:
        if check.advice:
            yield line(Span(f"{check.name}: {check.advice}", "note"))
