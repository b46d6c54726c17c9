"""API keys and roles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.routing import APIRoute

from face_server.api.application import create_api
from face_server.api.examples import PICTURE_BASE64
from face_server.api.services import Served
from face_server.clock import SystemClock
from face_server.domain.access import KeyRing, Role
from face_server.journal.keys import SqliteKeyRing

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPEN = {"/", "/docs", "/redoc", "/openapi.json", "/healthz", "/readyz", "/health"}
PICTURES = {"images": [PICTURE_BASE64]}
# Nobody needs to be there: a stream that is switched off asks nothing of its camera.
STREAM = {"url": "rtsp://10.9.8.7/", "enabled": False}
READ = [
    ("POST", "/v1/detect", PICTURES),
    ("POST", "/v1/extract", PICTURES),
    ("GET", "/v1/collections", None),
    ("GET", "/v1/info", None),
    ("GET", "/v1/streams", None),
    ("GET", "/v1/events", None),
    ("GET", "/v1/strangers", None),
    ("GET", "/v1/sinks/dead-letters", None),
]
OPERATE = [
    ("PUT", "/v1/collections/default/identities/a", {"name": "A"}),
    ("DELETE", "/v1/collections/default/identities/a", None),
    ("PUT", "/v1/streams/a", STREAM),
    ("PATCH", "/v1/streams/a", {"name": "A"}),
    ("PUT", "/v1/streams/a/publish", {"publish": False}),
    ("DELETE", "/v1/streams/a", None),
    ("POST", "/v1/sinks/dead-letters/replay", {"ids": [1]}),
    ("POST", "/v1/sinks/dead-letters/discard", {"ids": [1]}),
]
ADMIN = [("PUT", "/v1/collections/keys", {}), ("DELETE", "/v1/collections/keys", None)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keys(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KeyRing]:
    """An empty key ring."""
    ring = await SqliteKeyRing.open(tmp_path_factory.mktemp("keys") / "keys.sqlite", SystemClock())
    yield ring
    await ring.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def locked(app: FastAPI, keys: KeyRing) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that asks for keys."""
    served = Served(replace(app.state.services, keys=keys), app.state.cameras)
    app = create_api(lambda: nullcontext(served))
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def call(client: httpx.AsyncClient, request: tuple[str, str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
    """Send one request."""
    method, path, body = request
    return await client.request(method, path, json=body, headers=headers)


async def test_without_key(locked: httpx.AsyncClient) -> None:
    """Without a key, or with an unknown one, every working route is 401 and says how to authenticate."""
    for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}):
        for request in (*READ, *OPERATE, *ADMIN, ("GET", "/metrics", None)):
            reply = await call(locked, request, headers)
            assert (reply.status_code, reply.json()["code"]) == (401, "access_denied"), request
            assert reply.headers["www-authenticate"].startswith("Bearer")
            assert "wrong" not in reply.text


async def test_open_routes(locked: httpx.AsyncClient) -> None:
    """Documentation, its files and the probes need no key."""
    for path in [*sorted(OPEN - {"/", "/health"}), "/static/swagger/swagger-ui.css"]:
        assert (await locked.get(path)).status_code == 200, path


@pytest.mark.parametrize("role", list(Role))
async def test_roles(locked: httpx.AsyncClient, keys: KeyRing, role: Role) -> None:
    """Each role may do its own and what is below it; more is 403. Both headers carry the key."""
    _, secret = await keys.create(role, f"test {role}")
    for headers in ({"x-api-key": secret}, {"authorization": f"Bearer {secret}"}):
        for needed, requests in ((Role.READ, READ), (Role.OPERATE, OPERATE), (Role.ADMIN, ADMIN)):
            for request in requests:
                reply = await call(locked, request, headers)
                if role.allows(needed):
                    assert reply.is_success, (request, reply.text)
                else:
                    assert (reply.status_code, reply.json()["code"]) == (403, "access_denied")
                    assert needed.value in reply.json()["detail"]
                    assert "www-authenticate" not in reply.headers


async def test_denied_before_the_body_is_looked_at(locked: httpx.AsyncClient) -> None:
    """A caller without a key learns nothing about its body."""
    reply = await locked.post("/v1/extract", content=b"{", headers={"content-type": "application/json"})
    assert reply.status_code == 401


async def test_every_route_states_its_role(app: FastAPI) -> None:
    """No route of the document is open by oversight."""
    document = app.openapi()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert ("security" in operation) == (path not in OPEN), f"{method} {path}"
    assert set(document["components"]["securitySchemes"]) == {"ApiKey", "Bearer"}
    assert not any(isinstance(route, APIRoute) and route.include_in_schema for route in app.routes)


MORE_OF_READ = ["/a", "/a/snapshot.jpg", "/a/preview.mjpeg"]
MORE_OF_OPERATE = [
    ("POST", "/v1/streams", {}),
    ("POST", "/v1/streams/probe", {"url": "rtsp://10.9.8.7/"}),
    ("POST", "/v1/streams/a/restart", None),
    ("POST", "/v1/strangers/a/name", {"name": "A"}),
    ("POST", "/v1/strangers/a/merge", {"into": "b"}),
    ("DELETE", "/v1/strangers/a", None),
]


async def test_who_may_look_may_not_touch(locked: httpx.AsyncClient, keys: KeyRing) -> None:
    """A key that reads sees streams, events and strangers, and is refused by everything that changes or connects."""
    _, secret = await keys.create(Role.READ, "looks only")
    headers = {"x-api-key": secret}
    paths = [f"/v1/streams{path}" for path in MORE_OF_READ] + [f"/v1/events/a{path}" for path in ("", "/picture", "/frame")]
    for path in [*paths, "/v1/strangers/a", "/v1/strangers/a/picture"]:
        assert (await locked.get(path, headers=headers)).status_code == 404, path
        assert (await locked.get(path)).status_code == 401, path
    for request in MORE_OF_OPERATE:
        assert (await call(locked, request, headers)).status_code == 403, request
        assert (await call(locked, request)).status_code == 401, request


async def test_live_events_need_a_key(locked: httpx.AsyncClient) -> None:
    """Server-sent events are no way around the keys."""
    assert (await locked.get("/v1/events", headers={"accept": "text/event-stream"})).status_code == 401
