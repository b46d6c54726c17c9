"""Events that a receiver did not take: seen, sent again, erased."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any, Self

import httpx
import pytest
import pytest_asyncio

from face_server.api.services import Cameras
from face_server.domain.events import Event, EventKind, Who
from face_server.domain.tracks import Look

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEAD = "rtsp://127.0.0.1:9/nothing"
numbers = itertools.count(1)


class Receiver:
    """A webhook receiver whose answer the test decides."""

    def __init__(self) -> None:
        self.status = 400
        self.bodies: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1")
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hook?token=s3cret"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self.bodies.append(await reader.readexactly(length))
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % self.status)
        except asyncio.IncompleteReadError:
            # Somebody who only looked whether we are there.
            pass
        finally:
            writer.close()


@pytest_asyncio.fixture(loop_scope="module")
async def receiver(client: httpx.AsyncClient) -> AsyncIterator[Receiver]:
    """A receiver of the events of the stream ``door``."""
    async with Receiver() as receiver:
        sink = {"kind": "webhook", "address": receiver.url, "secret": "shared"}
        created = await client.put("/v1/streams/door", json={"url": DEAD, "enabled": False, "sinks": [sink]})
        assert created.status_code == 201, created.text
        yield receiver
        await client.delete("/v1/streams/door")
        letters = await dead(client)
        if letters:
            await client.post("/v1/sinks/dead-letters/discard", json={"ids": [letter["id"] for letter in letters]})


async def dead(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    """The dead letters."""
    answer = await client.get("/v1/sinks/dead-letters", params=query)
    assert answer.status_code == 200, answer.text
    letters: list[dict[str, Any]] = answer.json()["dead_letters"]
    return letters


async def happen(cameras: Cameras, times: int = 1) -> list[str]:
    """Events on the stream."""
    made = []
    for _ in range(times):
        made.append(f"d{next(numbers)}")
        event = Event(made[-1], EventKind.PERSON_SEEN, "door", time.time(), 1, 2, who=Who("Ada", 0.7, 0.4, "default", "ada"))
        await cameras.events.publish(cameras.streams.spec("door"), Look(events=(event,)))
    return made


async def until_dead(client: httpx.AsyncClient, number: int) -> list[dict[str, Any]]:
    """The dead letters as soon as there are so many."""
    async with asyncio.timeout(5):
        while len(letters := await dead(client)) != number:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)
        return letters


async def test_seen_and_sent_again(client: httpx.AsyncClient, cameras: Cameras, receiver: Receiver) -> None:
    """What a receiver refuses is listed with the reason, without its address, and arrives when replayed to one that takes it."""
    made = await happen(cameras, 3)
    letters = await until_dead(client, 3)
    assert [letter["event"]["id"] for letter in letters] == made
    assert letters[0]["stream_id"] == "door"
    assert letters[0]["sink"].startswith("webhook-")
    assert "400" in letters[0]["error"]
    text = (await client.get("/v1/sinks/dead-letters")).text
    assert "s3cret" not in text
    assert "shared" not in text
    receiver.status, receiver.bodies = 204, []
    replayed = await client.post("/v1/sinks/dead-letters/replay", json={"ids": [letters[0]["id"], letters[2]["id"], 10**9]})
    assert replayed.json() == {"count": 2}
    left = await until_dead(client, 1)
    assert left[0]["event"]["id"] == made[1]
    async with asyncio.timeout(5):
        while len(receiver.bodies) < 2:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.02)
    assert [one in body for one, body in zip((made[0].encode(), made[2].encode()), receiver.bodies, strict=True)] == [True, True]


async def test_pages_and_erasing(client: httpx.AsyncClient, cameras: Cameras, receiver: Receiver) -> None:
    """Pages lead through all; what is erased is gone, its event is not."""
    made = await happen(cameras, 3)
    letters = await until_dead(client, 3)
    first = (await client.get("/v1/sinks/dead-letters", params={"limit": 2})).json()
    rest = await dead(client, limit=2, cursor=first["next_cursor"])
    assert [letter["id"] for letter in first["dead_letters"] + rest] == [letter["id"] for letter in letters]
    ids = [letter["id"] for letter in letters]
    assert (await client.post("/v1/sinks/dead-letters/discard", json={"ids": ids})).json() == {"count": 3}
    assert await dead(client) == []
    assert (await client.get(f"/v1/events/{made[0]}")).status_code == 200


async def test_letters_of_a_removed_stream(client: httpx.AsyncClient, cameras: Cameras, receiver: Receiver) -> None:
    """They can be read and erased, but nobody is there to send them to."""
    await happen(cameras)
    (letter,) = await until_dead(client, 1)
    await client.delete("/v1/streams/door")
    refused = await client.post("/v1/sinks/dead-letters/replay", json={"ids": [letter["id"]]})
    assert refused.status_code == 409
    assert len(await dead(client)) == 1
    await client.put("/v1/streams/door", json={"url": DEAD, "enabled": False})


@pytest.mark.parametrize("body", [{}, {"ids": []}, {"ids": [0]}, {"ids": ["1"]}, {"ids": [1] * 1001}, {"ids": [2**63]}])
@pytest.mark.parametrize("what", ["replay", "discard"])
async def test_bad_ids(client: httpx.AsyncClient, what: str, body: dict[str, Any]) -> None:
    """None, too many and impossible ones are refused by name."""
    answer = await client.post(f"/v1/sinks/dead-letters/{what}", json=body)
    assert answer.status_code == 422
    assert answer.json()["field"].startswith("ids")


async def test_a_receiver_that_is_behind_is_listed_with_the_reason(client: httpx.AsyncClient, cameras: Cameras, receiver: Receiver) -> None:
    """While a receiver is away, operators see for how long and why, without its address; once it took everything it is off the list."""
    receiver.status = 503
    await happen(cameras)
    async with asyncio.timeout(5):
        while not (waiting := [one for one in (await client.get("/v1/sinks/waiting")).json()["waiting"] if one["retry_at"]]):  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.02)
    assert waiting[0]["stream_id"] == "door"
    assert waiting[0]["sink"].startswith("webhook-")
    assert "503" in waiting[0]["last_error"]
    assert waiting[0]["failures"] >= 1
    assert "s3cret" not in str(waiting)
    receiver.status = 204
    async with asyncio.timeout(8):
        while (await client.get("/v1/sinks/waiting")).json()["waiting"]:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.02)
