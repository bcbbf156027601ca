"""Texts that gdb gives, byte by byte: names of files and functions need not be text in any charset.

gdb decodes what it hands to Python, and raises where it cannot. Observed in gdb 13.1: members such
as ``Progspace.filename`` are decoded by the host's charset, ``ANSI_X3.4-1968`` where LC_ALL is C,
and what a command printed as UTF-8, whatever the charset is (gdb/python/python.c,
`host_string_to_python_string`, `execute_gdb_command`). The error of the decoder has the bytes.
"""

import os
from typing import Any, Callable, Optional

from gdb_leak.doors import gdb_says

__all__ = ["executing", "of_member", "path", "printed", "shown"]

#: Has gdb execute a command, and returns what that prints.
Execute = Callable[[str], str]
_COMMON = "UTF-8"


def executing(gdb: Any) -> Execute:
    """Return what has GDB execute a command, and returns what that prints."""
    return lambda command: str(gdb.execute(command, to_string=True))


def printed(execute: Execute, command: str) -> bytes:
    """Return what COMMAND prints."""
    return _bytes(lambda: execute(command), lambda: _charset_of_output(execute)) or b""


def of_member(execute: Execute, ask: Callable[[], Any]) -> Optional[bytes]:
    """Return the text that ASK gets from a member of gdb's objects, None if that is not text."""

    def charset() -> str:
        return gdb_says.charset(execute("show host-charset"))

    try:
        return _bytes(ask, charset)
    except LookupError as error:
        # Python has no codec of that name: not even ASCII is decoded.
        if type(error) is not LookupError:
            raise
    setting = gdb_says.charset_setting(execute("show host-charset"))
    execute(f"set host-charset {_COMMON}")
    try:
        return _bytes(ask, lambda: _COMMON)
    finally:
        execute(f"set host-charset {setting}")


def path(name: Optional[bytes]) -> Optional[str]:
    """Return NAME as Python opens it, None where there is none."""
    return os.fsdecode(name) if name else None


def shown(text: Optional[bytes]) -> Optional[str]:
    """Return TEXT as answers hold it: lone surrogates for bytes that are not UTF-8."""
    return None if text is None else text.decode("utf-8", "surrogateescape")


def _bytes(ask: Callable[[], Any], charset: Callable[[], str]) -> Optional[bytes]:
    try:
        text = ask()
    except UnicodeDecodeError as error:
        return bytes(error.object)
    if not isinstance(text, str):
        return None
    if text.isascii():
        return text.encode("ascii")
    try:
        return text.encode(charset())
    except (LookupError, UnicodeError):
        return text.encode("utf-8", "surrogateescape")


# Not every version may decode by UTF-8: two bytes of its own show it.
def _charset_of_output(execute: Execute) -> str:
    try:
        if execute(r"echo \303\244") == "\u00e4":
            return "utf-8"
    except UnicodeError:
        pass
    return gdb_says.charset(execute("show host-charset"))
