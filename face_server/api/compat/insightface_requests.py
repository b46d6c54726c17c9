"""From the bytes of an InsightFace-REST request to what is asked of the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgpack  # type: ignore[import-untyped]  # ships no types
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from face_server.api.compat.insightface_answers import Form, to_json
from face_server.api.compat.insightface_schemas import LARGEST_MAX_SIZE_PX, BodyExtract, Images
from face_server.api.services import Services
from face_server.domain.ports import AnalysisOptions
from face_server.pipeline.intake import Base64Picture, RemotePicture, Source

MSGPACK = "application/x-msgpack"
MSGPACK_TYPES = frozenset({"application/msgpack", MSGPACK})

# Bodies up to this size are parsed on the event loop: it takes well under a millisecond.
_INLINE_BYTES = 256 * 1024
_MAX_FINDINGS = 10

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, services: Services, model: type[Body]) -> Body | Response:
    """The body as ``model``, or the 422 that says what is wrong with it."""
    data = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    parse: Callable[[bytes, type[Body]], Body] = _from_msgpack if kind in MSGPACK_TYPES else _from_json
    try:
        return parse(data, model) if len(data) <= _INLINE_BYTES else await services.workers.run(parse, data, model)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:_MAX_FINDINGS]
        findings = [{**one, "loc": ["body", *one["loc"]]} for one in found]
    except ValueError as error:
        findings = [{"type": "msgpack_invalid", "loc": ["body"], "msg": str(error)}]
    return Response(to_json({"detail": findings}), status_code=422, media_type="application/json")


def _from_json(data: bytes, model: type[Body]) -> Body:
    return model.model_validate_json(data)


def _from_msgpack(data: bytes, model: type[Body]) -> Body:
    try:
        values = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError("the body is not valid msgpack") from error
    return model.model_validate(values)


def accepts_msgpack(request: Request) -> bool:
    """Whether the caller wants msgpack and nothing else by its ``Accept`` header, which may be missing."""
    accepted = {one.partition(";")[0].strip().lower() for one in request.headers.get("accept", "").split(",")}
    return bool(accepted & MSGPACK_TYPES) and "application/json" not in accepted


def form_of(body: BodyExtract, services: Services) -> Form:
    """Which keys the answer to ``body`` has."""
    return Form(
        early=body.api_ver == "1",
        crops_only=bool(body.embed_only),
        embedding=body.extract_embedding is not False,
        attributes=bool(body.extract_ga or body.detect_masks),
        landmarks=bool(body.return_landmarks),
        face_data=bool(body.return_face_data) and not body.embed_only,
        timings=bool(body.verbose_timings),
        by_area=(body.limit_faces or 0) > 0,
        detection_size_px=_detection_size(body, services),
    )


def _detection_size(body: BodyExtract, services: Services) -> int:
    if body.api_ver is None or body.max_size is None:
        return services.defaults.max_size_px
    return max(body.max_size) or LARGEST_MAX_SIZE_PX


def options_of(body: BodyExtract, form: Form, services: Services) -> AnalysisOptions:
    """What the analyzer has to find and compute for ``body``, and nothing more."""
    return AnalysisOptions(
        min_score=threshold(body.threshold, services),
        max_size_px=form.detection_size_px,
        min_face_px=max(0, body.min_face_size or 0),
        max_faces=face_limit(body.limit_faces, services),
        embed=form.embedding,
        quality=False,
        crops=form.face_data,
    )


def threshold(asked: float | None, services: Services) -> float:
    """The least detection score: as asked, or the operator's default."""
    return services.defaults.min_score if asked is None else asked


def face_limit(asked: int | None, services: Services) -> int:
    """How many faces of a picture are kept: as asked, but never more than the operator allows."""
    return min(asked, services.defaults.max_faces) if asked and asked > 0 else services.defaults.max_faces


def sources_of(images: Images, headers: dict[str, str] | None) -> list[Source]:
    """Where the pixels come from; ``urls`` win over ``data``."""
    if images.urls is not None:
        return [RemotePicture(url, headers or {}) for url in images.urls]
    return [one if isinstance(one, bytes) else Base64Picture(one) for one in images.data or ()]
