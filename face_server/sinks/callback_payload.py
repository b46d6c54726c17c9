"""An alert in the words of the face server's gRPC callback, for receivers that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pybase64
import simplejpeg  # type: ignore[import-untyped]  # ships stubs without a py.typed marker

from face_server.domain.events import Event, SceneFace, Who

_STRANGER = "陌生人_"
_PASSED_BY = " 经过"
_NUMBERED = re.compile(r"\D*(\d+)")


def analysis_result(event: Event, pictures: Mapping[str, bytes]) -> str:
    """``analysis_result`` of a person or a stranger who was seen: JSON text, ASCII only.

    ``behaviorBeginTime`` and ``behaviorEndTime`` are Unix milliseconds, ``face_data`` all who were
    recognised on the frame (``new_face``: whom the alert is about), ``bbox`` x1, y1, x2, y2, score
    in pixels of the JPEG that is sent as ``image``. Pictures are base64, "" where they are gone.
    Others who were announced on the same frame have an alert of their own, and are not new in this one.
    """
    frame = pictures.get(event.frame_picture, b"")
    x_scale, y_scale = _scale(event, frame)
    recognised = [(face, face.who) for face in _faces(event) if face.who is not None]
    content = {
        "behaviorBeginTime": _milliseconds(event.started_at),
        "behaviorEndTime": _milliseconds(event.ended_at),
        "face_data": [
            {
                "new_face": face.track == event.track,
                "task_id": event.stream_id,
                "name": spoken_name(who),
                "conf": round(float(who.similarity), 4),
                "base64_str": _base64(pictures.get(face.picture, b"")),
                "bbox": _bbox(face, x_scale, y_scale),
            }
            for face, who in recognised
        ],
        "msg": "".join(f" {spoken_name(who)}" for face, who in recognised if face.track == event.track) + _PASSED_BY,
        "image": _base64(frame),
    }
    return json.dumps(content)


def spoken_name(who: Who) -> str:
    """The name of an identity; a stranger who has only a number is called as the face server calls them."""
    numbered = _NUMBERED.fullmatch(who.name) if who.stranger_id else None
    return f"{_STRANGER}{numbered[1]}" if numbered else who.name


def _faces(event: Event) -> tuple[SceneFace, ...]:
    """Everybody on the frame, whom the event is about among them."""
    if event.box is None or any(face.track == event.track and face.who is not None for face in event.faces):
        return event.faces
    subject = SceneFace(event.track, event.box, 1.0, event.who, announced=True, picture=event.picture)
    return (subject, *event.faces)


def _scale(event: Event, frame: bytes) -> tuple[float, float]:
    """Pixels of the JPEG per pixel that boxes are given in."""
    if not frame or not event.frame_width or not event.frame_height:
        return 1.0, 1.0
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(frame)
    except ValueError:
        # A damaged picture is no reason to keep the alert back.
        return 1.0, 1.0
    return width / event.frame_width, height / event.frame_height


def _bbox(face: SceneFace, x_scale: float, y_scale: float) -> list[Any]:
    box = face.box.scaled(x_scale, y_scale)
    return [*(round(float(value), 2) for value in (box.x1, box.y1, box.x2, box.y2)), round(float(face.score), 4)]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _base64(data: bytes) -> str:
    return pybase64.b64encode(data).decode("ascii")
