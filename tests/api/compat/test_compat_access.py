"""API keys on the foreign APIs: reading and changing need their roles, in the header that old clients can send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from face_server.api.services import Services
from face_server.clock import SystemClock
from face_server.domain.access import Role
from face_server.journal.keys import SqliteKeyRing

pytestmark = pytest.mark.asyncio(loop_scope="module")

READING = [
    ("POST", "/extract"),
    ("POST", "/draw_detections"),
    ("POST", "/multipart/draw_detections"),
    ("GET", "/info"),
    ("POST", "/image_recog"),
    ("POST", "/get_face_list"),
    ("POST", "/get_source_list"),
    ("POST", "/source_status"),
    ("GET", "/source_status/all"),
]
CHANGING = [
    ("POST", "/add_face"),
    ("DELETE", "/del_face"),
    ("POST", "/add_source"),
    ("POST", "/rebuild_source"),
    ("DELETE", "/remove_source"),
    ("PUT", "/update_source"),
    ("POST", "/update_source"),
    ("POST", "/stream/pipe"),
    ("DELETE", "/stream/pipe"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secrets(app: FastAPI, services: Services, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[Role, str]]:
    """One key a role; the application asks for keys while this is in use."""
    path: Path = tmp_path_factory.mktemp("keys") / "keys.sqlite"
    ring = await SqliteKeyRing.open(path, SystemClock())
    app.state.services = replace(services, keys=ring)
    yield {role: (await ring.create(role, role.value))[1] for role in Role}
    app.state.services = services
    await ring.close()


@pytest.mark.parametrize(("method", "path"), [*READING, *CHANGING])
async def test_without_a_key(client: httpx.AsyncClient, secrets: dict[Role, str], method: str, path: str) -> None:
    """Without a known key every route but the health check answers 401 before it looks at the body."""
    assert (await client.request(method, path)).status_code == 401
    assert (await client.request(method, path, headers={"x-api-key": "wrong"})).status_code == 401


@pytest.mark.parametrize(("method", "path"), READING)
async def test_reading(client: httpx.AsyncClient, secrets: dict[Role, str], method: str, path: str) -> None:
    """A key that may read passes, as ``x-api-key`` and as bearer."""
    for headers in ({"x-api-key": secrets[Role.READ]}, {"authorization": f"Bearer {secrets[Role.READ]}"}):
        assert (await client.request(method, path, headers=headers)).status_code in {200, 422}


@pytest.mark.parametrize(("method", "path"), CHANGING)
async def test_changing(client: httpx.AsyncClient, secrets: dict[Role, str], method: str, path: str) -> None:
    """Adding and removing faces and cameras needs more than reading."""
    assert (await client.request(method, path, headers={"x-api-key": secrets[Role.READ]})).status_code == 403
    allowed = await client.request(method, path, headers={"x-api-key": secrets[Role.OPERATE]})
    assert allowed.status_code == 200
    assert allowed.json()["code"] == 500


async def test_health_needs_no_key(client: httpx.AsyncClient, secrets: dict[Role, str]) -> None:
    """A container's health check has no key."""
    assert (await client.get("/health")).status_code == 200
