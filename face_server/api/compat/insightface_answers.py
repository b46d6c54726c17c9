"""From extractions to the bytes that InsightFace-REST would have sent.

Keys stand in the order in which that server writes them. Numbers are finite: scores, boxes and
embeddings are checked where they are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]  # ships no types
import numpy as np
import orjson
import pybase64

from face_server.domain.alignment import CROP_SIZE_PX
from face_server.domain.face import Box, Face
from face_server.errors import FaceServerError
from face_server.pipeline.intake import Extraction

Outcomes = Sequence[Extraction | FaceServerError]
"""Per picture its faces or the error it met."""

Crops = Sequence[Sequence[bytes]]
"""Per picture its faces' aligned crops as JPEG; empty where none were asked for."""

_NOT_INSTALLED: dict[str, None] = {"gender": None, "age": None, "mask": None, "mask_probs": None}

_WHOLE_CROP = Box(0, 0, CROP_SIZE_PX, CROP_SIZE_PX)


@dataclass(frozen=True, slots=True)
class Form:
    """Which keys an answer has. ``early`` is the list form, ``crops_only`` the form of ``embed_only``."""

    early: bool
    crops_only: bool
    embedding: bool
    attributes: bool
    landmarks: bool
    face_data: bool
    timings: bool
    by_area: bool
    detection_size_px: int


def in_order(outcomes: Outcomes, form: Form) -> list[Extraction | FaceServerError]:
    """Largest faces first where a limit was asked for; the detector's order otherwise."""
    if not form.by_area:
        return list(outcomes)
    return [one if isinstance(one, FaceServerError) else _by_area(one) for one in outcomes]


def answer(outcomes: Outcomes, crops: Crops, form: Form, total_ms: float) -> Any:
    """The answer to ``/extract`` as plain values, embeddings as float32 arrays."""
    if form.early:
        return [_early_image(outcome, crop, form) for outcome, crop in zip(outcomes, crops, strict=True)]
    if form.crops_only:
        return _embedded(outcomes, form, total_ms)
    took = {"total_ms": total_ms}
    if form.timings:
        done = [outcome for outcome in outcomes if isinstance(outcome, Extraction)]
        took["read_imgs_ms"] = sum(outcome.read_ms for outcome in done)
        took["embed_all_ms"] = sum(outcome.analyze_ms for outcome in done)
    return {"took": took, "data": [_image(outcome, crop, form) for outcome, crop in zip(outcomes, crops, strict=True)]}


def to_json(values: Any) -> bytes:
    """JSON, arrays straight from their memory."""
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)


def to_msgpack(values: Any) -> bytes:
    """MessagePack with floats in single precision."""
    packed: bytes = msgpack.packb(values, use_single_float=True, default=np.ndarray.tolist)
    return packed


def _by_area(extraction: Extraction) -> Extraction:
    faces = tuple(sorted(extraction.faces, key=lambda face: -face.detection.box.area))
    return Extraction(extraction.width, extraction.height, faces, extraction.read_ms, extraction.analyze_ms)


def _image(outcome: Extraction | FaceServerError, crops: Sequence[bytes], form: Form) -> dict[str, Any]:
    if isinstance(outcome, FaceServerError):
        return {"status": "failed", "took_ms": 0.0, "faces": [], "traceback": outcome.message}
    long_side = max(outcome.width, outcome.height)
    scale = min(1.0, form.detection_size_px / long_side)
    faces = [_face(face, index, scale, crops, form) for index, face in enumerate(outcome.faces)]
    return {"status": "ok", "took_ms": outcome.read_ms + outcome.analyze_ms, "faces": faces}


def _face(face: Face, index: int, scale: float, crops: Sequence[bytes], form: Form) -> dict[str, Any]:
    box = face.detection.box
    described: dict[str, Any] = {"bbox": [int(box.x1), int(box.y1), int(box.x2), int(box.y2)]}
    if form.landmarks:
        described["landmarks"] = face.detection.landmarks.astype(np.int32)
    described |= {"prob": face.detection.score, "num_det": index, "scale": scale}
    if form.face_data:
        described["facedata"] = _base64(crops[index])
    if form.embedding or form.attributes:
        described |= _embedding(face, form) | _NOT_INSTALLED
    described["size"] = int(box.width)
    return described


def _embedding(face: Face, form: Form) -> dict[str, Any]:
    if face.embedding is None or not form.embedding:
        return {"norm": None, "vec": None}
    return {"norm": face.embedding.norm, "vec": face.embedding.vector}


def _embedded(outcomes: Outcomes, form: Form, total_ms: float) -> dict[str, Any]:
    data = [{"status": "ok", "took_ms": 0, "faces": [_embedded_crop(outcome, form)]} for outcome in outcomes]
    return {"took_ms": total_ms, "data": data, "status": "ok"}


def _embedded_crop(outcome: Extraction | FaceServerError, form: Form) -> dict[str, Any]:
    if isinstance(outcome, FaceServerError):
        return {"status": "failed", "traceback": outcome.message}
    (face,) = outcome.faces
    return (
        _embedding(face, form)
        | _NOT_INSTALLED
        | {"bbox": [0, 0, CROP_SIZE_PX, CROP_SIZE_PX], "size": CROP_SIZE_PX, "prob": 1.0, "status": "ok"}
    )


def _early_image(outcome: Extraction | FaceServerError, crops: Sequence[bytes], form: Form) -> list[dict[str, Any]]:
    if isinstance(outcome, FaceServerError):
        return []
    return [_early_face(face, index, crops, form) for index, face in enumerate(outcome.faces)]


def _early_face(face: Face, index: int, crops: Sequence[bytes], form: Form) -> dict[str, Any]:
    box = _WHOLE_CROP if form.crops_only else face.detection.box
    embedding = _embedding(face, form)
    described: dict[str, Any] = {
        "status": "Ok",
        "vec": embedding["vec"],
        "det": index,
        "prob": face.detection.score,
        "bbox": [float(box.x1), float(box.y1), float(box.x2), float(box.y2)],
        "norm": embedding["norm"],
        "gender": None,
        "age": None,
        "mask_prob": None,
    }
    if form.landmarks and not form.crops_only:
        described["landmarks"] = face.detection.landmarks
    if form.face_data:
        described["facedata"] = _base64(crops[index])
    return described


def _base64(data: bytes) -> str:
    return pybase64.b64encode(data).decode("ascii")
