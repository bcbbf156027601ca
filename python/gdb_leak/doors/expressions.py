"""Addresses and numbers of expressions, as gdb evaluates them.

gdb's module comes from ``gdb.py``, which alone imports it.
"""

import re
from typing import Any

from gdb_leak import units
from gdb_leak.doors import gdb_says, gdb_text
from gdb_leak.errors import RequestError, UsageError

__all__ = ["integer"]

_LONGEST_TYPE = 60
#: Names, members and elements: what `&` may precede without brackets.
_SIMPLE = re.compile(r"[\w$:]+(?:(?:\.|->)\w+|\[\w+\])*")


def integer(gdb: Any, expression: str) -> int:
    """Return the value of EXPRESSION, of an array or a function its address.

    :raises RequestError: with gdb's own message, where it cannot evaluate it.
    :raises UsageError: where it is an object.
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
    member = gdb_text.of_member(gdb_text.executing(gdb), lambda: str(value.type))
    # That of a template may be several lines.
    named = units.cut_text(gdb_text.shown(member) or "", _LONGEST_TYPE)
    what = "an object" if kind in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION) else "a value"
    raise UsageError(
        f"{expression} is {what} of type {named}, not an address{_advice(value, expression)}"
    )


def _advice(value: Any, expression: str) -> str:
    if value.address is None:
        return ""
    return f"; use &{expression}" if _SIMPLE.fullmatch(expression) else f"; use &({expression})"
