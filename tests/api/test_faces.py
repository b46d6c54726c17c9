"""/v1/detect and /v1/extract: every way to send a picture leads to the same faces."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest

from face_server.api.examples import PICTURE_BASE64
from face_server.api.services import Services

pytestmark = pytest.mark.asyncio(loop_scope="module")


def text(data: bytes) -> str:
    """Base64 as clients send it."""
    return base64.b64encode(data).decode("ascii")


async def answer(reply: httpx.Response) -> Any:
    """The JSON of a reply that must be 200."""
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/json"
    return reply.json()


async def test_detect(client: httpx.AsyncClient, two_people: bytes) -> None:
    """Two people are two faces, best score first, with boxes around their landmarks in pixels of the picture."""
    found = await answer(await client.post("/v1/detect", json={"images": [text(two_people)]}))
    assert found["detector"] == "yunet"
    (picture,) = found["images"]
    assert (picture["width"], picture["height"]) == (1126, 661)
    assert len(picture["faces"]) == 2
    scores = [face["score"] for face in picture["faces"]]
    assert scores == sorted(scores, reverse=True)
    for face in picture["faces"]:
        box = face["box"]
        assert set(face) == {"box", "score", "landmarks"}
        assert len(face["landmarks"]) == 5
        assert all(box["x1"] < x < box["x2"] and box["y1"] < y < box["y2"] for x, y in face["landmarks"])


async def test_every_way_in(client: httpx.AsyncClient, biden: bytes) -> None:
    """Base64, a data: URI, multipart, a raw body and msgpack (bytes or base64) give the same embedding."""
    plain = text(biden)
    packed = {"content-type": "application/msgpack"}
    replies = [
        await client.post("/v1/extract", json={"images": [plain]}),
        await client.post("/v1/extract", json={"images": [f"data:image/jpeg;base64,{plain}"]}),
        await client.post("/v1/extract", files={"file": ("biden.jpg", biden, "image/jpeg")}),
        await client.post("/v1/extract", files={"files": ("biden.jpg", biden)}),
        await client.post("/v1/extract", content=biden, headers={"content-type": "image/jpeg"}),
        await client.post("/v1/extract", content=biden, headers={"content-type": "application/octet-stream"}),
        await client.post("/v1/extract", content=msgpack.packb({"images": [biden]}), headers=packed),
        await client.post("/v1/extract", content=msgpack.packb({"images": [plain]}), headers={"content-type": "application/x-msgpack"}),
    ]
    found = [await answer(reply) for reply in replies]
    first = found[0]["images"][0]["faces"]
    assert len(first) == 1
    for other in found[1:]:
        assert other["images"][0]["faces"] == first


async def test_options_in_every_kind_of_body(client: httpx.AsyncClient, two_people: bytes) -> None:
    """Options count in JSON, as form fields, and in the query beside raw, multipart and JSON bodies."""
    raw = {"content-type": "image/jpeg"}
    replies = [
        await client.post("/v1/extract", json={"images": [text(two_people)], "max_faces": 1, "quality": False}),
        await client.post("/v1/extract", files={"file": two_people}, data={"max_faces": "1", "quality": "false"}),
        await client.post("/v1/extract?max_faces=1&quality=false", content=two_people, headers=raw),
        await client.post("/v1/extract?max_faces=1", files={"file": two_people}, data={"quality": "false"}),
        await client.post("/v1/extract?max_faces=1&quality=false", json={"images": [text(two_people)]}),
    ]
    for reply in replies:
        (face,) = (await answer(reply))["images"][0]["faces"]
        assert "quality" not in face


async def test_embedding_formats(client: httpx.AsyncClient, services: Services, biden: bytes) -> None:
    """An embedding is a unit vector of the stated model; base64 holds the same float32 values."""
    floats = await answer(await client.post("/v1/extract", json={"images": [text(biden)]}))
    packed = await answer(await client.post("/v1/extract", json={"images": [text(biden)], "embedding_format": "base64"}))
    assert floats["model"] == packed["model"] == str(services.analyzer.model)
    values = np.array(floats["images"][0]["faces"][0]["embedding"], np.float32)
    assert values.shape == (services.analyzer.model.dimension,)
    assert np.linalg.norm(values) == pytest.approx(1, abs=1e-5)
    decoded = np.frombuffer(base64.b64decode(packed["images"][0]["faces"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(decoded, values)


async def test_quality(client: httpx.AsyncClient, biden: bytes) -> None:
    """Quality tells size, sharpness, brightness and pose; a good portrait has no reason to be refused."""
    found = await answer(await client.post("/v1/extract", json={"images": [text(biden)]}))
    quality = found["images"][0]["faces"][0]["quality"]
    assert set(quality) == {"size_px", "sharpness", "brightness", "pose", "score", "reasons"}
    assert quality["reasons"] == []
    assert 0 < quality["score"] <= 1
    assert abs(quality["pose"]["yaw"]) < 50


async def test_crops_embed_like_their_picture(client: httpx.AsyncClient, biden: bytes) -> None:
    """An aligned crop that comes back as JPEG embeds, with embed_only, to nearly the same vector."""
    whole = await answer(await client.post("/v1/extract", json={"images": [text(biden)], "crops": True}))
    (face,) = whole["images"][0]["faces"]
    again = await answer(await client.post("/v1/extract", json={"images": [face["crop"]], "embed_only": True}))
    (only,) = again["images"][0]["faces"]
    assert only["box"] == {"x1": 0.0, "y1": 0.0, "x2": 112.0, "y2": 112.0}
    assert float(np.dot(face["embedding"], only["embedding"])) > 0.98


async def test_small_faces_are_left_out(client: httpx.AsyncClient, two_people: bytes) -> None:
    """min_face_size and min_score leave faces out; max_faces keeps the largest."""
    faces = (await answer(await client.post("/v1/detect", json={"images": [text(two_people)]})))["images"][0]["faces"]
    widths = [face["box"]["x2"] - face["box"]["x1"] for face in faces]
    between = int(sum(widths) / 2)
    wide = await answer(await client.post("/v1/detect", json={"images": [text(two_people)], "min_face_size": between}))
    assert [face["box"]["x2"] - face["box"]["x1"] for face in wide["images"][0]["faces"]] == [max(widths)]
    none = await answer(await client.post("/v1/detect", json={"images": [text(two_people)], "min_score": 1.0}))
    assert none["images"][0]["faces"] == []


async def test_no_face_is_an_answer(client: httpx.AsyncClient) -> None:
    """The documentation's grey picture is read and holds no face."""
    found = await answer(await client.post("/v1/extract", json={"images": [PICTURE_BASE64]}))
    assert found["images"][0]["faces"] == []
    assert (found["images"][0]["width"], found["images"][0]["height"]) == (16, 16)


async def test_one_bad_picture_fails_alone(client: httpx.AsyncClient, biden: bytes) -> None:
    """A picture that cannot be read has a problem of its own; its neighbours have faces."""
    cut = text(biden[: len(biden) // 2])
    found = await answer(await client.post("/v1/extract", json={"images": [text(biden), cut, "AAAA", text(biden)]}))
    first, second, third, fourth = found["images"]
    assert first["faces"] == fourth["faces"]
    assert len(first["faces"]) == 1
    for index, failed in ((1, second), (2, third)):
        assert failed["faces"] == []
        assert failed["problem"]["code"] == "invalid_image"
        assert failed["problem"]["status"] == 422
        assert failed["problem"]["field"] == f"images[{index}]"
