"""The face server's routes for cameras: exact bodies, codes and messages, and what its clients send."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from pydantic import SecretStr

from face_server.api.services import Cameras
from face_server.domain.streams import FramePolicy, Mode, StreamRules
from face_server.settings import Settings, StreamSettings
from tests.api.conftest import serving
from tests.sinks.receivers import GrpcReceiver, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEAD = "rtsp://127.0.0.1:9/nothing"
MISSING_FIELD = b'{"code":500,"msg":"400 Bad Request: The browser (or proxy) sent a request that this server could not understand."}\n'


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def no_tasks(client: httpx.AsyncClient) -> AsyncIterator[None]:
    """Each test begins without tasks."""
    yield
    for task in (await client.post("/get_source_list")).json()["source_list"]:
        await client.request("DELETE", "/remove_source", data={"task_id": task})


@pytest_asyncio.fixture(loop_scope="module")
async def receiver() -> AsyncIterator[GrpcReceiver]:
    """Somebody who serves the callback."""
    receiver = GrpcReceiver()
    await receiver.come_back()
    yield receiver
    await receiver.leave()


async def add(client: httpx.AsyncClient, task: str = "1", **more: str) -> bytes:
    """``/add_source`` as curl -F sends it."""
    form = {"task_id": task, "rtsp_url": DEAD, **more}
    reply = await client.post("/add_source", files={name: (None, value) for name, value in form.items()})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    return reply.content


def rules(cameras: Cameras, task: str = "1") -> StreamRules:
    """The rules of a task."""
    return cameras.streams.spec(task).rules


class TestAnswers:
    """Byte by byte as the original."""

    async def test_adding_and_listing(self, client: httpx.AsyncClient) -> None:
        """The list has every task in the order of adding; a taken id is 11001 and changes nothing."""
        assert (await client.post("/get_source_list")).content == b'{"code":200,"source_list":[]}\n'
        assert await add(client, "2") == b'{"code":200,"source_list":["2"]}\n'
        assert await add(client, "1") == b'{"code":200,"source_list":["2","1"]}\n'
        assert await add(client, "2") == b'{"code":11001,"msg":"duplicate task id 2","source_list":["2","1"]}\n'
        assert await add(client, "前门") == b'{"code":200,"source_list":["2","1","\\u524d\\u95e8"]}\n'
        assert (await client.post("/get_source_list")).content == b'{"code":200,"source_list":["2","1","\\u524d\\u95e8"]}\n'

    async def test_removing(self, client: httpx.AsyncClient) -> None:
        """An unknown id is 200 with a message."""
        await add(client)
        removed = await client.request("DELETE", "/remove_source", data={"task_id": "1"})
        assert removed.content == b'{"code":200,"source_list":[]}\n'
        again = await client.request("DELETE", "/remove_source", data={"task_id": "1"})
        assert again.content == b'{"code":200,"msg":"can not find task id 1","source_list":[]}\n'

    async def test_status(self, client: httpx.AsyncClient) -> None:
        """``data`` is JSON in a string, written with blanks; a new task has a minute on credit, an unknown one is false."""
        await add(client)
        reply = await client.post("/source_status", json=["1", "2"])
        assert reply.content == b'{"code":200,"data":"{\\"1\\": true, \\"2\\": false}"}\n'
        assert (await client.post("/source_status", json=[1])).content == b'{"code":200,"data":"{\\"1\\": true}"}\n'
        assert (await client.post("/source_status", json=[])).content == b'{"code":200,"data":"{}"}\n'
        assert (await client.get("/source_status/all")).content == b'{"code":200,"data":"{\\"1\\": true}"}\n'

    async def test_updating(self, client: httpx.AsyncClient) -> None:
        """By PUT and by POST; an unknown id is 200 with a message."""
        await add(client)
        for method in ("PUT", "POST"):
            reply = await client.request(method, "/update_source", data={"task_id": "1", "rule_info": '{"alert_time": 5}'})
            assert reply.content == b'{"code":200,"source_list":["1"]}\n'
            unknown = await client.request(method, "/update_source", data={"task_id": "7"})
            assert unknown.content == b'{"code":200,"msg":"can not find task id 7","source_list":["1"]}\n'

    async def test_rebuilding(self, client: httpx.AsyncClient, cameras: Cameras) -> None:
        """With an id that exists and with one that does not; rules go back to the defaults."""
        await add(client, "1", rule_info='{"alert_time": 5}')
        for task in ("1", "2"):
            reply = await client.post("/rebuild_source", data={"task_id": task, "rtsp_url": DEAD})
            assert reply.json() == {"code": 200, "source_list": ["1", "2"][: int(task)]}
        assert rules(cameras).realert_s == 60.0

    async def test_pipes(self, data: Path, tmp_path: Path) -> None:
        """On and off, with the ids as they came and those that exist; a task that is rebuilt goes on to be pushed."""
        (tmp_path / "models").symlink_to(data / "models")
        publish_url = SecretStr("rtmp://127.0.0.1:9/live/{id}")
        async with serving(Settings(data=tmp_path, streams=StreamSettings(publish_url=publish_url))) as client:

            async def publishes() -> bool:
                return bool((await client.get("/v1/streams/1")).json()["rules"]["publish"])

            await add(client)
            on = await client.post("/stream/pipe", json=["1", "2"])
            assert on.content == b'{"code":200,"msg":"input task ids: [\'1\', \'2\'], create success ids: 1"}\n'
            assert await publishes()
            await client.post("/rebuild_source", data={"task_id": "1", "rtsp_url": DEAD})
            assert await publishes()
            off = await client.request("DELETE", "/stream/pipe", json=["1"])
            assert off.content == b'{"code":200,"msg":"input task ids: [\'1\'], remove success ids: 1"}\n'
            assert not await publishes()

    async def test_pipes_that_lead_nowhere(self, client: httpx.AsyncClient, cameras: Cameras) -> None:
        """Without an address to publish to this is said, instead of a success that nobody sees."""
        await add(client)
        reply = (await client.post("/stream/pipe", json=["1"])).json()
        assert reply == {"code": 500, "msg": "this server has no address to publish to: set FACE_SERVER_STREAMS__PUBLISH_URL"}
        assert not rules(cameras).publish
        assert (await client.request("DELETE", "/stream/pipe", json=["1"])).json()["code"] == 200


class TestFields:
    """What clients send."""

    async def test_every_kind_of_body(self, client: httpx.AsyncClient, cameras: Cameras) -> None:
        """Multipart, urlencoded and JSON, in which ids may be numbers and the rules an object."""
        await add(client, "1", rule_info='{"alert_time": 5}')
        await client.post("/add_source", data={"task_id": "2", "rtsp_url": DEAD, "rule_info": '{"alert_time": 5}'})
        body = {"task_id": 3, "rtsp_url": DEAD, "frame_rate": 25, "rule_info": {"alert_time": 5}}
        assert (await client.post("/add_source", json=body)).json()["source_list"] == ["1", "2", "3"]
        assert [rules(cameras, task).realert_s for task in "123"] == [5.0, 5.0, 5.0]
        assert rules(cameras, "3").publish_fps == 25.0

    async def test_defaults(self, client: httpx.AsyncClient, cameras: Cameras) -> None:
        """Without rules: the newest frames, no strangers, an alert a minute, nobody who is called."""
        await add(client, rule_info="", frame_rate="", grpc_address="")
        spec = cameras.streams.spec("1")
        assert (spec.rules.mode, spec.rules.frames, spec.rules.strangers, spec.rules.realert_s) == (
            Mode.CPU,
            FramePolicy.NEWEST,
            False,
            60.0,
        )
        assert (spec.sinks, spec.rules.publish_fps, spec.collections) == ((), 0.0, ("default",))

    @pytest.mark.parametrize(
        ("info", "members"),
        [
            ('{"alert_time": "30"}', {"realert_s": 30.0}),
            ('{"alert_time": 0, "add_stranger": "1"}', {"realert_s": 0.0, "strangers": True}),
            ('{"skip_frame_rate": 1}', {"frames": FramePolicy.EVERY, "max_fps": 0.0}),
            ('{"skip_frame_rate": "5"}', {"frames": FramePolicy.NTH, "every_nth": 5, "max_fps": 0.0}),
            ('{"skip_frame_rate": 0}', {"frames": FramePolicy.NEWEST, "max_fps": 5.0}),
            ('{"mode": "gpu", "other": [1]}', {"mode": Mode.GPU}),
            ("[1]", {}),
            ("null", {}),
        ],
    )
    async def test_rules(self, client: httpx.AsyncClient, cameras: Cameras, info: str, members: dict[str, Any]) -> None:
        """Numbers may be strings; unknown members, and JSON that is no object, are passed over."""
        await add(client, rule_info=info)
        assert {name: getattr(rules(cameras), name) for name in members} == members

    async def test_an_update_merges(self, client: httpx.AsyncClient, cameras: Cameras, receiver: GrpcReceiver) -> None:
        """All three fields are applied, what is left out stays, and the task is not interrupted."""
        await add(client, rule_info='{"alert_time": 5, "add_stranger": 1}', frame_rate="10")
        address = f"127.0.0.1:{receiver.port}"
        await client.put("/update_source", data={"task_id": "1", "rule_info": '{"alert_time": "7"}'})
        assert (rules(cameras).realert_s, rules(cameras).strangers, rules(cameras).publish_fps) == (7.0, True, 10.0)
        await client.post("/update_source", data={"task_id": "1", "grpc_address": address, "frame_rate": "12"})
        assert [sink.address for sink in cameras.streams.spec("1").sinks] == [address]
        assert (rules(cameras).realert_s, rules(cameras).publish_fps) == (7.0, 12.0)
        await client.put("/update_source", data={"task_id": "1"})
        assert [sink.address for sink in cameras.streams.spec("1").sinks] == [address]
        await client.put("/update_source", data={"task_id": "1", "grpc_address": ""})
        assert cameras.streams.spec("1").sinks == ()

    async def test_tasks_are_streams(self, client: httpx.AsyncClient) -> None:
        """The native routes show them, and what is changed there is kept here."""
        await add(client)
        patched = await client.patch("/v1/streams/1", json={"sinks": [{"kind": "log"}], "rules": {"regions": [[[0, 0], [1, 0], [1, 1]]]}})
        assert patched.status_code == 200
        await client.put("/update_source", data={"task_id": "1", "rule_info": '{"alert_time": 9}'})
        stream = (await client.get("/v1/streams/1")).json()
        assert (len(stream["sinks"]), len(stream["rules"]["regions"]), stream["rules"]["realert_s"]) == (1, 1, 9.0)


class TestCameras:
    """Live and dead ones."""

    async def test_an_alert_reaches_the_receiver(
        self, client: httpx.AsyncClient, receiver: GrpcReceiver, live_url: str, cameras: Cameras
    ) -> None:
        """A stranger on the stage is announced by the callback, in the original's words, and the task works."""
        form = {"task_id": "1", "rtsp_url": live_url, "grpc_address": f"127.0.0.1:{receiver.port}", "rule_info": '{"add_stranger": 1}'}
        await client.post("/add_source", data=form)
        async with asyncio.timeout(20):
            while not receiver.requests:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.05)
        request = receiver.requests[0]
        alert = json.loads(request.analysis_result)
        assert (request.task_id, request.result_type, request.callback_type) == ("1", "1", "1")
        assert set(alert) == {"behaviorBeginTime", "behaviorEndTime", "face_data", "msg", "image"}
        assert alert["face_data"][0]["name"].startswith("陌生人_")
        assert alert["msg"].endswith(" 经过")
        assert (await client.get("/source_status/all")).json()["data"] == '{"1": true}'

    async def test_a_dead_camera_is_answered_at_once(self, client: httpx.AsyncClient) -> None:
        """One that refuses and one that never answers; the task stays and is tried again."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            urls = {"1": DEAD, "2": f"rtsp://127.0.0.1:{silent.getsockname()[1]}/"}
            for path in ("/add_source", "/rebuild_source"):
                for task, url in urls.items():
                    began = time.monotonic()
                    reply = await client.post(path, data={"task_id": task, "rtsp_url": url})
                    assert time.monotonic() - began < 0.5
                    assert reply.json()["code"] == 200
            assert (await client.get("/v1/streams/1")).json()["status"]["state"] in {"starting", "backing_off"}
            await client.request("DELETE", "/remove_source", data={"task_id": "2"})


class TestBadInput:
    """Code 500 and a sentence; nothing half registered."""

    @pytest.mark.parametrize(
        ("form", "named"),
        [
            ({"rule_info": "{"}, "rule_info is not valid JSON"),
            ({"rule_info": "{'alert_time': 5}"}, "rule_info is not valid JSON"),
            ({"rule_info": '{"mode": "tpu"}'}, "rule_info.mode must be cpu or gpu"),
            ({"rule_info": '{"mode": ["cpu"]}'}, "rule_info.mode must be cpu or gpu"),
            ({"rule_info": '{"alert_time": "soon"}'}, "rule_info.alert_time must be a whole number"),
            ({"rule_info": '{"alert_time": 1e400}'}, "rule_info"),
            ({"rule_info": '{"alert_time": "1' + "0" * 400 + '"}'}, "rule_info.alert_time must be a whole number"),
            ({"rule_info": '{"alert_time": null}'}, "rule_info.alert_time must be a whole number"),
            ({"rule_info": '{"alert_time": -1}'}, "rule_info.alert_time"),
            ({"rule_info": '{"skip_frame_rate": 5000}'}, "rule_info.skip_frame_rate"),
            ({"rule_info": '{"add_stranger": {}}'}, "rule_info.add_stranger must be a whole number"),
            ({"frame_rate": "fast"}, "frame_rate must be a whole number"),
            ({"frame_rate": "1000"}, "frame_rate"),
            ({"rtsp_url": "gopher://x"}, "rtsp_url"),
            ({"rtsp_url": "/etc/passwd"}, "rtsp_url"),
            ({"rtsp_url": "http://169.254.169.254/"}, "rtsp_url"),
            ({"task_id": "a/b"}, "task_id"),
            ({"task_id": "x" * 65}, "task_id"),
            ({"grpc_address": "no-port"}, "grpc_address"),
            ({"grpc_address": "169.254.169.254:50051"}, "grpc_address"),
        ],
    )
    async def test_it_is_refused(self, client: httpx.AsyncClient, form: dict[str, str], named: str) -> None:
        """By adding and by rebuilding."""
        for path in ("/add_source", "/rebuild_source"):
            reply = (await client.post(path, data={"task_id": "1", "rtsp_url": DEAD, **form})).json()
            assert reply["code"] == 500, reply
            assert named in reply["msg"]
            assert "/etc/passwd" not in reply["msg"]
        assert (await client.post("/get_source_list")).json()["source_list"] == []

    async def test_a_receiver_that_nobody_reaches(self, client: httpx.AsyncClient, cameras: Cameras, receiver: GrpcReceiver) -> None:
        """It is named when somebody brings it up; one that is down later blocks no other change."""
        gone = f"127.0.0.1:{free_port()}"
        for path in ("/add_source", "/rebuild_source"):
            reply = (await client.post(path, data={"task_id": "1", "rtsp_url": DEAD, "grpc_address": gone})).json()
            assert reply["code"] == 500
            assert reply["msg"] == "grpc_address: nobody listens at the address of the grpc sink"
        assert cameras.streams.specs() == []
        there = f"127.0.0.1:{receiver.port}"
        await add(client, grpc_address=there)
        await receiver.leave()
        refused = await client.put("/update_source", data={"task_id": "1", "grpc_address": gone, "rule_info": '{"alert_time": 5}'})
        assert refused.json()["code"] == 500
        assert rules(cameras).realert_s == 60.0
        accepted = await client.put("/update_source", data={"task_id": "1", "grpc_address": there, "rule_info": '{"alert_time": 5}'})
        assert accepted.json()["code"] == 200
        rebuilt = await client.post("/rebuild_source", data={"task_id": "1", "rtsp_url": DEAD, "grpc_address": there})
        assert rebuilt.json()["code"] == 200

    @pytest.mark.parametrize(
        ("method", "path"),
        [("POST", "/add_source"), ("POST", "/rebuild_source"), ("DELETE", "/remove_source"), ("PUT", "/update_source")],
    )
    async def test_missing_fields(self, client: httpx.AsyncClient, method: str, path: str) -> None:
        """In the words of the original, for bodies that are none, too."""
        for form in ({}, {"rtsp_url": DEAD}, {"task_id": ""}):
            assert (await client.request(method, path, data=form)).content == MISSING_FIELD
        for content in (b"", b"{", b"[1]", b'"x"'):
            reply = await client.request(method, path, content=content, headers={"content-type": "application/json"})
            assert reply.content == MISSING_FIELD

    @pytest.mark.parametrize("path", ["/source_status", "/stream/pipe"])
    async def test_bodies_that_are_no_list(self, client: httpx.AsyncClient, path: str) -> None:
        """Objects, forms, lists of lists and endless lists."""
        for body in (b"{}", b"", b"{", b"[[1]]", b"[null]", b'"1"', json.dumps(["1"] * 10_001).encode()):
            reply = await client.post(path, content=body, headers={"content-type": "application/json"})
            assert (reply.status_code, reply.json()["code"]) == (200, 500), body
        assert (await client.post(path, data={"task_id": "1"})).json()["code"] == 500

    async def test_unknown_paths_and_methods(self, client: httpx.AsyncClient, app: FastAPI) -> None:
        """Are the only ones with another status."""
        assert (await client.get("/add_source")).status_code == 405
        assert (await client.get("/remove_sources")).status_code == 404
