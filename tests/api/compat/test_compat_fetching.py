"""Pictures by address through the foreign APIs, from a host that the operator allows."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fastapi import FastAPI

from face_server.app import create_app
from face_server.settings import FetchSettings, Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(data: Path) -> AsyncIterator[FastAPI]:
    """The application, allowed to fetch from this machine."""
    app = create_app(Settings(data=data, fetch=FetchSettings(allowed_hosts=("127.0.0.1",))))
    async with app.router.lifespan_context(app):
        yield app


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def album(people: Path) -> AsyncIterator[str]:
    """An address below which the photos of people are served; those below ``/closed`` to ``x-album: open`` only."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ", 2)[1]
        permitted = not path.startswith("/closed/") or "\r\nx-album: open\r\n" in head
        photo = people / path.removeprefix("/closed").lstrip("/")
        status, body = ("200 OK", photo.read_bytes()) if permitted and photo.is_file() else ("404 Not Found", b"")
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_extract_by_address(client: httpx.AsyncClient, album: str, biden: bytes) -> None:
    """A picture behind an address gives what its bytes give; a missing one fails alone."""
    files = {"urls": [f"{album}/biden/biden.jpg", f"{album}/biden/nothing.jpg"]}
    found, missing = (await client.post("/extract", json={"images": files})).json()["data"]
    sent = await client.post("/extract", json={"images": {"data": [base64.b64encode(biden).decode()]}})
    np.testing.assert_allclose(found["faces"][0]["vec"], sent.json()["data"][0]["faces"][0]["vec"], atol=1e-6)
    assert missing["status"] == "failed"
    assert "404" in missing["traceback"]


async def test_headers_are_sent_along(client: httpx.AsyncClient, album: str) -> None:
    """``img_req_headers`` go with the request for the picture."""
    body = {"images": {"urls": [f"{album}/closed/biden/biden.jpg"]}}
    without = await client.post("/extract", json=body)
    assert without.json()["data"][0]["status"] == "failed"
    with_header = await client.post("/extract", json={**body, "img_req_headers": {"x-album": "open"}})
    assert with_header.json()["data"][0]["status"] == "ok"


async def test_add_and_recognise_by_address(client: httpx.AsyncClient, album: str) -> None:
    """A face is added and recognised by address, in both kinds of form, and forgotten again."""
    added = await client.post("/add_face", files={"face_name": (None, "奥巴马"), "img_url": (None, f"{album}/obama/obama.jpg")})
    assert added.json() == {"code": 200, "face_list": ["奥巴马"]}
    (face,) = (await client.post("/image_recog", data={"img_url": f"{album}/obama/obama2.jpg"})).json()["face_data"]
    assert face["name"] == "奥巴马"
    missing = await client.post("/image_recog", data={"img_url": f"{album}/obama/none.jpg"})
    assert missing.json() == {"code": -1, "msg": f"img {album}/obama/none.jpg is none", "face_data": []}
    removed = await client.request("DELETE", "/del_face", files={"face_name": (None, "奥巴马")})
    assert removed.json() == {"code": 200, "face_list": []}
