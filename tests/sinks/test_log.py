"""Events in the log."""

from __future__ import annotations

import io
import json
import logging

from face_server.domain.events import EventKind
from face_server.sinks.log import LogSink
from face_server.telemetry import JsonFormatter
from tests.sinks.receivers import event, log_receiver


async def test_one_line_an_event() -> None:
    """A line for people, and its members for programs; no pictures."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    with log_receiver():
        logging.getLogger("face_server.events").addHandler(handler)
        await LogSink().deliver(event(1), {"best": b"\xff\xd8picture"})
        await LogSink().deliver(event(2, EventKind.STREAM_LOST), {})
        logging.getLogger("face_server.events").removeHandler(handler)
    first, second = map(json.loads, text.getvalue().splitlines())
    assert first["message"] == "person_seen on stream door: number 1"
    assert {name: first[name] for name in ("event_id", "kind", "stream_id", "name", "identity_id", "similarity")} == {
        "event_id": "event000001",
        "kind": "person_seen",
        "stream_id": "door",
        "name": "张三",
        "identity_id": "id-1",
        "similarity": 0.7123,
    }
    assert "picture" not in text.getvalue()
    assert "name" not in second
