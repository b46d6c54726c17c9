"""Verification 1:1 and identification 1:N."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from face_server.api.analysis import analysis_options, one_face
from face_server.api.bodies import BodyReader
from face_server.api.deps import CollectionName, MetricsDep, ServicesDep
from face_server.api.pictures import embedding_of, requested_model, sources_of
from face_server.api.problems import responses
from face_server.api.rendering import Body, FaceForm, box_body, face_body, json_reply, only_failure, picture_fragments
from face_server.api.schemas.faces import AnalysisFields
from face_server.api.schemas.recognition import IdentifyAnswer, IdentifyRequest, VerifyAnswer, VerifyRequest
from face_server.api.security import READ
from face_server.api.services import Services
from face_server.domain.decision import Decision
from face_server.domain.embedding import Embedding
from face_server.domain.face import Face
from face_server.domain.identity import Candidate
from face_server.errors import FaceServerError
from face_server.pipeline.intake import Extraction
from face_server.pipeline.recognition import IdentifyOptions

router = APIRouter(prefix="/v1", tags=["recognition"], dependencies=[READ])


@router.post(
    "/verify",
    operation_id="verify",
    summary="Compare two faces, or a face with a person",
    response_model=VerifyAnswer,
    responses=responses(404, 409, 415),
)
async def verify(body: Annotated[VerifyRequest, Depends(BodyReader(VerifyRequest).read)], services: ServicesDep) -> Response:
    """Tell whether the probe and the reference are the same person.

    Each picture must show exactly one face; `largest_face` takes the largest of several. The
    default threshold lets 0.1 % of pairs of different people pass, as measured for the model.
    """
    name = body.collection or services.defaults.collection
    if body.reference_identity is not None:
        collection = await services.gallery.collection(name)
        collection.model.require(services.analyzer.model, "this server's embedding")
        await services.gallery.identity(name, body.reference_identity)
    probe_face, probe = await _side(body, services, "probe")
    head: Body = {"model": str(probe.model), "probe_face": _compared(probe_face), "reference_face": None, "candidate": None}
    if body.reference_identity is not None:
        result, candidate = await services.recognition.verify_identity(name, body.reference_identity, probe, threshold=body.threshold)
        head["candidate"] = candidate_body(candidate)
    else:
        reference_face, reference = await _side(body, services, "reference")
        result = services.recognition.verify(probe, reference, threshold=body.threshold)
        head["reference_face"] = _compared(reference_face)
    return json_reply({"same": result.same, "similarity": result.similarity, "threshold": result.threshold, **head})


@router.post(
    "/collections/{collection}/identify",
    operation_id="identify",
    summary="Name the faces of pictures",
    response_model=IdentifyAnswer,
    responses=responses(404, 409, 415),
)
async def identify(
    collection: CollectionName,
    body: Annotated[IdentifyRequest, Depends(BodyReader(IdentifyRequest).read)],
    services: ServicesDep,
    metrics: MetricsDep,
) -> Response:
    """Look up every face of the pictures, and every embedding, in a collection.

    A face is a `match` when the best person's similarity reaches the threshold and leads the
    second person by the margin; otherwise it is unknown and `match` is null. The collection's
    threshold follows from its target FPIR and its size unless it is pinned.
    """
    stored = await services.gallery.collection(collection)
    stored.model.require(services.analyzer.model, "this server's embedding")
    options = IdentifyOptions(body.limit, body.threshold, body.margin)
    threshold = services.recognition.identification_threshold(stored) if body.threshold is None else body.threshold
    model = requested_model(body.model, services.analyzer.model)
    stored.model.require(model, "the embedding")
    probes = [
        await embedding_of(values, model, services.codec, field=f"embeddings[{index}]") for index, values in enumerate(body.embeddings)
    ]
    outcomes = await _look(body, services)
    faces = [_chosen(outcome, body.faces) for outcome in outcomes]
    shown = [face for one in faces for face in one]
    found = [face.embedding for face in shown if face.embedding is not None]
    decisions = await services.recognition.identify(collection, [*found, *probes], options)
    form = FaceForm(services.enrollment.limits, quality=body.quality)
    bodies = [
        {**await face_body(face, form, services.codec), **decision_body(decision)}
        for face, decision in zip(shown, decisions[: len(shown)], strict=True)
    ]
    answer = {
        "collection": collection,
        "model": str(stored.model),
        "threshold": threshold,
        "margin": stored.margin if body.margin is None else body.margin,
        "images": await picture_fragments(outcomes, _dealt(bodies, faces), metrics),
        "embeddings": [decision_body(decision) for decision in decisions[len(shown) :]],
    }
    return json_reply(answer)


async def _look(body: IdentifyRequest, services: Services) -> list[Extraction | FaceServerError]:
    if not body.images:
        return []
    asked = AnalysisFields(
        images=body.images, min_score=body.min_score, max_size=body.max_size, max_faces=body.max_faces, min_face_size=body.min_face_size
    )
    options = analysis_options(asked, services, embed=True, quality=body.quality, crops=False)
    outcomes = await services.intake.extract(sources_of(body.images), options)
    if not body.embeddings:
        only_failure(outcomes)
    return outcomes


def _chosen(outcome: Extraction | FaceServerError, faces: str) -> tuple[Face, ...]:
    if isinstance(outcome, FaceServerError):
        return ()
    if faces == "largest" and outcome.faces:
        return (max(outcome.faces, key=lambda face: face.detection.box.area),)
    return outcome.faces


def _dealt(bodies: Sequence[Body], faces: Sequence[Sequence[Face]]) -> list[list[Body]]:
    """``bodies``, one after the other, grouped as ``faces`` are."""
    rest = iter(bodies)
    return [[next(rest) for _ in one] for one in faces]


async def _side(body: VerifyRequest, services: Services, side: str) -> tuple[Face | None, Embedding]:
    values = body.probe_embedding if side == "probe" else body.reference_embedding
    if values is not None:
        model = requested_model(body.model, services.analyzer.model)
        return None, await embedding_of(values, model, services.codec, field=f"{side}_embedding")
    picture = body.probe_image if side == "probe" else body.reference_image
    if picture is None:
        raise AssertionError("the request was validated to have one of each")
    return await one_face(picture, services, largest=body.largest_face, field=f"{side}_image")


def _compared(face: Face | None) -> Body | None:
    return None if face is None else {"box": box_body(face.detection.box), "score": round(face.detection.score, 4)}


def decision_body(decision: Decision) -> Body:
    """A decision as ``schemas.recognition.IdentificationBody``."""
    match = decision.match
    return {
        "verdict": decision.verdict.value,
        "match": None if match is None else candidate_body(match),
        "candidates": [candidate_body(candidate) for candidate in decision.candidates],
    }


def candidate_body(candidate: Candidate) -> Body:
    """A candidate as ``schemas.recognition.CandidateBody``."""
    identity = candidate.identity
    return {
        "identity": {"id": identity.id, "name": identity.name, "metadata": dict(identity.metadata)},
        "similarity": candidate.similarity,
        "template_id": candidate.template_id,
        "template_similarity": candidate.template_similarity,
    }
