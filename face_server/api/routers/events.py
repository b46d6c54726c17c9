"""Events: what happened on the streams, as pages, as they happen, and their pictures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, WebSocket
from pydantic import AwareDatetime
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from face_server.api.deps import ID_PATTERN, STREAM_ID_PATTERN, CamerasDep
from face_server.api.live import LiveResponse, beating, is_endless, until_set
from face_server.api.problems import responses
from face_server.api.rendering import JPEG_ANSWER, json_reply
from face_server.api.schemas.events import EventBody, EventPage
from face_server.api.schemas.streams import Kind
from face_server.api.security import READ, authorize, secret_in
from face_server.api.services import Cameras
from face_server.domain.access import Role
from face_server.domain.events import Event, EventFilter, EventKind
from face_server.errors import FaceServerError, InvalidInput, NotFound
from face_server.sinks.payload import event_json, event_payload

router = APIRouter(prefix="/v1/events", tags=["events"])

_HEARTBEAT_S = 15.0
_SSE = "text/event-stream"
_NEWEST = 2**63 - 1
# Close codes of RFC 6455 and its registry; a reason has at most 123 bytes.
_GOING_AWAY, _TRY_AGAIN = 1001, 1013
_MAX_REASON = 40
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
Identity = Annotated[str, Query(alias="identity_id", pattern=ID_PATTERN + "|^$", description="About this person only.")]
Stranger = Annotated[str, Query(alias="stranger_id", pattern=ID_PATTERN + "|^$", description="About this stranger only.")]
Since = Annotated[AwareDatetime | None, Query(description="At this time or later (RFC 3339).")]
Until = Annotated[AwareDatetime | None, Query(description="Before this time (RFC 3339).")]


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
    identity: Identity = "",
    stranger: Stranger = "",
    since: Since = None,
    until: Until = None,
) -> Response:
    """Read the journal page by page; without `after` the newest events come first.

    With `Accept: text/event-stream` the answer is a stream of server-sent events that never ends:
    first those after `after` (or the header `last-event-id`), then each as it happens. The same
    address speaks WebSocket.
    """
    where = _filter(stream, kind, identity, stranger, since, until)
    if after is not None and before is not None:
        raise InvalidInput("after and before exclude each other", field="before")
    if is_endless(request.scope):
        if before is not None:
            raise InvalidInput("events as they happen have no before", field="before")
        start = _resumed(request.headers, after)
        return LiveResponse(_followed(cameras, start, where), _sse, media_type=_SSE)
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
    identity: Identity = "",
    stranger: Stranger = "",
) -> None:
    """Each event as a JSON text, as it happens; first those after ``after``. The key goes in the usual headers.

    What cannot be served is refused before the handshake, with the status and the problem of any other request.
    """
    state = socket.app.state
    cameras: Cameras = state.cameras
    await authorize(state.services, Role.READ, secret_in(socket.headers))
    where = _filter(stream, kind, identity, stranger)
    async with cameras.live.subscribe(after=after, where=where) as events, aclosing(until_set(state.leaving, events)) as shown:
        await socket.accept()
        sending = asyncio.create_task(_send_events(socket, shown))
        leaving = asyncio.create_task(_wait_for_leave(socket))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.wait({sending, leaving})
    if not sending.cancelled():
        sending.result()


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


def _filter(
    streams: list[str] | None,
    kinds: list[Kind] | None,
    identity_id: str,
    stranger_id: str,
    since: datetime | None = None,
    until: datetime | None = None,
) -> EventFilter:
    return EventFilter(
        streams=tuple(streams or ()),
        kinds=tuple(EventKind(one) for one in kinds or ()),
        identity_id=identity_id,
        stranger_id=stranger_id,
        since=since.timestamp() if since else None,
        until=until.timestamp() if until else None,
    )


def _resumed(headers: Headers, after: int | None) -> int | None:
    """Where a reconnecting listener goes on: browsers send the id of the last event they saw."""
    last = headers.get("last-event-id", "")
    return min(int(last), _NEWEST) if last.isascii() and last.isdigit() and len(last) <= len(str(_NEWEST)) else after


@asynccontextmanager
async def _followed(cameras: Cameras, after: int | None, where: EventFilter) -> AsyncIterator[AsyncIterator[Event | None]]:
    """Events as they happen, with beats in between."""
    async with cameras.live.subscribe(after=after, where=where) as events, aclosing(beating(events, _HEARTBEAT_S)) as beats:
        yield beats


def _sse(event: Event | None) -> bytes:
    if event is None:
        return b": still here\n\n"
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.cursor, event.kind.value.encode(), event_json(event))


async def _send_events(socket: WebSocket, events: AsyncIterator[Event]) -> None:
    """Until the client is gone, or the server goes."""
    with suppress(WebSocketDisconnect):
        try:
            async for event in events:
                await socket.send_text(event_json(event).decode())
        except FaceServerError as error:
            await socket.close(_TRY_AGAIN, error.message[:_MAX_REASON])
        else:
            await socket.close(_GOING_AWAY)


async def _wait_for_leave(socket: WebSocket) -> None:
    """Nothing that a listener says matters but that it leaves."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
