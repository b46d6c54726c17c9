"""The face server's picture routes: exact bodies, codes and messages, by every kind of form."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from blockbuster import blockbuster_ctx
from PIL import Image

from face_server.api.compat.face_server import MAX_NAME_LENGTH
from face_server.api.services import Services
from tests.sinks.receivers import GrpcReceiver, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MISSING_FIELD = b'{"code":500,"msg":"400 Bad Request: The browser (or proxy) sent a request that this server could not understand."}\n'


@pytest_asyncio.fixture(loop_scope="module")
async def empty_list(client: httpx.AsyncClient) -> AsyncIterator[None]:
    """No names are known, before the test and after it."""

    async def clear() -> None:
        for name in (await client.post("/get_face_list")).json()["face_list"]:
            await client.request("DELETE", "/del_face", data={"face_name": name})

    await clear()
    yield
    await clear()


def text(path: Path) -> str:
    """A file as base64."""
    return base64.b64encode(path.read_bytes()).decode("ascii")


async def add(client: httpx.AsyncClient, name: str, path: Path, **more: str) -> Any:
    """``/add_face`` with the picture in the body."""
    picture = await asyncio.to_thread(text, path)
    reply = await client.post("/add_face", data={"face_name": name, "img_base64": picture, **more})
    assert reply.status_code == 200
    return reply.json()


async def test_empty_list_body(client: httpx.AsyncClient, empty_list: None) -> None:
    """The list of nobody is this very body."""
    reply = await client.post("/get_face_list")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.content == b'{"code":200,"face_list":[]}\n'


async def test_chinese_name_round_trip(client: httpx.AsyncClient, empty_list: None, people: Path, scenes: Path) -> None:
    """A Chinese name is stored, listed and recognised, and is ASCII-escaped on the wire."""
    form = {"face_name": (None, "张三"), "img_base64": (None, text(people / "obama" / "obama.jpg"))}
    added = await client.post("/add_face", files=form)
    assert added.content == b'{"code":200,"face_list":["\\u5f20\\u4e09"]}\n'
    listed = await client.post("/get_face_list")
    assert listed.json() == {"code": 200, "face_list": ["张三"]}
    reply = await client.post("/image_recog", json={"img_base64": text(scenes / "obama1.jpg")})
    assert reply.content.startswith(b'{"code":200,"face_data":[{"bbox":[')
    assert b'"name":"\\u5f20\\u4e09"' in reply.content
    assert reply.content.endswith(b"}\n")
    removed = await client.request("DELETE", "/del_face", json={"face_name": "张三"})
    assert removed.content == b'{"code":200,"face_list":[]}\n'


async def test_image_recog_names_the_known_and_only_them(
    client: httpx.AsyncClient, services: Services, empty_list: None, people: Path, scenes: Path
) -> None:
    """The known person gets the name and a similarity, others ``notfound`` and -2; boxes hold five floats."""
    await add(client, "obama", people / "obama" / "obama.jpg")
    reply = await client.post("/image_recog", data={"img_base64": text(scenes / "obama_and_biden.jpg")})
    answer = reply.json()
    assert list(answer) == ["code", "face_data"]
    faces = answer["face_data"]
    assert sorted({face["name"] for face in faces}) == ["notfound", "obama"]
    assert [face["name"] for face in faces].count("obama") == 1
    threshold = services.recognition.identification_threshold(await services.gallery.collection(services.defaults.collection))
    for face in faces:
        assert list(face) == ["bbox", "conf", "name"]
        assert len(face["bbox"]) == 5
        assert all(isinstance(value, float) for value in face["bbox"])
        assert 0.6 <= face["bbox"][4] <= 1
        assert face["conf"] >= threshold if face["name"] == "obama" else face["conf"] == -2.0
    scores = [face["bbox"][4] for face in faces]
    assert scores == sorted(scores, reverse=True)


async def test_nobody_known_and_no_face(client: httpx.AsyncClient, empty_list: None, scenes: Path) -> None:
    """With an empty list everybody is ``notfound``; without a face the list of faces is empty."""
    reply = await client.post("/image_recog", json={"img_base64": text(scenes / "two_people.jpg")})
    assert {(face["name"], face["conf"]) for face in reply.json()["face_data"]} == {("notfound", -2.0)}
    grey = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAEUlEQVQY02NsYEAFTAwjWgAAmZAAoP5WG2AAAAAASUVORK5CYII="
    reply = await client.post("/image_recog", json={"img_base64": grey})
    assert reply.content == b'{"code":200,"face_data":[]}\n'


async def test_unreadable(client: httpx.AsyncClient, empty_list: None) -> None:
    """A picture that cannot be had is code -1 with the address in the message; files are never read."""
    reply = await client.post("/image_recog", data={"img_url": "file:///etc/passwd"})
    assert reply.status_code == 200
    assert reply.content == b'{"code":-1,"face_data":[],"msg":"img file:///etc/passwd is none"}\n'
    reply = await client.post("/add_face", data={"face_name": "a", "img_url": "http://127.0.0.1:9/x.jpg"})
    assert reply.content == b'{"code":-1,"face_list":[],"msg":"img http://127.0.0.1:9/x.jpg is none"}\n'
    reply = await client.post("/image_recog", data={"img_base64": "aGVsbG8="})
    assert reply.content == b'{"code":-1,"face_data":[],"msg":"img img_base64 is none"}\n'
    reply = await client.post("/image_recog", data={"img_url": ""})
    assert reply.json()["code"] == -1


async def test_name_taken(client: httpx.AsyncClient, empty_list: None, people: Path) -> None:
    """A name is given once; an unreadable picture is noticed before the name, the name before the faces."""
    await add(client, "张三", people / "obama" / "obama.jpg")
    again = await client.post("/add_face", data={"face_name": "张三", "img_base64": text(people / "biden" / "biden.jpg")})
    assert again.content == b'{"code":-2,"face_list":["\\u5f20\\u4e09"],"msg":"face name \\u5f20\\u4e09 already in face database"}\n'
    unreadable = await client.post("/add_face", data={"face_name": "张三", "img_base64": "aGVsbG8="})
    assert unreadable.json() == {"code": -1, "face_list": ["张三"], "msg": "img img_base64 is none"}


async def test_number_of_faces(client: httpx.AsyncClient, empty_list: None, scenes: Path) -> None:
    """No face is -2, several are -3, each with the number in the message; nothing is stored."""
    several = await add(client, "many", scenes / "friends_six_faces.jpg")
    assert several == {"code": -3, "face_list": [], "msg": "face num in img_base64 is 6"}
    grey = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAEUlEQVQY02NsYEAFTAwjWgAAmZAAoP5WG2AAAAAASUVORK5CYII="
    none = await client.post("/add_face", json={"face_name": "none", "img_base64": grey})
    assert none.content == b'{"code":-2,"face_list":[],"msg":"face num in img_base64 is 0"}\n'


async def test_poor_pictures_are_stored(client: httpx.AsyncClient, empty_list: None, people: Path) -> None:
    """As with the original, one face is enough: neither its quality nor a likeness to somebody else refuses it."""
    assert (await add(client, "obama", people / "obama" / "obama.jpg"))["code"] == 200
    assert (await add(client, "barack", people / "obama" / "obama.jpg"))["code"] == 200
    listed = await client.post("/get_face_list")
    assert listed.json()["face_list"] == ["obama", "barack"]


async def test_list_is_in_the_order_of_adding(client: httpx.AsyncClient, empty_list: None, people: Path) -> None:
    """The list keeps the order in which names came, call after call."""
    names = ["zoe", "adam", "李四", "mia"]
    pictures = ["obama/obama.jpg", "biden/biden.jpg", "angelina_jolie/1.jpg", "paul_rudd/1.jpg"]
    for name, picture in zip(names, pictures, strict=True):
        await add(client, name, people / picture)
    for _ in range(3):
        assert (await client.post("/get_face_list")).json()["face_list"] == names
    removed = await client.request("DELETE", "/del_face", data={"face_name": "adam"})
    assert removed.json()["face_list"] == ["zoe", "李四", "mia"]


async def test_del_unknown(client: httpx.AsyncClient, empty_list: None) -> None:
    """An unknown name is code -1 with the name in the message."""
    reply = await client.request("DELETE", "/del_face", data={"face_name": "nobody"})
    assert reply.status_code == 200
    assert reply.content == b'{"code":-1,"face_list":[],"msg":"face_name nobody not in face list"}\n'


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        ("POST", "/image_recog", {}),
        ("POST", "/image_recog", {"other": "x"}),
        ("POST", "/add_face", {"face_name": "a"}),
        ("POST", "/add_face", {"img_url": "https://example.org/a.jpg"}),
        ("DELETE", "/del_face", {}),
    ],
)
@pytest.mark.parametrize("kind", ["urlencoded", "multipart", "json"])
async def test_missing_field(client: httpx.AsyncClient, method: str, path: str, fields: dict[str, str], kind: str) -> None:
    """A missing field is code 500 with the original's words, byte for byte."""
    if kind == "json":
        reply = await client.request(method, path, json=fields)
    elif kind == "multipart":
        reply = await client.request(method, path, files={name: (None, value) for name, value in {"pad": "1", **fields}.items()})
    else:
        reply = await client.request(method, path, data=fields)
    assert reply.status_code == 200
    assert reply.content == MISSING_FIELD


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"{", "application/json"),
        (b"[1]", "application/json"),
        (b'{"img_url": 3}', "application/json"),
        (b'{"img_url": "\\ud800"}', "application/json"),
        (b"", "application/json"),
        (b"img_url=x", "multipart/form-data"),
        (b"img_url=x", "multipart/form-data; boundary=b"),
        (b"img_url=x", "text/plain"),
    ],
)
async def test_unreadable_body(client: httpx.AsyncClient, content: bytes, content_type: str) -> None:
    """A body that cannot be read is the same as a missing field."""
    reply = await client.post("/image_recog", content=content, headers={"content-type": content_type})
    assert reply.status_code == 200
    assert reply.content == MISSING_FIELD


@pytest.mark.parametrize("name", ["", "x" * (MAX_NAME_LENGTH + 1), "a\nb", "a\x00b"])
async def test_impossible_names(client: httpx.AsyncClient, empty_list: None, people: Path, name: str) -> None:
    """Names that cannot be shown are refused with a sentence and not stored."""
    reply = await client.post("/add_face", json={"face_name": name, "img_base64": text(people / "obama" / "obama.jpg")})
    assert reply.json()["code"] == 500
    assert "face_name" in reply.json()["msg"]
    assert (await client.post("/get_face_list")).json()["face_list"] == []


async def test_one_name_added_at_once(client: httpx.AsyncClient, empty_list: None, people: Path) -> None:
    """Of several requests for one name at the same time exactly one gets it."""
    answers = await asyncio.gather(*(add(client, "obama", people / "obama" / "obama.jpg") for _ in range(4)))
    assert sorted(answer["code"] for answer in answers) == [-2, -2, -2, 200]
    assert (await client.post("/get_face_list")).json()["face_list"] == ["obama"]


async def test_a_receiver_is_told_of_a_new_face(client: httpx.AsyncClient, empty_list: None, people: Path) -> None:
    """With ``grpc_address`` one callback: task -1, the name, and the aligned face as a JPEG of 112 by 112."""
    receiver = GrpcReceiver()
    await receiver.come_back()
    form = {"face_name": "奥巴马", "img_base64": text(people / "obama" / "obama.jpg"), "grpc_address": f"127.0.0.1:{receiver.port}"}
    reply = await client.post("/add_face", data=form)
    assert reply.content == b'{"code":200,"face_list":["\\u5965\\u5df4\\u9a6c"]}\n'
    await until(lambda: receiver.requests)
    taken = await client.post("/add_face", data=form)
    assert taken.json()["code"] == -2
    await asyncio.sleep(0.1)
    await receiver.leave()
    (request,) = receiver.requests
    assert (request.task_id, request.result_type, request.callback_type) == ("-1", "1", "1")
    assert request.analysis_result.isascii()
    told = json.loads(request.analysis_result)
    assert set(told) == {"face_img_base64", "face_name"}
    assert told["face_name"] == "奥巴马"
    with Image.open(io.BytesIO(base64.b64decode(told["face_img_base64"]))) as crop:
        assert (crop.format, crop.size) == ("JPEG", (112, 112))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "no-port", "169.254.169.254:50051", "10.255.255.1:50051"])
async def test_a_receiver_that_is_not_there_holds_up_nothing(
    client: httpx.AsyncClient, empty_list: None, people: Path, address: str
) -> None:
    """The face is added and answered as ever, at once: a callback that fails is only logged."""
    form = {"face_name": "obama", "img_base64": text(people / "obama" / "obama.jpg")}
    began = time.monotonic()
    reply = await client.post("/add_face", data={**form, "grpc_address": address})
    assert reply.content == b'{"code":200,"face_list":["obama"]}\n'
    assert time.monotonic() - began < 2.0


async def test_orientation_is_applied(client: httpx.AsyncClient, empty_list: None, people: Path, tmp_path: Path) -> None:
    """A photo stored on its side with an EXIF orientation is enrolled upright and matches the original."""
    upright = people / "obama" / "obama.jpg"
    turned = tmp_path / "turned.jpg"
    with Image.open(upright) as picture:
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.convert("RGB").rotate(90, expand=True).save(turned, exif=exif, quality=95)
    assert (await add(client, "obama", turned))["code"] == 200
    reply = await client.post("/image_recog", json={"img_base64": text(upright)})
    (face,) = reply.json()["face_data"]
    assert face["name"] == "obama"
    assert face["conf"] > 0.8


async def test_nothing_blocks_the_event_loop(client: httpx.AsyncClient, empty_list: None, people: Path) -> None:
    """Adding, recognising, listing and removing do all blocking work elsewhere."""
    with blockbuster_ctx("face_server"):
        assert (await add(client, "obama", people / "obama" / "obama.jpg"))["code"] == 200
        picture = {"img_base64": await asyncio.to_thread(text, people / "obama" / "obama2.jpg")}
        assert (await client.post("/image_recog", data=picture)).json()["face_data"][0]["name"] == "obama"
        assert (await client.post("/get_face_list")).json()["face_list"] == ["obama"]
        assert (await client.request("DELETE", "/del_face", data={"face_name": "obama"})).json()["code"] == 200


async def test_wrong_method_and_unknown_path(client: httpx.AsyncClient) -> None:
    """Only here does the status speak: 405 and 404."""
    assert (await client.get("/image_recog")).status_code == 405
    assert (await client.post("/del_face", data={"face_name": "a"})).status_code == 405


async def test_json_is_ascii(client: httpx.AsyncClient, empty_list: None) -> None:
    """Whatever a message holds, the body is ASCII."""
    reply = await client.request("DELETE", "/del_face", json={"face_name": "王五 😀"})
    assert reply.content.isascii()
    assert json.loads(reply.content)["msg"] == "face_name 王五 😀 not in face list"
