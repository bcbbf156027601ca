"""What can go wrong, said in one line each.

The native module raises these classes by name with ``(message, address)``; the
Python side raises them alike. Messages are lower case, name the thing, the
place, the value and the rule, and end without a full stop.
"""

from typing import Optional

__all__ = [
    "Error",
    "FileError",
    "NeedleError",
    "NoRegionError",
    "NotSavedError",
    "ProcessError",
    "RangeError",
    "RequestError",
    "UnreadableError",
    "UsageError",
]


class Error(Exception):
    """Any error of this package; everything else that is raised is a bug."""

    def __init__(self, message: str, address: Optional[int] = None) -> None:
        """Keep MESSAGE and the ADDRESS in the target that it is about, if any."""
        super().__init__(message)
        self.address = address


class RangeError(Error):
    """A range that wraps round, ends before it starts, or is too large."""


class NoRegionError(Error):
    """An address that no region of the target holds."""


class NotSavedError(Error):
    """An address whose region is known but whose bytes were not saved in the core."""


class UnreadableError(Error):
    """An address whose bytes could not be read from the target."""


class FileError(Error):
    """A file that cannot be opened, read, written or understood."""


class ProcessError(Error):
    """A process that is gone, is not ours, or already has a tracer."""


class NeedleError(Error):
    """A needle that is empty, malformed, or does not fit its size."""


class RequestError(Error):
    """A request that is well formed but cannot be answered by this target."""


class UsageError(Error):
    """Wrong options or operands; a shell sees exit status 2."""
