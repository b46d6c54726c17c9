"""Bad input gets one clear sentence with the field and the limit, the right status, and nothing else."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest

from face_server.api.examples import PICTURE_BASE64
from face_server.api.services import Services

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"content-type": "application/json"}
MEMBERS = {"type", "title", "status", "detail", "code", "field", "reasons", "request_id"}


def text(data: bytes) -> str:
    """Base64 as clients send it."""
    return base64.b64encode(data).decode("ascii")


def problem(reply: httpx.Response, status: int, code: str, field: str | None, *words: str) -> dict[str, Any]:
    """The problem of a reply, which must have this status, code, field, and these words in its sentence."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    members: dict[str, Any] = reply.json()
    assert set(members) <= MEMBERS
    assert (members["status"], members["code"], members.get("field")) == (status, code, field)
    assert members["request_id"] == reply.headers["x-request-id"]
    assert "\n" not in members["detail"]
    for word in words:
        assert word in members["detail"], members["detail"]
    return members


async def extract(client: httpx.AsyncClient, *pictures: str, **options: Any) -> httpx.Response:
    """``/v1/extract`` by JSON."""
    return await client.post("/v1/extract", json={"images": list(pictures), **options})


async def test_truncated(client: httpx.AsyncClient, biden: bytes) -> None:
    """Half a JPEG is an invalid image."""
    problem(await extract(client, text(biden[: len(biden) // 2])), 422, "invalid_image", "images[0]")


@pytest.mark.parametrize("content", [b"", b"hello, this is no picture"], ids=["empty", "non-image"])
async def test_no_picture(client: httpx.AsyncClient, content: bytes) -> None:
    """Empty and foreign bytes are invalid images, by base64, as a raw body and as a file."""
    problem(await extract(client, text(content)), 422, "invalid_image", "images[0]")
    raw = await client.post("/v1/extract", content=content, headers={"content-type": "image/jpeg"})
    problem(raw, 422, "invalid_image", "images[0]")
    file = await client.post("/v1/extract", files={"file": ("a.jpg", content)})
    problem(file, 422, "invalid_image", "images[0]")


async def test_huge_header(client: httpx.AsyncClient) -> None:
    """A PNG whose header says 50,000×50,000 is refused by its header, with the limit."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    members = problem(await extract(client, text(png)), 413, "input_too_large", "images[0]", "50000")
    assert "50000000" in members["detail"].replace(",", "").replace("_", "")


async def test_wrong_base64(client: httpx.AsyncClient) -> None:
    """Text that is no base64 says so."""
    problem(await extract(client, "%%%"), 422, "invalid_image", "images[0]", "base64")


async def test_picture_of_wrong_type(client: httpx.AsyncClient) -> None:
    """A number where a picture is expected names its place."""
    members = problem(await client.post("/v1/extract", json={"images": [5]}), 422, "invalid_input", "images[0]", "string")
    assert members["detail"].startswith("images[0]")


async def test_option_out_of_range(client: httpx.AsyncClient) -> None:
    """An option beyond its limit names the field and the limit, in the body and in the query."""
    problem(await extract(client, PICTURE_BASE64, min_score=2), 422, "invalid_input", "min_score", "less than or equal to 1")
    query = await client.post("/v1/extract?max_size=9999", content=b"x", headers={"content-type": "image/png"})
    problem(query, 422, "invalid_input", "max_size", "less than or equal to 8192")


async def test_unknown_option(client: httpx.AsyncClient) -> None:
    """A misspelt option is refused by name."""
    problem(await extract(client, PICTURE_BASE64, max_szie=640), 422, "invalid_input", "max_szie")
    query = await client.post("/v1/extract?max_szie=640", content=b"x", headers={"content-type": "image/png"})
    problem(query, 422, "invalid_input", "max_szie", "max_size")


@pytest.mark.parametrize("body", [b"{", b"", b'{"images": [NaN]}', b"\xff"])
async def test_malformed_json(client: httpx.AsyncClient, body: bytes) -> None:
    """What is no JSON is 400."""
    problem(await client.post("/v1/extract", content=body, headers=JSON), 400, "malformed_body", None, "JSON")


async def test_body_that_is_no_object(client: httpx.AsyncClient) -> None:
    """A JSON array is valid JSON but no request."""
    problem(await client.post("/v1/extract", content=b"[]", headers=JSON), 422, "invalid_input", None, "object")


async def test_malformed_msgpack_and_multipart(client: httpx.AsyncClient) -> None:
    """Broken msgpack and multipart bodies are 400."""
    packed = await client.post("/v1/extract", content=b"\xc1", headers={"content-type": "application/msgpack"})
    problem(packed, 400, "malformed_body", None, "msgpack")
    form = await client.post("/v1/extract", content=b"x", headers={"content-type": "multipart/form-data"})
    problem(form, 400, "malformed_body", None, "multipart")


async def test_unknown_content_type(client: httpx.AsyncClient) -> None:
    """Other content types and compressed bodies are 415, with the ones that are accepted."""
    xml = await client.post("/v1/extract", content=b"<a/>", headers={"content-type": "text/xml"})
    problem(xml, 415, "unsupported_media_type", "content-type", "application/json", "multipart/form-data")
    packed = await client.post("/v1/extract", content=b"x", headers={**JSON, "content-encoding": "gzip"})
    problem(packed, 415, "unsupported_media_type", "content-encoding")


async def test_forbidden_addresses(client: httpx.AsyncClient) -> None:
    """Local files, other schemes and private addresses are never fetched."""
    for url in ("http://127.0.0.1/a.jpg", "http://169.254.169.254/latest/meta-data"):
        problem(await extract(client, url), 422, "url_forbidden", "images[0]", "public")
    for url in ("file:///etc/passwd", "ftp://example.org/a.jpg"):
        problem(await extract(client, url), 422, "invalid_input", "images[0]", "http")


async def test_embedding_of_wrong_length(client: httpx.AsyncClient, services: Services) -> None:
    """An embedding of another length states the expected one."""
    dimension = str(services.analyzer.model.dimension)
    body = {"embeddings": [[0.5, 0.5]]}
    problem(await client.post("/v1/collections/default/identify", json=body), 422, "invalid_embedding", "embeddings[0]", dimension, "2")


async def test_embedding_of_wrong_dtype(client: httpx.AsyncClient, services: Services) -> None:
    """float64 where float32 is expected is noticed by its length; texts in a list by their type."""
    values = np.ones(services.analyzer.model.dimension)
    reply = await client.post("/v1/collections/default/identify", json={"embeddings": [text(values.tobytes())]})
    problem(reply, 422, "invalid_embedding", "embeddings[0]", "float32", f"{values.nbytes} bytes")
    reply = await client.post("/v1/collections/default/identify", json={"embeddings": [["a", "b"]]})
    problem(reply, 422, "invalid_input", "embeddings[0][0]", "number")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, 1e300])
async def test_embedding_that_is_no_direction(client: httpx.AsyncClient, services: Services, value: float) -> None:
    """NaN, infinity, all zeros and numbers beyond float32 are refused."""
    body = msgpack.packb({"embeddings": [[value] * services.analyzer.model.dimension]})
    reply = await client.post("/v1/collections/default/identify", content=body, headers={"content-type": "application/msgpack"})
    problem(reply, 422, "invalid_embedding", "embeddings[0]", "finite")


async def test_unknown_names(client: httpx.AsyncClient) -> None:
    """Unknown collections, identities and templates are 404."""
    requests = [
        ("POST", "/v1/collections/nope/identify", {"images": [PICTURE_BASE64]}),
        ("GET", "/v1/collections/nope", None),
        ("GET", "/v1/collections/default/identities/nope", None),
        ("POST", "/v1/collections/default/identities/nope/templates", {"images": [PICTURE_BASE64]}),
        ("GET", "/v1/collections/default/templates/nope/crop.jpg", None),
        ("DELETE", "/v1/collections/default/templates/nope", None),
        ("POST", "/v1/verify", {"probe_image": PICTURE_BASE64, "reference_identity": "nope"}),
    ]
    for method, path, body in requests:
        reply = await client.request(method, path, json=body)
        members = problem(reply, 404, "not_found", reply.json().get("field"))
        assert "nope" in members["detail"]


async def test_model_mismatch(client: httpx.AsyncClient) -> None:
    """Embeddings of another model are 409, not a number."""
    body = {"embeddings": [[1.0] * 512], "model": "arcface@0123456789ab/p1/512d"}
    members = problem(await client.post("/v1/collections/default/identify", json=body), 409, "model_mismatch", None)
    assert "arcface@0123456789ab/p1/512d" in members["detail"]
    body = {"embeddings": [[1.0]], "model": "nonsense"}
    problem(await client.post("/v1/collections/default/identify", json=body), 422, "invalid_input", "model", "nonsense")


async def test_no_face(client: httpx.AsyncClient, biden: bytes) -> None:
    """A picture without a face cannot be verified or enrolled, not even with override."""
    reply = await client.post("/v1/verify", json={"probe_image": text(biden), "reference_image": PICTURE_BASE64})
    assert problem(reply, 422, "no_face", "reference_image")["reasons"] == ["no_face"]
    body = {"name": "Grey", "images": [PICTURE_BASE64], "override": True}
    reply = await client.post("/v1/collections/default/identities", json=body)
    assert problem(reply, 422, "no_face", "images[0]", "no face")["reasons"] == ["no_face"]
    assert (await client.get("/v1/collections/default/identities", params={"name": "Grey"})).json()["identities"] == []


async def test_two_faces(client: httpx.AsyncClient, biden: bytes, two_people: bytes) -> None:
    """A picture of two people is ambiguous: refused, unless the largest face is asked for."""
    reply = await client.post("/v1/verify", json={"probe_image": text(two_people), "reference_image": text(biden)})
    problem(reply, 422, "multiple_faces", "probe_image", "2 faces", "exactly one")
    both = {"probe_image": text(two_people), "reference_image": text(two_people), "largest_face": True}
    assert (await client.post("/v1/verify", json=both)).json()["same"] is True
    reply = await client.post("/v1/collections/default/identities", json={"name": "Two", "images": [text(two_people)]})
    assert "multiple_faces" in problem(reply, 422, "multiple_faces", "images[0]", "2 faces", "exactly one")["reasons"]


async def test_nothing_to_compare(client: httpx.AsyncClient) -> None:
    """A verification needs one probe and one reference."""
    problem(await client.post("/v1/verify", json={"probe_image": PICTURE_BASE64}), 422, "invalid_input", None, "exactly one of reference")
    problem(await client.post("/v1/collections/default/identify", json={}), 422, "invalid_input", None, "images, embeddings")


async def test_oversized_body(client: httpx.AsyncClient, services: Services) -> None:
    """A body beyond the limit is 413 with the limit, announced by its length or not."""
    limit = services.defaults.max_body_bytes
    body = b"x" * (limit + 1)
    problem(await client.post("/v1/extract", content=body, headers=JSON), 413, "input_too_large", "body", str(limit))

    async def pieces() -> Any:
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]

    problem(await client.post("/v1/extract", content=pieces(), headers=JSON), 413, "input_too_large", "body", str(limit))


async def test_too_many_pictures(client: httpx.AsyncClient, services: Services) -> None:
    """10,000 images are refused with the limit, in every kind of body and on every route, before any is read."""
    limit = str(services.intake.limits.max_images)
    many = [PICTURE_BASE64] * 10_000
    for path in ("/v1/detect", "/v1/extract", "/v1/collections/default/identify"):
        problem(await client.post(path, json={"images": many}), 413, "input_too_large", "images", "10000", limit)
    enrolment = await client.post("/v1/collections/default/identities", json={"name": "Many", "images": many})
    problem(enrolment, 413, "input_too_large", "images", "10000", limit)
    files = [("files", b"x")] * 1000
    problem(await client.post("/v1/extract", files=files), 413, "input_too_large", "files", limit)


async def test_no_pictures(client: httpx.AsyncClient) -> None:
    """A request without pictures names the field."""
    problem(await extract(client), 422, "invalid_input", "images", "at least 1")
    problem(await client.post("/v1/extract", json={}), 422, "invalid_input", "images", "required")


async def test_unknown_routes_and_methods(client: httpx.AsyncClient) -> None:
    """Addresses and methods that do not exist are problems too; 405 says what is allowed."""
    problem(await client.get("/v2/extract"), 404, "no_such_route", None)
    reply = await client.put("/v1/extract", json={})
    problem(reply, 405, "method_not_allowed", None, "PUT")
    assert reply.headers["allow"] == "POST"


async def test_bad_names(client: httpx.AsyncClient) -> None:
    """Names of collections, ids and people have a stated form."""
    problem(await client.post("/v1/collections", json={"name": "a b"}), 422, "invalid_input", "name", "pattern")
    problem(await client.get("/v1/collections/default/identities/a%20b"), 422, "invalid_input", "identity", "pattern")
    for name in ("", "a" * 201, "line\nbreak"):
        problem(await client.post("/v1/collections/default/identities", json={"name": name}), 422, "invalid_input", "name")
    problem(await client.get("/v1/collections?limit=0"), 422, "invalid_input", "limit", "greater than or equal to 1")


async def test_request_ids(client: httpx.AsyncClient) -> None:
    """A sane request id comes back on success and on failure; another one is replaced."""
    for path in ("/healthz", "/nope"):
        assert (await client.get(path, headers={"x-request-id": "abc-1.2_3"})).headers["x-request-id"] == "abc-1.2_3"
    made = (await client.get("/healthz", headers={"x-request-id": "a b\tc"})).headers["x-request-id"]
    assert made != "a b\tc"
    assert len(made) == 16
    assert (await client.get("/healthz", headers={"x-request-id": "x" * 65})).headers["x-request-id"] != "x" * 65
