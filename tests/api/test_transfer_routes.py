"""A collection leaves by one address as a file and comes back by another, whole."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def enrolled(client: httpx.AsyncClient, people: Path) -> dict[str, Any]:
    """A collection with two people."""
    await client.put("/v1/collections/source", json={"target_fpir": 0.02})
    for folder in ("biden", "obama"):
        files = [("files", path.read_bytes()) for path in sorted((people / folder).iterdir())[:2]]
        reply = await client.post("/v1/collections/source/identities", files=files, data={"name": folder, "metadata": '{"a": "b"}'})
        assert reply.status_code == 201, reply.text
    stored: dict[str, Any] = (await client.get("/v1/collections/source")).json()
    return stored


@pytest.mark.parametrize("way", ["raw", "multipart"])
async def test_round_trip(client: httpx.AsyncClient, people: Path, way: str) -> None:
    """What is exported and imported elsewhere has the same people, templates, settings and answers; no file stays behind."""
    source = await enrolled(client, people)
    before = set(Path(tempfile.gettempdir()).glob("face_server-*"))
    export = await client.get("/v1/collections/source/export")
    assert (export.status_code, export.headers["content-type"]) == (200, "application/zip")
    assert int(export.headers["content-length"]) == len(export.content)
    path = "/v1/collections/copy/import"
    if way == "raw":
        reply = await client.post(path, content=export.content, headers={"content-type": "application/zip"})
    else:
        reply = await client.post(path, files={"file": ("copy.zip", export.content)})
    assert reply.status_code == 200, reply.text
    report = reply.json()
    assert (report["collection"], report["created"], report["identities_added"]) == ("copy", True, 2)
    copy = (await client.get("/v1/collections/copy")).json()
    for member in ("model", "target_fpir", "identity_count", "template_count", "effective_threshold"):
        assert copy[member] == source[member]
    probe = (people / "obama").iterdir().__next__().read_bytes()
    named = [
        (await client.post(f"/v1/collections/{name}/identify", files={"file": probe})).json()["images"][0]["faces"][0]["match"]
        for name in ("source", "copy")
    ]
    assert named[0] == named[1]
    again = await client.post(path, content=export.content, headers={"content-type": "application/zip"})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    skipped = await client.post(f"{path}?clash=skip", content=export.content, headers={"content-type": "application/zip"})
    assert skipped.json()["identities_skipped"] == 2
    assert set(Path(tempfile.gettempdir()).glob("face_server-*")) == before
    for name in ("source", "copy"):
        assert (await client.delete(f"/v1/collections/{name}")).status_code == 204


async def test_bad_files(client: httpx.AsyncClient) -> None:
    """A foreign file, a wrong content type, a missing file and an unknown collection are told apart."""
    path = "/v1/collections/none/import"
    foreign = await client.post(path, content=b"not exported by us", headers={"content-type": "application/octet-stream"})
    assert (foreign.status_code, foreign.json()["field"]) == (422, "file")
    kind = await client.post(path, json={})
    assert (kind.status_code, kind.json()["code"]) == (415, "unsupported_media_type")
    other = await client.post(path, files={"other": b"x"})
    assert (other.status_code, other.json()["field"]) == (422, "file")
    clash = await client.post(f"{path}?clash=maybe", content=b"x", headers={"content-type": "application/zip"})
    assert (clash.status_code, clash.json()["field"]) == (422, "clash")
    assert (await client.get("/v1/collections/none/export")).status_code == 404
    assert (await client.get("/v1/collections/none")).status_code == 404
