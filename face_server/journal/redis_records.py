"""Events as values of Redis: what they are found by in the first line, their record in the second."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from face_server.domain.events import Event, EventFilter
from face_server.errors import InvalidInput, Unavailable
from face_server.journal.records import read_event, write_event
from face_server.journal.references import pictures_of, strangers_of

_MAX_CURSOR = 2**53


def indexes_of(event: Event) -> list[str]:
    """The names of the indexes that an event is in."""
    who = event.who
    names = [f"stream:{event.stream_id}", f"kind:{event.kind}"]
    if who is not None and who.identity_id:
        names.append(f"identity:{who.identity_id}")
    if who is not None and who.stranger_id:
        names.append(f"stranger:{who.stranger_id}")
    return names + [f"mention:{stranger_id}" for stranger_id in sorted(strangers_of(event))]


def write_value(event: Event) -> bytes:
    """The value of an event. InvalidInput for numbers that are not finite and texts that are not Unicode."""
    record = write_event(event)
    head = {"id": event.id, "in": indexes_of(event), "pictures": sorted(pictures_of(event))}
    return orjson.dumps(head) + b"\n" + record.encode()


def read_value(value: bytes | None, cursor: int, key: str) -> Event:
    """The event of a value. Unavailable, naming the key, if it is damaged or not there."""
    _, _, record = (value or b"").partition(b"\n")
    try:
        return read_event(record.decode(), cursor)
    except (Unavailable, UnicodeDecodeError) as error:
        raise Unavailable(
            f"the key {key} is damaged: its field {cursor} holds no readable event", code="storage_corrupt", retry_after_s=60.0
        ) from error


def append_document(events: Sequence[Event], pictures: Sequence[str], lanes: Sequence[Sequence[str]]) -> bytes:
    """What ``append.lua`` reads."""
    rows = [
        [event.id, repr(float(event.at)), indexes_of(event), sorted(pictures_of(event)), list(dict.fromkeys(names))]
        for event, names in zip(events, lanes, strict=True)
    ]
    return to_json({"events": rows, "pictures": pictures})


def to_json(document: object) -> bytes:
    """JSON for a script. InvalidInput for texts that are not Unicode."""
    try:
        return orjson.dumps(document)
    except TypeError as error:
        raise InvalidInput("the text is not Unicode: it holds half of a surrogate pair") from error


def filter_arguments(where: EventFilter) -> list[str]:
    """The groups of indexes that ``page.lua`` reads."""
    groups = [[f"stream:{one}" for one in dict.fromkeys(where.streams)], [f"kind:{one}" for one in dict.fromkeys(where.kinds)]]
    groups += [
        [f"identity:{where.identity_id}"] if where.identity_id else [],
        [f"stranger:{where.stranger_id}"] if where.stranger_id else [],
    ]
    return [word for group in groups if group for word in (str(len(group)), *group)]


def whole(number: int) -> int:
    """A number within what Redis compares exactly. InvalidInput beyond 64 bits."""
    if not -(2**63) <= number < 2**63:
        raise InvalidInput("the number is beyond 64 bits")
    return max(-_MAX_CURSOR, min(number, _MAX_CURSOR))
