"""An answer as one JSON object on one line, written in pieces."""

import json
from collections.abc import Iterator

from gdb_leak.target import Pieces, Result, Value

__all__ = ["pieces"]


def pieces(result: Result) -> Iterator[str]:
    """Yield the JSON of RESULT, the line's end included.

    Lists that are made in pieces are written as they are made. ``notes`` comes
    last: what was missing may be known only when the rest was made. All text is
    ASCII, so that no locale can break it.
    """
    yield f'{{"schema": {_dumps(f"gdb-leak/{result.command}/1")}'
    yield f', "command": {_dumps(result.command)}'
    yield f', "target": {_dumps(result.target)}'
    for key, value in result.values.items():
        yield f", {_dumps(key)}: "
        if isinstance(value, Pieces):
            yield from _list(value)
        else:
            yield _dumps(value)
    result.finish()
    yield f', "notes": {_dumps(list(dict.fromkeys(result.notes)))}}}\n'


def _list(values: Pieces) -> Iterator[str]:
    separator = "["
    for some in values:
        if some:
            yield separator + _dumps(list(some))[1:-1]
            separator = ", "
    yield "]" if separator == ", " else "[]"


# A path that is not UTF-8 has lone surrogates here; they stand for bytes. Nearly
# no text has any, and looking for them in the answer is cheaper than in each text.
def _dumps(value: Value) -> str:
    text = json.dumps(value)
    return json.dumps(_printable(value)) if "\\ud" in text else text


def _printable(value: Value) -> Value:
    if isinstance(value, str):
        return escape_bytes(value)
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    return value


def escape_bytes(text: str) -> str:
    r"""Return TEXT with the bytes that were no UTF-8 as ``\xHH``."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
