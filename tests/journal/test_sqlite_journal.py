"""What is special about a journal in a SQLite file: the file."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from face_server.clock import FakeClock
from face_server.domain.events import Event, EventFilter, EventKind, Lane, Picture, Who
from face_server.domain.streams import SinkKind, SinkSpec, StreamSpec
from face_server.errors import ConfigurationError, FaceServerError, Overloaded, Unavailable
from face_server.journal import event_log
from face_server.journal.options import JournalOptions
from face_server.journal.references import Rename
from face_server.journal.sealing import Sealer
from face_server.journal.sqlite import SqliteJournal

NOW = 1_700_000_000.0
KEY = bytes(range(32))
DOOR = Lane("door", "hook")
SPEC = StreamSpec(
    "door",
    "rtsp://admin:pa55word@10.1.2.3:554/main",
    name="Front door",
    detail_url="rtsp://admin:pa55word@10.1.2.3:554/large",
    sinks=(SinkSpec(SinkKind.WEBHOOK, "https://hooks.example/t0ken", secret="h4shk3y"),),
)
SECRETS = [b"pa55word", b"admin", b"10.1.2.3", b"rtsp://", b"hooks.example", b"t0ken", b"h4shk3y"]


async def opened(path: Path, *, key: bytes = KEY, **bounds: Any) -> SqliteJournal:
    """The journal at ``path``."""
    return await SqliteJournal.open(path, FakeClock(NOW), Sealer.from_key(key), JournalOptions(**bounds))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal lies."""
    return tmp_path / "data" / "journal.sqlite"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[SqliteJournal]:
    """A journal with the stream "door"."""
    one = await opened(path)
    await one.add_stream(SPEC)
    yield one
    await one.close()


def event(event_id: str, **more: Any) -> Event:
    """Somebody seen."""
    return Event(event_id, EventKind.PERSON_SEEN, "door", **({"at": NOW, "started_at": NOW, "ended_at": NOW} | more))


async def put(journal: SqliteJournal, *event_ids: str, size: int = 3_000) -> None:
    """Append events with a picture and a delivery each, one by one."""
    for event_id in event_ids:
        await journal.append(
            [event(event_id, picture=f"of {event_id}")], [Picture(f"of {event_id}", jpeg(event_id, size))], {event_id: ["hook"]}
        )


def jpeg(event_id: str, size: int = 3_000) -> bytes:
    """Bytes that stand for a picture; no two alike."""
    return (f"picture of {event_id}!".encode() * size)[:size]


def files(path: Path) -> bytes:
    """All bytes of the journal's files, logs too."""
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


class TestKeys:
    """Addresses and secrets are for holders of the key."""

    async def test_no_secret_is_in_the_files(self, journal: SqliteJournal, path: Path) -> None:
        """Not after adding, replacing, removing or closing: not in the file and not in its log."""
        assert b"Front door" in files(path)
        assert [one for one in SECRETS if one in files(path)] == []
        await journal.replace_stream(replace(SPEC, name="Back door", url="http://root:pa55word2@10.1.2.3/"))
        assert b"Back door" in files(path)
        assert [one for one in SECRETS if one in files(path)] == []
        await journal.append([event("e1")], [], {"e1": [SPEC.sinks[0].key]})
        await journal.remove_stream("door")
        assert [one for one in SECRETS if one in files(path)] == []
        await journal.close()
        assert [one for one in SECRETS if one in files(path)] == []

    async def test_another_key_is_refused(self, tmp_path: Path) -> None:
        """The message names the key file and what to do; nothing is written; with the right key all is there again."""
        path, key_file = tmp_path / "journal.sqlite", tmp_path / "journal.key"

        async def start() -> SqliteJournal:
            sealer = await asyncio.to_thread(Sealer.from_file, key_file)
            return await SqliteJournal.open(path, FakeClock(NOW), sealer)

        first = await start()
        await first.add_stream(SPEC)
        await first.close()
        kept = key_file.rename(tmp_path / "kept.key")
        before = path.read_bytes()
        with pytest.raises(ConfigurationError, match=r"journal\.key is not the one .* journal\.sqlite .* put that key back"):
            await start()
        assert path.read_bytes() == before
        kept.rename(key_file)
        again = await start()
        assert await again.streams() == [SPEC]
        await again.close()

    async def test_a_journal_without_streams_takes_a_new_key(self, path: Path) -> None:
        """Nothing would be lost; events stay readable."""
        first = await opened(path)
        await put(first, "e1")
        await first.close()
        second = await opened(path, key=bytes(32))
        await second.add_stream(SPEC)
        assert (await second.event("e1")).id == "e1"
        await second.close()
        with pytest.raises(ConfigurationError):
            await opened(path)

    async def test_two_keys_never_mix(self, path: Path) -> None:
        """Who opened an empty journal first cannot add to it what another's key has taken over."""
        first, second = await opened(path), await opened(path, key=bytes(32))
        with pytest.raises(ConfigurationError, match="is not the one"):
            await first.add_stream(SPEC)
        await second.add_stream(SPEC)
        with pytest.raises(ConfigurationError, match="is not the one"):
            await first.replace_stream(SPEC)
        assert await second.streams() == [SPEC]
        await first.close()
        await second.close()


class TestFile:
    """What can be wrong with it."""

    async def test_the_file_is_for_its_owner_only(self, journal: SqliteJournal, path: Path) -> None:
        """Nobody else may see faces."""
        await put(journal, "e1")
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}

    async def test_a_newer_file_is_refused(self, journal: SqliteJournal, path: Path) -> None:
        """A file of a later version is left alone, with a sentence that names both versions."""
        await journal.close()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version=99")
        connection.close()
        before = path.read_bytes()
        with pytest.raises(ConfigurationError, match=r"version 99.*up to 1"):
            await opened(path)
        assert path.read_bytes() == before

    async def test_a_foreign_database_is_refused(self, path: Path) -> None:
        """Somebody else's SQLite file is not written to."""
        path.parent.mkdir()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE music (title TEXT)")
        connection.close()
        with pytest.raises(ConfigurationError, match="not a journal"):
            await opened(path)

    @pytest.mark.parametrize("damage", ["text", "header", "middle", "cut", "spec", "event"])
    async def test_a_damaged_file_says_so(self, journal: SqliteJournal, path: Path, damage: str) -> None:
        """At the start or at use: a sentence, never a traceback."""
        await put(journal, *(f"e{n}" for n in range(100)))
        await journal.close()
        data = bytearray(path.read_bytes())
        if damage == "text":
            data = bytearray(b"These are my notes. " * 500)
        elif damage == "header":
            data[:40] = bytes(40)
        elif damage == "middle":
            data[4096 * 3 :] = os.urandom(len(data) - 4096 * 3)
        elif damage == "cut":
            del data[len(data) // 2 :]
        elif damage == "spec":
            place = data.index(b'"url":"s1:') + 20
            data[place : place + 4] = b"AAAA" if data[place : place + 4] != b"AAAA" else b"BBBB"
        else:
            # Every copy of the record: pages are rewritten, and the unused rest of one may hold an older state.
            data = data.replace(b'"id":"e50"', b'"id":\x01e50"')
        path.write_bytes(data)
        with pytest.raises((Unavailable, ConfigurationError), match=r"damaged|no database"):
            await self._use(path)

    async def _use(self, path: Path) -> None:
        one = await opened(path)
        problems: list[FaceServerError] = []
        calls = (
            one.streams(),
            one.events(),
            one.pending(DOOR),
            put(one, "n1", size=60_000),
            one.picture("of e50"),
            one.remove_stream("door"),
        )
        for call in calls:
            try:
                await call
            except FaceServerError as error:
                problems.append(error)
        await one.close()
        if problems:
            raise problems[0]

    async def test_a_full_disk_changes_nothing(self, path: Path) -> None:
        """At the size limit an append fails as a whole, with a sentence; reading and delivering go on, and pruning makes room."""
        journal = await opened(path, max_bytes=700_000)
        await journal.add_stream(SPEC)
        await put(journal, "e1", "e2", size=100_000)
        with pytest.raises(Unavailable, match="full") as caught:
            await put(journal, "large", size=800_000)
        assert caught.value.code == "storage_full"
        assert [one.id for one in await journal.events()] == ["e1", "e2"]
        await put(journal, "small")
        # In one group with what does not fit, all that fits is kept.
        names = ["s1", "large", "s2", "s3", "large2", "s4"]
        calls = (put(journal, name, size=800_000 if "large" in name else 1_000) for name in names)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(one, Unavailable) for one in outcomes] == ["large" in name for name in names]
        with pytest.raises(Unavailable, match="full"):
            await put(journal, *(f"more{n}" for n in range(10)), size=100_000)
        stored = [one.id for one in await journal.events()]
        assert [one.event.id for one in await journal.pending(DOOR)] == stored
        assert await journal.picture("of e1") == jpeg("e1", 100_000)
        for one in await journal.pending(DOOR):
            await journal.delivered(one.id)
        await journal.close()
        roomier = await opened(path, max_bytes=700_000, max_picture_bytes=50_000)
        assert await roomier.prune() > 0
        await put(roomier, "last", size=100_000)
        await roomier.close()

    async def test_a_locked_file_says_so(self, journal: SqliteJournal, path: Path) -> None:
        """When another process holds the file too long, a write is refused, may be tried again, and then works; reading goes on."""
        hurried = await opened(path, busy_timeout_s=0.05)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked") as caught:
            await put(hurried, "e1")
        assert caught.value.retry_after_s <= 1
        assert await hurried.streams() == [SPEC]
        other.close()
        await put(hurried, "e1")
        await hurried.close()

    async def test_a_folder_that_is_a_file_says_so(self, tmp_path: Path) -> None:
        """The name of the file is in the sentence, not its folder."""
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(Unavailable, match=r"^journal\.sqlite cannot"):
            await opened(tmp_path / "file" / "journal.sqlite")

    async def test_erased_pictures_leave_the_disk(self, journal: SqliteJournal, path: Path) -> None:
        """Soon after pruning no byte of them is left, in the log neither; while somebody reads an older state, once they are done."""
        await put(journal, *(f"e{n}" for n in range(20)))
        await journal.close()
        small = await opened(path, max_events=5)
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM events").fetchone()
        for one in await small.pending(DOOR, limit=100):
            await small.delivered(one.id)
        assert await small.prune() == 15
        # Nobody waits for the one who reads.
        await asyncio.wait_for(put(small, "new"), 5)
        reader.close()
        for _ in range(60):
            traces = [n for n in range(15) if f"picture of e{n}!".encode() in files(path)]
            if not traces:
                break
            await asyncio.sleep(0.1)
        assert traces == []
        assert b"picture of e17!" in files(path)
        await small.close()


class TestUse:
    """How it is used."""

    async def test_nothing_blocks_the_event_loop(self, path: Path) -> None:
        """Files are touched in other threads only."""
        with blockbuster_ctx():
            journal = await opened(path)
            await journal.add_stream(SPEC)
            await put(journal, "e1", "e2", "e3")
            await journal.events(where=EventFilter(streams=("door",)))
            await journal.event("e1")
            await journal.picture("of e1")
            first, second, _ = await journal.pending(DOOR)
            await journal.delivered(first.id)
            await journal.failed(second.id, "no")
            await journal.bury(second.id, "no")
            await journal.replay([one.id for one in await journal.dead_letters()])
            await journal.name_stranger("s1", name="Ann", collection="staff", identity_id="ann")
            await journal.remove_stream("door")
            await journal.prune()
            await journal.close()

    async def test_changes_that_wait_are_bounded(self, path: Path) -> None:
        """Beyond the limit more are refused at once; those that wait are made."""
        journal = await opened(path, max_waiting_writes=4)
        outcomes = await asyncio.gather(*(put(journal, f"e{n}") for n in range(400)), return_exceptions=True)
        refused = [one for one in outcomes if isinstance(one, Overloaded)]
        assert refused
        assert all(one is None or isinstance(one, Overloaded) for one in outcomes)
        assert len(await journal.events(limit=1_000)) == 400 - len(refused)
        await journal.close()

    async def test_a_cancelled_append_harms_nothing(self, journal: SqliteJournal) -> None:
        """A caller that goes away leaves the event stored with its delivery, or not stored, never the writer stuck."""
        tasks = [asyncio.create_task(put(journal, f"e{n}")) for n in range(40)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await put(journal, "last")
        stored = [one.id for one in await journal.events()]
        assert {f"e{n}" for n in range(1, 40, 2)} | {"last"} <= set(stored)
        assert [one.event.id for one in await journal.pending(DOOR, limit=100)] == stored

    async def test_a_rename_that_was_cut_short_goes_on(self, journal: SqliteJournal, path: Path) -> None:
        """After a process ended in the middle of many events, the next start finishes; later events are left alone."""
        who = Who("Stranger 1", 0.6, 0.5, stranger_id="s1")
        await journal.append([event(f"e{n}", who=who) for n in range(500)], [], {})
        rename = Rename("s1", "Bob", "staff", "bob", "")
        key = await journal._write(lambda connection: event_log.begin_rename(connection, rename))
        assert await journal._write(lambda connection: event_log.go_on_renaming(connection, key)) == (100, False)
        await journal.append([event("later", who=who)], [], {})
        await journal.close()
        again = await opened(path)
        assert len(await again.events(where=EventFilter(identity_id="bob"), limit=1_000)) == 500
        assert [one.id for one in await again.events(where=EventFilter(stranger_id="s1"))] == ["later"]
        await again.close()
        third = await opened(path)
        assert [one.id for one in await third.events(where=EventFilter(stranger_id="s1"))] == ["later"]
        await third.close()

    async def test_what_is_lost_for_want_of_room_is_logged(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Deliveries erased with their events, and dead letters beyond their bound; without names or addresses."""
        with caplog.at_level(logging.WARNING):
            journal = await opened(path, max_dead_letters=1, max_pending_per_lane=4)
            await put(journal, *(f"e{n}" for n in range(6)))
            await journal.close()
            journal = await opened(path, max_events=3)
            await journal.prune()
            await journal.close()
        assert "1 dead letters were erased: at most 1 are kept" in caplog.text
        assert "1 deliveries were erased with their events" in caplog.text

    @pytest.mark.parametrize(
        ("where", "index"),
        [
            (EventFilter(), "INTEGER PRIMARY KEY"),
            (EventFilter(streams=("door",)), "INDEX events_by_stream"),
            (EventFilter(streams=("door", "gate")), "INTEGER PRIMARY KEY"),
            (EventFilter(kinds=(EventKind.PERSON_SEEN,)), "INDEX events_by_kind"),
            (EventFilter(streams=("door",), kinds=(EventKind.PERSON_SEEN,)), "INDEX events_by_stream"),
            (EventFilter(streams=("door",), kinds=(EventKind.PERSON_SEEN,), identity_id="ann"), "INDEX events_by_identity"),
            (EventFilter(streams=("door",), stranger_id="s1", since=NOW), "INDEX events_by_stranger"),
            (EventFilter(since=NOW, until=NOW + 1), "COVERING INDEX events_by_time"),
        ],
    )
    async def test_reading_uses_an_index(self, journal: SqliteJournal, where: EventFilter, index: str) -> None:
        """The most telling one; nothing is sorted, forwards or backwards."""
        asked: list[str] = []

        def plans(connection: sqlite3.Connection) -> list[list[str]]:
            connection.set_trace_callback(asked.append)
            event_log.page(connection, 0, None, 100, where)
            event_log.page(connection, 0, 10**9, 100, where)
            connection.set_trace_callback(None)
            return [[row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")] for text in asked]

        for plan in await journal._read(plans):
            assert any(index in step for step in plan), plan
            assert not any("TEMP B-TREE" in step for step in plan), plan
