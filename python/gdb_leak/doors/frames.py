"""The frame of a thread's stack that an address lies in, as gdb unwinds it."""

from typing import Any, Callable, Optional

__all__ = ["holding"]

#: Frames that are looked at: a recursion without end may have a million.
_MOST = 4096
#: A ``gdb.error`` is a RuntimeError.
_UNKNOWN = (RuntimeError, ValueError)


def holding(
    newest: Any, address: int, text: Callable[[Callable[[], Any]], Optional[str]]
) -> Optional[str]:
    """Return the function in whose frame ADDRESS lies, None where gdb does not know it.

    :param text: returns a name that gdb is asked for, whatever bytes are in it.
    :param newest: the ``gdb.Frame`` that was entered last; a frame reaches from its stack
        pointer up to that of its caller. Of functions that were inlined there the innermost
        is named.
    """
    frame, name = newest, None
    try:
        for _ in range(_MOST):
            if int(frame.read_register("sp")) & _WORD > address:
                return name
            name = text(frame.name) or hex(frame.pc())
            frame = _caller(frame)
            if frame is None:
                return name
    except _UNKNOWN:
        return None
    return None


_WORD = (1 << 64) - 1


# Inlined functions share the frame of the one that they were inlined into.
def _caller(frame: Any) -> Any:
    pointer = frame.read_register("sp")
    older = frame.older()
    while older is not None and older.read_register("sp") == pointer:
        older = older.older()
    return older
