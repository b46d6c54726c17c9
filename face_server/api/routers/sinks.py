"""Dead letters: events that a receiver did not take."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from face_server.api.bodies import BodyReader
from face_server.api.deps import CamerasDep
from face_server.api.problems import responses
from face_server.api.rendering import json_reply, timestamp
from face_server.api.schemas.events import DeadLetterPage, LettersBody, LettersRequest
from face_server.api.security import OPERATE, READ
from face_server.domain.events import DeadLetter
from face_server.sinks.payload import event_payload

router = APIRouter(prefix="/v1/sinks/dead-letters", tags=["events"])


@router.get(
    "",
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
    "/replay",
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
    "/discard",
    operation_id="discard_dead_letters",
    summary="Erase dead letters",
    dependencies=[OPERATE],
    response_model=LettersBody,
    responses=responses(415),
)
async def discard_dead_letters(body: Annotated[LettersRequest, Depends(BodyReader(LettersRequest).read)], cameras: CamerasDep) -> Response:
    """Erase dead letters; their events stay."""
    return json_reply({"count": await cameras.journal.discard(body.ids)})


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
