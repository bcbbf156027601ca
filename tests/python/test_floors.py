"""The floors: docs/architecture.md against the imports, in Rust and in Python."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("python/gdb_leak")
MOST_LINES = 500
#: Knows nothing of its neighbours on the same floor.
SIDE_BY_SIDE = [
    *("src/search/", "src/inspect/", "src/diff/"),
    *("python/gdb_leak/doors/gdb.py", "python/gdb_leak/doors/shell.py"),
]


class Unit(NamedTuple):
    """A row of the table: a file, or a folder and the files that it lists."""

    order: int
    floor: int
    path: str
    files: frozenset[str]


def read_units() -> list[Unit]:
    rows = re.findall(
        r"^\| (\d+) \| `([^`]+)` \|(.*)\|$",
        (ROOT / "docs/architecture.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    units = []
    for order, (floor, path, text) in enumerate(rows):
        listed = re.findall(r"`([\w/]+\.(?:rs|pyi?))`", text) if path.endswith("/") else []
        # A module may be a file with a folder of its name beside it, listed in full.
        names = {name if name.startswith("src/") else path + name for name in listed} or {path}
        units.append(Unit(order, int(floor), path, frozenset(names)))
    return units


UNITS = read_units()
BY_FILE = {name: unit for unit in UNITS for name in unit.files}
SOURCES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("src/**/*.rs", f"{PACKAGE}/**/*.py", f"{PACKAGE}/**/*.pyi")
    for path in ROOT.glob(pattern)
)
RUST = [name for name in SOURCES if name.endswith(".rs")]
PYTHON = [name for name in SOURCES if name.endswith(".py")]


def rust_code(name: str) -> str:
    """Return the source without comments, and without its unit tests."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"^\s*//.*$|\s//.*$", "", text, flags=re.MULTILINE)
    return re.split(r"#\[cfg\(test\)\]\s*mod \w+ \{", text)[0]


def rust_imports(name: str) -> Iterator[str]:
    """Yield the file of each module that the file NAME uses by its path."""
    own = name.removeprefix("src/").removesuffix(".rs").removesuffix("/mod").split("/")
    for supers, rest in re.findall(r"\b(crate|super(?:::super)*)((?:::\w+)+)", rust_code(name)):
        base = [] if supers == "crate" else own[: -len(supers.split("::"))]
        # `mod search { … use super::x }` inside a file counts from that file.
        yield from rust_file(base + rest.split("::")[1:])


def rust_file(modules: list[str]) -> Iterator[str]:
    for length in range(len(modules), 0, -1):
        stem = "src/" + "/".join(modules[:length])
        for name in (f"{stem}.rs", f"{stem}/mod.rs"):
            if name in RUST:
                yield name
                return


def python_imports(name: str) -> Iterator[str]:
    """Yield what the file NAME imports, as full names, also for types and inside functions."""
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def python_file(imported: str) -> Iterator[str]:
    parts = imported.split(".")
    for length in range(len(parts), 0, -1):
        stem = "python/" + "/".join(parts[:length])
        for name in (f"{stem}.py", f"{stem}.pyi", f"{stem}/__init__.py"):
            if name in SOURCES:
                yield name
                return


def used_files(name: str) -> list[str]:
    if name.endswith(".rs"):
        found = rust_imports(name)
    else:
        found = (file for imported in python_imports(name) for file in python_file(imported))
    return sorted(set(found) - {name})


@pytest.mark.parametrize("name", SOURCES)
def test_every_file_stands_on_one_floor(name: str) -> None:
    assert [unit.path for unit in UNITS if name in unit.files] != [], "not in the table of floors"
    assert sum(name in unit.files for unit in UNITS) == 1


def test_the_table_lists_no_file_that_is_not_there() -> None:
    assert sorted(BY_FILE.keys() - set(SOURCES)) == []


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_uses_lower_floors_and_rows_above_it_only(name: str) -> None:
    own = BY_FILE[name]
    for used in used_files(name):
        other = BY_FILE[used]
        if other == own:
            continue
        allowed = other.floor < own.floor or (other.floor == own.floor and other.order < own.order)
        assert allowed, f"{name} (floor {own.floor}) uses {used} (floor {other.floor})"
        beside = own.path in SIDE_BY_SIDE and other.path in SIDE_BY_SIDE
        assert not (beside and other.floor == own.floor), f"{name} uses its neighbour {used}"


def test_the_imports_are_found_at_all() -> None:
    assert "src/memory.rs" in used_files("src/search/scan.rs")
    assert "src/source/core/notes.rs" in used_files("src/source/core/layout.rs")
    assert "python/gdb_leak/units.py" in used_files("python/gdb_leak/options.py")
    assert "python/gdb_leak/_native.pyi" in used_files("python/gdb_leak/commands/find.py")


def test_only_the_gdb_door_imports_gdb() -> None:
    imports = {
        name for name in PYTHON if any(used.split(".")[0] == "gdb" for used in python_imports(name))
    }
    assert "python/gdb_leak/doors/gdb.py" in imports
    doors = "python/gdb_leak/doors/"
    for name in imports - {"python/gdb_leak/doors/gdb.py"}:
        users = {user for user in PYTHON if name in used_files(user)}
        assert name.startswith(doors), f"{name} imports gdb"
        assert users, f"{name} imports gdb and is not of the gdb door"
        assert users <= imports, f"{name} imports gdb and is used by {sorted(users - imports)}"


@pytest.mark.parametrize("name", [name for name in PYTHON if "/commands/" in name])
def test_a_command_knows_no_door_and_no_other_command(name: str) -> None:
    used = set(python_imports(name))
    assert not {"gdb", "sys"} & {imported.split(".")[0] for imported in used}
    if not name.endswith("__init__.py"):
        assert not [file for file in used_files(name) if "/commands/" in file]


@pytest.mark.parametrize("name", RUST)
def test_unsafe_is_in_one_file_only(name: str) -> None:
    code = re.sub(r'"(?:[^"\\]|\\.)*"', "", rust_code(name))
    if name != "src/source/file.rs":
        assert not re.search(r"\bunsafe(_code)?\b", code)


# The types of one module stand in one file, however many there are.
@pytest.mark.parametrize("name", [name for name in SOURCES if not name.endswith(".pyi")])
def test_no_file_is_longer_than_a_reader_bears(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES, f"{name} has {lines} lines: split it"
