"""Pictures in, faces out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from face_server.api.analysis import analysis_options
from face_server.api.bodies import BodyReader
from face_server.api.deps import MetricsDep, ServicesDep
from face_server.api.pictures import sources_of
from face_server.api.problems import responses
from face_server.api.rendering import FaceForm, face_body, json_reply, only_failure, picture_fragments
from face_server.api.schemas.faces import DetectAnswer, DetectRequest, ExtractAnswer, ExtractRequest
from face_server.api.security import READ
from face_server.api.services import Services
from face_server.errors import FaceServerError
from face_server.pipeline.intake import Extraction
from face_server.telemetry import Metrics

router = APIRouter(prefix="/v1", tags=["faces"], dependencies=[READ])


@router.post("/detect", operation_id="detect", summary="Find faces", response_model=DetectAnswer, responses=responses(415))
async def detect(
    body: Annotated[DetectRequest, Depends(BodyReader(DetectRequest).read)], services: ServicesDep, metrics: MetricsDep
) -> Response:
    """Find the faces of one or many pictures: box, score and five landmarks.

    A picture that cannot be read fails alone: its entry has a `problem`. The only picture of a
    request fails the request.
    """
    options = analysis_options(body, services, embed=False, quality=body.quality, crops=body.crops)
    outcomes = await services.intake.extract(sources_of(body.images), options)
    only_failure(outcomes)
    form = FaceForm(services.enrollment.limits, quality=body.quality, crops=body.crops)
    return await _answer(outcomes, form, services, metrics, {"detector": services.detector.name})


@router.post(
    "/extract", operation_id="extract", summary="Compute embeddings of faces", response_model=ExtractAnswer, responses=responses(415)
)
async def extract(
    body: Annotated[ExtractRequest, Depends(BodyReader(ExtractRequest).read)], services: ServicesDep, metrics: MetricsDep
) -> Response:
    """Find the faces of one or many pictures and compute their embeddings.

    With `embed_only` the pictures are aligned crops already. A picture that cannot be read fails
    alone: its entry has a `problem`. The only picture of a request fails the request.
    """
    sources = sources_of(body.images)
    if body.embed_only:
        outcomes = await services.intake.embed_crops(sources)
    else:
        options = analysis_options(body, services, embed=True, quality=body.quality, crops=body.crops)
        outcomes = await services.intake.extract(sources, options)
    only_failure(outcomes)
    form = FaceForm(services.enrollment.limits, body.embedding_format, quality=body.quality, crops=body.crops)
    head = {
        "detector": services.detector.name,
        "model": str(services.analyzer.model),
        "embedding_format": body.embedding_format,
    }
    return await _answer(outcomes, form, services, metrics, head)


async def _answer(
    outcomes: list[Extraction | FaceServerError], form: FaceForm, services: Services, metrics: Metrics, head: dict[str, str]
) -> Response:
    faces = [
        [await face_body(face, form, services.codec) for face in outcome.faces] if isinstance(outcome, Extraction) else []
        for outcome in outcomes
    ]
    return json_reply({**head, "images": await picture_fragments(outcomes, faces, metrics)})
