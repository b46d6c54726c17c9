"""Delivering from the real journal: order, patience, dead letters, and receivers that do not disturb each other."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from face_server.clock import FakeClock, SystemClock
from face_server.domain.events import DeadLetter, Event, EventKind, Picture
from face_server.domain.ports import Clock
from face_server.domain.stream_ports import EventSink
from face_server.domain.streams import SinkKind, SinkSpec, StreamSpec
from face_server.domain.tracks import Look
from face_server.errors import DeliveryRefused, Unavailable
from face_server.journal.sealing import Sealer
from face_server.journal.sqlite import SqliteJournal
from face_server.sinks.opening import SinkOpener, SinkOptions
from face_server.streams.delivery import EventBus
from face_server.streams.lanes import SINK_REMOVED, DeliveryOptions
from face_server.workers import Workers
from tests.sinks.receivers import Receiver, broker, event, grpc_receiver, http_receiver, redis_server, until

QUICK = DeliveryOptions(first_pause_s=0.05, last_pause_s=0.2)
DAY_S = 86400.0


@dataclass
class ScriptedSink:
    """Takes events, or fails as the script says: an error for each attempt, then success."""

    script: list[Exception] = field(default_factory=list)
    delivered: list[str] = field(default_factory=list)
    pictures: list[dict[str, bytes]] = field(default_factory=list)
    attempts: int = 0
    working: int = 0
    most_working: int = 0
    closed: int = 0
    hangs: bool = False
    wants_pictures: bool = True

    async def deliver(self, event: Event, pictures: Mapping[str, bytes]) -> None:
        """Act as scripted."""
        self.attempts += 1
        self.working += 1
        self.most_working = max(self.working, self.most_working)
        try:
            await asyncio.sleep(3600 if self.hangs else 0.001)
        finally:
            self.working -= 1
        if self.script:
            raise self.script.pop(0)
        self.delivered.append(event.id)
        self.pictures.append(dict(pictures))

    async def close(self) -> None:
        """Count."""
        self.closed += 1


def away(message: str = "away") -> Unavailable:
    """A failure that leaves the pause to the bus."""
    return Unavailable(message, retry_after_s=0.0)


def sink_spec(name: str, **more: object) -> SinkSpec:
    """A destination with a name."""
    return SinkSpec(SinkKind.WEBHOOK, f"http://{name}/", **more)  # type: ignore[arg-type]  # fields of the spec


def stream(stream_id: str, *sinks: SinkSpec) -> StreamSpec:
    """A stream with sinks."""
    return StreamSpec(stream_id, "rtsp://camera/", sinks=sinks)


def look(*numbers: int, stream_id: str = "door", kind: EventKind = EventKind.PERSON_SEEN) -> Look:
    """What one frame brought; each event has its own pictures."""
    events = tuple(
        event(
            number,
            kind,
            stream_id,
            picture=f"best{number}",
            frame_picture=f"frame{number}",
            faces=(),
            cursor=0,
            ended_at=1_700_000_000 + number,
        )
        for number in numbers
    )
    pictures = [Picture(f"{name}{number}", f"jpeg {name} {number}".encode()) for number in numbers for name in ("best", "frame")]
    return Look(events=events, pictures=tuple(pictures))


def ids(*numbers: int) -> list[str]:
    """Ids of events by number."""
    return [f"event{number:06d}" for number in numbers]


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    """An empty journal."""
    opened = await open_journal(tmp_path, SystemClock())
    yield opened
    await opened.close()


async def open_journal(folder: Path, clock: Clock) -> SqliteJournal:
    """The journal of a folder."""
    return await SqliteJournal.open(folder / "journal.sqlite", clock, Sealer.from_key(bytes(32)))


@asynccontextmanager
async def running(
    journal: SqliteJournal,
    open_sink: Callable[[SinkSpec], EventSink],
    *specs: StreamSpec,
    options: DeliveryOptions = QUICK,
    clock: Clock | None = None,
    count: Callable[[str, str], None] = lambda _kind, _outcome: None,
) -> AsyncIterator[EventBus]:
    """A bus that delivers for streams that are registered."""
    known = {spec.id for spec in await journal.streams()}
    for spec in specs:
        if spec.id not in known:
            await journal.add_stream(spec)
    bus = EventBus(journal, open_sink, clock or SystemClock(), options, count=count)
    bus.set_specs(specs)
    task = asyncio.create_task(bus.run())
    try:
        yield bus
    finally:
        await bus.close()
        assert task.done()
        assert task.cancelled()


async def letters(journal: SqliteJournal, count: int) -> list[DeadLetter]:
    """The dead letters, once there are so many."""

    async def there() -> bool:
        return len(await journal.dead_letters()) >= count

    await until(there, 5)
    return await journal.dead_letters()


async def idle(journal: SqliteJournal) -> None:
    """Wait until nothing is left to deliver."""

    async def done() -> bool:
        return not await journal.lanes()

    await until(done, 20)


async def test_delivered_in_order_with_pictures(journal: SqliteJournal) -> None:
    """Every event arrives once, in order, with its own pictures, and leaves the outbox."""
    sink, spec = ScriptedSink(), stream("door", sink_spec("a"))
    async with running(journal, lambda _: sink, spec) as bus:
        for number in range(1, 41, 2):
            await bus.publish(spec, look(number, number + 1))
        await idle(journal)
    assert sink.delivered == ids(*range(1, 41))
    assert sink.pictures[4] == {"best5": b"jpeg best 5", "frame5": b"jpeg frame 5"}
    assert sink.most_working == 1
    assert sink.closed == 1


async def test_only_what_a_sink_wants(journal: SqliteJournal) -> None:
    """Events go where they are wanted: by kind, and alerts alone to the gRPC callback."""
    sinks: dict[str, ScriptedSink] = {}
    wanting = [sink_spec("all"), sink_spec("left", kinds=(EventKind.PERSON_LEFT,)), SinkSpec(SinkKind.GRPC, "host:1")]
    spec = stream("door", *wanting)
    async with running(journal, lambda one: sinks.setdefault(one.address, ScriptedSink()), spec) as bus:
        await bus.publish(spec, look(1))
        await bus.publish(spec, look(2, kind=EventKind.PERSON_LEFT))
        await idle(journal)
    assert {name: sink.delivered for name, sink in sinks.items()} == {
        "http://all/": ids(1, 2),
        "http://left/": ids(2),
        "host:1": ids(1),
    }


async def test_a_failure_is_tried_again_before_what_follows(journal: SqliteJournal) -> None:
    """The order holds through failures; attempts are counted."""
    sink, spec = ScriptedSink([away("busy")] * 3), stream("door", sink_spec("a"))
    counted: Counter[tuple[str, str]] = Counter()
    async with running(journal, lambda _: sink, spec, count=lambda *what: counted.update([what])) as bus:
        await bus.publish(spec, look(1, 2, 3))
        await idle(journal)
    assert sink.delivered == ids(1, 2, 3)
    assert sink.attempts == 6
    assert counted == {("webhook", "delivered"): 3, ("webhook", "failed"): 3}


async def test_the_pauses_grow(tmp_path: Path) -> None:
    """From a second to a minute, doubling, with chance in it; never given up while the receiver is merely away."""
    clock = FakeClock()
    journal = await open_journal(tmp_path, clock)
    sink, spec = ScriptedSink([away("away")] * 1000), stream("door", sink_spec("a"))
    times: list[float] = []

    async def deliver(event: Event, pictures: Mapping[str, bytes]) -> None:
        times.append(clock.monotonic())
        raise Unavailable("away", retry_after_s=0)

    sink.deliver = deliver  # type: ignore[method-assign]  # this one notes the time
    async with running(journal, lambda _: sink, spec, options=DeliveryOptions(), clock=clock) as bus:
        await bus.publish(spec, look(1))
        for attempt in range(1, 13):
            await until(lambda attempt=attempt: len(times) >= attempt)
            for _ in range(130):
                await pause_begins(bus)
                await clock.advance(0.5)
                await asyncio.sleep(0.001)
                if len(times) > attempt:
                    break
        pauses = [after - before for before, after in pairwise(times)][:11]
    await journal.close()
    for pause, expected in zip(pauses, (1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60), strict=True):
        assert expected / 2 <= pause <= expected + 0.5, pauses
    assert len({round(pause, 3) for pause in pauses}) > 5
    assert await no_letters(tmp_path)


async def pause_begins(bus: EventBus) -> None:
    """Wait until the only lane waits for its next attempt."""
    await until(lambda: [lane for lane in bus.lanes() if lane.retry_at is not None])


async def no_letters(folder: Path) -> bool:
    """Whether nothing was given up."""
    journal = await open_journal(folder, SystemClock())
    found = await journal.dead_letters()
    await journal.close()
    return not found


async def test_a_receiver_may_ask_for_patience(tmp_path: Path) -> None:
    """No attempt is made before the time that the receiver names, not even when something changes."""
    clock = FakeClock()
    journal = await open_journal(tmp_path, clock)
    sink, spec = ScriptedSink([Unavailable("later", retry_after_s=100)]), stream("door", sink_spec("a"))
    async with running(journal, lambda _: sink, spec, clock=clock) as bus:
        await bus.publish(spec, look(1))
        await pause_begins(bus)
        bus.put_spec(spec)
        await clock.advance(99)
        await asyncio.sleep(0.05)
        assert sink.attempts == 1
        await clock.advance(2)
        await until(lambda: sink.delivered)
    await journal.close()


async def test_a_refusal_becomes_a_dead_letter(journal: SqliteJournal) -> None:
    """What is refused is put aside with the reason, and the next event goes; it can be sent again."""
    sink, spec = ScriptedSink([DeliveryRefused("the receiver answered 422")]), stream("door", sink_spec("a"))
    async with running(journal, lambda _: sink, spec) as bus:
        await bus.publish(spec, look(1, 2))
        (letter,) = await letters(journal, 1)
        assert (letter.event.id, letter.error) == ("event000001", "the receiver answered 422")
        await until(lambda: sink.delivered == ids(2))
        assert await bus.replay([letter.id]) == 1
        await until(lambda: sink.delivered == ids(2, 1))
        assert await journal.dead_letters() == []


async def test_what_is_too_old_is_given_up(tmp_path: Path) -> None:
    """After seven days of trying an event becomes a dead letter that says why; younger ones wait on."""
    clock = FakeClock()
    journal = await open_journal(tmp_path, clock)
    sink, spec = ScriptedSink([away("nobody there")] * 10**6), stream("door", sink_spec("a"))
    async with running(journal, lambda _: sink, spec, options=DeliveryOptions(), clock=clock) as bus:
        await bus.publish(spec, look(1, 2))
        await pause_begins(bus)
        await clock.advance(6 * DAY_S)
        await bus.publish(spec, look(3))
        await pause_begins(bus)
        assert await journal.dead_letters() == []
        await clock.advance(1.1 * DAY_S)
        first, second = await letters(journal, 2)
        await pause_begins(bus)
        sink.script.clear()
        for _ in range(4):
            await clock.advance(60)
            await asyncio.sleep(0.02)
        await until(lambda: sink.delivered == ids(3))
    assert [first.event.id, second.event.id] == ids(1, 2)
    assert first.error == "given up after 7 days: nobody there"
    assert len(await journal.dead_letters()) == 2
    await journal.close()


async def test_a_mistake_in_a_sink(journal: SqliteJournal) -> None:
    """An error that no sink should raise is tried again a few times, then put aside; the lane lives on."""
    sink, spec = ScriptedSink([ZeroDivisionError()] * 5), stream("door", sink_spec("a"))
    async with running(journal, lambda _: sink, spec) as bus:
        await bus.publish(spec, look(1, 2))
        (letter,) = await letters(journal, 1)
        await until(lambda: sink.delivered == ids(2))
    assert letter.error == "the sink failed unexpectedly: ZeroDivisionError"


async def test_a_sink_that_never_returns(journal: SqliteJournal) -> None:
    """A sink that ignores its own deadline is cut off by the bus."""
    sink, spec = ScriptedSink(hangs=True), stream("door", sink_spec("a"))
    async with running(journal, lambda _: sink, spec, options=replace(QUICK, deadline_s=0.05)) as bus:
        await bus.publish(spec, look(1))
        await until(lambda: sink.attempts >= 2)
        sink.hangs = False
        await until(lambda: sink.delivered == ids(1))


async def test_stuck_receivers_disturb_nobody(journal: SqliteJournal) -> None:
    """With more hanging lanes than places, events of others still arrive at once."""
    stuck = {f"http://stuck{number}/": ScriptedSink(hangs=True) for number in range(6)}
    good = ScriptedSink()
    streams = [stream(f"s{number}", *(sink_spec(f"stuck{other}") for other in range(6))) for number in range(8)]
    fine = stream("fine", sink_spec("good"))
    options = replace(QUICK, deadline_s=0.3, places=6, retry_places=3, places_per_sink=2)
    async with running(journal, lambda one: stuck.get(one.address, good), *streams, fine, options=options) as bus:
        for spec in streams:
            await bus.publish(
                spec, look(*range(10), stream_id=spec.id) if spec.id == "s0" else look(int(spec.id[1:]) * 100, stream_id=spec.id)
            )
        await asyncio.sleep(1.5)
        late = []
        for number in range(1000, 1020):
            started = time.monotonic()
            await bus.publish(fine, look(number, stream_id="fine"))
            await until(lambda number=number: good.delivered and good.delivered[-1] == ids(number)[0])
            late.append(time.monotonic() - started)
        assert max(late) < 0.25, late
        assert max(sink.most_working for sink in stuck.values()) <= 2
        assert sum(sink.working for sink in stuck.values()) <= 3


async def test_lanes_resume_together_when_the_receiver_is_back(tmp_path: Path) -> None:
    """One success is enough for all streams that wait for the same receiver, however long their pauses have become."""
    clock = FakeClock()
    journal = await open_journal(tmp_path, clock)
    sink = ScriptedSink([away()] * 10**6)
    streams = [stream(f"s{number}", sink_spec("a")) for number in range(10)]
    async with running(journal, lambda _: sink, *streams, options=DeliveryOptions(last_pause_s=3600), clock=clock) as bus:
        for number, spec in enumerate(streams):
            await bus.publish(spec, look(number, stream_id=spec.id))
        await until(lambda: len(bus.lanes()) == 10)
        while min(lane.failures for lane in bus.lanes()) < 8:
            await until(lambda: all(lane.retry_at for lane in bus.lanes()))
            await clock.advance(1)
            await asyncio.sleep(0)
        await until(lambda: all(lane.retry_at for lane in bus.lanes()))
        sink.script.clear()
        while not sink.delivered:
            await clock.advance(1)
            await asyncio.sleep(0.001)
        assert len(sink.delivered) < 5
        await clock.advance(1)
        await until(lambda: len(sink.delivered) == 10)
    assert sink.closed == 1
    await journal.close()


async def test_sinks_are_shared_and_closed(journal: SqliteJournal) -> None:
    """One connection for streams with the same receiver; it closes when the last of them leaves it."""
    opened: list[tuple[SinkSpec, ScriptedSink]] = []

    def open_sink(spec: SinkSpec) -> EventSink:
        opened.append((spec, ScriptedSink()))
        return opened[-1][1]

    first, second = stream("first", sink_spec("a")), stream("second", sink_spec("a", kinds=(EventKind.PERSON_SEEN,)))
    async with running(journal, open_sink, first, second) as bus:
        await bus.publish(first, look(1, stream_id="first"))
        await bus.publish(second, look(2, stream_id="second"))
        await idle(journal)
        assert len(opened) == 1
        bus.put_spec(replace(first, sinks=()))
        await asyncio.sleep(0.05)
        assert opened[0][1].closed == 0
        bus.drop_spec("second")
        await until(lambda: opened[0][1].closed == 1)


async def test_another_secret_is_another_sink(tmp_path: Path) -> None:
    """Streams with the same address and other secrets are each signed with their own; a changed secret holds for what waits."""
    used: list[tuple[str, str]] = []
    clock = FakeClock()
    journal = await open_journal(tmp_path, clock)

    class Noting(ScriptedSink):
        def __init__(self, spec: SinkSpec) -> None:
            super().__init__()
            self.spec = spec

        async def deliver(self, event: Event, pictures: Mapping[str, bytes]) -> None:
            if self.spec.secret == "old":
                raise away("wrong signature")
            used.append((event.id, self.spec.secret))

    first, second = stream("first", sink_spec("a", secret="old")), stream("second", sink_spec("a", secret="two"))
    async with running(journal, Noting, first, second, options=DeliveryOptions(first_pause_s=1, last_pause_s=3600), clock=clock) as bus:
        await bus.publish(first, look(1, stream_id="first"))
        await bus.publish(second, look(2, stream_id="second"))
        await until(lambda: used == [("event000002", "two")])
        for _ in range(300):
            await pause_begins(bus)
            await clock.advance(1)
            await asyncio.sleep(0)
        await pause_begins(bus)
        bus.put_spec(stream("first", sink_spec("a", secret="new")))
        await clock.advance(1)
        await until(lambda: ("event000001", "new") in used)
    await journal.close()


async def test_a_removed_sink(journal: SqliteJournal) -> None:
    """What waits for a sink that the stream has no more becomes dead letters that say so; the other sink is not disturbed."""
    sinks = {"http://gone/": ScriptedSink([away("away")] * 10**6), "http://stays/": ScriptedSink()}
    spec = stream("door", sink_spec("gone"), sink_spec("stays"))
    async with running(journal, lambda one: sinks[one.address], spec) as bus:
        await bus.publish(spec, look(1, 2))
        await until(lambda: sinks["http://gone/"].attempts > 1)
        less = replace(spec, sinks=spec.sinks[1:])
        await journal.replace_stream(less)
        bus.put_spec(less)
        found = await letters(journal, 2)
        await until(lambda: sinks["http://gone/"].closed == 1)
        await bus.publish(spec, look(3))
        await idle(journal)
    assert {letter.error for letter in found} == {SINK_REMOVED}
    assert sinks["http://stays/"].delivered == ids(1, 2, 3)
    assert len(await journal.dead_letters()) == 2


async def test_a_removed_stream(journal: SqliteJournal) -> None:
    """Its deliveries end as dead letters, and nothing stumbles over them."""
    sink, spec = ScriptedSink([away("away")] * 10**6), stream("door", sink_spec("a"))
    async with running(journal, lambda _: sink, spec) as bus:
        await bus.publish(spec, look(1, 2))
        await until(lambda: sink.attempts > 1)
        await journal.remove_stream("door")
        bus.drop_spec("door")
        await letters(journal, 2)
        await until(lambda: not bus.lanes())
        assert sink.closed == 1


async def test_a_sink_that_cannot_be_opened(journal: SqliteJournal) -> None:
    """A spec that no longer works (an older version took it) costs its events a dead letter, not the bus its life."""
    spec = stream("door", SinkSpec(SinkKind.WEBHOOK, "nonsense"), sink_spec("a"))
    good = ScriptedSink()
    with Workers(1) as workers:
        opener = SinkOpener(workers, SystemClock())
        async with running(journal, lambda one: good if one.address.startswith("http") else opener.open(one), spec) as bus:
            await bus.publish(spec, look(1))
            (letter,) = await letters(journal, 1)
            await until(lambda: good.delivered == ids(1))
        opener.close()
    assert "http://" in letter.error


async def test_lanes_resume_at_start(tmp_path: Path) -> None:
    """What was not delivered when the service ended goes first when it starts, before the streams are started."""
    journal = await open_journal(tmp_path, SystemClock())
    spec = stream("door", sink_spec("a"))
    hanging = ScriptedSink(hangs=True)
    async with running(journal, lambda _: hanging, spec) as bus:
        await bus.publish(spec, look(1, 2))
        await until(lambda: hanging.working)
        started = time.monotonic()
    assert time.monotonic() - started < 2
    await journal.close()

    journal = await open_journal(tmp_path, SystemClock())
    sink = ScriptedSink()
    bus = EventBus(journal, lambda _: sink, SystemClock(), QUICK)
    await bus.publish(spec, look(3))
    task = asyncio.create_task(bus.run())
    await until(lambda: sink.delivered == ids(1, 2, 3))
    task.cancel()
    await asyncio.wait({task})
    await bus.close()
    await bus.close()
    await journal.close()


async def test_a_cancelled_publication_is_complete(journal: SqliteJournal) -> None:
    """A camera that is stopped while its event is stored: the event is told and delivered all the same."""
    sink, spec = ScriptedSink(), stream("door", sink_spec("a"))
    async with running(journal, lambda _: sink, spec) as bus:
        publishing = asyncio.create_task(bus.publish(spec, look(1)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        await until(lambda: sink.delivered == ids(1))


async def test_listeners_are_told_in_order(journal: SqliteJournal) -> None:
    """However many streams publish at once, listeners hear the cursors rise."""
    told: list[int] = []
    bus = EventBus(journal, lambda _: ScriptedSink(), SystemClock(), tell=lambda events: told.extend(event.cursor for event in events))
    specs = [stream(f"s{number}") for number in range(20)]
    await asyncio.gather(*(bus.publish(spec, look(number, number + 100, stream_id=spec.id)) for number, spec in enumerate(specs)))
    assert told == sorted(told)
    assert len(told) == 40
    await bus.close()


@pytest.fixture
def opener(workers: Workers) -> Iterator[SinkOpener]:
    """Opens real sinks with short deadlines."""
    opened = SinkOpener(workers, SystemClock(), SinkOptions(timeout_s=0.5))
    yield opened
    opened.close()


async def test_four_receivers_with_bad_days(journal: SqliteJournal, opener: SinkOpener, tmp_path: Path) -> None:
    """Real receivers of every kind leave, freeze and come back while events happen: all arrive, in order, and nothing else does."""
    (tmp_path / "mqtt").mkdir()
    (tmp_path / "redis").mkdir()
    async with AsyncExitStack() as stack:
        receivers: list[Receiver] = [
            await stack.enter_async_context(grpc_receiver()),
            await stack.enter_async_context(http_receiver()),
            await stack.enter_async_context(broker(tmp_path / "mqtt")),
            await stack.enter_async_context(redis_server(tmp_path / "redis")),
        ]
        spec = stream("door", *(receiver.spec for receiver in receivers))
        async with running(journal, opener.open, spec) as bus:
            for number in range(1, 13):
                sick = receivers[number % 4]
                match number // 4 % 3:
                    case 0:
                        await sick.leave()
                    case 1:
                        sick.freeze()
                await bus.publish(spec, look(number))
                # A frozen one outlasts the deadline.
                await asyncio.sleep(0.7 if number // 4 % 3 == 1 else 0.2)
                if number // 4 % 3 == 1:
                    sick.thaw()
                elif number // 4 % 3 == 0:
                    await sick.come_back()
            await idle(journal)
        for receiver in receivers:
            arrived = await receiver.received()
            assert list(dict.fromkeys(arrived)) == ids(*range(1, 13)), receiver.spec.kind
    assert await journal.dead_letters() == []


async def test_a_grpc_receiver_that_says_unavailable(journal: SqliteJournal, opener: SinkOpener) -> None:
    """A receiver that is up and not ready gets everything once it is."""
    async with grpc_receiver() as receiver:
        receiver.status = grpc.StatusCode.UNAVAILABLE
        spec = stream("door", receiver.spec)
        async with running(journal, opener.open, spec) as bus:
            await bus.publish(spec, look(1, 2))
            await until(lambda: [lane for lane in bus.lanes() if lane.failures > 2])
            assert bus.lanes()[0].last_error == "the receiver cannot be connected to"
            receiver.status = None
            await idle(journal)
        assert await receiver.received() == ids(1, 2)
