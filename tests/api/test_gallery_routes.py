"""Collections, identities and templates over HTTP, from creation to oblivion."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from face_server.api.services import Services

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = "/v1/collections/people"


def text(data: bytes) -> str:
    """Base64 as clients send it."""
    return base64.b64encode(data).decode("ascii")


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def collection(client: httpx.AsyncClient) -> AsyncIterator[None]:
    """An empty collection for each test."""
    assert (await client.post("/v1/collections", json={"name": "people"})).status_code == 201
    yield
    assert (await client.delete(ROOT)).status_code in {204, 404}


@pytest.fixture(scope="module")
def obama(people: Path) -> list[bytes]:
    """Photos of one person."""
    return [path.read_bytes() for path in sorted((people / "obama").iterdir())]


async def enrolled(client: httpx.AsyncClient, name: str, *pictures: bytes) -> Any:
    """A new identity with templates of these pictures."""
    reply = await client.post(f"{ROOT}/identities", json={"name": name, "images": [text(one) for one in pictures]})
    assert reply.status_code == 201, reply.text
    return reply.json()


async def test_collection_life(client: httpx.AsyncClient, services: Services) -> None:
    """A collection is created once, read, changed in part, replaced, listed and deleted."""
    made = (await client.get(ROOT)).json()
    assert made["model"] == str(services.analyzer.model)
    assert (made["threshold"], made["identity_count"], made["template_count"]) == (None, 0, 0)
    again = await client.post("/v1/collections", json={"name": "people"})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    patched = (await client.patch(ROOT, json={"threshold": 0.5})).json()
    assert (patched["threshold"], patched["effective_threshold"], patched["target_fpir"]) == (0.5, 0.5, 0.01)
    unpinned = (await client.patch(ROOT, json={"threshold": None, "margin": 0.05})).json()
    assert (unpinned["threshold"], unpinned["margin"]) == (None, 0.05)
    replaced = await client.put(ROOT, json={"target_fpir": 0.02})
    assert replaced.status_code == 200
    assert (replaced.json()["margin"], replaced.json()["target_fpir"]) == (0.0, 0.02)
    assert "people" in [one["name"] for one in (await client.get("/v1/collections")).json()["collections"]]
    assert (await client.delete(ROOT)).status_code == 204
    assert (await client.get(ROOT)).status_code == 404
    assert (await client.put(ROOT)).status_code == 201


async def test_collections_by_pages(client: httpx.AsyncClient) -> None:
    """The cursor of a page leads to the next; the last has none."""
    for name in ("a", "b"):
        assert (await client.put(f"/v1/collections/{name}", json={})).status_code == 201
    names: list[str] = []
    cursor = None
    while True:
        page = (await client.get("/v1/collections", params={"limit": 1} | ({"cursor": cursor} if cursor else {}))).json()
        names += [one["name"] for one in page["collections"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert names == sorted(names)
    assert {"a", "b", "people"} <= set(names)
    for name in ("a", "b"):
        assert (await client.delete(f"/v1/collections/{name}")).status_code == 204


async def test_identity_life(client: httpx.AsyncClient) -> None:
    """An identity is made with an id of its own or a given one, renamed, replaced, found by name and deleted."""
    free = (await client.post(f"{ROOT}/identities", json={"name": "奥巴马", "metadata": {"badge": "44"}})).json()["identity"]
    own = await client.post(f"{ROOT}/identities", json={"name": "Joe", "id": "joe"})
    assert own.status_code == 201
    assert (await client.post(f"{ROOT}/identities", json={"name": "Joe", "id": "joe"})).status_code == 409
    renamed = (await client.patch(f"{ROOT}/identities/{free['id']}", json={"name": "Barack"})).json()
    assert (renamed["name"], renamed["metadata"]) == ("Barack", {"badge": "44"})
    assert (await client.put(f"{ROOT}/identities/joe", json={"name": "Joseph"})).status_code == 200
    assert (await client.put(f"{ROOT}/identities/new", json={"name": "New"})).status_code == 201
    found = (await client.get(f"{ROOT}/identities", params={"name": "Joseph"})).json()["identities"]
    assert [one["id"] for one in found] == ["joe"]
    assert (await client.delete(f"{ROOT}/identities/joe")).status_code == 204
    assert (await client.get(f"{ROOT}/identities/joe")).status_code == 404
    page = (await client.get(f"{ROOT}/identities", params={"limit": 1})).json()
    rest = (await client.get(f"{ROOT}/identities", params={"limit": 5, "cursor": page["next_cursor"]})).json()
    assert len(page["identities"]) == len(rest["identities"]) == 1
    assert rest["next_cursor"] is None


async def test_enrolment_by_every_way_in(client: httpx.AsyncClient, obama: list[bytes], services: Services) -> None:
    """JSON, multipart and raw bodies enrol; an embedding does too; each template belongs to its identity."""
    first = await enrolled(client, "Obama", obama[0])
    url = f"{ROOT}/identities/{first['identity']['id']}/templates"
    multipart = await client.post(url, files=[("files", obama[1]), ("files", obama[2])], data={"source": "press"})
    raw = await client.post(f"{url}?source=raw", content=obama[3], headers={"content-type": "image/jpeg"})
    (template,) = raw.json()["images"]
    assert multipart.status_code == raw.status_code == 201
    assert [one["template"]["source"] for one in multipart.json()["images"]] == ["press", "press"]
    assert template["template"]["source"] == "raw"
    assert raw.json()["identity"]["template_count"] == 4
    values = np.random.default_rng(1).normal(size=services.analyzer.model.dimension).astype("<f4")
    other = await client.post(f"{ROOT}/identities", json={"name": "Vector", "embeddings": [text(values.tobytes())]})
    assert other.status_code == 201
    stored = (await client.get(f"{ROOT}/templates/{other.json()['embeddings'][0]['template']['id']}")).json()
    np.testing.assert_allclose(stored["embedding"], values / np.linalg.norm(values), atol=1e-6)
    assert stored["model"] == str(services.analyzer.model)


async def test_identity_with_picture_by_form(client: httpx.AsyncClient, biden: bytes) -> None:
    """A form makes an identity with name, metadata (as JSON text) and a picture at once."""
    reply = await client.post(f"{ROOT}/identities", files={"file": biden}, data={"name": "Joe Biden", "metadata": '{"badge": "46"}'})
    assert reply.status_code == 201, reply.text
    assert reply.json()["identity"]["metadata"] == {"badge": "46"}
    assert reply.json()["images"][0]["face"]["quality"]["reasons"] == []


async def test_gate(client: httpx.AsyncClient, obama: list[bytes], two_people: bytes) -> None:
    """The gate refuses with reasons, alone in a batch, as the whole answer otherwise; override lifts it."""
    person = (await enrolled(client, "Obama", obama[0]))["identity"]["id"]
    url = f"{ROOT}/identities/{person}/templates"
    again = await client.post(url, json={"images": [text(obama[0])]})
    assert (again.status_code, again.json()["code"], again.json()["reasons"]) == (422, "duplicate", ["duplicate"])
    mixed = await client.post(url, json={"images": [text(two_people), text(obama[1])]})
    assert mixed.status_code == 201
    refused, taken = mixed.json()["images"]
    assert refused["problem"]["reasons"] == ["multiple_faces"]
    assert refused["problem"]["field"] == "images[0]"
    assert taken["template"]["identity_id"] == person
    somebody = await client.post(f"{ROOT}/identities", json={"name": "Impostor", "images": [text(obama[2])]})
    assert (somebody.status_code, somebody.json()["reasons"]) == (422, ["identity_conflict"])
    assert len((await client.get(f"{ROOT}/identities")).json()["identities"]) == 1
    forced = await client.post(f"{ROOT}/identities", json={"name": "Twin", "images": [text(obama[2])], "override": True})
    assert forced.status_code == 201
    assert forced.json()["images"][0]["overridden"] == ["identity_conflict"]


async def test_crop(client: httpx.AsyncClient, biden: bytes, services: Services) -> None:
    """The aligned crop of a template is a 112×112 JPEG; a collection that keeps none has none."""
    template = (await enrolled(client, "Joe", biden))["images"][0]["template"]
    reply = await client.get(f"{ROOT}/templates/{template['id']}/crop.jpg")
    assert reply.headers["content-type"] == "image/jpeg"
    crop = await services.codec.decode(reply.content)
    assert (crop.width, crop.height) == (112, 112)
    await client.put(ROOT, json={"keep_crops": False})
    bare = (await client.post(f"{ROOT}/identities", json={"name": "J", "images": [text(biden)], "override": True})).json()["images"][0]
    missing = await client.get(f"{ROOT}/templates/{bare['template']['id']}/crop.jpg")
    assert (bare["template"]["has_crop"], missing.status_code) == (False, 404)


async def test_move_and_merge(client: httpx.AsyncClient, obama: list[bytes], biden: bytes) -> None:
    """A template moves to another identity; a merge leaves one identity with all templates."""
    one = await enrolled(client, "One", obama[0], obama[1])
    two = await enrolled(client, "Two", biden)
    first, second = one["identity"]["id"], two["identity"]["id"]
    moved = one["images"][0]["template"]["id"]
    reply = await client.post(f"{ROOT}/templates/{moved}/move", json={"identity_id": second})
    assert reply.json()["identity_id"] == second
    merged = await client.post(f"{ROOT}/identities/{first}/merge", json={"into": second})
    assert merged.status_code == 200
    assert len(merged.json()["templates"]) == merged.json()["template_count"] == 3
    assert (await client.get(f"{ROOT}/identities/{first}")).status_code == 404
    itself = await client.post(f"{ROOT}/identities/{second}/merge", json={"into": second})
    assert (itself.status_code, itself.json()["field"]) == (422, "into")
    assert (await client.delete(f"{ROOT}/templates/{moved}")).status_code == 204
    assert (await client.get(f"{ROOT}/templates/{moved}")).status_code == 404


async def test_identify(client: httpx.AsyncClient, obama: list[bytes], biden: bytes, scenes: Path) -> None:
    """In a scene each enrolled person is named, best people first; a deleted one is unknown at once."""
    known = (await enrolled(client, "Obama", *obama))["identity"]["id"]
    joe = (await enrolled(client, "Biden", biden))["identity"]["id"]
    scene = (scenes / "obama_and_biden.jpg").read_bytes()
    reply = await client.post(f"{ROOT}/identify", content=scene, headers={"content-type": "image/jpeg"})
    answer = reply.json()
    names = {face["match"]["identity"]["name"] for face in answer["images"][0]["faces"] if face["match"]}
    assert names == {"Obama", "Biden"}
    for face in answer["images"][0]["faces"]:
        similarities = [candidate["similarity"] for candidate in face["candidates"]]
        assert similarities == sorted(similarities, reverse=True)
        assert (face["verdict"] == "match") == (similarities[0] >= answer["threshold"]) == (face["match"] is not None)
    largest = (await client.post(f"{ROOT}/identify", json={"images": [text(scene)], "faces": "largest", "limit": 1})).json()
    (face,) = largest["images"][0]["faces"]
    assert len(face["candidates"]) == 1
    strict = (await client.post(f"{ROOT}/identify", json={"images": [text(scene)], "threshold": 1.0})).json()
    assert {face["verdict"] for face in strict["images"][0]["faces"]} == {"below_threshold"}
    assert (await client.delete(f"{ROOT}/identities/{joe}")).status_code == 204
    after = (await client.post(f"{ROOT}/identify", json={"images": [text(biden)]})).json()
    (face,) = after["images"][0]["faces"]
    assert (face["match"], [one["identity"]["id"] for one in face["candidates"]]) == (None, [known])


async def test_identify_embeddings(client: httpx.AsyncClient, obama: list[bytes]) -> None:
    """An embedding from /v1/extract is identified like the picture, in floats and in base64."""
    await enrolled(client, "Obama", obama[0])
    wanted = (await client.post(f"{ROOT}/identify", json={"images": [text(obama[1])]})).json()["images"][0]["faces"][0]
    for form in ("floats", "base64"):
        found = (await client.post("/v1/extract", json={"images": [text(obama[1])], "embedding_format": form})).json()
        probe = found["images"][0]["faces"][0]["embedding"]
        reply = await client.post(f"{ROOT}/identify", json={"embeddings": [probe], "model": found["model"]})
        (named,) = reply.json()["embeddings"]
        assert named["match"]["identity"]["name"] == "Obama"
        assert named["match"]["similarity"] == pytest.approx(wanted["match"]["similarity"], abs=1e-5)


async def test_verify(client: httpx.AsyncClient, obama: list[bytes], biden: bytes) -> None:
    """Two photos of one person are the same, photos of two people are not; an identity is a reference too."""
    same = (await client.post("/v1/verify", json={"probe_image": text(obama[0]), "reference_image": text(obama[1])})).json()
    other = (await client.post("/v1/verify", files={"probe_image": obama[0], "reference_image": biden})).json()
    assert same["same"] is True
    assert same["similarity"] >= same["threshold"] == other["threshold"]
    assert other["same"] is False
    person = (await enrolled(client, "Obama", obama[0]))["identity"]["id"]
    query = {"reference_identity": person, "collection": "people"}
    enrolled_ = await client.post("/v1/verify", params=query, content=obama[1], headers={"content-type": "image/jpeg"})
    assert enrolled_.json()["same"] is True
    assert enrolled_.json()["candidate"]["identity"]["id"] == person
    assert enrolled_.json()["reference_face"] is None
    strict = await client.post("/v1/verify", json={"probe_image": text(obama[0]), "reference_image": text(obama[1]), "threshold": 0.999})
    assert strict.json()["same"] is False
