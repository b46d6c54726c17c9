"""JSON with megabytes of base64 in it, parsed without holding up other threads.

A JSON parser keeps the interpreter lock until it is done: a fifth of a second for 50 MB. Almost all
of such a body is a few very long strings, which can be cut out by looking for quotes only, a fast
search. The parser then sees a small document with short names in their places.
"""

from __future__ import annotations

import secrets
from typing import Any

import orjson

_LARGE_BODY_BYTES = 1 << 20
_LONG_STRING_BYTES = 1 << 16
_MOST_STRINGS = 20_000
_DEEPEST = 4


def parse_json(data: bytes) -> Any:
    """The value of a JSON text. Raises orjson.JSONDecodeError.

    In large texts, strings of 64 KiB and more, up to four levels deep, are taken as they are: their
    content is not checked for control characters.
    """
    if len(data) < _LARGE_BODY_BYTES:
        return orjson.loads(data)
    mark = secrets.token_hex(8)
    short, strings = _cut(data, mark)
    return _restored(orjson.loads(short), mark, strings, _DEEPEST) if strings else orjson.loads(data)


def _cut(data: bytes, mark: str) -> tuple[bytes, list[str]]:
    """``data`` with each long string replaced by ``mark`` and its index, and these strings."""
    pieces: list[bytes] = []
    strings: list[str] = []
    copied = at = 0
    for _ in range(_MOST_STRINGS):
        start = data.find(b'"', at)
        end = _closing_quote(data, start + 1) if start >= 0 else -1
        if end < 0:
            break
        at = end + 1
        if end - start < _LONG_STRING_BYTES or data.find(b"\\", start, end) >= 0:
            continue
        text = data[start + 1 : end]
        if text.isascii():
            pieces += (data[copied : start + 1], f"{mark}{len(strings)}".encode())
            strings.append(text.decode("ascii"))
            copied = end
    pieces.append(data[copied:])
    return b"".join(pieces), strings


def _closing_quote(data: bytes, at: int) -> int:
    """Where the string that begins at ``at`` ends: the first quote after an even number of backslashes; -1 if nowhere."""
    while (end := data.find(b'"', at)) >= 0:
        backslashes = 0
        while data[end - 1 - backslashes] == ord("\\"):
            backslashes += 1
        if backslashes % 2 == 0:
            return end
        at = end + 1
    return -1


def _restored(value: Any, mark: str, strings: list[str], depth: int) -> Any:
    if isinstance(value, str) and value.startswith(mark):
        return strings[int(value[len(mark) :])]
    if depth and isinstance(value, list):
        return [_restored(item, mark, strings, depth - 1) for item in value]
    if depth and isinstance(value, dict):
        return {_restored(name, mark, strings, 0): _restored(item, mark, strings, depth - 1) for name, item in value.items()}
    return value
