"""Strangers: unknown people who are remembered, and may be given a name."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import Response

from face_server.api.bodies import BodyReader
from face_server.api.deps import ID_PATTERN, CamerasDep, ServedDep
from face_server.api.problems import responses
from face_server.api.rendering import JPEG_ANSWER, json_reply, timestamp
from face_server.api.schemas.events import MergeRequest, NamedBody, NameRequest, StrangerBody, StrangerPage
from face_server.api.security import OPERATE, READ
from face_server.api.services import Cameras, Served
from face_server.domain.strangers import Stranger
from face_server.streams.registry import to_the_end

router = APIRouter(prefix="/v1/strangers", tags=["strangers"])

StrangerId = Annotated[
    str, Path(pattern=ID_PATTERN, description="Id of the stranger.", openapi_examples={"an id": {"value": "4f1c2a9be07d3358"}})
]


@router.get(
    "", operation_id="list_strangers", summary="List strangers", dependencies=[READ], response_model=StrangerPage, responses=responses()
)
async def list_strangers(
    cameras: CamerasDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most strangers a page.")] = 100,
    cursor: Annotated[str, Query(pattern=ID_PATTERN + "|^$", description="`next_cursor` of the page before.")] = "",
) -> Response:
    """List the strangers by id, page by page."""
    found = await cameras.strangers.page(after=cursor, limit=limit + 1)
    page = found[:limit]
    return json_reply({"strangers": [_shown(one) for one in page], "next_cursor": page[-1].id if len(found) > limit else None})


@router.get(
    "/{stranger_id}",
    operation_id="get_stranger",
    summary="Get a stranger",
    dependencies=[READ],
    response_model=StrangerBody,
    responses=responses(404),
)
async def get_stranger(stranger_id: StrangerId, cameras: CamerasDep) -> Response:
    """Get when a stranger was seen, and how often."""
    return json_reply(_shown(await cameras.strangers.get(stranger_id)))


@router.get(
    "/{stranger_id}/picture",
    operation_id="stranger_picture",
    summary="The best shot of a stranger",
    dependencies=[READ],
    response_class=Response,
    responses=responses(404) | JPEG_ANSWER,
)
async def stranger_picture(stranger_id: StrangerId, cameras: CamerasDep) -> Response:
    """The aligned crop that shows the stranger best."""
    jpeg = await cameras.strangers.picture(stranger_id)
    return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "private, max-age=60"})


@router.post(
    "/{stranger_id}/name",
    operation_id="name_stranger",
    summary="Give a stranger a name",
    dependencies=[OPERATE],
    response_model=NamedBody,
    responses=responses(404, 409, 415),
)
async def name_stranger(
    stranger_id: StrangerId, body: Annotated[NameRequest, Depends(BodyReader(NameRequest).read)], served: ServedDep
) -> Response:
    """Make a stranger an identity of a collection, or part of one. Past events and who is in view follow."""
    return json_reply(await to_the_end(_name(stranger_id, body, served)))


@router.post(
    "/{stranger_id}/merge",
    operation_id="merge_stranger",
    summary="Say that two strangers are one",
    dependencies=[OPERATE],
    response_model=StrangerBody,
    responses=responses(404, 409, 415),
)
async def merge_stranger(
    stranger_id: StrangerId, body: Annotated[MergeRequest, Depends(BodyReader(MergeRequest).read)], cameras: CamerasDep
) -> Response:
    """Make a stranger part of another. Past events and who is in view follow."""
    return json_reply(_shown(await to_the_end(_merge(stranger_id, body.into, cameras))))


@router.delete(
    "/{stranger_id}",
    operation_id="dismiss_stranger",
    summary="Forget a stranger",
    dependencies=[OPERATE],
    status_code=204,
    response_class=Response,
    responses=responses(404),
)
async def dismiss_stranger(stranger_id: StrangerId, cameras: CamerasDep) -> Response:
    """Erase a stranger's templates and crops. Past events stay."""
    await cameras.strangers.dismiss(stranger_id)
    return Response(status_code=204)


async def _name(stranger_id: str, body: NameRequest, served: Served) -> dict[str, Any]:
    collection, cameras = body.collection or served.services.defaults.collection, served.cameras
    identity = await cameras.strangers.name(
        stranger_id, collection=collection, name=body.name or "", identity_id=body.identity_id or "", override=body.override
    )
    events = await cameras.journal.name_stranger(stranger_id, name=identity.name, collection=collection, identity_id=identity.id)
    return {"collection": collection, "identity_id": identity.id, "name": identity.name, "events": events}


async def _merge(stranger_id: str, into: str, cameras: Cameras) -> Stranger:
    merged = await cameras.strangers.merge(stranger_id, into)
    await cameras.journal.name_stranger(stranger_id, name=merged.name, into=merged.id)
    return merged


def _shown(stranger: Stranger) -> dict[str, Any]:
    return {
        "id": stranger.id,
        "number": stranger.number,
        "name": stranger.name,
        "first_seen_at": timestamp(stranger.first_seen_at),
        "last_seen_at": timestamp(stranger.last_seen_at),
        "sightings": stranger.sightings,
        "picture": f"/v1/strangers/{stranger.id}/picture",
    }
