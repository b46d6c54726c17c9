"""Templates: the embeddings that people are recognised by."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends
from starlette.responses import Response

from face_server.api.bodies import BodyReader
from face_server.api.deps import CollectionName, IdentityId, ServicesDep, TemplateId
from face_server.api.enrolling import enroll_all, enrolled_bodies
from face_server.api.gallery_bodies import identity_body, template_body
from face_server.api.problems import responses
from face_server.api.rendering import json_reply
from face_server.api.schemas.gallery import EnrollAnswer, MoveRequest, TemplateBody, TemplateDetail, TemplatesRequest
from face_server.api.security import OPERATE, READ
from face_server.domain.identity import MoveTemplate, RemoveTemplate
from face_server.errors import InvalidInput, NotFound

router = APIRouter(prefix="/v1/collections/{collection}", tags=["templates"])


@router.post(
    "/identities/{identity}/templates",
    operation_id="add_templates",
    summary="Enrol pictures of an identity",
    dependencies=[OPERATE],
    response_model=EnrollAnswer,
    status_code=201,
    responses=responses(404, 409, 415),
)
async def add_templates(
    collection: CollectionName,
    identity: IdentityId,
    body: Annotated[TemplatesRequest, Depends(BodyReader(TemplatesRequest).read)],
    services: ServicesDep,
) -> Response:
    """Add templates to an identity from pictures of one face each, or from embeddings.

    A picture passes a gate first. It is refused with every reason that applies: `no_face`,
    `multiple_faces`, `small_face`, `low_sharpness`, `low_brightness`, `high_brightness`,
    `extreme_pose`, `low_score`, `duplicate`, `identity_conflict` (it looks like somebody else who is
    enrolled). `override` takes it all the same. What is refused fails alone; when everything is,
    the request fails with the first reason.
    """
    known, _ = await services.gallery.identity(collection, identity)
    if not body.images and not body.embeddings:
        raise InvalidInput("send images, embeddings or both", field="images")
    images, embeddings = await enroll_all(collection, known, body, services)
    stored, _ = await services.gallery.identity(collection, identity)
    answer = {
        "identity": identity_body(stored),
        "images": await enrolled_bodies(images, services),
        "embeddings": await enrolled_bodies(embeddings, services),
    }
    return json_reply(answer, 201)


@router.get(
    "/templates/{template}",
    operation_id="get_template",
    summary="Get a template",
    dependencies=[READ],
    response_model=TemplateDetail,
    responses=responses(404),
)
async def get_template(collection: CollectionName, template: TemplateId, services: ServicesDep) -> Response:
    """Get a template with its embedding."""
    record = await services.gallery.record(collection, template)
    embedding = record.embedding
    vector = np.ascontiguousarray(embedding.vector)
    return json_reply({**template_body(record.template), "model": str(embedding.model), "embedding": vector})


@router.get(
    "/templates/{template}/crop.jpg",
    operation_id="get_crop",
    summary="Get a template's aligned crop",
    dependencies=[READ],
    response_class=Response,
    responses=responses(404)
    | {200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}, "description": "The crop."}},
)
async def get_crop(collection: CollectionName, template: TemplateId, services: ServicesDep) -> Response:
    """Get the face that a template was made from: an aligned crop, 112×112."""
    record = await services.gallery.record(collection, template)
    if record.crop is None:
        raise NotFound(f"no crop is kept for template {template!r}")
    return Response(record.crop, media_type="image/jpeg", headers={"cache-control": "private, no-store"})


@router.delete(
    "/templates/{template}",
    operation_id="delete_template",
    summary="Delete a template",
    dependencies=[OPERATE],
    status_code=204,
    responses=responses(404, 409),
)
async def delete_template(collection: CollectionName, template: TemplateId, services: ServicesDep) -> Response:
    """Erase a template and its crop, from the store and from the search, at once."""
    await services.gallery.apply(collection, [RemoveTemplate(template)])
    return Response(status_code=204)


@router.post(
    "/templates/{template}/move",
    operation_id="move_template",
    summary="Give a template to another identity",
    dependencies=[OPERATE],
    response_model=TemplateBody,
    responses=responses(404, 409, 415),
)
async def move_template(
    collection: CollectionName,
    template: TemplateId,
    body: Annotated[MoveRequest, Depends(BodyReader(MoveRequest).read)],
    services: ServicesDep,
) -> Response:
    """Give a template to another identity of the collection: it was enrolled for the wrong person."""
    await services.gallery.apply(collection, [MoveTemplate(template, body.identity_id)])
    record = await services.gallery.record(collection, template)
    return json_reply(template_body(record.template))
