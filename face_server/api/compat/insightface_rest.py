"""InsightFace-REST's HTTP API: existing clients work unchanged.

Both forms of ``/extract`` are served: the current one (objects) and the early one (lists, with
``api_ver: "1"``). Where that server was wrong this one is right: pictures are one colour order
everywhere, every face stays with its picture, media types say what the bytes are, ``urls`` are
http(s) only and never files, and failures are one sentence instead of a traceback.

Differences that a client can see: faces narrower than ``min_face_size`` are dropped before
``limit_faces`` counts; at most the server's own number of faces a picture is returned; an early
request's ``max_size`` bounds the long side; small pictures are not enlarged before detection, so
``scale`` never exceeds 1.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Annotated, Any

from fastapi import APIRouter, File, Request, Response
from fastapi import Form as FormField
from pydantic import BaseModel

from face_server.api.compat import insightface_answers as answers
from face_server.api.compat.insightface_requests import (
    MSGPACK,
    MSGPACK_TYPES,
    accepts_msgpack,
    face_limit,
    form_of,
    options_of,
    read_body,
    sources_of,
    threshold,
)
from face_server.api.compat.insightface_schemas import (
    BodyDraw,
    BodyExtract,
    EarlyFace,
    EmbedAnswer,
    ExtractAnswer,
    Healthy,
    Images,
    Refusal,
    inline_schema,
)
from face_server.api.deps import ServicesDep
from face_server.api.problems import responses
from face_server.api.security import READ
from face_server.api.services import Services
from face_server.domain.ports import AnalysisOptions, PaintOptions
from face_server.errors import FaceServerError, InvalidInput
from face_server.pipeline.intake import Extraction, Source
from face_server.pipeline.self_test import self_test

_log = logging.getLogger(__name__)

# Answers with up to so many faces are written on the event loop: it takes less than the way to a
# thread and back.
_INLINE_FACES = 16

_CROP_QUALITY = 95

router = APIRouter(tags=["InsightFace-REST"])


def _request_body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a body that the route parses itself."""
    content: dict[str, Any] = {"application/json": {"schema": inline_schema(model)}}
    content |= {kind: {"schema": {"type": "string", "format": "binary", "description": "The same in msgpack."}} for kind in MSGPACK_TYPES}
    return {"requestBody": {"required": True, "content": content}}


_REFUSALS = responses() | {
    422: {**responses()[422], "model": Refusal, "description": "What is wrong with the request: a list of findings, or a problem."}
}
_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture with its faces drawn.", "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.post(
    "/extract",
    dependencies=[READ],
    response_model=None,
    responses=_REFUSALS
    | {
        200: {
            "model": ExtractAnswer | EmbedAnswer | list[list[EarlyFace]],
            "content": {MSGPACK: {"schema": {"type": "string", "format": "binary"}}},
            "description": "Faces a picture: the current form, the form of `embed_only`, or the early form.",
        }
    },
    openapi_extra=_request_body(BodyExtract),
)
async def extract(request: Request, services: ServicesDep) -> Response:
    """Detect faces, compute their embeddings, and return either with boxes in pixels of the picture.

    Accepts JSON with base64 pictures or URLs, or msgpack with raw bytes. One bad picture fails
    alone: its entry says `failed` and why. Answers in msgpack when the body says `msgpack: true`
    or the request's `Accept` is `application/x-msgpack`.
    """
    started = time.perf_counter()
    body = await read_body(request, services, BodyExtract)
    if isinstance(body, Response):
        return body
    form = form_of(body, services)
    sources = sources_of(body.images, body.img_req_headers)
    if not sources:
        outcomes: list[Extraction | FaceServerError] = []
    elif form.crops_only:
        outcomes = await services.intake.embed_crops(sources)
    else:
        outcomes = await services.intake.extract(sources, options_of(body, form, services))
    outcomes = answers.in_order(outcomes, form)
    crops = [await _encode_crops(outcome, form, services) for outcome in outcomes]
    packed = bool(body.msgpack) or accepts_msgpack(request)

    def write() -> bytes:
        values = answers.answer(outcomes, crops, form, 1000 * (time.perf_counter() - started))
        return answers.to_msgpack(values) if packed else answers.to_json(values)

    faces = sum(len(outcome.faces) for outcome in outcomes if isinstance(outcome, Extraction))
    content = write() if faces <= _INLINE_FACES else await services.workers.run(write)
    return Response(content, media_type=MSGPACK if packed else "application/json")


@router.post(
    "/draw_detections", dependencies=[READ], response_class=Response, responses=_REFUSALS | _JPEG, openapi_extra=_request_body(BodyDraw)
)
async def draw_detections(request: Request, services: ServicesDep) -> Response:
    """Draw the faces of the first picture. Answers with a JPEG of the picture's own size."""
    body = await read_body(request, services, BodyDraw)
    if isinstance(body, Response):
        return body
    sources = sources_of(body.images, None)
    if not sources:
        raise InvalidInput("images: send one picture in `data` or `urls`", field="images")
    return await _draw(sources[0], body, services)


@router.post("/multipart/draw_detections", dependencies=[READ], response_class=Response, responses=_REFUSALS | _JPEG)
async def draw_uploaded(
    services: ServicesDep,
    file: Annotated[bytes, File(description="A picture.")],
    threshold: Annotated[float | None, FormField(ge=0, le=1, allow_inf_nan=False, description="Least detection score.")] = None,
    draw_landmarks: Annotated[bool, FormField(description="Draw the five landmarks.")] = True,
    draw_scores: Annotated[bool, FormField(description="Write each detection score.")] = True,
    draw_sizes: Annotated[bool, FormField(description="Write the width of each face.")] = True,
    limit_faces: Annotated[int, FormField(description="Draw the largest faces only; 0 draws all.")] = 0,
    use_rotation: Annotated[bool, FormField(description="Accepted and ignored.")] = False,  # noqa: ARG001 - part of the foreign API
) -> Response:
    """Draw the faces of an uploaded picture. Answers with a JPEG of the picture's own size."""
    body = BodyDraw(
        images=Images(),
        threshold=threshold,
        draw_landmarks=draw_landmarks,
        draw_scores=draw_scores,
        draw_sizes=draw_sizes,
        limit_faces=limit_faces,
    )
    return await _draw(file, body, services)


@router.get("/info", dependencies=[READ])
async def info(services: ServicesDep) -> dict[str, Any]:
    """The models and defaults of this server. Holds no secrets."""
    size = services.defaults.max_size_px
    return {
        "version": services.version,
        "tensorrt_version": None,
        "log_level": logging.getLevelName(logging.getLogger().getEffectiveLevel()),
        "models": {
            "inference_backend": services.backend.description,
            "det_name": services.detector.name,
            "rec_name": services.embedder.name,
            "max_size": [size, size],
            "ga_name": None,
            "mask_detector": None,
            "rec_batch_size": 1,
            "det_batch_size": 1,
            "force_fp16": False,
            "triton_uri": None,
        },
        "defaults": {
            "return_face_data": False,
            "return_landmarks": False,
            "extract_embedding": True,
            "extract_ga": False,
            "detect_masks": False,
            "det_thresh": services.defaults.min_score,
            "img_req_headers": {},
            "sslv3_hack": False,
        },
    }


@router.get(
    "/health", response_model=None, responses={200: {"model": Healthy}, 500: {"model": Refusal, "description": "The self check failed."}}
)
async def health(services: ServicesDep) -> Response:
    """Run detection and embedding once and check the result. 500 if either does not work."""
    options = AnalysisOptions(services.defaults.min_score, services.defaults.max_size_px, embed=False, quality=False)
    try:
        fault = await self_test(services.analyzer, options)
    except FaceServerError as error:
        fault = error.message
    if fault is None:
        return Response(b'{"status":"ok"}', media_type="application/json")
    _log.error("the self check failed: %s", fault)
    return Response(b'{"detail":"self check failed"}', status_code=500, media_type="application/json")


async def _encode_crops(outcome: Extraction | FaceServerError, form: answers.Form, services: Services) -> list[bytes]:
    if isinstance(outcome, FaceServerError) or not form.face_data:
        return []
    crops = [face.crop for face in outcome.faces if face.crop is not None]
    return await asyncio.gather(*(services.codec.encode_jpeg(crop, quality=_CROP_QUALITY) for crop in crops))


async def _draw(source: Source, body: BodyDraw, services: Services) -> Response:
    reading = await services.intake.read(source)
    options = AnalysisOptions(
        min_score=threshold(body.threshold, services),
        max_size_px=services.defaults.max_size_px,
        min_face_px=max(0, body.min_face_size or 0),
        max_faces=face_limit(body.limit_faces, services),
        embed=False,
        quality=False,
    )
    (faces,) = await services.analyzer.analyze([reading.image], options)
    paint = PaintOptions(
        landmarks=body.draw_landmarks is not False,
        scores=body.draw_scores is not False,
        sizes=body.draw_sizes is not False,
        footer=f"faces: {len(faces)} ({services.detector.name})",
    )
    return Response(await services.painter.paint(reading.image, faces, paint), media_type="image/jpeg")
