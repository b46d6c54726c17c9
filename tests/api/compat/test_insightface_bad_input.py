"""What InsightFace-REST's routes answer to input that cannot be used: one clear sentence, nothing leaked."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import httpx
import msgpack
import pytest

from face_server.api.services import Services

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}


def text(data: bytes) -> str:
    """Base64 as clients send it."""
    return base64.b64encode(data).decode("ascii")


def huge_png() -> bytes:
    """A PNG whose header promises 50,000×50,000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))


def assert_clean(sentence: str) -> None:
    """One sentence, with nothing of the inside in it."""
    assert sentence
    assert len(sentence) < 400
    for leak in ("Traceback", "\n", 'File "', "site-packages", "face_server/", "cv2", "Error:"):
        assert leak not in sentence


@pytest.mark.parametrize("kind", ["empty", "truncated", "text", "huge", "not base64", "nothing in it"])
async def test_bad_picture_is_a_failed_entry(client: httpx.AsyncClient, biden: bytes, kind: str) -> None:
    """Every kind of bad picture fails alone, with a sentence, and the picture beside it is served."""
    bad = {
        "empty": "",
        "truncated": text(biden[: len(biden) // 2]),
        "text": text(b"hello"),
        "huge": text(huge_png()),
        "not base64": "!!! no base64 !!!",
        "nothing in it": "data:image/jpeg;base64,",
    }[kind]
    reply = await client.post("/extract", json={"images": {"data": [bad, text(biden)]}})
    assert reply.status_code == 200
    failed, good = reply.json()["data"]
    assert failed["status"] == "failed"
    assert failed["faces"] == []
    assert_clean(failed["traceback"])
    assert good["status"] == "ok"
    assert len(good["faces"]) == 1
    early = await client.post("/extract", json={"images": {"data": [bad]}, "api_ver": "1"})
    assert early.json() == [[]]


@pytest.mark.parametrize(
    "url",
    [
        "/etc/passwd",
        "../../etc/passwd",
        "test_images/Stallone.jpg",
        "file:///etc/passwd",
        "ftp://example.org/photo.jpg",
        "gopher://example.org/",
        "httpfile:///etc/passwd",
        "",
    ],
)
async def test_only_http_addresses(client: httpx.AsyncClient, url: str) -> None:
    """Anything but an http(s) address is refused for its picture, in words that say so: no file is ever read."""
    reply = await client.post("/extract", json={"images": {"urls": [url]}})
    assert reply.status_code == 200
    (failed,) = reply.json()["data"]
    assert failed["status"] == "failed"
    assert "http" in failed["traceback"]
    assert "root:" not in reply.text
    assert_clean(failed["traceback"])


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/a.jpg", "http://[::1]/a.jpg", "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/"]
)
async def test_private_addresses_are_refused(client: httpx.AsyncClient, url: str) -> None:
    """Loopback, private and metadata addresses are refused for their picture."""
    reply = await client.post("/extract", json={"images": {"urls": [url]}})
    (failed,) = reply.json()["data"]
    assert failed["status"] == "failed"
    assert "public" in failed["traceback"] or "allowed" in failed["traceback"]


async def test_urls_win_over_data(client: httpx.AsyncClient, biden: bytes) -> None:
    """Where both are sent, the addresses are used and the data is not."""
    reply = await client.post("/extract", json={"images": {"urls": ["nowhere"], "data": [text(biden), text(biden)]}})
    assert [image["status"] for image in reply.json()["data"]] == ["failed"]


async def test_headers_for_fetching_are_checked(client: httpx.AsyncClient) -> None:
    """A header that would split or redirect the request is refused with a sentence."""
    for headers in ({"x": "a\r\nhost: inside"}, {"Host": "inside"}):
        reply = await client.post("/extract", json={"images": {"urls": ["https://example.org/a.jpg"]}, "img_req_headers": headers})
        (failed,) = reply.json()["data"]
        assert failed["status"] == "failed"
        assert "header" in failed["traceback"]


@pytest.mark.parametrize(
    ("content", "headers", "place"),
    [
        (b"{", JSON, []),
        (b"", JSON, []),
        (b"[]", JSON, []),
        (b"null", JSON, []),
        (b"\xff\xfe", JSON, []),
        (b"[" * 100_000, JSON, []),
        (b'{"images": {"data": [1]}}', JSON, ["images", "data", 0]),
        (b'{"images": {"data": "abc"}}', JSON, ["images", "data"]),
        (b'{"images": {"urls": [null]}}', JSON, ["images", "urls", 0]),
        (b"{}", JSON, ["images"]),
        (b'{"images": null}', JSON, ["images"]),
        (b'{"images": {}, "threshold": NaN}', JSON, ["threshold"]),
        (b'{"images": {}, "threshold": 2}', JSON, ["threshold"]),
        (b'{"images": {}, "limit_faces": "many"}', JSON, ["limit_faces"]),
        (b'{"images": {}, "api_ver": "9"}', JSON, ["api_ver"]),
        (b'{"images": {}, "max_size": [640]}', JSON, ["max_size"]),
        (b'{"images": {}, "max_size": [640, 100000]}', JSON, ["max_size", 1]),
        (b'{"images": {}, "img_req_headers": {"a": 1}}', JSON, ["img_req_headers", "a"]),
        (b"\xc1", MSGPACK, []),
        (b"", MSGPACK, []),
        (b"\x81\xa6images", MSGPACK, []),
        (b"\xdd\xff\xff\xff\xff", MSGPACK, []),
        (b"\x91" * 100_000, MSGPACK, []),
        (msgpack.packb([1, 2]), MSGPACK, []),
        (msgpack.packb({"images": {}, "threshold": float("nan")}), MSGPACK, ["threshold"]),
        (msgpack.packb({"images": {}}) + b"more", MSGPACK, []),
    ],
)
async def test_bad_body(client: httpx.AsyncClient, content: bytes, headers: dict[str, str], place: list[Any]) -> None:
    """A body that is not what it should be gets 422 in FastAPI's shape: where, and one sentence."""
    reply = await client.post("/extract", content=content, headers=headers)
    assert reply.status_code == 422, reply.text
    assert reply.headers["content-type"] == "application/json"
    findings = reply.json()["detail"]
    assert findings[0]["loc"][: 1 + len(place)] == ["body", *place]
    assert "input" not in findings[0]
    assert_clean(findings[0]["msg"])
    assert len(reply.content) < 4000


async def test_thousands_of_bad_items_get_a_short_answer(client: httpx.AsyncClient) -> None:
    """The answer to a list of 10,000 wrong items names the first and is short."""
    reply = await client.post("/extract", json={"images": {"data": [7] * 10_000}})
    assert reply.status_code == 422
    assert len(reply.content) < 2000


async def test_too_many_pictures(client: httpx.AsyncClient, services: Services) -> None:
    """10,000 pictures in one request are refused with the limit, before any is read."""
    reply = await client.post("/extract", json={"images": {"data": ["aaaa"] * 10_000}})
    assert reply.status_code == 413
    assert str(services.intake.limits.max_images) in reply.json()["detail"]


async def test_unknown_fields_are_ignored(client: httpx.AsyncClient, biden: bytes) -> None:
    """Fields of other versions do not matter."""
    reply = await client.post("/extract", json={"images": {"data": [text(biden)]}, "use_gpu": True, "embed_only": None})
    assert reply.status_code == 200


async def test_content_type_may_be_missing(client: httpx.AsyncClient, biden: bytes) -> None:
    """A body without a content type is JSON."""
    reply = await client.post("/extract", content=json.dumps({"images": {"data": [text(biden)]}}).encode())
    assert reply.status_code == 200


async def test_draw_refusals(client: httpx.AsyncClient) -> None:
    """Drawing without a picture, or on one that cannot be read, is refused with a sentence in ``detail``."""
    for body in ({"images": {}}, {"images": {"data": []}}, {"images": {"data": ["aGVsbG8="]}}, {"images": {"urls": ["/etc/passwd"]}}):
        reply = await client.post("/draw_detections", json=body)
        assert reply.status_code == 422, body
        assert_clean(reply.json()["detail"])
    for files in ({"file": ("a.jpg", b"hello")}, {"file": ("a.jpg", b"")}):
        reply = await client.post("/multipart/draw_detections", files=files)
        assert reply.status_code == 422
        assert_clean(reply.json()["detail"])
    reply = await client.post("/multipart/draw_detections", data={"threshold": "0.6"})
    assert reply.status_code == 422
