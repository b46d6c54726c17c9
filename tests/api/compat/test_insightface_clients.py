"""Clients of InsightFace-REST, rebuilt from how they speak, against a real server on a real socket."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

pytestmark = pytest.mark.asyncio(loop_scope="module")


class FaceOfClient(BaseModel):
    """A face as the clients' own models want it."""

    num_det: int | None
    prob: float | None
    size: int | None
    bbox: list[int] | None
    landmarks: list[list[int]] | None
    norm: float | None
    vec: list[float] | None
    facedata: bytes | None


@dataclass(frozen=True)
class IfrSession:
    """What both clients of the project do: one session, msgpack unless told otherwise, 120 s of patience.

    ``mode`` "data" sends bytes (base64 in JSON), "paths" sends addresses.
    """

    server: str

    def request(
        self, pictures: list[bytes] | list[str], mode: str = "paths", *, use_msgpack: bool = True, **options: bool
    ) -> dict[str, Any]:
        """Arguments for httpx that carry the same bytes and headers as the project's clients."""
        images: dict[str, Any] = {"urls": pictures}
        if mode == "data":
            images = {"data": pictures if use_msgpack else [base64.b64encode(one).decode("ascii") for one in pictures]}
        body = {
            "images": images,
            "threshold": 0.6,
            "extract_ga": False,
            "extract_embedding": True,
            "return_face_data": False,
            "return_landmarks": False,
            "embed_only": False,
            "limit_faces": 0,
            "msgpack": use_msgpack,
        } | options
        if not use_msgpack:
            return {"url": f"{self.server}/extract", "json": body, "timeout": 120}
        headers = {"content-type": "application/msgpack", "accept": "application/x-msgpack"}
        return {"url": f"{self.server}/extract", "content": msgpack.packb(body), "headers": headers, "timeout": 120}

    def read(self, reply: httpx.Response) -> dict[str, Any]:
        """The answer as the clients read it: by its content type, face data as bytes."""
        content: dict[str, Any] = (
            msgpack.unpackb(reply.content) if reply.headers["content-type"] == "application/x-msgpack" else reply.json()
        )
        for image in content["data"]:
            for face in image["faces"]:
                if isinstance(face.get("facedata"), str):
                    face["facedata"] = base64.b64decode(face["facedata"])
        return content


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(app: FastAPI) -> AsyncIterator[IfrSession]:
    """A session with a server that listens on a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield IfrSession(f"http://127.0.0.1:{listener.getsockname()[1]}")
        server.should_exit = True
        await serving


@pytest.fixture(scope="module")
def photos(people: Path) -> list[bytes]:
    """Two photos of one person each."""
    return [(people / name).read_bytes() for name in ("obama/obama.jpg", "biden/biden.jpg")]


@pytest.mark.parametrize("use_msgpack", [True, False])
async def test_synchronous_client(session: IfrSession, photos: list[bytes], use_msgpack: bool) -> None:
    """The blocking client gets faces that its models accept, in either encoding."""

    def call() -> dict[str, Any]:
        with httpx.Client() as http:
            options = {"return_face_data": True, "return_landmarks": True}
            return session.read(http.post(**session.request(photos, "data", use_msgpack=use_msgpack, **options)))

    answer = await asyncio.to_thread(call)
    assert isinstance(answer["took"]["total_ms"], float)
    assert [image["status"] for image in answer["data"]] == ["ok", "ok"]
    for image in answer["data"]:
        (face,) = (FaceOfClient.model_validate(face) for face in image["faces"])
        assert face.facedata is not None
        assert face.facedata[:3] == b"\xff\xd8\xff"
        assert face.vec is not None
        assert np.linalg.norm(face.vec) == pytest.approx(1, abs=1e-5)


async def test_asynchronous_client_sends_many_at_once(session: IfrSession, photos: list[bytes]) -> None:
    """Requests side by side over one session each get their own picture's answer, in msgpack and JSON alike."""
    async with httpx.AsyncClient() as http:
        calls = [http.post(**session.request([photos[index % 2]], "data", use_msgpack=index % 3 > 0)) for index in range(8)]
        vectors = [session.read(reply)["data"][0]["faces"][0]["vec"] for reply in await asyncio.gather(*calls)]
    for index, vector in enumerate(vectors):
        np.testing.assert_allclose(vector, vectors[index % 2], atol=1e-5)
    assert float(np.dot(vectors[0], vectors[1])) < 0.5


async def test_paths_mode_reads_no_files(session: IfrSession, people: Path) -> None:
    """``mode='paths'`` with paths, which the old server read from its disk, is refused picture by picture."""
    async with httpx.AsyncClient() as http:
        path = str(people / "obama" / "obama.jpg")
        answer = session.read(await http.post(**session.request([path, "test_images/lumia.jpg"], "paths")))
    assert [image["status"] for image in answer["data"]] == ["failed", "failed"]
    assert all("http" in image["traceback"] for image in answer["data"])


async def test_embed_only_of_returned_faces(session: IfrSession, photos: list[bytes]) -> None:
    """A client may keep face data and embed it later: it gets nearly the same vector."""
    async with httpx.AsyncClient() as http:
        whole = session.read(await http.post(**session.request(photos, "data", return_face_data=True)))["data"]
        crops = [image["faces"][0]["facedata"] for image in whole]
        later = session.read(await http.post(**session.request(crops, "data", embed_only=True)))["data"]
    for before, after in zip(whole, later, strict=True):
        assert float(np.dot(before["faces"][0]["vec"], after["faces"][0]["vec"])) > 0.98


async def test_server_info(session: IfrSession) -> None:
    """What the clients print of a server is there."""
    async with httpx.AsyncClient() as http:
        models = (await http.get(f"{session.server}/info")).json()["models"]
    for key in ("inference_backend", "det_name", "rec_name", "rec_batch_size", "det_batch_size", "max_size"):
        assert models[key]


async def test_bare_http_without_accept(session: IfrSession, photos: list[bytes]) -> None:
    """A request by hand with no Accept header, which made the old server fail, is answered in JSON."""
    body = b'{"images":{"data":["' + base64.b64encode(photos[0]) + b'"]}}'
    host, port = session.server.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /extract HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    reply = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert reply.startswith(b"HTTP/1.1 200")
    assert b"application/json" in reply
    assert b'"status":"ok"' in reply
