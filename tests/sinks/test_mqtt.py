"""MQTT against a real broker."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path

import aiomqtt
import pytest

from face_server.domain.events import EventKind, Who
from face_server.domain.streams import SinkSpec
from face_server.errors import Unavailable
from face_server.sinks.opening import SinkOpener
from face_server.sinks.payload import event_payload
from tests.sinks.conftest import Opening
from tests.sinks.receivers import Broker, broker, event, until


def newest(receiver: Broker, topic: str) -> bytes | None:
    """The last message on a topic."""
    return next((payload for name, payload, _ in reversed(receiver.messages) if name == topic), None)


async def test_what_is_published(opener: SinkOpener, tmp_path: Path) -> None:
    """The event under the stream's topic, and who was seen last, which stays."""
    async with broker(tmp_path) as receiver:
        sink = opener.open(receiver.spec)
        await sink.deliver(event(1), {})
        await until(lambda: newest(receiver, "home/faces/door/last_person"))
        assert json.loads(newest(receiver, "home/faces/door/event") or b"") == event_payload(event(1))
        assert newest(receiver, "home/faces/door/online") == b"ON"
        assert json.loads(newest(receiver, "home/faces/door/last_person") or b"") == {
            "name": "张三",
            "at": "2023-11-14T22:13:21.500+00:00",
            "similarity": 0.7123,
            "event_id": "event000001",
            "picture": "/v1/events/event000001/picture",
        }
        await sink.deliver(event(2, EventKind.STREAM_LOST), {})
        await until(lambda: newest(receiver, "home/faces/door/online") == b"OFF")
        await sink.deliver(event(3, EventKind.STREAM_RECOVERED), {})
        await until(lambda: newest(receiver, "home/faces/door/online") == b"ON")
        await sink.close()


async def test_who_comes_later_knows_the_state(opener: SinkOpener, tmp_path: Path) -> None:
    """States and descriptions are retained, events are not."""
    async with broker(tmp_path) as receiver:
        sink = opener.open(receiver.spec)
        await sink.deliver(event(1), {})
        retained = await listen(receiver)
        await sink.close()
    assert {topic for topic in retained if topic.startswith("home/")} == {
        "home/faces/availability",
        "home/faces/door/online",
        "home/faces/door/last_person",
    }


async def test_home_assistant_finds_the_camera(opener: SinkOpener, tmp_path: Path) -> None:
    """A sensor and a connectivity sensor a stream, of one device, with topics that exist and ids that are valid."""
    async with broker(tmp_path) as receiver:
        sink = opener.open(receiver.spec)
        for stream in ("door", "门 +1"):
            await sink.deliver(event(1, stream_id=stream), {})
        retained = await listen(receiver)
        await sink.close()
    configs = {topic: json.loads(payload) for topic, payload in retained.items() if topic.startswith("homeassistant/")}
    assert len(configs) == 4
    for topic, config in configs.items():
        prefix, component, node, name, last = topic.split("/")
        assert (prefix, last) == ("homeassistant", "config")
        assert {"sensor": "last_person", "binary_sensor": "online"}[component] == name
        assert node.isascii()
        assert node.replace("_", "").isalnum()
        assert config["device"]["identifiers"] == [node]
        assert config["device"]["name"] in ("door", "门 +1")
        assert config["state_topic"] in retained
        assert config["availability_topic"] in retained
    assert len({config["unique_id"] for config in configs.values()}) == 4
    assert "home/faces/门 %2B1/online" in retained


async def test_no_discovery(opening: Opening, tmp_path: Path) -> None:
    """Without a prefix nothing is announced to Home Assistant."""
    async with broker(tmp_path) as receiver:
        sink = opening(discovery_prefix="").open(receiver.spec)
        await sink.deliver(event(1), {})
        assert not [topic for topic in await listen(receiver) if topic.startswith("homeassistant")]
        await sink.close()


async def test_availability(opener: SinkOpener, tmp_path: Path) -> None:
    """Online while connected, offline after closing; back by itself when the broker was restarted, without any event."""
    async with broker(tmp_path) as receiver:
        sink = opener.open(receiver.spec)
        await sink.deliver(event(1), {})
        await until(lambda: newest(receiver, "home/faces/availability") == b"online")
        await receiver.leave()
        receiver.messages.clear()
        await receiver.come_back()
        # Not what the broker remembers, but what is said to it now.
        await until(lambda: ("home/faces/availability", b"online", False) in receiver.messages)
        await sink.close()
        await until(lambda: newest(receiver, "home/faces/availability") == b"offline")


async def test_a_broker_that_dies_with_a_message_in_hand(opening: Opening, tmp_path: Path) -> None:
    """The delivery fails when the connection ends, long before its deadline."""
    async with broker(tmp_path) as receiver:
        sink = opening(timeout_s=30).open(receiver.spec)
        await sink.deliver(event(1), {})
        receiver.freeze()
        delivering = asyncio.create_task(sink.deliver(event(2), {}))
        await asyncio.sleep(0.1)
        await receiver.leave()
        started = time.monotonic()
        with pytest.raises(Unavailable, match="broke off"):
            await delivering
        assert time.monotonic() - started < 1
        await sink.close()


async def test_a_long_name(opener: SinkOpener, tmp_path: Path) -> None:
    """Home Assistant takes states of 255 characters at most."""
    async with broker(tmp_path) as receiver:
        sink = opener.open(receiver.spec)
        await sink.deliver(event(1, who=Who("n" * 400, 0.5, 0.4, "default", "x")), {})
        await until(lambda: newest(receiver, "home/faces/door/last_person"))
        assert json.loads(newest(receiver, "home/faces/door/last_person") or b"")["name"] == "n" * 255
        await sink.close()


async def test_a_password(opener: SinkOpener, tmp_path: Path) -> None:
    """User name and password are those of the address; a wrong one is named as such and may be put right later."""
    passwords = tmp_path / "passwords"
    line = ["mosquitto_passwd", "-c", "-b", passwords, "me", "secret"]
    await asyncio.to_thread(subprocess.run, line, check=True, capture_output=True)
    passwords.chmod(0o644)
    async with broker(tmp_path, "allow_anonymous false", f"password_file {passwords}", user="me:secret") as receiver:
        sink = opener.open(receiver.spec)
        await sink.deliver(event(1), {})
        await sink.close()
        wrong = SinkSpec(receiver.spec.kind, f"mqtt://me:wrong@localhost:{receiver.port}")
        sink = opener.open(wrong)
        started = time.monotonic()
        for _ in range(2):
            with pytest.raises(Unavailable, match="password") as failure:
                await sink.deliver(event(2), {})
            assert "wrong" not in failure.value.message
        assert time.monotonic() - started < 2
        await sink.close()


async def test_an_attempt_is_made_for_each_delivery(opener: SinkOpener, tmp_path: Path) -> None:
    """The pauses between attempts never hold a delivery up: who delivers decides when to try."""
    async with broker(tmp_path) as receiver:
        await receiver.leave()
        sink = opener.open(receiver.spec)
        for _ in range(6):
            started = time.monotonic()
            with pytest.raises(Unavailable, match="connected to"):
                await sink.deliver(event(1), {})
            assert time.monotonic() - started < 1
        await receiver.come_back()
        await sink.deliver(event(1), {})
        await sink.close()
        await until(lambda: newest(receiver, "home/faces/door/event"))


async def listen(receiver: Broker) -> dict[str, bytes]:
    """What the broker retains, by topic."""
    found: dict[str, bytes] = {}
    async with aiomqtt.Client("127.0.0.1", receiver.port) as client:
        await client.subscribe("#", qos=1)
        try:
            async with asyncio.timeout(0.3):
                async for message in client.messages:
                    assert message.retain
                    assert isinstance(message.payload, bytes)
                    found[str(message.topic)] = message.payload
        except TimeoutError:
            return found
    return found
