"""An event as JSON, the same in webhooks, MQTT, Redis, SSE, WebSockets and pages of the journal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from face_server.domain.events import Event, SceneFace, Who
from face_server.domain.face import Box

Payload = dict[str, Any]


def event_payload(event: Event) -> Payload:
    """``event`` as members that are all JSON: times are RFC 3339 in UTC, boxes pixels of the frame.

    Pictures are addresses relative to the service; what is not known is null. Embeddings are never part of it.
    """
    place = f"/v1/events/{event.id}"
    return {
        "id": event.id,
        "cursor": event.cursor,
        "kind": event.kind.value,
        "stream_id": event.stream_id,
        "at": _time(event.at),
        "started_at": _time(event.started_at),
        "ended_at": _time(event.ended_at),
        "track": event.track,
        "who": _who(event.who),
        "box": _box(event.box) if event.box else None,
        "frame_width": event.frame_width,
        "frame_height": event.frame_height,
        "picture": f"{place}/picture" if event.picture else None,
        "frame_picture": f"{place}/frame" if event.frame_picture else None,
        "faces": [_face(face, f"{place}/picture?face={index}") for index, face in enumerate(event.faces)],
        "message": event.message,
    }


def event_json(event: Event) -> bytes:
    """``event_payload`` as UTF-8 JSON text."""
    return orjson.dumps(event_payload(event))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(round(seconds, 3), UTC).isoformat(timespec="milliseconds")


def _who(who: Who | None) -> Payload | None:
    if who is None:
        return None
    return {
        "name": who.name,
        "collection": who.collection or None,
        "identity_id": who.identity_id or None,
        "stranger_id": who.stranger_id or None,
        "similarity": round(float(who.similarity), 4),
        "threshold": round(float(who.threshold), 4),
    }


def _box(box: Box) -> Payload:
    return {name: round(float(value), 2) for name, value in (("x1", box.x1), ("y1", box.y1), ("x2", box.x2), ("y2", box.y2))}


def _face(face: SceneFace, picture: str) -> Payload:
    return {
        "track": face.track,
        "box": _box(face.box),
        "score": round(float(face.score), 4),
        "who": _who(face.who),
        "announced": face.announced,
        "picture": picture if face.picture else None,
    }
