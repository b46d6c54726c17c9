"""What every sink does, wherever it delivers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import blockbuster
import pytest

from face_server.clock import SystemClock
from face_server.domain.events import ALERTS, EventKind
from face_server.domain.stream_ports import EventSink
from face_server.errors import Unavailable
from face_server.sinks.opening import SinkOpener, SinkOptions
from face_server.workers import Workers
from tests.sinks.receivers import Receiver, broker, event, grpc_receiver, http_receiver, log_receiver, redis_server, until

TIMEOUT_S = 1.0
REMOTE = ["grpc", "webhook", "mqtt", "redis"]


@pytest.fixture
def opener(workers: Workers) -> Iterator[SinkOpener]:
    """Opens sinks that wait for one second."""
    opened = SinkOpener(workers, SystemClock(), SinkOptions(timeout_s=TIMEOUT_S))
    yield opened
    opened.close()


@pytest.fixture(params=[*REMOTE, "log"])
async def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Receiver]:
    """A receiver of each kind."""
    async with AsyncExitStack() as stack:
        match request.param:
            case "grpc":
                yield await stack.enter_async_context(grpc_receiver())
            case "webhook":
                yield await stack.enter_async_context(http_receiver())
            case "mqtt":
                yield await stack.enter_async_context(broker(tmp_path))
            case "redis":
                yield await stack.enter_async_context(redis_server(tmp_path))
            case "log":
                yield stack.enter_context(log_receiver())


@pytest.fixture
async def sink(receiver: Receiver, opener: SinkOpener) -> AsyncIterator[EventSink]:
    """A sink for the receiver."""
    opened = opener.open(receiver.spec)
    yield opened
    await opened.close()


async def settle(receiver: Receiver, ids: list[str]) -> list[str]:
    """What arrived, once all of ``ids`` have, or too late."""

    async def enough() -> bool:
        return set(ids) <= set(await receiver.received())

    with suppress(TimeoutError):
        await until(enough, 5)
    return await receiver.received()


async def test_an_event_arrives(sink: EventSink, receiver: Receiver) -> None:
    """What ``deliver`` returned from has arrived."""
    await sink.deliver(event(1), {})
    assert await settle(receiver, ["event000001"]) == ["event000001"]


async def test_events_arrive_in_order(sink: EventSink, receiver: Receiver) -> None:
    """One after the other, each once."""
    ids = [f"event{number:06d}" for number in range(1, 21)]
    for number in range(1, 21):
        await sink.deliver(event(number, ended_at=1_700_000_000.0 + number), {})
    assert await settle(receiver, ids) == ids


@pytest.mark.parametrize("kind", list(EventKind))
async def test_every_kind_arrives(sink: EventSink, receiver: Receiver, kind: EventKind) -> None:
    """Whatever happened can be delivered, with and without a person, a picture and a box; the callback takes alerts."""
    if not receiver.spec.wants(kind):
        assert receiver.spec.kind == "grpc"
        assert kind not in ALERTS
        return
    await sink.deliver(event(2, kind, ended_at=1_700_000_002.0), {"best": b"jpeg"})
    assert await settle(receiver, ["event000002"]) == ["event000002"]


async def test_events_of_many_streams_at_once(sink: EventSink, receiver: Receiver) -> None:
    """A sink serves several streams at a time."""
    events = [event(number, stream_id=f"camera {number} 门+", ended_at=1_700_000_000.0 + number) for number in range(1, 5)]
    await asyncio.gather(*(sink.deliver(one, {}) for one in events))
    assert sorted(await settle(receiver, [one.id for one in events])) == [one.id for one in events]


async def test_closing_twice(opener: SinkOpener, receiver: Receiver) -> None:
    """A sink closes at once, before its first event and after it, and again."""
    unused = opener.open(receiver.spec)
    await unused.close()
    used = opener.open(receiver.spec)
    await used.deliver(event(1), {})
    started = time.monotonic()
    await used.close()
    await used.close()
    assert time.monotonic() - started < 1.0


async def test_nothing_blocks_the_event_loop(opener: SinkOpener, receiver: Receiver) -> None:
    """Opening, connecting, delivering and closing do without blocking calls, a frame of half a megabyte included."""
    with blockbuster.blockbuster_ctx():
        sink = opener.open(receiver.spec)
        for number in range(3):
            await sink.deliver(event(number), {"best": bytes(5_000), "frame": bytes(500_000)})
        await sink.close()


@pytest.mark.parametrize("receiver", REMOTE, indirect=True)
async def test_a_receiver_that_is_away(sink: EventSink, receiver: Receiver) -> None:
    """Nobody there is told apart from a refusal, in time, without the address; when the receiver is back, so is the sink."""
    await receiver.leave()
    started = time.monotonic()
    with pytest.raises(Unavailable) as failure:
        await sink.deliver(event(1), {})
    assert time.monotonic() - started < TIMEOUT_S + 1
    assert "localhost" not in failure.value.message
    await receiver.come_back()
    await sink.deliver(event(1), {})
    assert await settle(receiver, ["event000001"]) == ["event000001"]


@pytest.mark.parametrize("receiver", REMOTE, indirect=True)
async def test_a_receiver_that_restarts_between_events(sink: EventSink, receiver: Receiver) -> None:
    """A connection that died while idle costs one failed attempt at most.

    Repeats are not counted: a broker that was killed tells its own subscribers again what it had not
    noted as taken.
    """
    await sink.deliver(event(1, ended_at=1_700_000_001.0), {})
    await receiver.leave()
    await receiver.come_back()
    try:
        await sink.deliver(event(2, ended_at=1_700_000_002.0), {})
    except Unavailable:
        await sink.deliver(event(2, ended_at=1_700_000_002.0), {})
    arrived = await settle(receiver, ["event000001", "event000002"])
    assert list(dict.fromkeys(arrived)) == ["event000001", "event000002"]


@pytest.mark.parametrize("receiver", REMOTE, indirect=True)
@pytest.mark.parametrize("connected", [False, True])
async def test_a_receiver_that_freezes(sink: EventSink, receiver: Receiver, connected: bool) -> None:
    """A receiver that takes connections and says nothing fails the delivery at the deadline, and can be closed; thawed, it serves."""
    if connected:
        await sink.deliver(event(1, ended_at=1_700_000_001.0), {})
    receiver.freeze()
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await sink.deliver(event(2, ended_at=1_700_000_002.0), {})
    assert TIMEOUT_S - 0.1 < time.monotonic() - started < TIMEOUT_S + 1
    receiver.thaw()
    arrived: list[str] = []
    for _ in range(5):
        try:
            await sink.deliver(event(2, ended_at=1_700_000_002.0), {})
            break
        except Unavailable:
            await asyncio.sleep(0.2)
    arrived = await settle(receiver, ["event000002"] * (2 if connected else 1))
    # The frozen attempt may have arrived as well: its receipt is what was missing.
    assert list(dict.fromkeys(arrived)) == (["event000001"] if connected else []) + ["event000002"]


@pytest.mark.parametrize("receiver", REMOTE, indirect=True)
async def test_closing_while_the_receiver_is_frozen(opener: SinkOpener, receiver: Receiver) -> None:
    """Nobody has to answer for a sink to close."""
    sink = opener.open(receiver.spec)
    await sink.deliver(event(1), {})
    receiver.freeze()
    delivering = asyncio.create_task(sink.deliver(event(2), {}))
    await asyncio.sleep(0.1)
    delivering.cancel()
    await asyncio.wait({delivering})
    started = time.monotonic()
    await sink.close()
    assert time.monotonic() - started < 1.5
    receiver.thaw()


@pytest.mark.parametrize("receiver", REMOTE, indirect=True)
async def test_reach(opener: SinkOpener, receiver: Receiver) -> None:
    """Whether somebody listens is found out without sending anything."""
    await opener.reach(receiver.spec)
    assert await receiver.received() == []
