"""``gdb-leak gdbinit`` and ``gdb-leak doctor``, as the shell door runs them."""

from pathlib import Path
from typing import Any, cast

import pytest
from gdb_leak import install
from gdb_leak.commands import doctor, gdbinit
from gdb_leak.errors import UsageError
from gdb_leak.layout import Columns
from gdb_leak.options import Parsed
from gdb_leak.target import Request, Result


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def request(**flags: bool) -> Request:
    # Neither command asks anything of its door.
    return Request(Parsed(dict(flags)), cast("Any", None))


def shown(result: Result) -> str:
    """Return the one line of an answer."""
    (only,) = gdbinit.text(result)
    return "".join(span.text for span in cast("Any", only))


def test_gdbinit_prints_the_line_and_nothing_else(home: Path) -> None:
    assert shown(gdbinit.run(request())) == install.gdbinit_line()
    assert not (home / ".gdbinit").exists()


def test_gdbinit_says_what_it_did_to_which_file(home: Path) -> None:
    file = home / ".gdbinit"
    said = [
        shown(gdbinit.run(request(install=True))),
        shown(gdbinit.run(request(install=True))),
        shown(gdbinit.run(request(remove=True))),
        shown(gdbinit.run(request(remove=True))),
    ]
    assert said == [
        f"the gdb-leak block written into {file}",
        f"the gdb-leak block was already in {file}",
        f"the gdb-leak block taken out of {file}, which is deleted: nothing else was in it",
        f"the gdb-leak block was not in {file}",
    ]
    assert not file.exists()


def test_install_and_remove_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        gdbinit.run(request(install=True, remove=True))


def test_doctor_shows_each_check_and_then_the_advice(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    result = doctor.run(request())
    table, *advice = doctor.text(result)
    assert isinstance(table, Columns)
    rows = [row[1:] for row in table.rows]
    assert rows[0] == ["no", "no gdb in PATH"]
    assert len(advice) == sum(1 for check in install.doctor() if check.advice)
    checks = cast("Any", result.values["checks"])
    assert [check["name"] for check in checks] == ["gdb", "gdbinit", "core", "recorder"]
