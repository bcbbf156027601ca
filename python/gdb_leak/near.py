"""What was meant by a name that does not exist."""

from collections.abc import Iterable
from typing import Optional

__all__ = ["meant"]

#: How alike two names must be, from 0 to 1: `chek` and `check` score 0.89.
_ALIKE = 0.6


def meant(typed: str, names: Iterable[str]) -> Optional[str]:
    """Return the one of NAMES that TYPED is most like, None where it is like none.

    A name that begins with what was typed comes before one that is alike.

    >>> meant("chek", ["find", "check"])
    'check'
    """
    # Here, because every command that is spelled well would pay 3 ms for it.
    import difflib

    known = list(names)
    begun = [name for name in known if typed and name.startswith(typed)]
    alike = difflib.get_close_matches(typed.lower(), known, 1, _ALIKE)
    return next(iter([*begun[:1], *alike]), None)
