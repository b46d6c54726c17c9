"""Redis streams against a real Redis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from face_server.domain.streams import SinkSpec
from face_server.errors import DeliveryRefused, Unavailable
from face_server.sinks.opening import SinkOpener
from face_server.sinks.payload import event_payload
from tests.sinks.conftest import Opening
from tests.sinks.receivers import event, redis_server


async def test_what_is_added(opener: SinkOpener, tmp_path: Path) -> None:
    """Id, kind, stream, and the event as JSON, in the database of the address."""
    async with redis_server(tmp_path) as receiver:
        sink = opener.open(receiver.spec)
        await sink.deliver(event(1), {})
        await sink.close()
        (entry,) = receiver.entries()
    assert json.loads(entry.pop(b"event")) == event_payload(event(1))
    assert entry == {b"id": b"event000001", b"kind": b"person_seen", b"stream_id": b"door"}


async def test_the_stream_is_bounded(opening: Opening, tmp_path: Path) -> None:
    """Old entries go; about as many as asked for stay."""
    async with redis_server(tmp_path) as receiver:
        sink = opening(redis_max_length=100).open(receiver.spec)
        for number in range(400):
            await sink.deliver(event(number), {})
        await sink.close()
        ids = [entry[b"id"].decode() for entry in receiver.entries()]
    assert 100 <= len(ids) <= 200
    assert ids[-1] == "event000399"


async def test_a_key_of_another_type(opener: SinkOpener, tmp_path: Path) -> None:
    """Something else under the key refuses the event: waiting does not help."""
    async with redis_server(tmp_path) as receiver:
        receiver.command("SET", receiver.key, "text")
        sink = opener.open(receiver.spec)
        with pytest.raises(DeliveryRefused, match="key"):
            await sink.deliver(event(1), {})
        await sink.close()


async def test_a_wrong_password(opener: SinkOpener, tmp_path: Path) -> None:
    """The right password works; a wrong one and none are named, without saying it, and may be put right."""
    async with redis_server(tmp_path, password="secret") as receiver:
        sink = opener.open(receiver.spec)
        await sink.deliver(event(1), {})
        await sink.close()
        for user in (":wrong@", ""):
            sink = opener.open(SinkSpec(receiver.spec.kind, f"redis://{user}localhost:{receiver.port}"))
            with pytest.raises(Unavailable, match="password") as failure:
                await sink.deliver(event(2), {})
            assert "wrong" not in failure.value.message
            await sink.close()


async def test_a_full_server(opener: SinkOpener, tmp_path: Path) -> None:
    """A Redis that is out of memory can be emptied: the event waits."""
    async with redis_server(tmp_path) as receiver:
        receiver.command("CONFIG", "SET", "maxmemory", "1")
        sink = opener.open(receiver.spec)
        with pytest.raises(Unavailable, match="cannot take"):
            await sink.deliver(event(1), {})
        receiver.command("CONFIG", "SET", "maxmemory", "0")
        await sink.deliver(event(1), {})
        await sink.close()
        assert len(receiver.entries()) == 1
