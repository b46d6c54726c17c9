"""Topics and messages by which Home Assistant finds the cameras by itself."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import orjson

import face_server
from face_server.domain.events import ALERTS, Event, EventKind
from face_server.sinks.payload import event_payload

_UNSAFE = re.compile(r"[^a-zA-Z0-9]+")
_MAX_SLUG = 32
_MAX_STATE = 255


@dataclass(frozen=True, slots=True)
class Message:
    """What to publish where, with QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False


def availability_topic(prefix: str) -> str:
    """Where ``online`` or ``offline`` stands for the service as a whole."""
    return f"{prefix}/availability"


def stream_topic(prefix: str, stream_id: str, name: str) -> str:
    """A topic of a stream. Ids have no "/", "#" and "%"; a "+" is no character for topics and becomes %2B."""
    return f"{prefix}/{stream_id.replace('+', '%2B')}/{name}"


def event_messages(prefix: str, event: Event) -> list[Message]:
    """The event itself, and the states of the stream that it changes."""
    payload = event_payload(event)
    messages = [Message(stream_topic(prefix, event.stream_id, "event"), orjson.dumps(payload))]
    lost = event.kind is EventKind.STREAM_LOST
    messages.append(Message(stream_topic(prefix, event.stream_id, "online"), b"OFF" if lost else b"ON", retain=True))
    if event.kind in ALERTS and event.who is not None:
        state = {
            "name": event.who.name[:_MAX_STATE],
            "at": payload["at"],
            "similarity": payload["who"]["similarity"],
            "event_id": event.id,
            "picture": payload["picture"],
        }
        messages.append(Message(stream_topic(prefix, event.stream_id, "last_person"), orjson.dumps(state), retain=True))
    return messages


def discovery_messages(discovery_prefix: str, prefix: str, stream_id: str) -> list[Message]:
    """Retained descriptions of a sensor for the last person seen and one for the connection of the camera."""
    slug = _UNSAFE.sub("_", stream_id)[:_MAX_SLUG].strip("_")
    digest = hashlib.sha256(f"{prefix}\x00{stream_id}".encode()).hexdigest()[:10]
    node = f"face_server_{slug}_{digest}" if slug else f"face_server_{digest}"
    common: dict[str, Any] = {
        "availability_topic": availability_topic(prefix),
        "device": {"identifiers": [node], "name": stream_id, "manufacturer": "face_server", "sw_version": face_server.__version__},
    }
    last_person = stream_topic(prefix, stream_id, "last_person")
    person = {
        "name": "Last person seen",
        "unique_id": f"{node}_last_person",
        "state_topic": last_person,
        "value_template": "{{ value_json.name }}",
        "json_attributes_topic": last_person,
        "icon": "mdi:face-recognition",
        **common,
    }
    online = {
        "name": "Connection",
        "unique_id": f"{node}_online",
        "state_topic": stream_topic(prefix, stream_id, "online"),
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        **common,
    }
    return [
        Message(f"{discovery_prefix}/sensor/{node}/last_person/config", orjson.dumps(person), retain=True),
        Message(f"{discovery_prefix}/binary_sensor/{node}/online/config", orjson.dumps(online), retain=True),
    ]
