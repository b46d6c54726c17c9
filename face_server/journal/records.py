"""Stream specs and events as text in the journal.

A record is a JSON object with the fields of its value. Readers are tolerant: a field that is missing,
because the record is older, takes its default, and a field that is not known any more is passed over.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import time
from numbers import Integral, Real
from typing import Any, TypeVar

import orjson

from face_server.domain.events import Event, EventKind, SceneFace, Who
from face_server.domain.face import Box
from face_server.domain.streams import (
    FramePolicy,
    Mode,
    Polygon,
    Schedule,
    SinkKind,
    SinkSpec,
    StreamRules,
    StreamSpec,
    Transport,
    Window,
)
from face_server.errors import ConfigurationError, InvalidInput, Unavailable
from face_server.journal.sealing import Sealer

T = TypeVar("T")

VERSION = 1

_Readers = Mapping[str, Callable[[Any], Any]]


def write_event(event: Event) -> str:
    """The record of an event, all but its cursor. InvalidInput for numbers that are not finite and texts that are not Unicode."""
    return _write({**_fields(event), "cursor": 0}, f"event {event.id[:80]!r}")


def read_event(record: str, cursor: int) -> Event:
    """The event of a record. Unavailable if it is damaged."""
    return replace(_read(Event, record, _EVENT, f"event {cursor}"), cursor=cursor)


def write_spec(spec: StreamSpec, sealer: Sealer) -> str:
    """The record of a spec; addresses and secrets are sealed for this stream and place in it."""
    return _write(_fields(_with_secrets(spec, sealer.seal)), f"stream {spec.id!r}")


def read_spec(record: str, sealer: Sealer) -> StreamSpec:
    """The spec of a record. Unavailable if it is damaged, ConfigurationError if the key does not fit."""
    return _with_secrets(_read(StreamSpec, record, _SPEC, "a stream"), sealer.unseal)


def _with_secrets(spec: StreamSpec, change: Callable[[str, str], str]) -> StreamSpec:
    """The spec with each secret replaced by ``change(secret, context)``."""

    def changed(value: str, place: str) -> str:
        return change(value, f"stream\x00{spec.id}\x00{place}")

    sinks = tuple(
        replace(sink, address=changed(sink.address, f"sinks.{number}.address"), secret=changed(sink.secret, f"sinks.{number}.secret"))
        for number, sink in enumerate(spec.sinks)
    )
    return replace(spec, url=changed(spec.url, "url"), detail_url=changed(spec.detail_url, "detail_url"), sinks=sinks)


def _write(fields: dict[str, Any], what: str) -> str:
    try:
        record = json.dumps({"version": VERSION, **fields}, default=_plain, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        record.encode()
    except ValueError as error:
        raise InvalidInput(f"{what} holds a number that is not finite or a text that is not Unicode") from error
    return record


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _plain(value: object) -> object:
    """What JSON has no form for. Texts of enumerations and tuples it knows."""
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, time):
        return value.isoformat()
    if isinstance(value, Real):
        # Networks give numbers of numpy; an event must not be lost for that.
        return int(value) if isinstance(value, Integral) else float(value)
    return _fields(value)


def _read(kind: type[T], record: str, readers: _Readers, what: str) -> T:
    try:
        raw = orjson.loads(record)
        if raw.get("version", VERSION) > VERSION:
            raise ConfigurationError(f"the journal's record of {what} was written by a newer face_server; run that one")
        return _build(kind, readers)(raw)
    except (ValueError, TypeError, AttributeError, InvalidInput) as error:
        raise Unavailable(
            f"the journal is damaged: its record of {what} cannot be read", code="storage_corrupt", retry_after_s=60.0
        ) from error


def _build(kind: type[T], readers: _Readers) -> Callable[[dict[str, Any]], T]:
    """Makes values of a dataclass from the fields that are there; ``readers`` are for those that JSON has no form for."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # every kind here is a dataclass

    def build(raw: dict[str, Any]) -> T:
        given = {name: raw[name] for name in names if name in raw}
        return kind(**{name: readers[name](value) if name in readers and value is not None else value for name, value in given.items()})

    return build


def _each(reader: Callable[[Any], T]) -> Callable[[list[Any]], tuple[T, ...]]:
    return lambda raw: tuple(reader(one) for one in raw)


def _polygon(raw: dict[str, Any]) -> Polygon:
    return Polygon(tuple((x, y) for x, y in raw["points"]))


_WHO = _build(Who, {})
_BOX = _build(Box, {})
_FACE = _build(SceneFace, {"box": _BOX, "who": _WHO})
_EVENT: _Readers = {"kind": EventKind, "who": _WHO, "box": _BOX, "faces": _each(_FACE)}

_WINDOW = _build(Window, {"days": frozenset, "begin": time.fromisoformat, "end": time.fromisoformat})
_SCHEDULE = _build(Schedule, {"windows": _each(_WINDOW)})
_RULES = _build(
    StreamRules,
    {"mode": Mode, "frames": FramePolicy, "regions": _each(_polygon), "ignore": _each(_polygon), "schedule": _SCHEDULE},
)
_SINK = _build(SinkSpec, {"kind": SinkKind, "kinds": _each(EventKind)})
_SPEC: _Readers = {"transport": Transport, "collections": tuple, "rules": _RULES, "sinks": _each(_SINK)}
