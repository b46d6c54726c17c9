"""Values as JSON: numpy arrays are written as they are, without a Python object a number."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import orjson
import pybase64
from starlette.responses import Response

from face_server.api.problems import problem_of
from face_server.domain.face import Box, Face
from face_server.domain.image import Floats
from face_server.domain.ports import ImageCodec
from face_server.domain.quality import Quality, QualityLimits
from face_server.errors import FaceServerError, InvalidInput
from face_server.pipeline.intake import Extraction
from face_server.telemetry import Metrics

Body = dict[str, Any]

JPEG_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}, "description": "A JPEG."}
}
"""OpenAPI of an answer that is a picture."""

_CROP_QUALITY = 92


def json_reply(content: Any, status: int = 200) -> Response:
    """An HTTP answer with ``content`` as JSON; numpy arrays and orjson fragments may be part of it."""
    return Response(_dumps(content), status, media_type="application/json")


def _dumps(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def timestamp(seconds: float) -> datetime:
    """Unix seconds as the point in time that answers show (RFC 3339, UTC)."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


@dataclass(frozen=True, slots=True)
class FaceForm:
    """Which members a face has in an answer, and the limits its quality is judged by."""

    limits: QualityLimits
    embedding: Literal["none", "floats", "base64"] = "none"
    quality: bool = True
    crops: bool = False


async def face_body(face: Face, form: FaceForm, codec: ImageCodec) -> Body:
    """One face as ``schemas.faces.FaceBody``."""
    body: Body = {
        "box": box_body(face.detection.box),
        "score": round(face.detection.score, 4),
        "landmarks": np.round(face.detection.landmarks, 2),
    }
    if form.quality and face.quality is not None:
        body["quality"] = quality_body(face.quality, form.limits)
    if form.embedding != "none" and face.embedding is not None:
        body["embedding"] = vector_body(face.embedding.vector, form.embedding)
    if form.crops and face.crop is not None:
        jpeg = await codec.encode_jpeg(face.crop, quality=_CROP_QUALITY)
        body["crop"] = pybase64.b64encode(jpeg).decode("ascii")
    return body


def vector_body(vector: Floats, form: Literal["floats", "base64"]) -> Floats | str:
    """A vector as JSON numbers, or as base64 of its float32 little-endian bytes."""
    if form == "base64":
        return pybase64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")
    return np.ascontiguousarray(vector)


def box_body(box: Box) -> Body:
    """A box as ``schemas.faces.BoxBody``, to a hundredth of a pixel."""
    return {"x1": round(box.x1, 2), "y1": round(box.y1, 2), "x2": round(box.x2, 2), "y2": round(box.y2, 2)}


def quality_body(quality: Quality, limits: QualityLimits) -> Body:
    """A quality as ``schemas.faces.QualityBody``."""
    pose = quality.pose
    return {
        "size_px": round(quality.size_px, 1),
        "sharpness": round(quality.sharpness, 4),
        "brightness": round(quality.brightness, 4),
        "pose": {"yaw": round(pose.yaw, 1), "pitch": round(pose.pitch, 1), "roll": round(pose.roll, 1)},
        "score": round(quality.score, 4),
        "reasons": [reason.value for reason in quality.reasons(limits)],
    }


def picture_body(extraction: Extraction, faces: Sequence[Body]) -> Body:
    """One picture as ``schemas.faces.PictureBody``."""
    return {
        "width": extraction.width,
        "height": extraction.height,
        "faces": faces,
        "read_ms": round(extraction.read_ms, 2),
        "analyze_ms": round(extraction.analyze_ms, 2),
    }


def failed_picture(error: FaceServerError, index: int) -> Body:
    """The entry of a picture that failed alone."""
    return {"faces": [], "problem": problem_of(error, field=f"images[{index}]")}


async def picture_fragments(
    outcomes: Sequence[Extraction | FaceServerError], faces: Sequence[Sequence[Body]], metrics: Metrics
) -> list[orjson.Fragment]:
    """The entries of an answer, written one at a time so that many faces do not hold up the event loop."""
    fragments = []
    for index, (outcome, bodies) in enumerate(zip(outcomes, faces, strict=True)):
        if isinstance(outcome, FaceServerError):
            metrics.refused_picture()
            entry = failed_picture(outcome, index)
        else:
            metrics.picture(faces=len(bodies), read_s=outcome.read_ms / 1000, analyze_s=outcome.analyze_ms / 1000)
            entry = picture_body(outcome, bodies)
        fragments.append(orjson.Fragment(_dumps(entry)))
        if index:
            await asyncio.sleep(0)
    return fragments


def only_failure(outcomes: Sequence[Extraction | FaceServerError]) -> None:
    """Raise the error of the picture if it was the only one: then the request fails with its status."""
    if len(outcomes) == 1 and isinstance(outcomes[0], FaceServerError):
        error = outcomes[0]
        if isinstance(error, InvalidInput):
            error.field = "images[0]"
        raise error
