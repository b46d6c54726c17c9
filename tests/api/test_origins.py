"""Foreign pages and a server without keys."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from face_server.app import create_app
from face_server.settings import HttpSettings, Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("host", ["127.0.0.1:18081", "localhost:18081", "[::1]:18081", "10.1.2.3", "test"])
async def test_addresses_and_local_names_are_answered(client: httpx.AsyncClient, host: str):
    """What no public name server can point here is this machine's own business."""
    assert (await client.get("/v1/info", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:18081"])
async def test_a_public_name_is_refused(client: httpx.AsyncClient, host: str):
    """A name that somebody may have pointed at 127.0.0.1 gets 403 and a way out."""
    answer = await client.get("/v1/info", headers={"host": host})

    assert (answer.status_code, answer.json()["code"]) == (403, "access_denied")
    assert "FACE_SERVER_HTTP__HOSTS" in answer.json()["detail"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9"])
async def test_a_foreign_page_cannot_write(client: httpx.AsyncClient, origin: str):
    """A form of another site reaches nothing."""
    answer = await client.post("/get_face_list", data={"face_name": "x"}, headers={"host": "127.0.0.1:18081", "origin": origin})

    assert answer.status_code == 403
    assert "CORS_ORIGINS" in answer.json()["detail"]


async def test_the_own_page_can(client: httpx.AsyncClient):
    """The console and the documentation send the server's own origin."""
    own = {"host": "127.0.0.1:18081", "origin": "http://127.0.0.1:18081"}

    assert (await client.get("/v1/info", headers=own)).status_code == 200


async def test_listed_names_and_origins_are_trusted(data: Path):
    """The operator can name a reverse proxy's host and a page's origin."""
    app = create_app(Settings(data=data, http=HttpSettings(cors_origins=("https://shop.example",), hosts=("faces.example",))))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://faces.example") as client,
    ):
        answer = await client.get("/v1/info", headers={"origin": "https://shop.example"})

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
