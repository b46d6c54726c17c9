"""Deliveries: receivers that are behind, and dead letters, the events that a receiver did not take."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from face_server.api.bodies import BodyReader
from face_server.api.deps import CamerasDep
from face_server.api.problems import responses
from face_server.api.rendering import json_reply, timestamp
from face_server.api.schemas.events import DeadLetterPage, LettersBody, LettersRequest, WaitingList
from face_server.api.security import OPERATE, READ
from face_server.domain.events import DeadLetter
from face_server.sinks.payload import event_payload
from face_server.streams.lanes import LaneStatus

router = APIRouter(prefix="/v1/sinks", tags=["events"])


@router.get(
    "/waiting",
    operation_id="list_waiting",
    summary="Receivers that are behind",
    dependencies=[READ],
    response_model=WaitingList,
    responses=responses(),
)
async def list_waiting(cameras: CamerasDep) -> Response:
    """List every stream and sink with events on their way, and why they are not there yet."""
    return json_reply({"waiting": [_behind(one) for one in cameras.events.lanes()]})


@router.get(
    "/dead-letters",
    operation_id="list_dead_letters",
    summary="List dead letters",
    dependencies=[READ],
    response_model=DeadLetterPage,
    responses=responses(),
)
async def list_dead_letters(
    cameras: CamerasDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most dead letters a page.")] = 100,
    cursor: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="`next_cursor` of the page before.")] = None,
) -> Response:
    """List the events that were given up, with the reason, oldest first."""
    found = await cameras.journal.dead_letters(after=cursor or 0, limit=limit)
    return json_reply({"dead_letters": [_shown(one) for one in found], "next_cursor": found[-1].id if len(found) == limit else None})


@router.post(
    "/dead-letters/replay",
    operation_id="replay_dead_letters",
    summary="Send dead letters again",
    dependencies=[OPERATE],
    response_model=LettersBody,
    responses=responses(409, 415),
)
async def replay_dead_letters(body: Annotated[LettersRequest, Depends(BodyReader(LettersRequest).read)], cameras: CamerasDep) -> Response:
    """Queue dead letters again, behind what waits for their receiver."""
    return json_reply({"count": await cameras.events.replay(body.ids)})


@router.post(
    "/dead-letters/discard",
    operation_id="discard_dead_letters",
    summary="Erase dead letters",
    dependencies=[OPERATE],
    response_model=LettersBody,
    responses=responses(415),
)
async def discard_dead_letters(body: Annotated[LettersRequest, Depends(BodyReader(LettersRequest).read)], cameras: CamerasDep) -> Response:
    """Erase dead letters; their events stay."""
    return json_reply({"count": await cameras.journal.discard(body.ids)})


def _behind(status: LaneStatus) -> dict[str, Any]:
    return {
        "stream_id": status.lane.stream_id,
        "sink": status.lane.sink_key,
        "failures": status.failures,
        "last_error": status.last_error,
        "retry_at": None if status.retry_at is None else timestamp(status.retry_at),
    }


def _shown(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "stream_id": letter.lane.stream_id,
        "sink": letter.lane.sink_key,
        "event": event_payload(letter.event),
        "attempts": letter.attempts,
        "error": letter.error,
        "died_at": timestamp(letter.died_at),
    }
