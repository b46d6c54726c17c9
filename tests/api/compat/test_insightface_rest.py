"""Every form of InsightFace-REST's answers: keys, their order, types, and the same numbers by every way in."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import httpx
import msgpack
import numpy as np
import pytest
from blockbuster import blockbuster_ctx

from face_server.api.compat.insightface_schemas import LARGEST_MAX_SIZE_PX
from face_server.api.services import Services

pytestmark = pytest.mark.asyncio(loop_scope="module")

CURRENT_KEYS = ["bbox", "prob", "num_det", "scale", "norm", "vec", "gender", "age", "mask", "mask_probs", "size"]
DETECTION_KEYS = ["bbox", "prob", "num_det", "scale", "size"]
EARLY_KEYS = ["status", "vec", "det", "prob", "bbox", "norm", "gender", "age", "mask_prob"]
CROP_KEYS = ["norm", "vec", "gender", "age", "mask", "mask_probs", "bbox", "size", "prob", "status"]
NOT_INSTALLED = {"gender": None, "age": None, "mask": None, "mask_probs": None}


@pytest.fixture(scope="module")
def six_faces(scenes: Path) -> bytes:
    """A photo of six people."""
    return (scenes / "friends_six_faces.jpg").read_bytes()


def text(data: bytes) -> str:
    """Base64 as clients send it."""
    return base64.b64encode(data).decode("ascii")


async def extract(client: httpx.AsyncClient, *pictures: bytes, **fields: Any) -> Any:
    """``/extract`` by JSON; fails the test unless it is answered with 200."""
    reply = await client.post("/extract", json={"images": {"data": [text(one) for one in pictures]}, **fields})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/json"
    return reply.json()


async def test_current_form(client: httpx.AsyncClient, six_faces: bytes) -> None:
    """The current form has the reference's keys in its order, integers for places and floats for measures."""
    answer = await extract(client, six_faces)
    assert list(answer) == ["took", "data"]
    assert list(answer["took"]) == ["total_ms"]
    assert isinstance(answer["took"]["total_ms"], float)
    (image,) = answer["data"]
    assert list(image) == ["status", "took_ms", "faces"]
    assert image["status"] == "ok"
    assert isinstance(image["took_ms"], float)
    assert len(image["faces"]) == 6
    for index, face in enumerate(image["faces"]):
        assert list(face) == CURRENT_KEYS
        assert [type(value) for value in face["bbox"]] == [int] * 4
        assert isinstance(face["prob"], float)
        assert 0.6 <= face["prob"] <= 1
        assert face["num_det"] == index
        assert isinstance(face["scale"], float)
        assert isinstance(face["size"], int)
        assert abs(face["size"] - (face["bbox"][2] - face["bbox"][0])) <= 1
        assert isinstance(face["norm"], float)
        assert all(isinstance(value, float) for value in face["vec"])
        assert np.linalg.norm(face["vec"]) == pytest.approx(1, abs=1e-5)
        assert {key: face[key] for key in NOT_INSTALLED} == NOT_INSTALLED
    scores = [face["prob"] for face in image["faces"]]
    assert scores == sorted(scores, reverse=True)


async def test_boxes_are_pixels_of_the_picture(client: httpx.AsyncClient, biden: bytes) -> None:
    """A picture sent at double size has its box at double coordinates, and says at what scale detection saw it."""
    pixels = cv2.imdecode(np.frombuffer(biden, np.uint8), cv2.IMREAD_COLOR)
    doubled = cv2.imencode(".png", cv2.resize(pixels, None, fx=2, fy=2))[1].tobytes()
    answer = await extract(client, biden, doubled)
    small, large = (image["faces"][0] for image in answer["data"])
    np.testing.assert_allclose(np.array(large["bbox"]), 2 * np.array(small["bbox"]), atol=0.06 * large["size"])
    long_side = max(pixels.shape[:2])
    assert small["scale"] == pytest.approx(min(1, 640 / long_side))
    assert large["scale"] == pytest.approx(min(1, 640 / (2 * long_side)))


async def test_landmarks_and_face_data(client: httpx.AsyncClient, biden: bytes) -> None:
    """Landmarks are five integer points inside the box; face data is the aligned crop as base64 JPEG."""
    answer = await extract(client, biden, return_landmarks=True, return_face_data=True)
    (face,) = answer["data"][0]["faces"]
    assert list(face) == ["bbox", "landmarks", "prob", "num_det", "scale", "facedata", *CURRENT_KEYS[4:]]
    assert np.shape(face["landmarks"]) == (5, 2)
    assert all(isinstance(value, int) for point in face["landmarks"] for value in point)
    x1, y1, x2, y2 = face["bbox"]
    assert all(x1 < x < x2 and y1 < y < y2 for x, y in face["landmarks"])
    jpeg = base64.b64decode(face["facedata"], validate=True)
    assert jpeg[:3] == b"\xff\xd8\xff"
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (112, 112, 3)


async def test_keys_without_embedding(client: httpx.AsyncClient, biden: bytes) -> None:
    """With nothing but detection asked for, the embedding's keys are absent; with attributes asked for they are null."""
    bare = await extract(client, biden, extract_embedding=False)
    assert list(bare["data"][0]["faces"][0]) == DETECTION_KEYS
    attributes = await extract(client, biden, extract_embedding=False, extract_ga=True, detect_masks=True)
    face = attributes["data"][0]["faces"][0]
    assert list(face) == CURRENT_KEYS
    assert face["norm"] is None
    assert face["vec"] is None
    crop = await extract(client, biden, extract_embedding=False, return_face_data=True)
    assert list(crop["data"][0]["faces"][0]) == ["bbox", "prob", "num_det", "scale", "facedata", "size"]


async def test_verbose_timings(client: httpx.AsyncClient, biden: bytes) -> None:
    """The stages' timings appear only when asked for."""
    took = (await extract(client, biden, verbose_timings=True))["took"]
    assert list(took) == ["total_ms", "read_imgs_ms", "embed_all_ms"]
    assert took["total_ms"] >= took["read_imgs_ms"] > 0
    assert took["embed_all_ms"] > 0


async def test_failed_picture_fails_alone(client: httpx.AsyncClient, biden: bytes) -> None:
    """A picture that cannot be read is a failed entry with one sentence, between pictures that worked."""
    answer = await extract(client, biden, b"no picture at all", biden)
    first, failed, last = answer["data"]
    assert first["faces"][0]["bbox"] == last["faces"][0]["bbox"]
    assert list(failed) == ["status", "took_ms", "faces", "traceback"]
    assert (failed["status"], failed["took_ms"], failed["faces"]) == ("failed", 0.0, [])
    assert "Traceback" not in failed["traceback"]
    assert "\n" not in failed["traceback"]
    assert "File " not in failed["traceback"]


async def test_limit_faces_keeps_the_largest(client: httpx.AsyncClient, six_faces: bytes) -> None:
    """``limit_faces`` keeps the faces of largest area, largest first."""
    every = (await extract(client, six_faces))["data"][0]["faces"]
    kept = (await extract(client, six_faces, limit_faces=3))["data"][0]["faces"]
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (face["bbox"] for face in kept)]
    assert areas == sorted(areas, reverse=True)
    assert [face["num_det"] for face in kept] == [0, 1, 2]
    all_areas = sorted(((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (face["bbox"] for face in every)), reverse=True)
    assert areas == all_areas[:3]


async def test_min_face_size_keeps_faces_with_their_picture(client: httpx.AsyncClient, six_faces: bytes, biden: bytes) -> None:
    """Small faces are dropped from their own picture, whatever the others of the request hold."""
    alone = [(await extract(client, picture))["data"][0]["faces"] for picture in (six_faces, biden)]
    sizes = sorted(face["size"] for face in alone[0])
    limit = sizes[3] + 1
    together = (await extract(client, six_faces, biden, six_faces, min_face_size=limit))["data"]
    assert [face["bbox"] for face in together[0]["faces"]] == [face["bbox"] for face in alone[0] if face["size"] >= limit]
    assert 0 < len(together[0]["faces"]) < 6
    assert [face["bbox"] for face in together[1]["faces"]] == [face["bbox"] for face in alone[1]]
    assert together[2]["faces"] == together[0]["faces"]


async def test_threshold(client: httpx.AsyncClient, six_faces: bytes) -> None:
    """Faces below the threshold are left out; null means the default."""
    faces = (await extract(client, six_faces, threshold=None))["data"][0]["faces"]
    middle = faces[2]["prob"]
    kept = (await extract(client, six_faces, threshold=middle - 1e-6))["data"][0]["faces"]
    assert [face["bbox"] for face in kept] == [face["bbox"] for face in faces if face["prob"] >= middle]


async def test_early_form(client: httpx.AsyncClient, six_faces: bytes) -> None:
    """``api_ver`` 1 answers a list a picture, floats for boxes, an empty list for a bad picture."""
    answer = await extract(client, six_faces, b"broken", api_ver="1", max_size=[640, 480])
    assert isinstance(answer, list)
    faces, failed = answer
    assert failed == []
    assert len(faces) == 6
    for index, face in enumerate(faces):
        assert list(face) == EARLY_KEYS
        assert face["status"] == "Ok"
        assert face["det"] == index
        assert [type(value) for value in face["bbox"]] == [float] * 4
        assert np.linalg.norm(face["vec"]) == pytest.approx(1, abs=1e-5)
        assert face["mask_prob"] is None
    extended = await extract(client, six_faces, api_ver=1, return_landmarks=True, return_face_data=True, extract_embedding=False)
    face = extended[0][0]
    assert list(face) == [*EARLY_KEYS, "landmarks", "facedata"]
    assert face["vec"] is None
    assert face["norm"] is None
    assert all(isinstance(value, float) for point in face["landmarks"] for value in point)


async def test_second_version_is_the_current_form(client: httpx.AsyncClient, biden: bytes) -> None:
    """``api_ver`` 2 answers in the current form."""
    answer = await extract(client, biden, api_ver="2")
    assert list(answer) == ["took", "data"]
    assert list(answer["data"][0]["faces"][0]) == CURRENT_KEYS


async def test_max_size(client: httpx.AsyncClient, six_faces: bytes) -> None:
    """An early request's ``max_size`` sets the resolution of detection; 0 stands for the largest; without api_ver it is ignored."""
    pixels = cv2.imdecode(np.frombuffer(six_faces, np.uint8), cv2.IMREAD_COLOR)
    long_side = max(pixels.shape[:2])
    for size, expected in ((320, 320), (0, LARGEST_MAX_SIZE_PX)):
        face = (await extract(client, six_faces, api_ver="2", max_size=[size, size]))["data"][0]["faces"][0]
        assert face["scale"] == pytest.approx(min(1, expected / long_side))
    ignored = (await extract(client, six_faces, max_size=[320, 320]))["data"][0]["faces"][0]
    assert ignored["scale"] == pytest.approx(min(1, 640 / long_side))


async def test_embed_only(client: httpx.AsyncClient, biden: bytes) -> None:
    """``embed_only`` has its own form; the crop that was returned embeds to what the picture embedded to."""
    whole = (await extract(client, biden, return_face_data=True))["data"][0]["faces"][0]
    crop = base64.b64decode(whole["facedata"])
    answer = await extract(client, crop, b"broken", embed_only=True)
    assert list(answer) == ["took_ms", "data", "status"]
    assert isinstance(answer["took_ms"], float)
    assert answer["status"] == "ok"
    good, bad = answer["data"]
    assert list(good) == ["status", "took_ms", "faces"]
    assert good["status"] == bad["status"] == "ok"
    assert good["took_ms"] == 0
    (face,) = good["faces"]
    assert list(face) == CROP_KEYS
    assert face["bbox"] == [0, 0, 112, 112]
    assert (face["size"], face["prob"], face["status"]) == (112, 1.0, "ok")
    assert float(np.dot(face["vec"], whole["vec"])) > 0.98
    assert list(bad["faces"][0]) == ["status", "traceback"]
    assert bad["faces"][0]["status"] == "failed"
    early = await extract(client, crop, b"broken", embed_only=True, api_ver="1")
    assert [len(faces) for faces in early] == [1, 0]
    assert list(early[0][0]) == EARLY_KEYS
    assert early[0][0]["bbox"] == [0.0, 0.0, 112.0, 112.0]
    np.testing.assert_allclose(early[0][0]["vec"], face["vec"], atol=1e-6)


async def test_every_way_in_gives_the_same_embedding(client: httpx.AsyncClient, biden: bytes) -> None:
    """JSON, a data: prefix, msgpack with bytes and the early form embed one picture to one vector."""
    by_json = (await extract(client, biden))["data"][0]["faces"][0]["vec"]
    prefixed = await client.post("/extract", json={"images": {"data": [f"data:image/jpeg;base64,{text(biden)}"]}})
    early = await extract(client, biden, api_ver="1")
    packed = await client.post(
        "/extract",
        content=msgpack.packb({"images": {"data": [biden, text(biden)]}}),
        headers={"content-type": "application/msgpack", "accept": "application/x-msgpack"},
    )
    unpacked = msgpack.unpackb(packed.content)["data"]
    for vector in (
        prefixed.json()["data"][0]["faces"][0]["vec"],
        early[0][0]["vec"],
        unpacked[0]["faces"][0]["vec"],
        unpacked[1]["faces"][0]["vec"],
    ):
        np.testing.assert_allclose(vector, by_json, atol=1e-6)


@pytest.mark.parametrize(
    ("content_type", "accept", "field", "packed"),
    [
        ("application/msgpack", "application/x-msgpack", False, True),
        ("application/x-msgpack", "*/*", True, True),
        ("application/msgpack", "*/*", False, False),
        ("application/json", "application/x-msgpack", False, True),
        ("application/json", "application/json", True, True),
        ("application/json", None, False, False),
        ("application/json; charset=utf-8", None, True, True),
    ],
)
async def test_msgpack_negotiation(
    client: httpx.AsyncClient, biden: bytes, content_type: str, accept: str | None, field: bool, packed: bool
) -> None:
    """The content type decides how the body is read; the field or the Accept header, which may be missing, how it is answered."""
    body = {"images": {"data": [text(biden)]}, "msgpack": field, "extract_embedding": False}
    content = msgpack.packb(body) if "msgpack" in content_type else json.dumps(body).encode()
    request = client.build_request("POST", "/extract", content=content, headers={"content-type": content_type})
    del request.headers["accept"]
    if accept is not None:
        request.headers["accept"] = accept
    reply = await client.send(request)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == ("application/x-msgpack" if packed else "application/json")
    answer = msgpack.unpackb(reply.content) if packed else reply.json()
    assert list(answer["data"][0]["faces"][0]) == DETECTION_KEYS


async def test_msgpack_floats_are_single_precision(client: httpx.AsyncClient, biden: bytes) -> None:
    """An answer in msgpack carries 32-bit floats: five bytes a value of the embedding."""
    reply = await client.post("/extract", json={"images": {"data": [text(biden)]}, "msgpack": True})
    face = msgpack.unpackb(reply.content)["data"][0]["faces"][0]
    start = reply.content.index(b"\xa3vec") + 4
    head = 3 if len(face["vec"]) > 15 else 1
    assert set(reply.content[start + head : start + head + 5 * len(face["vec"]) : 5]) == {0xCA}


async def test_no_pictures(client: httpx.AsyncClient) -> None:
    """No pictures are no mistake: the answer has no entries."""
    for images in ({"data": []}, {"urls": []}, {}):
        reply = await client.post("/extract", json={"images": images})
        assert reply.status_code == 200
        assert reply.json()["data"] == []


async def test_many_faces_are_written_off_the_event_loop(client: httpx.AsyncClient, six_faces: bytes) -> None:
    """A request with dozens of faces is answered in the same form, crops included."""
    answer = await extract(client, *[six_faces] * 6, return_face_data=True)
    assert [len(image["faces"]) for image in answer["data"]] == [6] * 6
    assert all("facedata" in face for image in answer["data"] for face in image["faces"])


async def test_nothing_blocks_the_event_loop(client: httpx.AsyncClient, six_faces: bytes) -> None:
    """Small and large requests, drawing and the health check do all blocking work elsewhere."""
    with blockbuster_ctx("face_server"):
        await extract(client, six_faces, return_face_data=True)
        await extract(client, *[six_faces] * 4, api_ver="1")
        assert (await client.post("/draw_detections", json={"images": {"data": [text(six_faces)]}})).status_code == 200
        assert (await client.post("/multipart/draw_detections", files={"file": six_faces})).status_code == 200
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("path", ["/draw_detections", "/multipart/draw_detections"])
async def test_draw_detections(client: httpx.AsyncClient, six_faces: bytes, path: str) -> None:
    """Drawing answers a JPEG of the picture's own size that says so, with the faces marked and nothing else changed much."""
    if path.startswith("/multipart"):
        reply = await client.post(path, files={"file": ("six.jpg", six_faces, "image/jpeg")}, data={"threshold": "0.6"})
        plain = await client.post(path, files={"file": ("six.jpg", six_faces)}, data={"threshold": "1.0"})
    else:
        reply = await client.post(path, json={"images": {"data": [text(six_faces)]}})
        plain = await client.post(path, json={"images": {"data": [text(six_faces)]}, "threshold": 1.0})
    assert reply.status_code == plain.status_code == 200, reply.text
    assert reply.headers["content-type"] == "image/jpeg"
    original, drawn, undrawn = (
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (six_faces, reply.content, plain.content)
    )
    assert drawn.shape == original.shape == undrawn.shape
    above = slice(0, int(0.9 * original.shape[0]))
    marked = np.abs(drawn[above].astype(int) - original[above]).max(axis=2) > 60
    unmarked = np.abs(undrawn[above].astype(int) - original[above]).max(axis=2) > 60
    assert 0.0005 < marked.mean() < 0.2
    assert unmarked.mean() < 0.0005


async def test_draw_options(client: httpx.AsyncClient, six_faces: bytes) -> None:
    """What is switched off is not drawn: every option changes the picture."""
    body = {"images": {"data": [text(six_faces)]}}
    smallest = min(face["size"] for face in (await extract(client, six_faces))["data"][0]["faces"])
    pictures = {(await client.post("/draw_detections", json=body)).content}
    for change in (
        {"draw_landmarks": False},
        {"draw_scores": False},
        {"draw_sizes": False},
        {"limit_faces": 2},
        {"min_face_size": smallest + 1},
    ):
        pictures.add((await client.post("/draw_detections", json=body | change)).content)
    assert len(pictures) == 6


async def test_draw_takes_msgpack(client: httpx.AsyncClient, biden: bytes) -> None:
    """A drawing may be asked for with raw bytes in msgpack."""
    body = msgpack.packb({"images": {"data": [biden]}})
    reply = await client.post("/draw_detections", content=body, headers={"content-type": "application/msgpack"})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "image/jpeg"


async def test_info(client: httpx.AsyncClient, services: Services) -> None:
    """``/info`` has the reference's keys, the truth about this server, and no secrets."""
    info = (await client.get("/info")).json()
    assert list(info) == ["version", "tensorrt_version", "log_level", "models", "defaults"]
    assert list(info["models"]) == [
        "inference_backend",
        "det_name",
        "rec_name",
        "max_size",
        "ga_name",
        "mask_detector",
        "rec_batch_size",
        "det_batch_size",
        "force_fp16",
        "triton_uri",
    ]
    assert list(info["defaults"]) == [
        "return_face_data",
        "return_landmarks",
        "extract_embedding",
        "extract_ga",
        "detect_masks",
        "det_thresh",
        "img_req_headers",
        "sslv3_hack",
    ]
    assert info["models"]["det_name"] == services.detector.name
    assert info["models"]["rec_name"] == services.embedder.name
    assert info["models"]["max_size"] == [640, 640]
    assert info["defaults"]["img_req_headers"] == {}


async def test_health(client: httpx.AsyncClient) -> None:
    """``/health`` runs the networks and says ok."""
    reply = await client.get("/health")
    assert (reply.status_code, reply.json()) == (200, {"status": "ok"})
