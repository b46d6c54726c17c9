"""Collections: templates that are searched together."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from face_server.api.bodies import BodyReader
from face_server.api.deps import COLLECTION_PATTERN, CollectionName, ServicesDep
from face_server.api.gallery_bodies import collection_body
from face_server.api.problems import responses
from face_server.api.rendering import json_reply
from face_server.api.schemas.gallery import CollectionBody, CollectionPage, CollectionPatch, CollectionRequest, CollectionSettings
from face_server.api.security import ADMIN, READ
from face_server.api.services import Services
from face_server.domain.identity import Collection
from face_server.errors import NotFound

router = APIRouter(prefix="/v1/collections", tags=["collections"])


@router.get(
    "",
    operation_id="list_collections",
    summary="List collections",
    dependencies=[READ],
    response_model=CollectionPage,
    responses=responses(),
)
async def list_collections(
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most collections a page.")] = 100,
    cursor: Annotated[str, Query(pattern=COLLECTION_PATTERN + "|^$", description="`next_cursor` of the page before.")] = "",
) -> Response:
    """List the collections by name, page by page."""
    stored = [one for one in await services.gallery.collections() if one.name > cursor]
    page = stored[:limit]
    answer = {
        "collections": [collection_body(one, services.recognition) for one in page],
        "next_cursor": page[-1].name if len(stored) > limit else None,
    }
    return json_reply(answer)


@router.post(
    "",
    operation_id="create_collection",
    summary="Create a collection",
    dependencies=[ADMIN],
    response_model=CollectionBody,
    status_code=201,
    responses=responses(409, 415),
)
async def create_collection(
    body: Annotated[CollectionRequest, Depends(BodyReader(CollectionRequest).read)], services: ServicesDep
) -> Response:
    """Create an empty collection, pinned to the model that this server makes embeddings with."""
    stored = await services.gallery.create_collection(_collection(body.name, body, services))
    return json_reply(collection_body(stored, services.recognition), 201)


@router.get(
    "/{collection}",
    operation_id="get_collection",
    summary="Get a collection",
    dependencies=[READ],
    response_model=CollectionBody,
    responses=responses(404),
)
async def get_collection(collection: CollectionName, services: ServicesDep) -> Response:
    """Get a collection's settings, its effective threshold and its counts."""
    return json_reply(collection_body(await services.gallery.collection(collection), services.recognition))


@router.put(
    "/{collection}",
    operation_id="put_collection",
    summary="Create a collection or replace its settings",
    dependencies=[ADMIN],
    response_model=CollectionBody,
    responses=responses(409, 415) | {201: {"model": CollectionBody, "description": "Created."}},
)
async def put_collection(
    collection: CollectionName,
    body: Annotated[CollectionSettings, Depends(BodyReader(CollectionSettings, optional=True).read)],
    services: ServicesDep,
) -> Response:
    """Make sure that the collection exists with these settings. Repeating the request changes nothing."""
    wanted = _collection(collection, body, services)
    try:
        await services.gallery.collection(collection)
    except NotFound:
        stored = await services.gallery.create_collection(wanted)
        return json_reply(collection_body(stored, services.recognition), 201)
    return json_reply(collection_body(await _update(collection, body, services), services.recognition))


@router.patch(
    "/{collection}",
    operation_id="update_collection",
    summary="Change a collection's settings",
    dependencies=[ADMIN],
    response_model=CollectionBody,
    responses=responses(404, 409, 415),
)
async def update_collection(
    collection: CollectionName, body: Annotated[CollectionPatch, Depends(BodyReader(CollectionPatch).read)], services: ServicesDep
) -> Response:
    """Change the settings that are sent and keep the others. The model cannot change."""
    return json_reply(collection_body(await _update(collection, body, services), services.recognition))


@router.delete(
    "/{collection}",
    operation_id="delete_collection",
    summary="Delete a collection",
    dependencies=[ADMIN],
    status_code=204,
    responses=responses(404),
)
async def delete_collection(collection: CollectionName, services: ServicesDep) -> Response:
    """Erase a collection with its identities, templates and crops, at once and for good."""
    await services.gallery.drop_collection(collection)
    return Response(status_code=204)


def _collection(name: str, body: CollectionSettings, services: Services) -> Collection:
    return Collection(name, services.analyzer.model, body.threshold, body.margin, body.target_fpir, body.keep_crops, services.clock.now())


async def _update(name: str, body: CollectionSettings | CollectionPatch, services: Services) -> Collection:
    """Store the settings that ``body`` sets: all of CollectionSettings, only those sent of CollectionPatch."""
    sent = body.model_dump(exclude_unset=isinstance(body, CollectionPatch))
    stored = await services.gallery.collection(name)
    return await services.gallery.update_collection(replace(stored, **sent))
