"""Writing protocol buffers as text, the format of ``config.pbtxt``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True, slots=True)
class Word:
    """A value of an enumeration; written without quotes."""

    name: str


Value = Union[bool, int, str, Word, "Message", Sequence["Value"]]
Message = Mapping[str, Value]

_WIDTH = 120
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def pbtxt(message: Message, indent: str = "") -> str:
    """The fields of ``message`` in order, one a line; a list of messages repeats its field, short messages fit one line."""
    return "".join(_lines(name, value, indent) for name, value in _single(message))


def _lines(name: str, value: Value, indent: str) -> str:
    line = f"{indent}{_inline(name, value)}\n"
    if len(line) <= _WIDTH or not isinstance(value, Mapping):
        return line
    return f"{indent}{name} {{\n{pbtxt(value, f'{indent}  ')}{indent}}}\n"


def _inline(name: str, value: Value) -> str:
    if isinstance(value, Mapping):
        return f"{name} {{ {' '.join(_inline(*field) for field in _single(value))} }}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"{name}: [{', '.join(map(_plain, value))}]"
    return f"{name}: {_plain(value)}"


def _single(message: Message) -> Iterator[tuple[str, Value]]:
    """The fields of ``message``, lists of messages as one field for each."""
    for name, value in message.items():
        if isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(item, Mapping) for item in value):
            yield from ((name, item) for item in value)
        else:
            yield name, value


def _plain(value: Value) -> str:
    match value:
        case bool():
            return str(value).lower()
        case Word():
            return value.name
        case str():
            return f'"{value.translate(_ESCAPES)}"'
        case _:
            return str(value)
