"""Events wait on the local disk while the journal is away."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest

from face_server.clock import FakeClock, SystemClock
from face_server.domain.events import Event, EventKind, Lane, Picture
from face_server.domain.replicas import Standing
from face_server.domain.streams import StreamSpec
from face_server.errors import ConfigurationError, InvalidInput, Unavailable
from face_server.journal.passing import PassingJournal
from face_server.journal.sealing import Sealer
from face_server.journal.spool import SpoolingJournal
from face_server.journal.spool_file import SpoolBounds
from face_server.journal.sqlite import SqliteJournal

NOW = 1_700_000_000.0
DOOR = Lane("door", "hook")
ROUNDS = 10


class Journal(PassingJournal):
    """A real journal that can go away, and come back with or without what was under way."""

    away = False
    forgetful = False
    refuses: frozenset[str] = frozenset()

    async def append(self, events: Sequence[Event], pictures: Sequence[Picture], sinks: Mapping[str, Sequence[str]]) -> list[Event]:
        """Store, unless it is away; ``forgetful`` stores and does not say so."""
        if self.away:
            raise Unavailable("the journal is away")
        if self.refuses & {event.id for event in events}:
            raise InvalidInput("nobody wants this one")
        stored = await super().append(events, pictures, sinks)
        if self.forgetful:
            raise Unavailable("the connection broke off")
        return stored


class Fence:
    """One stream, and how it stands."""

    def __init__(self) -> None:
        self.now = Standing(7)
        self.taken_at: float | None = None

    def standing(self, _stream_id: str) -> Standing:
        """As the test wants it."""
        return self.now

    async def superseded_at(self, _stream_id: str, token: int) -> float | None:
        """As the test wants it."""
        assert token == 7
        return self.taken_at


def event(name: str, at: float = NOW, **more: object) -> Event:
    """Somebody at the door."""
    return Event(name, EventKind.PERSON_SEEN, "door", at, at, at, **more)  # type: ignore[arg-type]


def sealer() -> Sealer:
    """The key of these tests."""
    return Sealer.from_key(bytes(32))


@pytest.fixture
def clock() -> FakeClock:
    """A clock that is moved by hand."""
    return FakeClock(NOW)


@pytest.fixture
async def inner(tmp_path: Path, clock: FakeClock) -> Journal:
    """A journal with the stream "door"."""
    journal = await SqliteJournal.open(tmp_path / "journal.sqlite", clock, sealer())
    await journal.add_stream(StreamSpec("door", "rtsp://10.0.0.9/door"))
    return Journal(journal)


Open = Callable[..., Awaitable[SpoolingJournal]]


@pytest.fixture
async def open_spool(inner: Journal, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Open]:
    """Opens the spooling journal on the same folder; all are closed after the test."""
    opened: list[SpoolingJournal] = []

    async def open_one(bounds: SpoolBounds | None = None, **more: object) -> SpoolingJournal:
        opened.append(await SpoolingJournal.open(inner, tmp_path / "spool", clock, sealer(), bounds, **more))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for journal in opened:
        await journal.close()


async def put(journal: SpoolingJournal, *names: str, at: float = NOW) -> list[Event]:
    """Append events one by one, each with a picture and a delivery."""
    stored = []
    for name in names:
        picture = Picture(f"p-{name}", name.encode() * 100)
        stored += await journal.append([event(name, at, picture=picture.id)], [picture], {name: ["hook"]})
    return stored


async def drained(journal: SpoolingJournal, clock: FakeClock) -> None:
    """Wait until nothing waits."""
    for _ in range(400):
        if not journal.status.events:
            return
        await clock.advance(0.5)
        await asyncio.sleep(0.01)
    raise AssertionError(f"still waiting: {journal.status}")


async def names(journal: PassingJournal) -> list[str]:
    """What the journal has, in order."""
    return [one.id for one in await journal.events(limit=1_000)]


async def test_while_the_journal_answers_nothing_is_spooled(open_spool: Open, inner: Journal) -> None:
    """Events get their cursor at once."""
    journal = await open_spool()
    assert [one.cursor for one in await put(journal, "a", "b")] == [1, 2]
    assert await names(inner) == ["a", "b"]
    assert journal.status.events == 0


async def test_events_wait_and_follow_in_order_once(open_spool: Open, inner: Journal, clock: FakeClock) -> None:
    """With pictures and deliveries, those that come while others wait behind them; whoever listens hears of each with its cursor."""
    told: list[Event] = []
    journal = await open_spool(drained=told.extend)
    inner.away = True
    assert [one.cursor for one in await put(journal, "a", "b", "c")] == [0, 0, 0]
    assert (journal.status.events, journal.status.reason) == (3, "the journal is away")
    await clock.advance(5)
    inner.away = False
    assert [one.cursor for one in await put(journal, "d")] == [0]
    await drained(journal, clock)
    assert await names(inner) == ["a", "b", "c", "d"]
    assert [(one.id, one.cursor) for one in told] == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    assert [one.event.id for one in await journal.pending(DOOR)] == ["a", "b", "c", "d"]
    assert await journal.picture("p-b") == b"b" * 100
    assert [one.cursor for one in await put(journal, "e")] == [5]
    assert (journal.status.events, journal.status.bytes, journal.status.lost, journal.status.reason) == (0, 0, 0, "")


async def test_what_was_stored_without_a_word_is_not_stored_twice(open_spool: Open, inner: Journal, clock: FakeClock) -> None:
    """The connection broke after the journal had it, several times."""
    journal = await open_spool()
    inner.forgetful = True
    await put(journal, "a", "b")
    await clock.advance(3)
    inner.forgetful = False
    await drained(journal, clock)
    assert await names(inner) == ["a", "b"]
    assert [one.event.id for one in await journal.pending(DOOR)] == ["a", "b"]


async def test_what_waits_is_sealed_and_outlives_the_process(open_spool: Open, inner: Journal, clock: FakeClock, tmp_path: Path) -> None:
    """Neither names nor pictures can be read in the file; the next process goes on with it, and nothing stays in the file."""
    journal, inner.away = await open_spool(), True
    await journal.append([event("a", message="Ann is here", picture="p")], [Picture("p", b"JPEGJPEG" * 50)], {})
    await journal.close()
    files = list((tmp_path / "spool").iterdir())
    assert files
    assert not any(b"Ann" in file.read_bytes() or b"JPEGJPEG" in file.read_bytes() for file in files)
    again = await SqliteJournal.open(tmp_path / "journal.sqlite", clock, sealer())
    other = await SpoolingJournal.open(again, tmp_path / "spool", clock, sealer())
    await drained(other, clock)
    assert await names(again) == ["a"]
    await other.close()


async def test_each_process_has_its_own_and_a_free_one_is_taken_over(
    open_spool: Open, inner: Journal, clock: FakeClock, tmp_path: Path
) -> None:
    """Two at once do not touch each other's; what the second leaves is drained by whoever starts next, and its file removed."""
    first, second = await open_spool(), await open_spool()
    inner.away = True
    await put(first, "a")
    await put(second, "b")
    assert (first.status.events, second.status.events) == (1, 1)
    second._file.close()
    second._draining.cancel()
    first._file.close()
    first._draining.cancel()
    inner.away = False
    third = await open_spool()
    await drained(third, clock)
    assert await names(inner) == ["b", "a"]
    for _ in range(100):
        await asyncio.sleep(0.01)
        if not (tmp_path / "spool" / "spool-1.sqlite").exists():
            break
    assert {file.name for file in (tmp_path / "spool").glob("*.sqlite")} == {"spool-0.sqlite"}


async def test_a_full_spool_loses_the_oldest_and_says_so(open_spool: Open, inner: Journal, clock: FakeClock, caplog) -> None:
    """Counted, logged in one sentence; the newest are there."""
    journal, inner.away = await open_spool(SpoolBounds(max_bytes=4_000)), True
    made = [f"event-{number:02}" for number in range(10)]
    await put(journal, *made)
    status = journal.status
    assert status.bytes <= 4_000
    assert 0 < status.lost < 10
    assert status.events == 10 - status.lost
    assert "1 event(s) were lost, the oldest in spool-0.sqlite: the journal has been away for longer than its bounds allow" in caplog.text
    inner.away = False
    await drained(journal, clock)
    assert await names(inner) == made[status.lost :]


async def test_an_event_beyond_the_bounds_goes_without_its_pictures(open_spool: Open, inner: Journal, clock: FakeClock) -> None:
    """Rather than not at all."""
    journal, inner.away = await open_spool(SpoolBounds(max_bytes=4_000)), True
    await journal.append([event("a", picture="p")], [Picture("p", bytes(5_000))], {})
    inner.away = False
    await drained(journal, clock)
    assert await names(inner) == ["a"]


async def test_what_is_too_old_is_given_up(open_spool: Open, inner: Journal, clock: FakeClock) -> None:
    """And counted."""
    journal, inner.away = await open_spool(SpoolBounds(max_age_s=3600)), True
    await put(journal, "a")
    await clock.advance(3000)
    await put(journal, "b")
    await clock.advance(1000)
    # The attempt that was due meanwhile has failed.
    await asyncio.sleep(0.1)
    inner.away = False
    await drained(journal, clock)
    assert await names(inner) == ["b"]
    assert journal.status.lost == 1


async def test_an_event_that_nobody_takes_does_not_hold_up_others(open_spool: Open, inner: Journal, clock: FakeClock, caplog) -> None:
    """It is counted as lost, with the reason; so is one that is damaged on disk."""
    journal, inner.away = await open_spool(), True
    await put(journal, "a", "bad", "c", "d")
    with sqlite3.connect(journal._file.path) as connection:
        connection.execute("UPDATE entries SET body = x'00112233' WHERE key = 3")
    connection.close()
    inner.away, inner.refuses = False, frozenset({"bad"})
    await drained(journal, clock)
    assert await names(inner) == ["a", "d"]
    assert journal.status.lost == 2
    assert "were lost: nobody wants this one" in caplog.text
    assert "were lost: they are damaged" in caplog.text


async def test_a_full_disk_is_unavailable_and_changes_nothing(open_spool: Open, inner: Journal, clock: FakeClock) -> None:
    """The caller keeps the event; later it is taken."""
    journal, inner.away = await open_spool(), True
    await put(journal, "a")
    writer = journal._file._writer
    await asyncio.wrap_future(writer.write(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchone()))
    with pytest.raises(Unavailable, match="full"):
        await journal.append([event("b", picture="p")], [Picture("p", bytes(100_000))], {})
    await asyncio.wrap_future(writer.write(lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchone()))
    await put(journal, "b")
    inner.away = False
    await drained(journal, clock)
    assert await names(inner) == ["a", "b"]


async def test_another_key_is_refused_while_something_waits(open_spool: Open, inner: Journal, clock: FakeClock, tmp_path: Path) -> None:
    """With a sentence; the file stays as it is."""
    journal, inner.away = await open_spool(), True
    await put(journal, "a")
    await journal.close()
    with pytest.raises(ConfigurationError, match=r"spool-0\.sqlite.*put that key back"):
        await SpoolingJournal.open(inner, tmp_path / "spool", clock, Sealer.from_key(bytes(range(32))))


class TestFence:
    """Events of a stream that another replica runs by now."""

    async def test_doubtful_events_go_through_the_spool_and_are_taken(self, open_spool: Open, inner: Journal, clock: FakeClock) -> None:
        """Nobody else has claimed the stream: all is as usual."""
        fence = Fence()
        journal = await open_spool(fence=fence)
        await put(journal, "a")
        fence.now = Standing(7, sure=False)
        assert [one.cursor for one in await put(journal, "b")] == [0]
        await drained(journal, clock)
        assert await names(inner) == ["a", "b"]
        assert [one.event.id for one in await journal.pending(DOOR)] == ["a", "b"]

    async def test_after_the_next_owner_began_events_are_kept_but_alert_nobody(
        self, open_spool: Open, inner: Journal, clock: FakeClock
    ) -> None:
        """What was decided before alerts as usual, however late it arrives, each once."""
        fence = Fence()
        journal = await open_spool(fence=fence)
        inner.away, fence.now, fence.taken_at = True, Standing(7, sure=False), NOW + 10
        await put(journal, "before", at=NOW + 9)
        await put(journal, "after", at=NOW + 11)
        inner.away = False
        await drained(journal, clock)
        assert await names(inner) == ["before", "after"]
        assert [one.event.id for one in await journal.pending(DOOR)] == ["before"]

    async def test_once_the_loss_is_known_nothing_more_is_true(self, open_spool: Open, inner: Journal, clock: FakeClock) -> None:
        """Everybody leaves only because this replica stops watching; what was decided before it noticed is kept."""
        fence = Fence()
        journal = await open_spool(fence=fence)
        fence.now, fence.taken_at = Standing(7, sure=False, lost_at=NOW + 20), NOW + 10
        assert await journal.append([event("left", NOW + 21)], [], {"left": ["hook"]}) == []
        await put(journal, "seen", at=NOW + 19)
        await drained(journal, clock)
        assert await names(inner) == ["seen"]
        assert await journal.pending(DOOR) == []


def test_kill_9_loses_nothing_acknowledged_and_doubles_nothing(tmp_path: Path) -> None:
    """Killed ten times at random moments while the journal comes and goes: in the end all that was acknowledged is there once, in order."""
    script, moments = Path(__file__).with_name("spooling_process.py"), random.Random(5)
    said: list[str] = []
    with subprocess.Popen([sys.executable, script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(ROUNDS):
            process.stdin.write(f"r{number:02}\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            time.sleep(moments.uniform(0.02, 0.35))
            os.kill(child, signal.SIGKILL)
            said += iter(lambda: process.stdout.readline().strip(), "ended")
        process.stdin.close()

    async def check() -> None:
        inner = await SqliteJournal.open(tmp_path / "journal.sqlite", SystemClock(), sealer())
        journal = await SpoolingJournal.open(inner, tmp_path / "spool", SystemClock(), sealer())
        if journal._draining is not None:
            await journal._draining
        found: list[Event] = []
        while page := await inner.events(after=found[-1].cursor if found else 0, limit=1_000):
            found += page
        have = [one.id for one in found]
        assert len(set(have)) == len(have)
        assert set(said) <= set(have)
        assert have == sorted(have)
        queued = [one.event.id for one in await inner.pending(DOOR, limit=1_000)]
        assert queued == have[: len(queued)]
        await journal.close()

    asyncio.run(check())
    assert len(said) > 5 * ROUNDS
