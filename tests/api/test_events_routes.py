"""Events over HTTP: pages of the journal, server-sent events and WebSockets over a real connection."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from face_server.api.services import Cameras
from face_server.clock import SystemClock
from face_server.domain.access import Role
from face_server.domain.events import Event, EventKind, Picture, SceneFace, Who
from face_server.domain.face import Box
from face_server.domain.streams import StreamSpec
from face_server.domain.tracks import Look
from face_server.journal.keys import SqliteKeyRing
from face_server.sinks.live import LiveOptions

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEAD = "rtsp://127.0.0.1:9/nothing"
SSE = {"accept": "text/event-stream"}
ADA = Who("Ada Lovelace", 0.71, 0.4, "default", "ada")
FOURTH = Who("Stranger 4", 0.66, 0.55, stranger_id="s4")
BOX = Box(10.0, 20.0, 40.0, 60.0)
numbers = itertools.count(1)

Happen = Callable[..., Any]


@pytest_asyncio.fixture(loop_scope="module")
async def happen(cameras: Cameras) -> Happen:
    """Makes something happen on a stream, as its watcher would; returns the id of the event."""

    async def make(stream: str = "door", kind: EventKind = EventKind.PERSON_SEEN, who: Who | None = ADA, **more: Any) -> str:
        number = next(numbers)
        at = more.pop("at", time.time())
        event = Event(f"e{number:06d}", kind, stream, at, at - 1, at, who=who, message=f"number {number}", **more)
        pictures = [Picture(one, f"JPEG {one}".encode()) for one in {event.picture, event.frame_picture} - {""}]
        await cameras.events.publish(StreamSpec(stream, DEAD), Look(events=(event,), pictures=tuple(pictures)))
        return event.id

    return make


async def page(client: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    """A page of events."""
    answer = await client.get("/v1/events", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def newest(client: httpx.AsyncClient) -> int:
    """The cursor of the newest event."""
    events = (await page(client, limit=1))["events"]
    return events[0]["cursor"] if events else 0


def ids(found: dict[str, Any]) -> list[str]:
    """Ids of the events of a page."""
    return [event["id"] for event in found["events"]]


class Told:
    """Server-sent events of one connection."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def next(self) -> dict[str, str]:
        """The fields of the next event; comments are passed over."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(5):
            async for line in self._lines:
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    return fields
        raise EOFError

    async def event(self) -> dict[str, Any]:
        """The next event itself."""
        event: dict[str, Any] = json.loads((await self.next())["data"])
        return event


@asynccontextmanager
async def listening(address: str, headers: dict[str, str] | None = None, **query: Any) -> AsyncIterator[Told]:
    """A connection that is told of events."""
    async with (
        httpx.AsyncClient(base_url=address) as client,
        client.stream("GET", "/v1/events", params=query, headers=SSE | (headers or {})) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Told(answer)


def listeners(cameras: Cameras) -> int:
    """How many places are taken."""
    return len(cameras.live._wakes)


async def until(condition: Callable[[], object], timeout_s: float = 3.0) -> None:
    """Wait until ``condition`` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


class TestPages:
    """The journal page by page."""

    async def test_forwards_and_backwards(self, client: httpx.AsyncClient, happen: Happen) -> None:
        """After a cursor the oldest come first, without one the newest; cursors lead through all of them once, in both directions."""
        start = await newest(client)
        made = [await happen() for _ in range(5)]
        forwards, cursor = [], start
        while True:
            found = await page(client, after=cursor, limit=2)
            forwards += ids(found)
            if found["next_cursor"] is None:
                break
            cursor = found["next_cursor"]
        assert forwards == made
        first = await page(client, limit=2)
        second = await page(client, limit=3, before=first["next_cursor"])
        assert ids(first) + ids(second) == made[::-1]

    async def test_filters(self, client: httpx.AsyncClient, happen: Happen) -> None:
        """By stream, kind, person, stranger and time; several values of one filter add up."""
        start, now = await newest(client), time.time()
        seen = await happen("door")
        left = await happen("yard", EventKind.PERSON_LEFT)
        stranger = await happen("yard", EventKind.STRANGER_SEEN, FOURTH)
        lost = await happen("cellar", EventKind.STREAM_LOST, None, at=now + 3600)

        async def filtered(**query: Any) -> list[str]:
            return ids(await page(client, after=start, **query))

        assert await filtered(stream="yard") == [left, stranger]
        assert await filtered(stream=["yard", "cellar"]) == [left, stranger, lost]
        assert await filtered(kind="person_left") == [left]
        assert await filtered(kind=["person_seen", "stream_lost"]) == [seen, lost]
        assert await filtered(identity_id="ada") == [seen, left]
        assert await filtered(stranger_id="s4", stream="yard") == [stranger]
        later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 1800))
        assert await filtered(since=later) == [lost]
        assert await filtered(until=later) == [seen, left, stranger]

    async def test_an_event_and_its_pictures(self, client: httpx.AsyncClient, happen: Happen) -> None:
        """Everything that was decided is told, and the addresses in it lead to the pictures."""
        faces = (SceneFace(3, BOX, 0.9, ADA, announced=True, picture="best-1"), SceneFace(4, BOX, 0.8))
        more = {"box": BOX, "track": 3, "frame_width": 640, "frame_height": 360, "picture": "best-1", "frame_picture": "frame-1"}
        event_id = await happen(**more, faces=faces)
        event = (await client.get(f"/v1/events/{event_id}")).json()
        assert (event["who"]["name"], event["who"]["collection"], event["who"]["identity_id"]) == ("Ada Lovelace", "default", "ada")
        assert (event["who"]["stranger_id"], event["who"]["similarity"], event["who"]["threshold"]) == (None, 0.71, 0.4)
        assert (event["kind"], event["box"], event["track"]) == ("person_seen", {"x1": 10.0, "y1": 20.0, "x2": 40.0, "y2": 60.0}, 3)
        for place, jpeg in ((event["picture"], b"JPEG best-1"), (event["frame_picture"], b"JPEG frame-1")):
            answer = await client.get(place)
            assert (answer.content, answer.headers["content-type"]) == (jpeg, "image/jpeg")
        assert (await client.get(event["faces"][0]["picture"])).content == b"JPEG best-1"
        assert event["faces"][1]["picture"] is None
        for path in ("nobody", "nobody/picture", "nobody/frame", f"{event_id}/picture?face=1", f"{event_id}/picture?face=7"):
            assert (await client.get(f"/v1/events/{path}")).status_code == 404, path

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ({"after": 1, "before": 2}, "before"),
            ({"after": -1}, "after"),
            ({"after": 2**63}, "after"),
            ({"limit": 0}, "limit"),
            ({"limit": 1001}, "limit"),
            ({"kind": "earthquake"}, "kind[0]"),
            ({"since": "yesterday"}, "since"),
            ({"until": "2026-01-01T00:00:00"}, "until"),
            ({"identity_id": "a/b"}, "identity_id"),
        ],
    )
    async def test_bad_queries(self, client: httpx.AsyncClient, query: dict[str, Any], field: str) -> None:
        """Each is refused under its name, times without a zone too."""
        answer = await client.get("/v1/events", params=query)
        assert (answer.status_code, answer.json()["field"]) == (422, field)


class TestServerSentEvents:
    """Events as they happen, over HTTP."""

    async def test_they_come_as_they_happen(self, address: str, happen: Happen) -> None:
        """Each with its cursor as id and its kind as name; filters hold."""
        async with listening(address, stream="door") as told:
            await happen("yard")
            event_id = await happen("door")
            fields = await told.next()
        event = json.loads(fields["data"])
        assert (event["id"], fields["event"], fields["id"]) == (event_id, "person_seen", str(event["cursor"]))

    async def test_who_reconnects_misses_nothing(self, address: str, client: httpx.AsyncClient, happen: Happen) -> None:
        """The last id that a browser saw, or a cursor, is where it goes on: no gap, no repetition."""
        start = await newest(client)
        made = [await happen() for _ in range(3)]
        async with listening(address, after=start) as told:
            first = await told.next()
            assert json.loads(first["data"])["id"] == made[0]
        made.append(await happen())
        async with listening(address, {"last-event-id": first["id"]}, after=start) as told:
            assert [(await told.event())["id"] for _ in range(3)] == made[1:]
            made.append(await happen())
            assert (await told.event())["id"] == made[-1]

    @pytest.mark.parametrize("last", ["x", "-1", "9" * 19, "9" * 30])
    async def test_ids_that_are_none(self, address: str, happen: Happen, last: str) -> None:
        """They do no harm: the listener is told what happens from now on."""
        async with listening(address, {"last-event-id": last}) as told:
            made = await happen()
            assert (await told.event())["id"] == made

    async def test_a_place_is_free_as_soon_as_somebody_leaves(self, address: str, cameras: Cameras) -> None:
        """Also if nothing happens meanwhile."""
        async with listening(address), listening(address):
            assert listeners(cameras) == 2
        await until(lambda: listeners(cameras) == 0)

    async def test_one_too_many(self, address: str, cameras: Cameras, monkeypatch: pytest.MonkeyPatch) -> None:
        """Is told when to come back, by HTTP and by WebSocket; whoever listens goes on."""
        monkeypatch.setattr(cameras.live, "_options", LiveOptions(max_listeners=2))
        async with listening(address), listening(address):
            async with httpx.AsyncClient(base_url=address) as client:
                refused = await client.get("/v1/events", headers=SSE)
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"{address.replace('http', 'ws')}/v1/events")
            assert caught.value.response.status_code == 503
        await until(lambda: listeners(cameras) == 0)

    async def test_listeners_take_nobodys_turn(self, address: str, app: FastAPI) -> None:
        """More of them than there are turns for requests hold up no request."""
        async with AsyncExitStack() as stack:
            for _ in range(66):
                await stack.enter_async_context(listening(address))
            async with httpx.AsyncClient(base_url=address, timeout=5) as client:
                assert (await client.get("/v1/info")).status_code == 200

    async def test_before_makes_no_sense(self, client: httpx.AsyncClient) -> None:
        """The past is read in pages."""
        answer = await client.get("/v1/events", params={"before": 3}, headers=SSE)
        assert (answer.status_code, answer.json()["field"]) == (422, "before")


class TestWebSockets:
    """Events as they happen, over a WebSocket."""

    async def test_they_come_as_they_happen(self, address: str, client: httpx.AsyncClient, cameras: Cameras, happen: Happen) -> None:
        """Those after the cursor first; filters hold; what a client says is ignored; its place is free when it leaves."""
        start = await newest(client)
        made = [await happen("door"), await happen("yard"), await happen("door", EventKind.STRANGER_SEEN, FOURTH)]
        async with connect(f"{address.replace('http', 'ws')}/v1/events?after={start}&stream=door&kind=person_seen") as socket:
            assert json.loads(await socket.recv())["id"] == made[0]
            await socket.send("hello")
            await socket.send(b"\x00\x01")
            made.append(await happen("door"))
            assert json.loads(await socket.recv())["id"] == made[-1]
            assert listeners(cameras) == 1
        await until(lambda: listeners(cameras) == 0)

    async def test_foreign_pages_are_refused(self, address: str) -> None:
        """A page of another origin, or a name that somebody points here, hears nothing."""
        url = f"{address.replace('http', 'ws')}/v1/events"
        host, _, port = address.removeprefix("http://").partition(":")
        async with connect(url, origin=address):
            pass
        for refused in (
            connect(url, origin="https://evil.example"),
            connect(f"ws://evil.example:{port}/v1/events", host=host, port=int(port)),
        ):
            with pytest.raises(InvalidStatus) as caught:
                await refused
            assert caught.value.response.status_code == 403
            assert json.loads(caught.value.response.body)["code"] == "access_denied"

    async def test_a_bad_query(self, address: str) -> None:
        """Is refused before the handshake."""
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"{address.replace('http', 'ws')}/v1/events?kind=earthquake")
        assert caught.value.response.status_code in {403, 422}

    async def test_keys(self, address: str, app: FastAPI, tmp_path: Any) -> None:
        """Where keys are asked for, a socket needs one, too."""
        services = app.state.services
        ring = await SqliteKeyRing.open(tmp_path / "keys.sqlite", SystemClock())
        _, secret = await ring.create(Role.READ, "reader")
        app.state.services = replace(services, keys=ring)
        try:
            url = f"{address.replace('http', 'ws')}/v1/events"
            for headers in ({}, {"x-api-key": "wrong"}):
                with pytest.raises(InvalidStatus) as caught:
                    await connect(url, additional_headers=headers)
                assert caught.value.response.status_code == 401
            async with connect(url, additional_headers={"x-api-key": secret}):
                pass
        finally:
            app.state.services = services
            await ring.close()


class TestPreviews:
    """Moving pictures, over a real connection."""

    async def test_pictures_move_and_places_are_freed(self, address: str, client: httpx.AsyncClient, live_url: str) -> None:
        """JPEGs keep coming; the viewer is counted, and not any more once gone."""
        await client.put("/v1/streams/stage", json={"url": live_url})
        try:
            async with (
                httpx.AsyncClient(base_url=address) as viewer,
                viewer.stream("GET", "/v1/streams/stage/preview.mjpeg") as answer,
            ):
                assert answer.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
                received = b""
                async with asyncio.timeout(10):
                    async for piece in answer.aiter_bytes():
                        received += piece
                        if received.count(b"--frame\r\ncontent-type: image/jpeg") >= 4:
                            break
                assert received.count(b"\xff\xd8\xff") >= 3
                assert (await client.get("/v1/streams/stage")).json()["status"]["viewers"] == 1
            await until_viewers(client, 0)
        finally:
            await client.delete("/v1/streams/stage")

    async def test_one_too_many(self, address: str, client: httpx.AsyncClient) -> None:
        """The limit of viewers is a 503 that states it, also while the camera is away."""
        await client.put("/v1/streams/away", json={"url": DEAD})
        try:
            async with AsyncExitStack() as stack:
                viewer = await stack.enter_async_context(httpx.AsyncClient(base_url=address, limits=httpx.Limits(max_connections=40)))
                for _ in range(32):
                    answer = await stack.enter_async_context(viewer.stream("GET", "/v1/streams/away/preview.mjpeg"))
                    assert answer.status_code == 200
                refused = await viewer.get("/v1/streams/away/preview.mjpeg")
                assert (refused.status_code, refused.json()["code"]) == (503, "too_many_viewers")
                assert int(refused.headers["retry-after"]) >= 1
                assert (await client.get("/v1/info")).status_code == 200
            await until_viewers(client, 0, "away")
        finally:
            await client.delete("/v1/streams/away")


async def until_viewers(client: httpx.AsyncClient, number: int, stream_id: str = "stage") -> None:
    """Wait until so many watch."""
    async with asyncio.timeout(3):
        while (await client.get(f"/v1/streams/{stream_id}")).json()["status"]["viewers"] != number:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.02)


async def test_what_lasts_is_measured_when_it_begins(address: str, client: httpx.AsyncClient) -> None:
    """A listener of days is no request of days in the metrics."""

    async def count(method: str, status: int) -> float:
        line = f'face_server_http_requests_total{{method="{method}",route="/v1/events",status="{status}"}} '
        text = (await client.get("/metrics")).text
        return float(text.partition(line)[2].partition("\n")[0] or 0)

    before = await count("GET", 200), await count("WEBSOCKET", 101)
    async with listening(address), connect(f"{address.replace('http', 'ws')}/v1/events"):
        assert (await count("GET", 200), await count("WEBSOCKET", 101)) == (before[0] + 1, before[1] + 1)
