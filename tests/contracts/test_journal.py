"""What every journal does, whatever it keeps things in."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from face_server.clock import FakeClock
from face_server.domain.events import DeadLetter, Delivery, Event, EventFilter, EventKind, Lane, Picture, SceneFace, Who
from face_server.domain.face import Box
from face_server.domain.stream_ports import Journal
from face_server.domain.streams import SinkKind, SinkSpec, StreamRules, StreamSpec
from face_server.errors import Conflict, InvalidInput, NotFound, Overloaded, Unavailable
from face_server.journal.options import JournalOptions
from face_server.journal.redis import RedisJournal
from face_server.journal.sealing import Sealer
from face_server.journal.sqlite import SqliteJournal
from face_server.redis_connection import RedisOptions, open_redis
from face_server.workers import Workers
from tests.sinks.receivers import redis_server

NOW = 1_700_000_000.0
DAY = 86_400.0
ANN = Who("Ann", 0.71, 0.42, collection="staff", identity_id="ann")
BOB = Who("Bob", 0.55, 0.42, collection="staff", identity_id="bob")
DOOR = Lane("door", "webhook-1")
DOOR_MQTT = Lane("door", "mqtt-1")
GATE = Lane("gate", "webhook-1")

Open = Callable[..., Awaitable[Journal]]


@pytest.fixture
def clock() -> FakeClock:
    """The journal's clock."""
    return FakeClock(NOW)


@pytest.fixture(params=["sqlite", "redis"])
async def open_journal(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Open]:
    """Opens the same journal each time, of each kind, with other bounds if need be."""
    sealer = Sealer.from_key(bytes(32))

    async def sqlite(**bounds: Any) -> Journal:
        return await SqliteJournal.open(tmp_path / "journal.sqlite", clock, sealer, JournalOptions(**bounds))

    if request.param == "sqlite":
        yield sqlite
        return
    async with redis_server(tmp_path) as server, contextlib.AsyncExitStack() as stack:
        workers = stack.enter_context(Workers(1))

        async def redis(**bounds: Any) -> Journal:
            connection = await open_redis(RedisOptions(f"redis://127.0.0.1:{server.port}/0"))
            stack.push_async_callback(connection.close)
            journal = await RedisJournal.open(connection, clock, sealer, JournalOptions(**bounds), workers)
            stack.push_async_callback(journal.close)
            return journal

        yield redis


@pytest.fixture
async def journal(open_journal: Open) -> AsyncIterator[Journal]:
    """A journal with the streams "door" and "gate"."""
    opened = await open_journal()
    await opened.add_stream(spec("door"))
    await opened.add_stream(spec("gate"))
    yield opened
    await opened.close()


def spec(stream_id: str, **more: Any) -> StreamSpec:
    """A stream with credentials."""
    sinks = (SinkSpec(SinkKind.WEBHOOK, f"https://hooks.example/{stream_id}", secret="s3cret"),)
    return StreamSpec(stream_id, f"rtsp://admin:pa55@10.0.0.9/{stream_id}", sinks=sinks, created_at=NOW, **more)


def stranger(stranger_id: str, name: str = "") -> Who:
    """A remembered stranger."""
    return Who(name or f"Stranger {stranger_id}", 0.61, 0.5, stranger_id=stranger_id)


def event(event_id: str, stream: str = "door", who: Who | None = ANN, **more: Any) -> Event:
    """Somebody seen."""
    kind = EventKind.STRANGER_SEEN if who is not None and who.stranger_id else EventKind.PERSON_SEEN
    given = {"kind": kind, "at": NOW, "started_at": NOW - 1, "ended_at": NOW, "track": 7, "box": Box(1.5, 2, 30, 40)} | more
    return Event(event_id, stream_id=stream, who=who, **given)


async def put(journal: Journal, lane: Lane, *event_ids: str, **more: Any) -> None:
    """Append events one by one, each to be delivered on one lane."""
    for event_id in event_ids:
        await journal.append([event(event_id, lane.stream_id, **more)], [], {event_id: [lane.sink_key]})


def names(items: list[Event] | list[Delivery] | list[DeadLetter]) -> list[str]:
    """The ids of events, or of the events in deliveries and letters."""
    return [one.id if isinstance(one, Event) else one.event.id for one in items]


class TestStreams:
    """Specs survive."""

    async def test_specs_come_back_as_they_were(self, journal: Journal, open_journal: Open) -> None:
        """In the order in which they were added, with their secrets, by whoever opens the journal next."""
        full = spec("yard", name="Yard 后院", detail_url="rtsp://u:p@10.0.0.9/big", rules=StreamRules(max_fps=2.5), enabled=False)
        await journal.add_stream(full)
        await journal.add_stream(spec("attic"))
        expected = [spec("door"), spec("gate"), full, spec("attic")]
        assert await journal.streams() == expected
        await journal.close()
        again = await open_journal()
        assert await again.streams() == expected
        await again.close()

    async def test_a_taken_id_is_refused(self, journal: Journal) -> None:
        """The first spec stays."""
        with pytest.raises(Conflict, match="door"):
            await journal.add_stream(spec("door", name="another"))
        assert [one.name for one in await journal.streams()] == ["", ""]

    async def test_a_spec_is_replaced_in_its_place(self, journal: Journal) -> None:
        """Order and the other streams stay."""
        changed = spec("door", name="Front door", rules=StreamRules(max_fps=1))
        await journal.replace_stream(changed)
        assert await journal.streams() == [changed, spec("gate")]

    async def test_unknown_streams_are_not_found(self, journal: Journal) -> None:
        """Neither replaced nor removed."""
        with pytest.raises(NotFound, match="cellar"):
            await journal.replace_stream(spec("cellar"))
        with pytest.raises(NotFound, match="cellar"):
            await journal.remove_stream("cellar")

    async def test_streams_are_bounded(self, journal: Journal, open_journal: Open) -> None:
        """Beyond the limit the error states it."""
        await journal.close()
        small = await open_journal(max_streams=2)
        with pytest.raises(Overloaded, match="2 streams"):
            await small.add_stream(spec("yard"))
        await small.remove_stream("gate")
        await small.add_stream(spec("yard"))
        await small.close()

    async def test_the_events_of_a_removed_stream_stay(self, journal: Journal) -> None:
        """What was not delivered becomes dead letters, in order, of every lane; other streams go on."""
        await journal.append([event("e1"), event("e2")], [], {"e1": ["webhook-1", "mqtt-1"], "e2": ["webhook-1"]})
        await put(journal, GATE, "g1")
        await journal.remove_stream("door")
        assert await journal.streams() == [spec("gate")]
        assert names(await journal.events()) == ["e1", "e2", "g1"]
        assert await journal.lanes() == [GATE]
        letters = await journal.dead_letters()
        assert {(one.lane, one.event.id) for one in letters} == {(DOOR, "e1"), (DOOR_MQTT, "e1"), (DOOR, "e2")}
        assert names([one for one in letters if one.lane == DOOR]) == ["e1", "e2"]
        assert all("removed" in one.error and one.died_at == NOW for one in letters)


class TestEvents:
    """Stored once, read in order."""

    async def test_an_event_comes_back_as_it_was(self, journal: Journal) -> None:
        """Every field, and the cursor that append gave it."""
        faces = (SceneFace(7, Box(0, 0, 9, 9), 0.93, ANN, announced=True, picture="p1"), SceneFace(8, Box(5, 5, 8, 9), 0.5))
        full = event("e1", frame_width=1920, frame_height=1080, picture="p1", frame_picture="p2", faces=faces, message="Ann 安 is here")
        (stored,) = await journal.append([full], [Picture("p1", b"one"), Picture("p2", b"two")], {})
        assert stored.cursor > 0
        assert replace(stored, cursor=0) == full
        assert await journal.event("e1") == stored
        assert await journal.events() == [stored]
        bare = Event("e2", EventKind.STREAM_LOST, "gate", NOW, NOW, NOW)
        (stored,) = await journal.append([bare], [], {})
        assert await journal.event("e2") == replace(bare, cursor=stored.cursor)

    async def test_cursors_rise_and_are_never_used_twice(self, journal: Journal, open_journal: Open, clock: FakeClock) -> None:
        """Also after everything was erased, and after a restart."""
        stored = await journal.append([event(f"e{n}") for n in range(5)], [], {})
        cursors = [one.cursor for one in stored]
        assert cursors == sorted(set(cursors))
        await journal.close()
        again = await open_journal(retention_days=1)
        await clock.advance(2 * DAY)
        assert await again.prune() == 5
        assert await again.events() == []
        (late,) = await again.append([event("late", at=clock.now())], [], {})
        assert late.cursor > cursors[-1]
        await again.close()

    async def test_an_event_is_stored_once(self, journal: Journal) -> None:
        """Appended again it stays as it is, with its cursor, and nothing more is queued; the rest of the call counts."""
        (first,) = await journal.append([event("e1", message="first")], [], {"e1": ["webhook-1"]})
        sinks = {"e1": ["webhook-1", "mqtt-1"], "e2": ["webhook-1"]}
        again, second, twin = await journal.append([event("e1", message="second"), event("e2"), event("e2")], [], sinks)
        assert again == first
        assert second == twin
        assert names(await journal.events()) == ["e1", "e2"]
        assert names(await journal.pending(DOOR)) == ["e1", "e2"]
        assert await journal.lanes() == [DOOR]

    async def test_an_append_is_all_or_nothing(self, journal: Journal) -> None:
        """One event that cannot be stored keeps out its company, pictures and deliveries too."""
        good = event("e1", picture="p1")
        with pytest.raises(InvalidInput, match="bad"):
            await journal.append([good, event("bad", at=float("nan"))], [Picture("p1", b"jpeg")], {"e1": ["webhook-1"]})
        assert await journal.events() == []
        assert await journal.lanes() == []
        with pytest.raises(NotFound):
            await journal.picture("p1")

    async def test_reading_forwards_and_backwards(self, journal: Journal) -> None:
        """After a cursor oldest first, before a cursor newest first, in pages that meet."""
        stored = await journal.append([event(f"e{n}") for n in range(10)], [], {})
        cursors = [one.cursor for one in stored]
        assert names(await journal.events(limit=3)) == ["e0", "e1", "e2"]
        assert names(await journal.events(after=cursors[2], limit=3)) == ["e3", "e4", "e5"]
        assert names(await journal.events(after=cursors[9])) == []
        assert names(await journal.events(before=cursors[9] + 1, limit=2)) == ["e9", "e8"]
        assert names(await journal.events(before=cursors[2])) == ["e1", "e0"]
        assert names(await journal.events(after=cursors[1], before=cursors[4])) == ["e3", "e2"]

    async def test_filters_admit_what_they_say(self, journal: Journal) -> None:
        """Every combination of fields gives what ``EventFilter.admits`` gives, both ways."""
        who = [ANN, BOB, stranger("s1"), stranger("s2"), None]
        made = [
            event(f"e{n}", ("door", "gate", "yard")[n % 3], who[n % 5], at=NOW + (n * 7) % 20, kind=list(EventKind)[n % 4])
            for n in range(60)
        ]
        stored = await journal.append(made, [], {})
        streams: list[tuple[str, ...]] = [(), ("door",), ("gate", "yard"), ("attic",)]
        kinds: list[tuple[EventKind, ...]] = [(), (EventKind.PERSON_SEEN,), (EventKind.PERSON_LEFT, EventKind.STRANGER_SEEN)]
        people = [("", ""), ("ann", ""), ("", "s2"), ("ann", "s1")]
        times = [(None, None), (NOW + 5, None), (None, NOW + 9), (NOW + 5, NOW + 9), (NOW + 99, None), (None, NOW - 99)]
        for stream, kind, (identity, unknown), (since, until) in itertools.product(streams, kinds, people, times):
            where = EventFilter(stream, kind, identity, unknown, since, until)
            expected = [one for one in stored if where.admits(one)]
            assert await journal.events(where=where) == expected, where
            assert await journal.events(where=where, before=stored[-1].cursor + 1) == expected[::-1], where

    async def test_rare_events_are_found_among_many(self, journal: Journal) -> None:
        """Far apart, of several streams, with times ahead of the clock and behind it, page by page in both directions."""
        stored: list[Event] = []
        for start in range(0, 2_500, 500):
            made = []
            for number in range(start, start + 500):
                rare = number % 400 == 7
                at = NOW + number + (5 * DAY if number % 800 == 7 else 0)
                made.append(event(f"e{number}", ("attic" if number % 800 else "yard") if rare else "door", BOB if rare else ANN, at=at))
            stored += await journal.append(made, [], {})
        for where in (
            EventFilter(("attic", "yard")),
            EventFilter(identity_id="bob"),
            EventFilter(since=NOW + 3 * DAY),
            EventFilter(("attic", "door"), identity_id="bob", since=NOW + 100, until=NOW + 3 * DAY),
            EventFilter(until=NOW + 3),
        ):
            expected = [one for one in stored if where.admits(one)]
            assert expected
            assert await journal.events(where=where) == expected, where
            assert await journal.events(where=where, before=2**62) == expected[::-1], where
            paged: list[Event] = []
            while page := await journal.events(where=where, after=paged[-1].cursor if paged else 0, limit=2):
                paged += page
            assert paged == expected

    @pytest.mark.parametrize("limit", [0, -1, 1_001])
    async def test_pages_are_bounded(self, journal: Journal, limit: int) -> None:
        """A limit outside 1 to 1,000 is refused, wherever it is given."""
        for read in (journal.events(limit=limit), journal.pending(DOOR, limit=limit), journal.dead_letters(limit=limit)):
            with pytest.raises(InvalidInput, match="1000"):
                await read

    async def test_unknown_events_and_pictures_are_not_found(self, journal: Journal) -> None:
        """So say the errors."""
        with pytest.raises(NotFound, match="nothing"):
            await journal.event("nothing")
        with pytest.raises(NotFound, match="nothing"):
            await journal.picture("nothing")

    async def test_what_nobody_can_store_is_refused(self, journal: Journal) -> None:
        """Halves of surrogate pairs and numbers beyond all bounds are the caller's mistake, not a failure."""
        with pytest.raises(InvalidInput):
            await journal.event("\ud800")
        with pytest.raises(InvalidInput):
            await journal.append([event("\ud800")], [], {})
        with pytest.raises(InvalidInput):
            await journal.append([event("e1")], [], {"e1": ["\ud800"]})
        with pytest.raises(InvalidInput):
            await journal.events(after=2**70)
        with pytest.raises(InvalidInput):
            await journal.delivered(2**70)
        assert await journal.events() == []

    async def test_appends_at_once_are_in_one_order(self, journal: Journal) -> None:
        """Whoever reads on from the last cursor meets every event exactly once, while many streams append."""
        seen: list[str] = []

        async def append(stream: str) -> None:
            last = 0
            for number in range(25):
                (stored,) = await journal.append([event(f"{stream}-{number}", stream)], [], {})
                assert stored.cursor > last
                last = stored.cursor

        async def follow() -> None:
            cursor = 0
            while len(seen) < 200:
                for one in await journal.events(after=cursor, limit=7):
                    seen.append(one.id)
                    cursor = one.cursor

        await asyncio.gather(follow(), *(append(f"s{number}") for number in range(8)))
        assert len(set(seen)) == 200
        for number in range(8):
            assert [one for one in seen if one.startswith(f"s{number}-")] == [f"s{number}-{index}" for index in range(25)]


class TestPictures:
    """They live as long as an event that refers to them."""

    async def test_a_picture_is_kept_until_its_last_event_goes(self, open_journal: Open, clock: FakeClock) -> None:
        """Shared by two events of different age, as best shot, frame and face of a scene."""
        journal = await open_journal(retention_days=1)
        faces = (SceneFace(1, Box(0, 0, 1, 1), 0.9, picture="face"),)
        pictures = [Picture("shared", b"\xff\xd8 shared"), Picture("frame", b"\xff\xd8 frame"), Picture("face", b"\xff\xd8 face")]
        await journal.append([event("old", picture="shared", frame_picture="frame", faces=faces)], pictures, {})
        await journal.append([event("new", at=NOW + DAY, frame_picture="shared")], [Picture("shared", b"another")], {})
        assert [await journal.picture(one.id) for one in pictures] == [one.jpeg for one in pictures]
        await clock.advance(1.5 * DAY)
        assert await journal.prune() == 1
        assert await journal.picture("shared") == b"\xff\xd8 shared"
        for gone in ("frame", "face"):
            with pytest.raises(NotFound):
                await journal.picture(gone)
        await clock.advance(DAY)
        assert await journal.prune() == 1
        with pytest.raises(NotFound):
            await journal.picture("shared")
        await journal.close()

    async def test_a_picture_without_an_event_is_not_kept(self, journal: Journal) -> None:
        """Nobody could ever erase it."""
        await journal.append([event("e1", picture="p1")], [Picture("p1", b"1"), Picture("stray", b"2")], {})
        await journal.append([event("e1", picture="p2")], [Picture("p2", b"3")], {})
        assert await journal.picture("p1") == b"1"
        for gone in ("stray", "p2"):
            with pytest.raises(NotFound):
                await journal.picture(gone)


class TestStrangers:
    """Past events follow."""

    async def test_events_follow_a_stranger_who_got_a_name(self, journal: Journal) -> None:
        """In who, faces and message; also those that wait and those that were given up; nobody else changes."""
        one, twelve = stranger("s1", "Stranger 1"), stranger("s12", "Stranger 12")
        faces = (SceneFace(1, Box(0, 0, 1, 1), 0.9, one), SceneFace(2, Box(0, 0, 1, 1), 0.9, twelve), SceneFace(3, Box(0, 0, 1, 1), 0.9))
        await put(journal, DOOR, "e1", "e2", who=one, faces=faces, message="Stranger 1 met Stranger 12.")
        await put(journal, DOOR, "e3", who=twelve, faces=faces, message="Stranger 12 met Stranger 1.")
        await put(journal, DOOR, "e4", who=ANN)
        await journal.bury((await journal.pending(DOOR))[0].id, "refused")
        before = await journal.event("e4")
        assert await journal.name_stranger("s1", name="Bob", collection="staff", identity_id="bob") == 3
        bob = replace(one, name="Bob", collection="staff", identity_id="bob", stranger_id="")
        (letter,), (e2, e3, e4) = await journal.dead_letters(), await journal.pending(DOOR)
        assert (letter.event.id, letter.event.who, letter.event.message) == ("e1", bob, "Bob met Stranger 12.")
        assert (e2.event.who, e2.event.kind) == (bob, EventKind.STRANGER_SEEN)
        assert [face.who for face in e2.event.faces] == [bob, twelve, None]
        assert (e3.event.who, [face.who for face in e3.event.faces]) == (twelve, [bob, twelve, None])
        assert e4.event == before
        assert names(await journal.events(where=EventFilter(identity_id="bob"))) == ["e1", "e2"]
        assert names(await journal.events(where=EventFilter(stranger_id="s1"))) == []
        assert names(await journal.events(where=EventFilter(stranger_id="s12"))) == ["e3"]
        assert await journal.name_stranger("s1", name="Cy", collection="staff", identity_id="cy") == 0

    async def test_events_follow_a_merged_stranger(self, journal: Journal) -> None:
        """Merged, and then renamed under the new id; a bystander's events follow twice."""
        faces = (SceneFace(1, Box(0, 0, 1, 1), 0.9, stranger("s1")),)
        await journal.append([event("e1", who=stranger("s1")), event("e2", faces=faces), event("e3", who=stranger("s2"))], [], {})
        assert await journal.name_stranger("s1", name="Stranger s2", into="s2") == 2
        assert names(await journal.events(where=EventFilter(stranger_id="s2"))) == ["e1", "e3"]
        assert await journal.name_stranger("s2", name="The postman") == 3
        assert [one.who.name for one in await journal.events() if one.who] == ["The postman", "Ann", "The postman"]
        assert (await journal.event("e2")).faces[0].who == replace(stranger("s2"), name="The postman")
        assert await journal.name_stranger("s3", name="Nobody") == 0

    async def test_many_events_follow(self, journal: Journal, open_journal: Open) -> None:
        """More than one step takes, with other events between and after them."""
        for start in range(0, 900, 100):
            made = [event(f"e{n}", who=stranger("s1") if n % 2 else ANN) for n in range(start, start + 100)]
            await journal.append(made, [], {})
        assert await journal.name_stranger("s1", name="The postman") == 450
        postman = await journal.events(where=EventFilter(stranger_id="s1"), limit=1_000)
        assert {one.who.name for one in postman if one.who} == {"The postman"}
        assert await journal.name_stranger("s1", name="Bob", collection="staff", identity_id="bob") == 450
        assert len(await journal.events(where=EventFilter(identity_id="bob"), limit=1_000)) == 450
        assert len(await journal.events(where=EventFilter(identity_id="ann"), limit=1_000)) == 450


class TestOutbox:
    """In order, at least once, bounded."""

    async def test_a_lane_is_delivered_in_order(self, journal: Journal) -> None:
        """Lanes are independent; what is delivered is gone; ids rise."""
        await journal.append([event("e1"), event("e2")], [], {"e1": ["webhook-1", "mqtt-1"], "e2": ["mqtt-1", "mqtt-1"]})
        await put(journal, GATE, "g1")
        assert sorted(await journal.lanes(), key=str) == sorted([DOOR, DOOR_MQTT, GATE], key=str)
        first, second = await journal.pending(DOOR_MQTT)
        assert (first.event.id, second.event.id, first.lane) == ("e1", "e2", DOOR_MQTT)
        assert first.id < second.id
        assert first.queued_at == NOW
        assert first.event == await journal.event("e1")
        await journal.delivered(first.id)
        assert names(await journal.pending(DOOR_MQTT)) == ["e2"]
        assert names(await journal.pending(DOOR)) == ["e1"]
        await journal.delivered(second.id)
        assert sorted(await journal.lanes(), key=str) == sorted([DOOR, GATE], key=str)
        assert await journal.pending(DOOR_MQTT) == []
        assert await journal.pending(Lane("no", "lane")) == []

    async def test_the_oldest_come_first(self, journal: Journal) -> None:
        """A limit gives the head of the lane."""
        await put(journal, DOOR, *(f"e{n}" for n in range(20)))
        assert names(first := await journal.pending(DOOR, limit=3)) == ["e0", "e1", "e2"]
        assert names(await journal.pending(DOOR, after=first[1].id, limit=2)) == ["e2", "e3"]
        assert len(await journal.pending(DOOR)) == 16

    async def test_attempts_survive_a_restart(self, journal: Journal, open_journal: Open) -> None:
        """A failure is counted with its reason, and the delivery stays the first of its lane."""
        await put(journal, DOOR, "e1", "e2")
        (first, _) = await journal.pending(DOOR)
        await journal.failed(first.id, "connection refused")
        await journal.failed(first.id, "x" * 5_000)
        await journal.close()
        again = await open_journal()
        one, two = await again.pending(DOOR)
        assert (one.id, one.event.id, one.attempts) == (first.id, "e1", 2)
        assert set(one.last_error) == {"x"}
        assert len(one.last_error) <= 500
        assert (two.attempts, two.last_error) == (0, "")
        await again.close()

    async def test_a_delivery_is_given_up(self, journal: Journal, clock: FakeClock) -> None:
        """It leaves its lane and is kept as a dead letter with the reason, the attempts and the time."""
        await put(journal, DOOR, "e1", "e2")
        (first, _) = await journal.pending(DOOR)
        await journal.failed(first.id, "no")
        await clock.advance(60)
        await journal.bury(first.id, "the receiver answered 410")
        assert names(await journal.pending(DOOR)) == ["e2"]
        (letter,) = await journal.dead_letters()
        assert letter == DeadLetter(letter.id, DOOR, first.event, 1, "the receiver answered 410", NOW + 60)

    async def test_unknown_deliveries_are_not_found(self, journal: Journal) -> None:
        """A delivery can be dealt with once."""
        await put(journal, DOOR, "e1")
        (one,) = await journal.pending(DOOR)
        await journal.delivered(one.id)
        for deal in (journal.delivered(one.id), journal.failed(one.id, "x"), journal.bury(one.id, "x")):
            with pytest.raises(NotFound, match=str(one.id)):
                await deal
        assert await journal.dead_letters() == []

    async def test_a_lane_is_bounded(self, open_journal: Open) -> None:
        """Beyond the bound the oldest become dead letters with the reason; the other lane does not suffer."""
        journal = await open_journal(max_pending_per_lane=3)
        await put(journal, GATE, "g1")
        await put(journal, DOOR, "e1", "e2", "e3", "e4")
        await journal.append([event("e5"), event("e6")], [], {"e5": ["webhook-1"], "e6": ["webhook-1"]})
        assert names(await journal.pending(DOOR)) == ["e4", "e5", "e6"]
        assert names(await journal.pending(GATE)) == ["g1"]
        letters = await journal.dead_letters()
        assert names(letters) == ["e1", "e2", "e3"]
        assert all("3 events were waiting" in one.error for one in letters)
        await journal.close()

    async def test_dead_letters_are_bounded(self, open_journal: Open) -> None:
        """The newest are kept."""
        journal = await open_journal(max_dead_letters=2, max_pending_per_lane=1)
        await put(journal, DOOR, "e1", "e2", "e3", "e4", "e5")
        assert names(await journal.dead_letters()) == ["e3", "e4"]
        await journal.close()

    async def test_dead_letters_come_in_pages(self, journal: Journal) -> None:
        """By id."""
        await put(journal, DOOR, "e1", "e2", "e3")
        for one in await journal.pending(DOOR):
            await journal.bury(one.id, "no")
        first = await journal.dead_letters(limit=2)
        assert names(first) == ["e1", "e2"]
        assert names(await journal.dead_letters(after=first[-1].id)) == ["e3"]

    async def test_dead_letters_are_replayed(self, journal: Journal, clock: FakeClock) -> None:
        """At the end of their lane, in order of their events, with fresh attempts; unknown ids are passed over."""
        await put(journal, DOOR, "e1", "e2", "e3", "e4")
        e1, e2, e3, _ = await journal.pending(DOOR)
        await journal.failed(e3.id, "no")
        for one in (e3, e1, e2):
            await journal.bury(one.id, "no")
        letters = {one.event.id: one.id for one in await journal.dead_letters()}
        await clock.advance(10)
        assert await journal.replay([letters["e3"], letters["e1"], letters["e1"], 10**9]) == 2
        waiting = await journal.pending(DOOR)
        assert names(waiting) == ["e4", "e1", "e3"]
        assert [one.id for one in waiting] == sorted(one.id for one in waiting)
        assert {(one.attempts, one.last_error) for one in waiting} == {(0, "")}
        assert waiting[-1].queued_at == NOW + 10
        assert names(await journal.dead_letters()) == ["e2"]
        assert await journal.replay([letters["e1"]]) == 0

    async def test_letters_of_a_removed_stream_are_not_replayed(self, journal: Journal) -> None:
        """Nothing of the call is; they can be discarded, and replayed when the stream is back."""
        await put(journal, DOOR, "e1")
        await put(journal, GATE, "g1")
        await journal.bury((await journal.pending(GATE))[0].id, "no")
        await journal.remove_stream("door")
        ids = [one.id for one in await journal.dead_letters()]
        with pytest.raises(Conflict, match="door"):
            await journal.replay(ids)
        assert len(await journal.dead_letters()) == 2
        assert await journal.lanes() == []
        await journal.add_stream(spec("door"))
        assert await journal.replay(ids) == 2
        assert sorted(await journal.lanes(), key=str) == sorted([DOOR, GATE], key=str)

    async def test_dead_letters_are_discarded(self, journal: Journal) -> None:
        """Counted; events stay."""
        await put(journal, DOOR, "e1", "e2")
        for one in await journal.pending(DOOR):
            await journal.bury(one.id, "no")
        first, second = await journal.dead_letters()
        assert await journal.discard([first.id, 10**9]) == 1
        assert await journal.dead_letters() == [second]
        assert await journal.discard([first.id]) == 0
        assert names(await journal.events()) == ["e1", "e2"]


class TestPrune:
    """Nothing grows for ever."""

    async def test_nothing_goes_within_the_bounds(self, journal: Journal) -> None:
        """Pruning is harmless."""
        await put(journal, DOOR, "e1", "e2")
        assert await journal.prune() == 0
        assert names(await journal.pending(DOOR)) == ["e1", "e2"]

    async def test_old_events_go_with_what_refers_to_them(self, open_journal: Open, clock: FakeClock) -> None:
        """Whatever their order in the journal; what waits to be delivered is past its retention too."""
        journal = await open_journal(retention_days=2)
        ages = [3, 1, 5, 0]
        await journal.append([event(f"d{age}", at=NOW - age * DAY) for age in ages], [], {f"d{age}": ["webhook-1"] for age in ages})
        assert await journal.prune() == 2
        assert names(await journal.events()) == ["d1", "d0"]
        assert names(await journal.pending(DOOR)) == ["d1", "d0"]
        for one in await journal.pending(DOOR):
            await journal.bury(one.id, "no")
        await clock.advance(3 * DAY)
        assert await journal.prune() == 2
        assert await journal.dead_letters() == []
        assert await journal.lanes() == []
        await journal.close()

    async def test_events_whose_pictures_were_never_there_go(self, open_journal: Open, clock: FakeClock) -> None:
        """Like all others, and what others need stays."""
        journal = await open_journal(retention_days=1)
        await journal.append([event("e1", picture="none", frame_picture="p")], [Picture("p", b"jpeg")], {})
        await journal.append([event("e2", at=NOW + DAY, picture="none", frame_picture="p")], [], {})
        await clock.advance(1.5 * DAY)
        assert await journal.prune() == 1
        assert await journal.picture("p") == b"jpeg"
        await journal.close()

    async def test_retention_0_keeps_for_ever(self, open_journal: Open, clock: FakeClock) -> None:
        """No event is too old."""
        journal = await open_journal(retention_days=0)
        await put(journal, DOOR, "e1", at=0.0)
        assert await journal.prune() == 0
        await journal.close()

    async def test_the_number_of_events_is_bounded(self, open_journal: Open) -> None:
        """The newest stay, even if nobody prunes for long; what still waits outlives what does not."""
        journal = await open_journal(max_events=40)
        await journal.append([event("waits"), event("died")], [], {"waits": ["webhook-1"], "died": ["mqtt-1"]})
        await journal.bury((await journal.pending(DOOR_MQTT))[0].id, "no")
        for number in range(100):
            await journal.append([event(f"e{number}")], [], {})
        assert len(await journal.events()) <= 42
        await journal.prune()
        assert names(await journal.events()) == ["waits", "died", *(f"e{number}" for number in range(62, 100))]
        assert names(await journal.pending(DOOR)) == ["waits"]
        await journal.close()
        small = await open_journal(max_events=1)
        assert await small.prune() == 39
        assert names(await small.events()) == ["waits"]
        await small.append([event("also waits")], [], {"also waits": ["webhook-1"]})
        await small.prune()
        assert names(await small.pending(DOOR)) == ["also waits"]
        await small.close()

    async def test_the_bytes_of_pictures_are_bounded(self, open_journal: Open) -> None:
        """The oldest events with pictures go, until the rest fits; those without make no room and stay."""
        journal = await open_journal(max_picture_bytes=10_000)
        await journal.append([event("plain")], [], {})
        for number in range(30):
            await journal.append([event(f"e{number}", picture=f"p{number}")], [Picture(f"p{number}", bytes(1_000))], {})
        assert len(await journal.events()) <= 13
        await journal.prune()
        assert names(await journal.events()) == ["plain", *(f"e{number}" for number in range(20, 30))]
        assert len(await journal.picture("p20")) == 1_000
        with pytest.raises(NotFound):
            await journal.picture("p19")
        await journal.close()

    async def test_pruning_ends_while_events_come_in(self, open_journal: Open) -> None:
        """It does not chase what is appended meanwhile, one event after the other, for ever."""
        full = await open_journal(max_events=1_000)
        await full.append([event(f"old{n}") for n in range(200)], [], {})
        await full.close()
        journal = await open_journal(max_events=20)
        pruning = asyncio.create_task(journal.prune())
        number = 0
        while not pruning.done():
            await journal.append([event(f"new{number}")], [], {})
            number += 1
            assert number < 1_000
        assert pruning.result() > 0
        assert len(await journal.events()) <= 22
        await journal.close()


class TestClosing:
    """What was acknowledged is kept."""

    async def test_everything_survives_a_restart(self, journal: Journal, open_journal: Open) -> None:
        """Events, pictures, deliveries and dead letters."""
        await put(journal, DOOR, "e1", "e2")
        await journal.append([event("e3", picture="p")], [Picture("p", b"jpeg")], {})
        await journal.bury((await journal.pending(DOOR))[0].id, "no")
        before = (await journal.events(), await journal.pending(DOOR), await journal.dead_letters(), await journal.lanes())
        await journal.close()
        again = await open_journal()
        assert (await again.events(), await again.pending(DOOR), await again.dead_letters(), await again.lanes()) == before
        assert await again.picture("p") == b"jpeg"
        await again.close()

    async def test_a_closed_journal_says_so(self, journal: Journal) -> None:
        """Closing twice is harmless; using it afterwards is Unavailable."""
        await journal.close()
        await journal.close()
        with pytest.raises(Unavailable, match="closed"):
            await journal.events()
        with pytest.raises(Unavailable, match="closed"):
            await journal.append([event("e1")], [], {})

    async def test_two_see_each_other_at_once(self, journal: Journal, open_journal: Open) -> None:
        """A command line beside the server: what one has acknowledged the other reads, and both may write."""
        other = await open_journal()
        await put(journal, DOOR, "e1")
        (one,) = await other.pending(DOOR)
        await other.bury(one.id, "by hand")
        assert names(await journal.dead_letters()) == ["e1"]
        both = [journal, other]
        await asyncio.gather(*(both[n % 2].append([event(f"n{n}")], [], {f"n{n}": ["webhook-1"]}) for n in range(60)))
        assert len(await journal.events()) == 61
        assert await journal.events() == await other.events()
        assert {one.event.id for one in await journal.pending(DOOR, limit=100)} == {f"n{n}" for n in range(60)}
        await other.close()
