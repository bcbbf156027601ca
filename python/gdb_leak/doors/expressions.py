"""Addresses and numbers that expressions stand for, as gdb evaluates them.

gdb's module comes from ``gdb.py``, which alone imports it.
"""

from typing import Any

from gdb_leak.doors import gdb_says, gdb_text
from gdb_leak.errors import RequestError, UsageError

__all__ = ["integer"]


def integer(gdb: Any, expression: str) -> int:
    """Return the number that EXPRESSION stands for, of an array or function its address.

    :raises RequestError: with gdb's own message, where it cannot evaluate it.
    :raises UsageError: where it stands for none.
    """
    number = gdb_says.plain_number(expression, gdb.parameter("input-radix"))
    if number is not None:
        return number
    try:
        return _integer_of(gdb, _evaluated(gdb, expression), expression)
    except gdb.error as error:
        raise RequestError(str(error)) from None
    except UnicodeEncodeError:
        # A byte that the locale has no character for.
        raise UsageError(f"{expression} is not text in this locale") from None


# The target is never called into, whatever the expression says.
def _evaluated(gdb: Any, expression: str) -> Any:
    allowed = gdb.parameter("may-call-functions")
    if allowed:
        gdb.execute("set may-call-functions off", to_string=True)
    try:
        return gdb.parse_and_eval(expression)
    finally:
        if allowed:
            gdb.execute("set may-call-functions on", to_string=True)


def _integer_of(gdb: Any, value: Any, expression: str) -> int:
    kind = value.type.strip_typedefs().code
    if kind in (gdb.TYPE_CODE_REF, getattr(gdb, "TYPE_CODE_RVALUE_REF", gdb.TYPE_CODE_REF)):
        value = value.referenced_value()
        kind = value.type.strip_typedefs().code
    if kind in (gdb.TYPE_CODE_ARRAY, gdb.TYPE_CODE_FUNC) and value.address is not None:
        return int(value.address)
    if kind in (
        gdb.TYPE_CODE_INT,
        gdb.TYPE_CODE_PTR,
        gdb.TYPE_CODE_CHAR,
        gdb.TYPE_CODE_BOOL,
        gdb.TYPE_CODE_ENUM,
        gdb.TYPE_CODE_FUNC,
    ):
        return int(value)
    named = gdb_text.shown(
        gdb_text.of_member(
            lambda command: str(gdb.execute(command, to_string=True)), lambda: str(value.type)
        )
    )
    raise UsageError(f"{expression} has type {named}, which is no address and no number")
