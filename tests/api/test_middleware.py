"""Bounds around every request: bodies, places, cancellation."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from face_server.api.application import ApiOptions, create_api
from face_server.api.middleware.admission import Admission, House, Turn
from face_server.api.middleware.bodies import Bodies, BodyLimits, Cancellation
from face_server.api.middleware.observation import Observation
from face_server.api.services import Served
from face_server.telemetry import Metrics

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = BodyLimits(max_bytes=1000, timeout_s=0.2, max_buffered_bytes=2500, max_streamed_bytes=5000)


class Connection:
    """One request, driven by hand: what the client sends, when it leaves, and what it is answered."""

    def __init__(self, path: str = "/v1/extract", headers: dict[str, str] | None = None) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }

    def body(self, content: bytes, *, more: bool = False) -> None:
        """Send a piece of the body."""
        self.inbox.put_nowait({"type": "http.request", "body": content, "more_body": more})

    def leave(self) -> None:
        """Close the connection."""
        self.inbox.put_nowait({"type": "http.disconnect"})

    async def run(self, app: ASGIApp) -> None:
        """Let ``app`` handle the request."""

        async def send(message: Message) -> None:
            self.sent.append(message)

        await app(self.scope, self.inbox.get, send)

    @property
    def status(self) -> int | None:
        """The status of the answer, None without one."""
        return self.sent[0]["status"] if self.sent else None

    @property
    def problem(self) -> Any:
        """The JSON of the answer."""
        return json.loads(b"".join(message.get("body", b"") for message in self.sent[1:]))

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the length of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message["body"])
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def observed(app: ASGIApp) -> ASGIApp:
    """``app`` with answers to errors."""
    return Observation(app, Metrics())


async def settled(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition is no event
            await asyncio.sleep(0.001)


async def test_body_in_pieces_arrives_whole() -> None:
    """The route sees one body, however it was cut."""
    connection = Connection()
    for piece in (b"a" * 400, b"b" * 400):
        connection.body(piece, more=True)
    connection.body(b"")
    await connection.run(Bodies(echo, LIMITS))
    assert connection.sent[1]["body"] == b"800"


async def test_oversized_bodies() -> None:
    """Announced or not, a body beyond the limit is 413 with the limit, and the rest of it is read away."""
    announced = Connection(headers={"content-length": "1500"})
    unannounced = Connection()
    for connection in (announced, unannounced):
        connection.body(b"x" * 1001, more=True)
        connection.body(b"x" * 499)
        await connection.run(observed(Bodies(echo, LIMITS)))
        assert connection.status == 413
        assert connection.problem["detail"] == "the body is larger than the limit of 1000 bytes"
        assert connection.inbox.empty()


async def test_slow_body() -> None:
    """A body that does not arrive in time is 408 with the limit, however steadily it drips."""
    silent, dripping = Connection(), Connection()

    async def drip() -> None:
        while True:
            dripping.body(b"x", more=True)
            await asyncio.sleep(0.02)

    drops = asyncio.create_task(drip())
    app = observed(Bodies(echo, LIMITS))
    await asyncio.gather(silent.run(app), dripping.run(app))
    drops.cancel()
    for connection in (silent, dripping):
        assert connection.status == 408
        assert (connection.problem["code"], connection.problem["field"]) == ("body_timeout", "body")
        assert "0.2 s" in connection.problem["detail"]


async def test_bodies_in_memory_together() -> None:
    """When all bodies together reach their limit, one more is 503; what was freed may be used again."""
    app = observed(Bodies(echo, LIMITS))
    waiting = [Connection(), Connection()]
    tasks = [asyncio.create_task(connection.run(app)) for connection in waiting]
    for connection in waiting:
        connection.body(b"x" * 1000, more=True)
    await settled(lambda: all(connection.inbox.empty() for connection in waiting))
    late = Connection()
    late.body(b"x" * 1000)
    await late.run(app)
    assert (late.status, late.problem["code"], late.headers["retry-after"]) == (503, "overloaded", "1")
    for connection in waiting:
        connection.leave()
    await asyncio.gather(*tasks)
    again = Connection()
    again.body(b"x" * 1000)
    await again.run(app)
    assert again.status == 200


async def test_streamed_bodies() -> None:
    """An import's body is handed on piece by piece, up to its own limit, and may not fall silent."""
    app = observed(Bodies(echo, LIMITS))
    path = "/v1/collections/people/import"
    whole, large, announced, silent = Connection(path), Connection(path), Connection(path, {"content-length": "5001"}), Connection(path)
    for connection, pieces in ((whole, 5), (large, 6), (silent, 1)):
        for _ in range(pieces):
            connection.body(b"x" * 1000, more=True)
    whole.body(b"")
    await asyncio.gather(*(connection.run(app) for connection in (whole, large, announced, silent)))
    assert (whole.status, whole.sent[1]["body"]) == (200, b"5000")
    for connection in (large, announced):
        assert (connection.status, connection.problem["detail"]) == (413, "the body is larger than the limit of 5000 bytes")
    assert (silent.status, silent.problem["code"]) == (408, "body_timeout")


async def test_client_leaves_while_sending() -> None:
    """A client that leaves before its body is complete starts nothing and gets nothing."""
    connection = Connection()
    connection.body(b"x", more=True)
    connection.leave()
    await connection.run(Bodies(echo, LIMITS))
    assert connection.sent == []


async def test_client_leaves_while_we_work() -> None:
    """A client that leaves cancels the work, which is over when the request is."""
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    connection = Connection()
    connection.body(b"x")
    task = asyncio.create_task(connection.run(observed(Bodies(Cancellation(work), LIMITS))))
    await begun.wait()
    connection.leave()
    async with asyncio.timeout(1):
        await task
    assert ended.is_set()
    assert connection.sent == []


async def test_leaving_after_the_answer_harms_nobody() -> None:
    """What a route does after its answer is not cancelled by the client's going."""
    finished = asyncio.Event()

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        await asyncio.sleep(0.05)
        finished.set()

    connection = Connection()
    connection.body(b"x")
    connection.leave()
    await connection.run(Bodies(Cancellation(work), LIMITS))
    assert finished.is_set()


async def test_errors_of_the_work_come_through() -> None:
    """An error in a route is a 500 without details, with the request id."""

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("the secret is 42")

    connection = Connection(headers={"x-request-id": "mine"})
    connection.body(b"x")
    await connection.run(observed(Bodies(Cancellation(work), LIMITS)))
    assert connection.status == 500
    assert connection.problem["request_id"] == connection.headers["x-request-id"] == "mine"
    assert "42" not in json.dumps(connection.problem)


async def test_places() -> None:
    """One request works, one waits, a third is sent away at once; health probes pass all the same."""
    gate = asyncio.Event()
    working = 0

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal working
        if scope["path"] == "/v1/extract":
            working += 1
            await gate.wait()
        await echo(scope, receive, send)

    admission = Admission(1, 1, Metrics())
    app = observed(House(Bodies(Cancellation(Turn(work, admission)), LIMITS), admission))
    connections = [Connection() for _ in range(3)]
    for connection in connections:
        connection.body(b"x")
    first = asyncio.create_task(connections[0].run(app))
    second = asyncio.create_task(connections[1].run(app))
    await settled(lambda: working == 1)
    await connections[2].run(app)
    assert connections[2].status == 503
    assert connections[2].problem["code"] == "overloaded"
    assert "2 requests" in connections[2].problem["detail"]
    assert int(connections[2].headers["retry-after"]) >= 1
    probe = Connection("/healthz")
    probe.body(b"")
    await probe.run(app)
    assert probe.status == 200
    gate.set()
    await asyncio.gather(first, second)
    assert [connections[0].status, connections[1].status, working] == [200, 200, 2]


async def test_leaving_while_waiting_frees_the_place() -> None:
    """A client that leaves while it waits for its turn makes room for another."""
    gate = asyncio.Event()

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await echo(scope, receive, send)

    admission = Admission(1, 1, Metrics())
    app = observed(House(Bodies(Cancellation(Turn(work, admission)), LIMITS), admission))
    first, second, third = Connection(), Connection(), Connection()
    for connection in (first, second, third):
        connection.body(b"x")
    one = asyncio.create_task(first.run(app))
    two = asyncio.create_task(second.run(app))
    await settled(second.inbox.empty)
    second.leave()
    await two
    three = asyncio.create_task(third.run(app))
    gate.set()
    await asyncio.gather(one, three)
    assert (first.status, second.status, third.status) == (200, None, 200)


async def test_cancelled_extraction_leaves_nothing_running(app: FastAPI, two_people: bytes) -> None:
    """A client that leaves in the middle of 100 pictures: no task goes on, and the next request is served."""
    picture = base64.b64encode(two_people).decode("ascii")
    before = asyncio.all_tasks()
    connection = Connection(headers={"content-type": "application/json"})
    connection.body(json.dumps({"images": [picture] * 100}).encode())
    task = asyncio.create_task(connection.run(app))
    await asyncio.sleep(0.3)
    assert not task.done()
    connection.leave()
    async with asyncio.timeout(2):
        await task
    assert connection.sent == []
    await settled(lambda: asyncio.all_tasks() == before)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        reply = await client.post("/v1/detect", content=two_people, headers={"content-type": "image/jpeg"})
    assert len(reply.json()["images"][0]["faces"]) == 2


async def test_options_reach_the_middlewares(app: FastAPI) -> None:
    """The bounds of ApiOptions are the ones in force, and CORS is off unless origins are named."""
    served = Served(app.state.services, app.state.cameras)
    small = create_api(lambda: nullcontext(served), ApiOptions(max_body_bytes=10, cors_origins=("https://app.example",)))
    async with (
        small.router.lifespan_context(small),
        httpx.AsyncClient(transport=httpx.ASGITransport(small), base_url="http://test") as client,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as plain,
    ):
        origin = {"origin": "https://app.example"}
        reply = await client.post("/v1/extract", content=b"x" * 11, headers=origin)
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (413, "https://app.example")
        assert "access-control-allow-origin" not in (await plain.get("/healthz", headers=origin)).headers
