"""Function, file and line of code: from the native module, else from gdb.

gdb knows code that no file here is of, of a remote target and of what a JIT
compiler registered. Its module comes from ``gdb.py``, which alone imports it.
"""

from typing import Any, Callable, Optional, Protocol

from gdb_leak.doors import gdb_says, gdb_text
from gdb_leak.target import Line, Target

__all__ = ["Lines"]

#: Functions inlined into one another that are looked at.
_MOST = 256
#: A ``gdb.error`` is a RuntimeError.
_UNKNOWN = (RuntimeError, ValueError, OverflowError)


class Lines(Protocol):
    """The part of a session that knows lines."""

    #: The module ``gdb``.
    gdb: Any

    def target(self, usage: bool = False) -> Target:
        """Return the selected inferior's target, opened."""

    def lines(self, address: int) -> list[Line]:
        """Return the calls at ADDRESS, inside of a call instruction, innermost first."""
        known = [Line(*line) for line in self.target().memory.lines(address)]
        if any(line.file for line in known):
            return known
        asked = _of_gdb(self.gdb, address)
        named = any(line.function for line in known)
        if not any(line.file if named else line.function for line in asked):
            return known
        module = known[0].module if known else None
        return [line._replace(module=module or line.module) for line in asked]


# gdb says where a function was inlined only of frames, not of addresses: calls
# of inlined functions have the file of their function, and no line.
def _of_gdb(gdb: Any, address: int) -> list[Line]:
    names = _functions(gdb, address) or _symbol(gdb, address)
    file, line = _place(gdb, address)
    if not names and file is None:
        return []
    module = _module(gdb, address)
    found = [Line(name, path, None, module) for name, path in names] or [Line(None)]
    return [Line(found[0].function, file, line, module), *found[1:]]


# The functions at the address, innermost first, each with its source file.
def _functions(gdb: Any, address: int) -> list[tuple[Optional[str], Optional[str]]]:
    found: list[tuple[Optional[str], Optional[str]]] = []
    try:
        block = gdb.block_for_pc(address)
        for _ in range(_MOST):
            if block is None or not block.start <= address < block.end:
                break
            if block.function is not None:
                function, symtab = block.function, block.function.symtab
                name = _member(gdb, lambda: function.print_name)  # noqa: B023, called at once
                found.append((name, symtab and _member(gdb, symtab.fullname)))
            block = block.superblock
    except _UNKNOWN:
        return []
    return found


def _symbol(gdb: Any, address: int) -> list[tuple[Optional[str], Optional[str]]]:
    try:
        said = gdb_text.printed(gdb_text.executing(gdb), f"info symbol {address:#x}")
    except _UNKNOWN:
        return []
    name = gdb_says.symbol_name(gdb_text.shown(said) or "")
    return [] if name is None else [(name, None)]


def _place(gdb: Any, address: int) -> tuple[Optional[str], Optional[int]]:
    try:
        found = gdb.find_pc_line(address)
        symtab: Any = found.symtab  # None where gdb knows no line
        if symtab is None:
            return None, None
        return _member(gdb, symtab.fullname), found.line or None
    except _UNKNOWN:
        return None, None


def _module(gdb: Any, address: int) -> Optional[str]:
    try:
        symtab: Any = gdb.find_pc_line(address).symtab
        if symtab is not None:
            # Symbols may be in a file beside the module's own.
            objfile = symtab.objfile.owner or symtab.objfile
            return _member(gdb, lambda: objfile.filename)
        return _member(gdb, lambda: gdb.solib_name(address))
    except _UNKNOWN:
        return None


def _member(gdb: Any, ask: Callable[[], Any]) -> Optional[str]:
    return gdb_text.shown(gdb_text.of_member(gdb_text.executing(gdb), ask))
