"""Streams over HTTP: registering, changing, looking, and what is refused."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import pytest_asyncio

from face_server.api.services import Cameras
from face_server.settings import Settings, StreamSettings
from tests.api.conftest import serving
from tests.sinks.receivers import GrpcReceiver, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "geheim%21"
DEAD = "rtsp://127.0.0.1:9/nothing"
TRIANGLE = [[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_left(client: httpx.AsyncClient) -> AsyncIterator[None]:
    """Each test begins without streams."""
    yield
    for stream in (await client.get("/v1/streams")).json()["streams"]:
        assert (await client.delete(f"/v1/streams/{stream['id']}")).status_code == 204


async def until(look: Callable[[], Awaitable[Any]], timeout_s: float = 15.0) -> Any:
    """What ``look`` returns as soon as that is something."""
    async with asyncio.timeout(timeout_s):
        while not (found := await look()):  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)
        return found


async def listed(client: httpx.AsyncClient) -> list[str]:
    """Ids of all streams."""
    return [stream["id"] for stream in (await client.get("/v1/streams")).json()["streams"]]


async def running(client: httpx.AsyncClient, stream_id: str) -> dict[str, Any]:
    """The stream once frames of it were analysed."""

    async def look() -> dict[str, Any] | None:
        stream: dict[str, Any] = (await client.get(f"/v1/streams/{stream_id}")).json()
        return stream if stream["status"]["analysed"] > 0 and stream["status"]["state"] == "running" else None

    found: dict[str, Any] = await until(look)
    return found


class TestLife:
    """From registering to removing."""

    async def test_a_camera_is_watched(self, client: httpx.AsyncClient, live_url: str) -> None:
        """It is registered at once, runs by itself, shows what it sees, and is gone when removed."""
        created = await client.post("/v1/streams", json={"id": "stage", "url": live_url, "name": "Stage"})
        assert created.status_code == 201
        assert (created.json()["collections"], created.json()["rules"]["max_fps"]) == (["default"], 5.0)
        stream = await running(client, "stage")
        assert (stream["status"]["state"], stream["status"]["connected"]) == ("running", True)
        assert (stream["status"]["width"], stream["status"]["height"], stream["status"]["codec"]) == (640, 360, "h264")
        for annotated in ("true", "false"):
            snapshot = await client.get("/v1/streams/stage/snapshot.jpg", params={"annotated": annotated})
            assert snapshot.headers["content-type"] == "image/jpeg"
            assert snapshot.headers["cache-control"] == "no-store"
            assert cv2.imdecode(np.frombuffer(snapshot.content, np.uint8), cv2.IMREAD_COLOR).shape == (360, 640, 3)
        assert (await client.delete("/v1/streams/stage")).status_code == 204
        assert (await client.get("/v1/streams/stage")).status_code == 404
        assert await listed(client) == []

    async def test_rules_change_while_it_runs(self, client: httpx.AsyncClient, live_url: str) -> None:
        """What is patched changes, the rest stays, and so does the connection; a new source is a new connection."""
        await client.post("/v1/streams", json={"id": "stage", "url": live_url, "rules": {"max_fps": 4, "regions": [TRIANGLE]}})
        before = await running(client, "stage")
        patched = await client.patch("/v1/streams/stage", json={"name": "Bühne", "rules": {"max_fps": 2, "threshold": 0.7}})
        rules = patched.json()["rules"]
        assert (patched.json()["name"], rules["max_fps"], rules["threshold"], rules["regions"]) == ("Bühne", 2, 0.7, [TRIANGLE])
        nulled = await client.patch("/v1/streams/stage", json={"rules": {"threshold": None}})
        assert nulled.json()["rules"]["threshold"] is None
        assert nulled.json()["status"]["state"] == "running"
        assert nulled.json()["status"]["decoded"] >= before["status"]["decoded"]
        elsewhere = await client.patch("/v1/streams/stage", json={"url": DEAD})
        assert elsewhere.json()["rules"]["max_fps"] == 2

    async def test_switching_off_and_on(self, client: httpx.AsyncClient, live_url: str) -> None:
        """A stream that is off says so, has no picture, cannot be restarted, and runs again when switched on."""
        await client.post("/v1/streams", json={"id": "stage", "url": live_url, "enabled": False})
        assert (await client.get("/v1/streams/stage")).json()["status"]["state"] == "stopped"
        for path in ("snapshot.jpg", "preview.mjpeg"):
            answer = await client.get(f"/v1/streams/stage/{path}")
            assert (answer.status_code, answer.json()["code"]) == (503, "no_picture")
            assert int(answer.headers["retry-after"]) >= 1
        refused = await client.post("/v1/streams/stage/restart")
        assert (refused.status_code, refused.json()["code"]) == (409, "stream_disabled")
        assert (await client.patch("/v1/streams/stage", json={"enabled": True})).json()["enabled"] is True
        await running(client, "stage")
        stopped = await client.patch("/v1/streams/stage", json={"enabled": False})
        assert stopped.json()["status"]["state"] == "stopped"

    async def test_put_makes_it_so(self, client: httpx.AsyncClient) -> None:
        """It creates with 201, replaces with 200, goes back to defaults where nothing is said, and keeps the date."""
        body = {"url": DEAD, "name": "A", "rules": {"max_fps": 2}}
        first = await client.put("/v1/streams/door", json=body)
        assert first.status_code == 201
        second = await client.put("/v1/streams/door", json={"url": DEAD})
        assert second.status_code == 200
        assert (second.json()["name"], second.json()["rules"]["max_fps"]) == ("", 5.0)
        assert second.json()["created_at"] == first.json()["created_at"]

    async def test_a_dead_camera_answers_at_once(self, client: httpx.AsyncClient) -> None:
        """Registering and restarting wait for nobody; the status says in a sentence what is wrong."""
        began = time.monotonic()
        created = await client.post("/v1/streams", json={"id": "door", "url": DEAD})
        restarted = await client.post("/v1/streams/door/restart")
        assert time.monotonic() - began < 1.0
        assert (created.status_code, restarted.status_code) == (201, 200)

        async def failed() -> dict[str, Any] | None:
            status: dict[str, Any] = (await client.get("/v1/streams/door")).json()["status"]
            return status if status["code"] else None

        status = await until(failed)
        assert status["code"] == "source_unreachable"
        assert status["reason"]
        assert "127.0.0.1" not in status["reason"]

    async def test_an_id_is_made_up(self, client: httpx.AsyncClient) -> None:
        """Whoever names none gets one."""
        created = (await client.post("/v1/streams", json={"url": DEAD})).json()["id"]
        assert await listed(client) == [created]

    async def test_ids_of_many_kinds(self, client: httpx.AsyncClient) -> None:
        """Blanks, dots and Chinese are fine in an id."""
        for stream_id in ("前门 1", "a.b@c"):
            assert (await client.post("/v1/streams", json={"id": stream_id, "url": DEAD})).status_code == 201
            assert (await client.get(f"/v1/streams/{stream_id}")).json()["id"] == stream_id

    async def test_a_probe_keeps_nothing(self, client: httpx.AsyncClient, live_url: str) -> None:
        """It says what a source shows, or why it shows nothing."""
        probed = await client.post("/v1/streams/probe", json={"url": live_url})
        assert (probed.json()["width"], probed.json()["height"], probed.json()["codec"]) == (640, 360, "h264")
        dead = await client.post("/v1/streams/probe", json={"url": DEAD})
        assert (dead.status_code, dead.json()["code"]) == (503, "source_unreachable")
        assert await listed(client) == []


class TestSecrets:
    """Credentials go in and never come out."""

    async def test_they_are_masked_everywhere(self, client: httpx.AsyncClient) -> None:
        """Neither an answer nor a status repeats a password or a secret."""
        body = {
            "id": "door",
            "url": f"rtsp://admin:{PASSWORD}@127.0.0.1:9/a",
            "detail_url": f"rtsp://admin:{PASSWORD}@127.0.0.1:9/b",
            "sinks": [{"kind": "log"}],
        }
        answers = [await client.post("/v1/streams", json=body)]
        answers += [await client.get(path) for path in ("/v1/streams", "/v1/streams/door", "/metrics")]
        answers += [await client.patch("/v1/streams/door", json={"name": "Door"})]
        assert all(answer.is_success for answer in answers)
        assert not any(PASSWORD in answer.text for answer in answers)
        assert answers[0].json()["url"] == "rtsp://***@127.0.0.1:9/a"

    async def test_what_was_shown_can_be_sent_back(self, client: httpx.AsyncClient, cameras: Cameras) -> None:
        """A masked address and secret stand for the stored ones, and for nothing else."""
        url = f"rtsp://admin:{PASSWORD}@127.0.0.1:9/a"
        receiver = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1")
        port = receiver.sockets[0].getsockname()[1]
        sink = {"kind": "webhook", "address": f"http://user:pass@127.0.0.1:{port}/", "secret": "shared"}
        created = await client.put("/v1/streams/door", json={"url": url, "sinks": [sink]})
        receiver.close()
        (shown,) = created.json()["sinks"]
        assert (shown["address"], shown["has_secret"]) == (f"http://***@127.0.0.1:{port}/", True)
        again = {"kind": "webhook", "address": shown["address"], "secret": "***"}
        await client.put("/v1/streams/door", json={"url": created.json()["url"], "name": "Door", "sinks": [again]})
        spec = cameras.streams.spec("door")
        assert (spec.url, spec.name, spec.sinks[0].address, spec.sinks[0].secret) == (url, "Door", sink["address"], "shared")
        moved = await client.patch("/v1/streams/door", json={"url": "rtsp://***@127.0.0.1:9/other"})
        assert (moved.status_code, moved.json()["field"]) == (422, "url")
        assert cameras.streams.spec("door").url == url


class TestBadInput:
    """One clear sentence that names the field; nothing half registered."""

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "url"),
            ({"url": "rtsp://"}, "url"),
            ({"url": "gopher://camera/"}, "url"),
            ({"url": "rtsp://169.254.169.254/latest"}, "url"),
            ({"url": "/etc/passwd"}, "url"),
            ({"url": "file:///etc/passwd"}, "url"),
            ({"url": "/dev/video0"}, "url"),
            ({"url": DEAD, "detail_url": "rtsp://[fe80::1]/"}, "detail_url"),
            ({"url": DEAD, "id": "a/b"}, "id"),
            ({"url": DEAD, "id": "x" * 65}, "id"),
            ({"url": DEAD, "name": "a\nb"}, "name"),
            ({"url": DEAD, "collections": ["default", "nobody"]}, "collections[1]"),
            ({"url": DEAD, "rules": {"max_fps": 121}}, "rules.max_fps"),
            ({"url": DEAD, "rules": {"max_fps": "5"}}, "rules.max_fps"),
            ({"url": DEAD, "rules": {"threshold": 1.5}}, "rules.threshold"),
            ({"url": DEAD, "rules": {"color": "red"}}, "rules.color"),
            ({"url": DEAD, "rules": {"mode": "tpu"}}, "rules.mode"),
            ({"url": DEAD, "rules": {"regions": [TRIANGLE, [[0, 0], [1, 1], [1, 0], [0, 1]]]}}, "rules.regions[1]"),
            ({"url": DEAD, "rules": {"ignore": [[[0, 0], [1, 1]]]}}, "rules.ignore[0]"),
            ({"url": DEAD, "rules": {"ignore": [[[0, 0], [1, 1], [2, 0]]]}}, "rules.ignore[0][2][0]"),
            ({"url": DEAD, "rules": {"schedule": {"windows": [{"days": [1], "begin": "25:00", "end": "06:00"}]}}}, None),
            (
                {"url": DEAD, "rules": {"schedule": {"windows": [{"days": [1], "begin": "22:00", "end": "06:00"}], "timezone": "Moon"}}},
                "rules.schedule.timezone",
            ),
            ({"url": DEAD, "rules": {"publish": True}}, "rules.publish"),
            ({"url": DEAD, "sinks": [{"kind": "log"}, {"kind": "pigeon"}]}, "sinks[1].kind"),
            ({"url": DEAD, "sinks": [{"kind": "grpc", "address": "no-port"}]}, "sinks[0].address"),
            ({"url": DEAD, "sinks": [{"kind": "webhook", "address": "http://169.254.169.254/"}]}, "sinks[0].address"),
            ({"url": DEAD, "sinks": [{"kind": "log"}, {"kind": "grpc", "address": "127.0.0.1:9", "secret": "s"}]}, "sinks[1].secret"),
            ({"url": DEAD, "surprise": 1}, "surprise"),
        ],
    )
    async def test_it_is_refused(self, client: httpx.AsyncClient, body: dict[str, Any], field: str | None) -> None:
        """By POST and by PUT."""
        for method, path in (("POST", "/v1/streams"), ("PUT", "/v1/streams/door")):
            if method == "PUT" and "id" in body:
                continue
            answer = await client.request(method, path, json=body)
            assert answer.status_code == 422, answer.text
            assert field is None or answer.json()["field"] == field
            assert len(answer.json()["detail"]) < 300
            assert "/etc/passwd" not in answer.text
        assert await listed(client) == []

    async def test_a_bad_patch_changes_nothing(self, client: httpx.AsyncClient) -> None:
        """The stream stays as it was, all of it."""
        before = (await client.put("/v1/streams/door", json={"url": DEAD, "name": "Door"})).json()
        for patch, field in (
            ({"name": "Other", "rules": {"max_fps": -1}}, "rules.max_fps"),
            ({"name": "Other", "url": "nothing://"}, "url"),
            ({"name": None}, "name"),
            ({"rules": {"publish": True}}, "rules.publish"),
            ({"collections": ["nobody"]}, "collections[0]"),
        ):
            answer = await client.patch("/v1/streams/door", json=patch)
            assert (answer.status_code, answer.json()["field"]) == (422, field)
        after = (await client.get("/v1/streams/door")).json()
        assert {name: value for name, value in after.items() if name != "status"} == {
            name: value for name, value in before.items() if name != "status"
        }

    async def test_a_taken_id(self, client: httpx.AsyncClient) -> None:
        """It is a conflict, and the first stream stays."""
        await client.post("/v1/streams", json={"id": "door", "url": DEAD, "name": "First"})
        again = await client.post("/v1/streams", json={"id": "door", "url": DEAD, "name": "Second"})
        assert (again.status_code, again.json()["code"], again.json()["field"]) == (409, "stream_exists", "id")
        assert (await client.get("/v1/streams/door")).json()["name"] == "First"

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("GET", "", None),
            ("PATCH", "", {"name": "x"}),
            ("DELETE", "", None),
            ("POST", "/restart", None),
            ("PUT", "/publish", {"publish": True}),
            ("GET", "/snapshot.jpg", None),
            ("GET", "/preview.mjpeg", None),
        ],
    )
    async def test_an_unknown_id(self, client: httpx.AsyncClient, method: str, path: str, body: Any) -> None:
        """Every route says 404."""
        answer = await client.request(method, f"/v1/streams/nobody{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


class TestReceivers:
    """Whoever should get the events must be there when they are named, and may be away later."""

    async def test_one_that_nobody_reaches_is_refused(self, client: httpx.AsyncClient) -> None:
        """At once where the port is closed, and together for several; nothing is registered."""
        sinks = [{"kind": "log"}, *({"kind": "webhook", "address": f"http://127.0.0.1:{free_port()}/{n}"} for n in range(3))]
        answer = await client.post("/v1/streams", json={"url": DEAD, "sinks": sinks})
        assert answer.status_code == 422
        assert (answer.json()["code"], answer.json()["field"]) == ("sink_unreachable", "sinks[1].address")
        assert await listed(client) == []

    async def test_one_that_is_down_later_blocks_nothing(self, client: httpx.AsyncClient) -> None:
        """Other settings change while it is away, and it is looked for again only under a new address."""
        receiver = GrpcReceiver()
        await receiver.come_back()
        sink = {"kind": "grpc", "address": f"127.0.0.1:{receiver.port}"}
        assert (await client.put("/v1/streams/door", json={"url": DEAD, "sinks": [sink]})).status_code == 201
        await receiver.leave()
        assert (await client.patch("/v1/streams/door", json={"name": "Door"})).status_code == 200
        assert (await client.put("/v1/streams/door", json={"url": DEAD, "sinks": [sink]})).status_code == 200
        more = [sink, {"kind": "grpc", "address": f"127.0.0.1:{free_port()}"}]
        refused = await client.patch("/v1/streams/door", json={"sinks": more})
        assert (refused.status_code, refused.json()["field"]) == (422, "sinks[1].address")
        assert len((await client.get("/v1/streams/door")).json()["sinks"]) == 1

    async def test_a_collection_that_went_blocks_nothing(self, client: httpx.AsyncClient) -> None:
        """A stream that names it can still be changed."""
        await client.put("/v1/collections/guests", json={})
        await client.put("/v1/streams/door", json={"url": DEAD, "collections": ["default", "guests", "default"]})
        await client.delete("/v1/collections/guests")
        patched = await client.patch("/v1/streams/door", json={"name": "Door"})
        assert (patched.status_code, patched.json()["collections"]) == (200, ["default", "guests"])


async def test_bodies_stay_small(client: httpx.AsyncClient) -> None:
    """What would take seconds to check is refused by its size, whatever it holds; nothing is registered."""
    many = json.dumps([TRIANGLE] * 10_000)
    for method, path in (("POST", "/v1/streams"), ("PUT", "/v1/streams/a"), ("POST", "/v1/streams/probe")):
        body = f'{{"url": "{DEAD}", "rules": {{"regions": {many}}}}}'
        refused = await client.request(method, path, content=body, headers={"content-type": "application/json"})
        assert (refused.status_code, refused.json()["code"]) == (413, "input_too_large"), path
        assert "262144" in refused.json()["detail"]
    for method, path in (("POST", "/add_source"), ("POST", "/source_status"), ("DELETE", "/stream/pipe")):
        refused = await client.request(method, path, json=["1" * 50] * 30_000)
        assert (refused.json()["code"], "1048576" in refused.json()["msg"]) == (500, True), path
    assert await listed(client) == []


class TestOperators:
    """What whoever starts the server allows."""

    async def test_files_and_limits(self, data: Path, shared: Path, tmp_path: Path) -> None:
        """Files play from named folders only; the limit of streams is a 503 that states it; the address to publish to stays hidden."""
        videos = shared / "data" / "videos"
        secret = "rtmp://user:hidden@127.0.0.1:9/live/{id}"
        settings = Settings(data=_fresh(data, tmp_path), streams=StreamSettings(media=(videos,), max_streams=2, publish_url=secret))
        async with serving(settings) as client:
            probed = await client.post("/v1/streams/probe", json={"url": "stage_360p.mp4"})
            assert (probed.status_code, probed.json()["width"]) == (200, 640)
            outside = await client.post("/v1/streams", json={"url": str(shared / "data" / "README.md")})
            assert (outside.status_code, outside.json()["code"]) == (422, "source_forbidden")
            first = await client.post("/v1/streams", json={"id": "a", "url": DEAD, "rules": {"publish": True}})
            assert first.status_code == 201
            assert (await client.put("/v1/streams/a/publish", json={"publish": False})).json()["rules"]["publish"] is False
            assert (await client.post("/v1/streams", json={"id": "b", "url": DEAD})).status_code == 201
            for method, path in (("POST", "/v1/streams"), ("PUT", "/v1/streams/c")):
                full = await client.request(method, path, json={"url": DEAD})
                assert (full.status_code, full.json()["code"]) == (503, "too_many_streams")
                assert "2 streams" in full.json()["detail"]
            everything = json.dumps([(await client.get(path)).text for path in ("/v1/streams", "/metrics", "/v1/info")])
            assert "hidden" not in everything

    async def test_loopback_is_for_servers_on_loopback(self, data: Path, tmp_path: Path) -> None:
        """A server that others reach does not lead them to what listens on its machine alone; a name for it is refused like its address."""
        settings = Settings(data=_fresh(data, tmp_path), host="0.0.0.0", allow_anonymous=True)
        async with serving(settings) as client:
            for url in ("rtsp://127.0.0.1/", "http://localhost:8080/", "rtsp://[::1]/", "rtsp://2130706433/"):
                refused = await client.post("/v1/streams", json={"url": url})
                assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (422, "source_forbidden", "url"), url
            assert await listed(client) == []

    async def test_streams_survive_the_server(self, data: Path, tmp_path: Path) -> None:
        """What was registered is there after a restart, in the same order, with its rules, running where it should."""
        settings = Settings(data=_fresh(data, tmp_path))
        async with serving(settings) as client:
            for name, enabled in (("b", True), ("a", False)):
                await client.put(f"/v1/streams/{name}", json={"url": DEAD, "enabled": enabled, "rules": {"max_fps": 3}})
        async with serving(settings) as client:
            assert await listed(client) == ["b", "a"]
            kept = {stream["id"]: stream for stream in (await client.get("/v1/streams")).json()["streams"]}
            assert kept["b"]["rules"]["max_fps"] == 3
            assert kept["b"]["status"]["state"] != "stopped"
            assert kept["a"]["status"]["state"] == "stopped"

    async def test_what_is_forbidden_by_now_can_be_switched_off(self, data: Path, shared: Path, tmp_path: Path) -> None:
        """A stream whose folder is not allowed any more says so, and may be renamed and switched off, but not on."""
        folder, videos = _fresh(data, tmp_path), shared / "data" / "videos"
        async with serving(Settings(data=folder, streams=StreamSettings(media=(videos,)))) as client:
            assert (await client.put("/v1/streams/film", json={"url": "stage_360p.mp4"})).status_code == 201
        async with serving(Settings(data=folder)) as client:
            status = (await client.get("/v1/streams/film")).json()["status"]
            assert (status["state"], status["code"]) == ("failed", "source_forbidden")
            off = await client.patch("/v1/streams/film", json={"enabled": False, "name": "Film"})
            assert (off.status_code, off.json()["name"]) == (200, "Film")
            on = await client.patch("/v1/streams/film", json={"enabled": True})
            assert (on.status_code, on.json()["field"]) == (422, "url")


def _fresh(data: Path, folder: Path) -> Path:
    (folder / "models").symlink_to(data / "models")
    return folder
