"""Identities: who can be recognised."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from face_server.api.bodies import BodyReader
from face_server.api.deps import ID_PATTERN, CollectionName, IdentityId, ServicesDep
from face_server.api.enrolling import enroll_all, enrolled_bodies
from face_server.api.gallery_bodies import identity_body, template_body
from face_server.api.problems import responses
from face_server.api.rendering import Body, json_reply
from face_server.api.schemas.gallery import (
    EnrollAnswer,
    IdentityBody,
    IdentityDetail,
    IdentityPage,
    IdentityPatch,
    IdentityRequest,
    IdentitySettings,
    MergeRequest,
)
from face_server.api.security import OPERATE, READ
from face_server.api.services import Services
from face_server.domain.identity import Identity, MergeIdentities, PutIdentity, RemoveIdentity
from face_server.errors import Conflict, InvalidInput, NotFound
from face_server.pipeline.enrollment import new_id

router = APIRouter(prefix="/v1/collections/{collection}/identities", tags=["identities"])


@router.get(
    "",
    operation_id="list_identities",
    summary="List identities",
    dependencies=[READ],
    response_model=IdentityPage,
    responses=responses(404),
)
async def list_identities(
    collection: CollectionName,
    services: ServicesDep,
    name: Annotated[str | None, Query(max_length=200, description="Only identities of exactly this name.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most identities a page.")] = 100,
    cursor: Annotated[str, Query(pattern=ID_PATTERN[:-1] + "$|^$", description="`next_cursor` of the page before.")] = "",
) -> Response:
    """List the identities of a collection by id, page by page."""
    found = await services.gallery.identities(collection, name=name, after=cursor, limit=limit + 1)
    page = found[:limit]
    return json_reply({"identities": [identity_body(one) for one in page], "next_cursor": page[-1].id if len(found) > limit else None})


@router.post(
    "",
    operation_id="create_identity",
    summary="Create an identity",
    dependencies=[OPERATE],
    response_model=EnrollAnswer,
    status_code=201,
    responses=responses(404, 409, 415),
)
async def create_identity(
    collection: CollectionName, body: Annotated[IdentityRequest, Depends(BodyReader(IdentityRequest).read)], services: ServicesDep
) -> Response:
    """Create an identity, with templates from pictures or embeddings at once or without any.

    A picture that is refused fails alone; when all of them are, nothing is created and the request
    fails with the first reason.
    """
    await services.gallery.collection(collection)
    identity = Identity(body.id or new_id(), body.name, body.metadata, services.clock.now())
    if body.id is not None and await _exists(collection, body.id, services):
        raise Conflict(f"an identity with the id {body.id!r} exists already; PUT replaces it", field="id")
    images, embeddings = await enroll_all(collection, identity, body, services)
    if not images and not embeddings:
        await services.gallery.apply(collection, [PutIdentity(identity)])
    stored, _ = await services.gallery.identity(collection, identity.id)
    answer = {
        "identity": identity_body(stored),
        "images": await enrolled_bodies(images, services),
        "embeddings": await enrolled_bodies(embeddings, services),
    }
    return json_reply(answer, 201)


@router.get(
    "/{identity}",
    operation_id="get_identity",
    summary="Get an identity",
    dependencies=[READ],
    response_model=IdentityDetail,
    responses=responses(404),
)
async def get_identity(collection: CollectionName, identity: IdentityId, services: ServicesDep) -> Response:
    """Get an identity with its templates, oldest first."""
    return json_reply(await _detail(collection, identity, services))


@router.put(
    "/{identity}",
    operation_id="put_identity",
    summary="Create an identity or replace its name and metadata",
    dependencies=[OPERATE],
    response_model=IdentityBody,
    responses=responses(404, 409, 415) | {201: {"model": IdentityBody, "description": "Created."}},
)
async def put_identity(
    collection: CollectionName,
    identity: IdentityId,
    body: Annotated[IdentitySettings, Depends(BodyReader(IdentitySettings).read)],
    services: ServicesDep,
) -> Response:
    """Make sure that the identity exists with this name and metadata. Its templates stay."""
    known = await _exists(collection, identity, services)
    await services.gallery.apply(collection, [PutIdentity(Identity(identity, body.name, body.metadata, services.clock.now()))])
    stored, _ = await services.gallery.identity(collection, identity)
    return json_reply(identity_body(stored), 200 if known else 201)


@router.patch(
    "/{identity}",
    operation_id="update_identity",
    summary="Rename an identity or change its metadata",
    dependencies=[OPERATE],
    response_model=IdentityBody,
    responses=responses(404, 409, 415),
)
async def update_identity(
    collection: CollectionName,
    identity: IdentityId,
    body: Annotated[IdentityPatch, Depends(BodyReader(IdentityPatch).read)],
    services: ServicesDep,
) -> Response:
    """Change what is sent and keep the rest."""
    known, _ = await services.gallery.identity(collection, identity)
    name = known.name if body.name is None else body.name
    metadata = known.metadata if body.metadata is None else body.metadata
    await services.gallery.apply(collection, [PutIdentity(Identity(identity, name, metadata, known.created_at))])
    stored, _ = await services.gallery.identity(collection, identity)
    return json_reply(identity_body(stored))


@router.delete(
    "/{identity}",
    operation_id="delete_identity",
    summary="Delete an identity",
    dependencies=[OPERATE],
    status_code=204,
    responses=responses(404, 409),
)
async def delete_identity(collection: CollectionName, identity: IdentityId, services: ServicesDep) -> Response:
    """Erase an identity with its templates and crops, from the store and from the search, at once."""
    await services.gallery.apply(collection, [RemoveIdentity(identity)])
    return Response(status_code=204)


@router.post(
    "/{identity}/merge",
    operation_id="merge_identity",
    summary="Merge an identity into another",
    dependencies=[OPERATE],
    response_model=IdentityDetail,
    responses=responses(404, 409, 415),
)
async def merge_identity(
    collection: CollectionName,
    identity: IdentityId,
    body: Annotated[MergeRequest, Depends(BodyReader(MergeRequest).read)],
    services: ServicesDep,
) -> Response:
    """Give all templates of this identity to another one, and erase this one. Answers with the one that stays."""
    if body.into == identity:
        raise InvalidInput("an identity cannot be merged into itself", field="into")
    await services.gallery.apply(collection, [MergeIdentities(identity, body.into)])
    return json_reply(await _detail(collection, body.into, services))


async def _detail(collection: str, identity: str, services: Services) -> Body:
    stored, templates = await services.gallery.identity(collection, identity)
    return {**identity_body(stored), "templates": [template_body(template) for template in templates]}


async def _exists(collection: str, identity: str, services: Services) -> bool:
    await services.gallery.collection(collection)
    try:
        await services.gallery.identity(collection, identity)
    except NotFound:
        return False
    return True
