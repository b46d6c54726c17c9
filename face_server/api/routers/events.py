"""Events: what happened on the streams, as pages, as they happen, and their pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request, WebSocket
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from face_server.api.deps import ID_PATTERN, STREAM_ID_PATTERN, CamerasDep
from face_server.api.live import LiveResponse
from face_server.api.problems import problem_of, responses
from face_server.api.rendering import JPEG_ANSWER, json_reply
from face_server.api.schemas.events import EventBody, EventPage
from face_server.api.schemas.streams import Kind
from face_server.api.security import READ, authorize, secret_in
from face_server.api.services import Cameras
from face_server.domain.access import Role
from face_server.domain.events import Event, EventFilter, EventKind
from face_server.errors import AccessDenied, FaceServerError, InvalidInput, NotFound
from face_server.sinks.payload import event_payload

router = APIRouter(prefix="/v1/events", tags=["events"])

_HEARTBEAT_S = 15.0
_SSE = "text/event-stream"
_NEWEST = 2**63 - 1
_POLICY_VIOLATION, _TRY_AGAIN = 1008, 1013
_PAGE_OR_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {_SSE: {"schema": {"type": "string"}}}, "description": "A page, or events as they happen."}
}

EventId = Annotated[
    str, Path(pattern=ID_PATTERN, description="Id of the event.", openapi_examples={"an id": {"value": "0197c1d0a5b47c3e"}})
]
Cursor = Annotated[int | None, Query(ge=0, le=_NEWEST, description="Events after this cursor, oldest first.")]
Before = Annotated[int | None, Query(ge=0, le=_NEWEST, description="Events before this cursor, newest first.")]
Streams = Annotated[
    list[Annotated[str, Query(pattern=STREAM_ID_PATTERN)]] | None,
    Query(alias="stream", max_length=64, description="Of these streams only."),
]
Kinds = Annotated[list[Kind] | None, Query(alias="kind", max_length=6, description="Of these kinds only.")]
Identity = Annotated[str | None, Query(alias="identity_id", pattern=ID_PATTERN, description="About this person only.")]
Stranger = Annotated[str | None, Query(alias="stranger_id", pattern=ID_PATTERN, description="About this stranger only.")]
Since = Annotated[datetime | None, Query(description="At this time or later (RFC 3339).")]
Until = Annotated[datetime | None, Query(description="Before this time (RFC 3339).")]


@router.get(
    "",
    operation_id="list_events",
    summary="Events: a page, or as they happen",
    dependencies=[READ],
    response_model=EventPage,
    responses=responses() | _PAGE_OR_STREAM,
)
async def list_events(  # one parameter a filter
    request: Request,
    cameras: CamerasDep,
    after: Cursor = None,
    before: Before = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most events a page.")] = 100,
    stream: Streams = None,
    kind: Kinds = None,
    identity: Identity = None,
    stranger: Stranger = None,
    since: Since = None,
    until: Until = None,
) -> Response:
    """Read the journal page by page; without `after` the newest events come first.

    With `Accept: text/event-stream` the answer is a stream of server-sent events that never ends:
    first those after `after` (or the header `last-event-id`), then each as it happens. The same
    address speaks WebSocket.
    """
    where = EventFilter(
        streams=tuple(stream or ()),
        kinds=tuple(EventKind(one) for one in kind or ()),
        identity_id=identity or "",
        stranger_id=stranger or "",
        since=since.timestamp() if since else None,
        until=until.timestamp() if until else None,
    )
    if _SSE in request.headers.get("accept", ""):
        start = _resumed(request.headers, after)
        return LiveResponse(_beating(cameras, start, where), _sse, media_type=_SSE)
    if after is not None and before is not None:
        raise InvalidInput("after and before exclude each other", field="before")
    if after is None:
        found = await cameras.journal.events(before=_NEWEST if before is None else before, limit=limit, where=where)
    else:
        found = await cameras.journal.events(after=after, limit=limit, where=where)
    return json_reply({"events": [event_payload(one) for one in found], "next_cursor": found[-1].cursor if len(found) == limit else None})


@router.websocket("")
async def event_socket(
    socket: WebSocket,
    after: Cursor = None,
    stream: Streams = None,
    kind: Kinds = None,
) -> None:
    """Each event as a JSON text, as it happens; first those after ``after``. The key goes in the usual headers."""
    state = socket.app.state
    cameras: Cameras = state.cameras
    try:
        await authorize(state.services, Role.READ, secret_in(socket.headers))
    except AccessDenied:
        await socket.close(_POLICY_VIOLATION)
        return
    where = EventFilter(streams=tuple(stream or ()), kinds=tuple(EventKind(one) for one in kind or ()))
    await socket.accept()
    sending = asyncio.create_task(_send_events(socket, cameras, after, where))
    leaving = asyncio.create_task(_wait_for_leave(socket))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sending.cancel()
        leaving.cancel()
        await asyncio.wait({sending, leaving})


@router.get(
    "/{event_id}", operation_id="get_event", summary="Get an event", dependencies=[READ], response_model=EventBody, responses=responses(404)
)
async def get_event(event_id: EventId, cameras: CamerasDep) -> Response:
    """Get one event."""
    return json_reply(event_payload(await cameras.journal.event(event_id)))


@router.get(
    "/{event_id}/picture",
    operation_id="event_picture",
    summary="The best shot of an event",
    dependencies=[READ],
    response_class=Response,
    responses=responses(404) | JPEG_ANSWER,
)
async def event_picture(
    event_id: EventId,
    cameras: CamerasDep,
    face: Annotated[int | None, Query(ge=0, le=10_000, description="Another face of the frame, by its place in `faces`.")] = None,
) -> Response:
    """The aligned crop of whom the event is about, or of another face of its frame."""
    event = await cameras.journal.event(event_id)
    if face is None:
        return await _picture(event.picture, cameras)
    return await _picture(event.faces[face].picture if face < len(event.faces) else "", cameras)


@router.get(
    "/{event_id}/frame",
    operation_id="event_frame",
    summary="The annotated frame of an event",
    dependencies=[READ],
    response_class=Response,
    responses=responses(404) | JPEG_ANSWER,
)
async def event_frame(event_id: EventId, cameras: CamerasDep) -> Response:
    """The whole frame with everybody marked."""
    return await _picture((await cameras.journal.event(event_id)).frame_picture, cameras)


async def _picture(picture_id: str, cameras: Cameras) -> Response:
    if not picture_id:
        raise NotFound("the event has no such picture", code="no_picture")
    jpeg = await cameras.journal.picture(picture_id)
    return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


def _resumed(headers: Headers, after: int | None) -> int | None:
    """Where a reconnecting listener goes on: browsers send the id of the last event they saw."""
    last = headers.get("last-event-id", "")
    return int(last) if last.isascii() and last.isdigit() and len(last) <= len(str(_NEWEST)) else after


@asynccontextmanager
async def _beating(cameras: Cameras, after: int | None, where: EventFilter) -> AsyncIterator[AsyncIterator[Event | None]]:
    """Events as they happen, and None whenever there were none for a while, so that dead connections are noticed."""
    async with cameras.live.subscribe(after=after, where=where) as events:

        async def beats() -> AsyncIterator[Event | None]:
            yield None
            coming = asyncio.ensure_future(anext(events))
            try:
                while True:
                    done, _ = await asyncio.wait({coming}, timeout=_HEARTBEAT_S)
                    if not done:
                        yield None
                        continue
                    yield coming.result()
                    coming = asyncio.ensure_future(anext(events))
            except StopAsyncIteration:
                return
            finally:
                coming.cancel()

        yield beats()


def _sse(event: Event | None) -> bytes:
    if event is None:
        return b": still here\n\n"
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.cursor, event.kind.value.encode(), _json(event))


def _json(event: Event) -> bytes:
    return orjson.dumps(event_payload(event), option=orjson.OPT_SERIALIZE_NUMPY)


async def _send_events(socket: WebSocket, cameras: Cameras, after: int | None, where: EventFilter) -> None:
    try:
        async with cameras.live.subscribe(after=after, where=where) as events:
            async for event in events:
                await socket.send_text(_json(event).decode())
    except FaceServerError as error:
        members: dict[str, Any] = problem_of(error)
        await socket.send_text(orjson.dumps(members).decode())
        await socket.close(_TRY_AGAIN)


async def _wait_for_leave(socket: WebSocket) -> None:
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        return
