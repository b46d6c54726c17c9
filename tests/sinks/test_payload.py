"""Events as JSON."""

from __future__ import annotations

import json

import pytest

from face_server.api.schemas.events import EventBody
from face_server.domain.events import EventKind, SceneFace
from face_server.domain.face import Box
from face_server.sinks.payload import event_json, event_payload
from tests.sinks.receivers import event


@pytest.mark.parametrize("kind", list(EventKind))
def test_the_schema_holds(kind: EventKind) -> None:
    """What is sent is what the API documents, member by member."""
    payload = event_payload(event(1, kind))
    EventBody.model_validate_json(event_json(event(1, kind)))
    assert set(payload) == set(EventBody.model_fields)


def test_values() -> None:
    """Times in UTC, boxes by name, pictures as addresses of the service, null for what is not known."""
    other = SceneFace(8, Box(1, 2, 3, 4), 0.51234)
    payload = json.loads(event_json(event(1, faces=(*event(1).faces, other))))
    assert payload["at"] == "2023-11-14T22:13:21.500+00:00"
    assert payload["box"] == {"x1": 100.0, "y1": 50.0, "x2": 180.0, "y2": 150.0}
    assert payload["picture"] == "/v1/events/event000001/picture"
    assert payload["frame_picture"] == "/v1/events/event000001/frame"
    assert payload["who"] == {
        "name": "张三",
        "collection": "default",
        "identity_id": "id-1",
        "stranger_id": None,
        "similarity": 0.7123,
        "threshold": 0.4,
    }
    assert [face["picture"] for face in payload["faces"]] == ["/v1/events/event000001/picture?face=0", None]
    assert payload["faces"][1] == {
        "track": 8,
        "box": {"x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0},
        "score": 0.5123,
        "who": None,
        "announced": False,
        "picture": None,
    }
    lost = event_payload(event(1, EventKind.STREAM_LOST))
    assert (lost["who"], lost["box"], lost["picture"], lost["frame_picture"], lost["faces"]) == (None, None, None, None, [])
