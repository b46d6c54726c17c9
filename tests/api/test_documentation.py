"""The OpenAPI document and its pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from face_server import web

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATIC = Path(web.__file__).parent / "static"
# How codes begin; what a network says of an address where no camera is differs.
EXPECTED = {"probe_stream": "source_", "publish_stream": "no_publish_address"}
PICTURE_ROUTES = ["detect", "extract", "identify", "verify", "create_identity", "add_templates"]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and description of every operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


async def test_every_operation_is_described(app: FastAPI) -> None:
    """Every operation has a summary, a description, and an id of its own."""
    found = list(operations(app.openapi()))
    for path, method, operation in found:
        assert operation.get("summary"), f"{method} {path}"
        assert operation.get("description"), f"{method} {path}"
    ids = [operation["operationId"] for _, _, operation in found]
    assert len(set(ids)) == len(ids)


async def test_operation_ids_are_stable(app: FastAPI) -> None:
    """Generated clients depend on these names."""
    native = {operation["operationId"] for path, _, operation in operations(app.openapi()) if path.startswith("/v1")}
    assert native >= {
        "detect", "extract", "verify", "identify", "info",
        "list_collections", "create_collection", "get_collection", "put_collection", "update_collection", "delete_collection",
        "export_collection", "import_collection",
        "list_identities", "create_identity", "get_identity", "put_identity", "update_identity", "delete_identity", "merge_identity",
        "add_templates", "get_template", "get_crop", "delete_template", "move_template",
        "list_streams", "create_stream", "probe_stream", "get_stream", "put_stream", "patch_stream", "delete_stream", "restart_stream",
        "publish_stream", "stream_snapshot", "stream_preview",
        "list_events", "get_event", "event_picture", "event_frame",
        "list_strangers", "get_stranger", "stranger_picture", "name_stranger", "merge_stranger", "dismiss_stranger",
        "list_dead_letters", "replay_dead_letters", "discard_dead_letters",
    }  # fmt: skip


@pytest.mark.parametrize("operation_id", PICTURE_ROUTES)
async def test_every_kind_of_body_is_documented(app: FastAPI, operation_id: str) -> None:
    """Routes that take pictures document JSON, files, raw bodies with options in the query, and msgpack."""
    (operation,) = [one for _, _, one in operations(app.openapi()) if one["operationId"] == operation_id]
    content = operation["requestBody"]["content"]
    assert list(content) == ["application/json", "multipart/form-data", "application/octet-stream", "image/*", "application/msgpack"]
    form = content["multipart/form-data"]["schema"]["properties"]
    files = form.get("files", form.get("probe_image"))
    assert (files.get("items") or files)["format"] == "binary"
    assert any(parameter["in"] == "query" for parameter in operation["parameters"])


async def test_references_resolve(app: FastAPI) -> None:
    """Every reference leads to a schema of the document."""
    document = app.openapi()
    names = set(re.findall(r"#/components/schemas/([A-Za-z0-9_.-]+)", str(document)))
    assert names
    assert names <= set(document["components"]["schemas"])


async def test_examples_work(client: httpx.AsyncClient, app: FastAPI) -> None:
    """The examples of the document, sent as they are, get a result; only some ids, a camera and an address to publish to are missing."""
    document = app.openapi()
    schemas = document["components"]["schemas"]
    tried = 0
    for path, method, operation in operations(document):
        reference = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {}).get("$ref")
        if not path.startswith("/v1") or reference is None:
            continue
        example = schemas[reference.rpartition("/")[2]]["examples"][0]
        places = dict.fromkeys(("identity", "template", "stranger_id"), "x") | {"collection": "default", "stream_id": "entrance"}
        reply = await client.request(method, path.format(**places), json=example)
        tried += 1
        if reply.is_error:
            code = EXPECTED.get(operation["operationId"], "not_found")
            assert code != "not_found" or re.search(r"{(identity|template|stranger_id)}", path), (path, reply.text)
            assert reply.json()["code"].startswith(code), (path, reply.text)
    assert tried >= 20
    assert (await client.delete("/v1/streams/entrance")).status_code == 204


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_pages_need_no_other_host(client: httpx.AsyncClient, path: str) -> None:
    """A page and all it loads come from us, and its policy allows nothing else, inline scripts included."""
    page = await client.get(path)
    assert page.status_code == 200
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "http" not in page.headers["content-security-policy"]
    assert not re.findall(r"<script(?![^>]*src=)", page.text)
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert links
    for link in links:
        assert link.startswith("/static/")
        reply = await client.get(link)
        assert reply.status_code == 200, link
        assert len(reply.content) > 50
    assert "/openapi.json" in "".join([(await client.get(link)).text for link in links if link.endswith("start.js")])


async def test_third_party_files_keep_their_licences() -> None:
    """Each vendored folder has its licence beside it."""
    for folder in ("swagger", "redoc"):
        assert (STATIC / folder / "LICENSE").stat().st_size > 500
