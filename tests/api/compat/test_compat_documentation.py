"""The foreign APIs in the OpenAPI document: what it shows works when it is sent as it is."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = {
    "/extract": "post",
    "/draw_detections": "post",
    "/multipart/draw_detections": "post",
    "/info": "get",
    "/health": "get",
    "/image_recog": "post",
    "/add_face": "post",
    "/del_face": "delete",
    "/get_face_list": "post",
    "/add_source": "post",
    "/rebuild_source": "post",
    "/update_source": "put",
    "/remove_source": "delete",
    "/get_source_list": "post",
    "/source_status": "post",
    "/source_status/all": "get",
    "/stream/pipe": "post",
}


def operation(app: FastAPI, path: str) -> dict[str, Any]:
    """The description of the one operation at a path."""
    described: dict[str, Any] = app.openapi()["paths"][path][PATHS[path]]
    return described


def resolved(app: FastAPI, node: Any) -> Any:
    """The node without references, followed one level at a time."""
    while isinstance(node, dict) and "$ref" in node:
        target: Any = app.openapi()
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def references(node: Any) -> list[str]:
    """Every reference in a node."""
    if isinstance(node, list):
        return [found for item in node for found in references(item)]
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in references(value)]
    return []


@pytest.mark.parametrize("path", PATHS)
async def test_every_route_is_described(app: FastAPI, path: str) -> None:
    """Every route has a summary, a description and no reference that leads nowhere."""
    described = operation(app, path)
    assert described["summary"]
    assert described["description"]
    assert described["responses"]["200"]
    for reference in references(described):
        assert resolved(app, {"$ref": reference})


@pytest.mark.parametrize("path", ["/extract", "/draw_detections"])
async def test_examples_of_insightface_rest_work(client: httpx.AsyncClient, app: FastAPI, path: str) -> None:
    """Trying it out with the examples of the fields is answered with 200."""
    content = operation(app, path)["requestBody"]["content"]
    assert {"application/json", "application/msgpack", "application/x-msgpack"} <= set(content)
    properties = content["application/json"]["schema"]["properties"]
    example = {name: field["examples"][0] for name, field in properties.items() if "examples" in field}
    assert example["images"]
    reply = await client.post(path, json=example)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] in operation(app, path)["responses"]["200"]["content"]


@pytest.mark.parametrize("path", ["/image_recog", "/add_face", "/del_face", "/rebuild_source", "/update_source", "/remove_source"])
async def test_examples_of_the_face_server_work(client: httpx.AsyncClient, app: FastAPI, path: str) -> None:
    """Their examples are answered, by JSON and by form, with a code that is not a failure of the request."""
    content = operation(app, path)["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/x-www-form-urlencoded", "application/json"}
    example = content["application/json"]["example"]
    for body in ({"json": example}, {"data": example}):
        reply = await client.request(PATHS[path], path, **body)
        assert reply.status_code == 200
        assert reply.json()["code"] != 500, reply.json()


@pytest.mark.parametrize("path", ["/source_status", "/stream/pipe"])
async def test_examples_of_task_ids_work(client: httpx.AsyncClient, app: FastAPI, path: str) -> None:
    """An array of ids is answered, also with ids of no task."""
    content = operation(app, path)["requestBody"]["content"]
    reply = await client.request(PATHS[path], path, json=content["application/json"]["example"])
    assert (reply.status_code, reply.json()["code"]) == (200, 200)


async def test_documented_forms_of_extract(client: httpx.AsyncClient, app: FastAPI, two_people: bytes) -> None:
    """The three forms of the answer have exactly the documented keys."""
    schema = operation(app, "/extract")["responses"]["200"]["content"]["application/json"]["schema"]
    current, embedded, early = (resolved(app, one) for one in schema["anyOf"])
    images = {"data": [base64.b64encode(two_people).decode()]}
    options = {"return_face_data": True, "return_landmarks": True, "verbose_timings": True}
    answer = (await client.post("/extract", json={"images": images, **options})).json()
    assert set(answer) == set(current["properties"])
    assert set(answer["took"]) == set(resolved(app, current["properties"]["took"])["properties"])
    image = resolved(app, current["properties"]["data"]["items"])
    assert set(answer["data"][0]) == set(image["properties"]) - {"traceback"}
    assert set(answer["data"][0]["faces"][0]) == set(resolved(app, image["properties"]["faces"]["items"])["properties"])
    answer = (await client.post("/extract", json={"images": images, "embed_only": True})).json()
    assert set(answer) == set(embedded["properties"])
    answer = (await client.post("/extract", json={"images": images, "api_ver": "1", **options})).json()
    assert set(answer[0][0]) == set(resolved(app, early["items"]["items"])["properties"])
