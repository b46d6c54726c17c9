"""Pictures of streams that run on another replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import Response

from face_server.api.live import LiveResponse
from face_server.api.middleware.peers import CallerFields
from face_server.api.routers.streams import _MJPEG, _part
from face_server.domain.replicas import ReplicaNote
from face_server.errors import Overloaded, Unavailable
from face_server.streams.peers import FORWARDED, HttpPeerViews, caller

PICTURES = [bytes([number]) * (number * 40_000) for number in range(1, 5)]


@pytest.fixture
async def owner() -> AsyncIterator[tuple[ReplicaNote, list[dict[str, str]]]]:
    """Another replica, and the fields of the requests that it got."""
    app, seen = FastAPI(), []
    app.state.leaving = asyncio.Event()

    @asynccontextmanager
    async def pictures() -> AsyncIterator[AsyncIterator[bytes]]:
        async def each() -> AsyncIterator[bytes]:
            for jpeg in PICTURES:
                yield jpeg

        yield each()

    @app.get("/v1/streams/{stream_id}/snapshot.jpg")
    async def snapshot(request: Request, stream_id: str, annotated: bool) -> Response:
        seen.append(dict(request.headers) | {"stream": stream_id, "annotated": str(annotated), "known": dict(caller.get())})
        return Response(b"JPEG" if stream_id != "full" else b"", 200 if stream_id != "full" else 429)

    @app.get("/v1/streams/{stream_id}/preview.mjpeg")
    async def preview(stream_id: str) -> Response:
        return LiveResponse(pictures(), _part, media_type=_MJPEG) if stream_id != "none" else Response(status_code=503)

    app.add_middleware(CallerFields)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it has no event for this
        await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield ReplicaNote("b", "hall", f"http://127.0.0.1:{port}/"), seen
    server.should_exit = True
    await serving


@pytest.fixture
async def views() -> AsyncIterator[HttpPeerViews]:
    """Whoever fetches."""
    views = HttpPeerViews()
    yield views
    await views.close()


async def test_a_snapshot_is_fetched_in_the_name_of_the_caller(owner, views: HttpPeerViews) -> None:
    """With their key, and marked so that it is not passed on again."""
    note, seen = owner
    before = caller.set({"x-api-key": "k1", "x-request-id": "r1", "cookie": "no"})
    assert await views.snapshot(note, "后门 1", annotated=False) == b"JPEG"
    caller.reset(before)
    assert (seen[0]["stream"], seen[0]["annotated"], seen[0]["x-api-key"], seen[0]["x-request-id"]) == ("后门 1", "False", "k1", "r1")
    assert "cookie" not in seen[0]
    assert seen[0]["known"][FORWARDED] == "1"


async def test_a_preview_is_passed_on_picture_by_picture(owner, views: HttpPeerViews) -> None:
    """Whole, whatever pieces they arrive in, until the owner ends it."""
    async with views.preview(owner[0], "door") as pictures:
        assert [jpeg async for jpeg in pictures] == PICTURES


async def test_errors_name_the_owner(owner, views: HttpPeerViews) -> None:
    """Without an address, out of reach, unwilling, or asked for what it was asked to fetch itself."""
    note, _ = owner
    gone = ReplicaNote("c", "attic", "http://127.0.0.1:1")
    for owning, stream_id, words in (
        (ReplicaNote("c", "attic"), "door", "runs on the replica attic, which tells no address"),
        (gone, "door", "runs on the replica attic, which cannot be reached"),
    ):
        with pytest.raises(Unavailable, match=words) as refused:
            await views.snapshot(owning, stream_id, annotated=True)
        assert refused.value.code == "runs_elsewhere"
    with pytest.raises(Overloaded, match="hall"):
        await views.snapshot(note, "full", annotated=True)
    with pytest.raises(Unavailable, match="hall, which answered with status 503"):
        async with views.preview(note, "none"):
            pass
    before = caller.set({FORWARDED: "1"})
    with pytest.raises(Unavailable, match="hall, to which it has just moved"):
        await views.snapshot(note, "door", annotated=True)
    caller.reset(before)
