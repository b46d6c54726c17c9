"""Pictures and embeddings of a request become templates; what fails, fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from face_server.api.gallery_bodies import template_body
from face_server.api.pictures import embedding_of, requested_model, source_of
from face_server.api.problems import problem_of
from face_server.api.rendering import Body, FaceForm, face_body
from face_server.api.schemas.gallery import TemplatesRequest
from face_server.api.services import Services
from face_server.domain.identity import Identity
from face_server.errors import FaceServerError, InputTooLarge, InvalidInput
from face_server.pipeline.enrollment import Enrolled

Outcome = Enrolled | FaceServerError


async def enroll_all(
    collection: str, identity: Identity, body: TemplatesRequest, services: Services
) -> tuple[list[Outcome], list[Outcome]]:
    """Enrol every picture and every embedding of ``body``; their outcomes in the order of the request.

    Raises InputTooLarge for too many pictures, and the first error when nothing could be enrolled.
    """
    limit = services.intake.limits.max_images
    if len(body.images) > limit:
        raise InputTooLarge(f"{len(body.images)} images in one request, at most {limit} are allowed", field="images")
    model = requested_model(body.model, services.analyzer.model)
    enrollment, codec = services.enrollment, services.codec

    async def picture(index: int) -> Enrolled:
        return await enrollment.enroll(collection, identity, source_of(body.images[index]), label=body.source, override=body.override)

    async def vector(index: int) -> Enrolled:
        embedding = await embedding_of(body.embeddings[index], model, codec, field=f"embeddings[{index}]")
        return await enrollment.enroll_embedding(collection, identity, embedding, label=body.source, override=body.override)

    images = await _side_by_side(len(body.images), picture, "images", services)
    embeddings = await _side_by_side(len(body.embeddings), vector, "embeddings", services)
    outcomes = [*images, *embeddings]
    failures = [outcome for outcome in outcomes if isinstance(outcome, FaceServerError)]
    if failures and len(failures) == len(outcomes):
        raise failures[0]
    return images, embeddings


async def _side_by_side(count: int, work: Callable[[int], Awaitable[Enrolled]], field: str, services: Services) -> list[Outcome]:
    places = asyncio.Semaphore(services.intake.limits.concurrency)

    async def one(index: int) -> Outcome:
        async with places:
            try:
                return await work(index)
            except InvalidInput as error:
                error.field = f"{field}[{index}]"
                return error

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(index)) for index in range(count)]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


async def enrolled_bodies(outcomes: Sequence[Outcome], services: Services) -> list[Body]:
    """Outcomes as ``schemas.gallery.EnrolledBody``."""
    form = FaceForm(services.enrollment.limits)
    return [await _enrolled_body(outcome, form, services) for outcome in outcomes]


async def _enrolled_body(outcome: Outcome, form: FaceForm, services: Services) -> Body:
    if isinstance(outcome, FaceServerError):
        return {"problem": problem_of(outcome)}
    face = None if outcome.face is None else await face_body(outcome.face, form, services.codec)
    return {
        "template": template_body(outcome.template),
        "face": face,
        "overridden": [reason.value for reason in outcome.overridden],
    }
