"""The embedded journal: one SQLite file."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from face_server.domain.events import DeadLetter, Delivery, Event, EventFilter, Lane, Picture
from face_server.domain.ports import Clock
from face_server.domain.streams import StreamSpec
from face_server.journal import event_log, outbox, retention, specs
from face_server.journal.connections import Readers, Writer
from face_server.journal.options import JournalOptions, check_limit
from face_server.journal.records import write_event, write_spec
from face_server.journal.references import Rename
from face_server.journal.schema import JOURNAL
from face_server.journal.sealing import Sealer
from face_server.sqlite_file import connect, prepare, storage_errors, transaction

T = TypeVar("T")

_REVISIT_S = 60.0


class SqliteJournal:
    """``domain.stream_ports.Journal`` in one file.

    Several processes may use the file at once (a server and a command line). What is acknowledged
    is on disk. Cursors rise in the order in which events become visible, so whoever read up to a
    cursor misses nothing. Addresses and secrets of streams are sealed with the key of ``sealer``.
    Texts that are not Unicode and numbers beyond 64 bits raise InvalidInput, as do limits outside 1 to 1,000.
    """

    def __init__(self, path: Path, clock: Clock, sealer: Sealer, options: JournalOptions, *, writer: Writer, readers: Readers) -> None:
        self._path = path
        self._clock = clock
        self._sealer = sealer
        self._options = options
        self._writer = writer
        self._readers = readers
        self._renaming = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path, clock: Clock, sealer: Sealer, options: JournalOptions | None = None) -> SqliteJournal:
        """Open the journal file at ``path``, or make it, and finish what an ended process began.

        Raises ConfigurationError for a file of another kind, a newer version or another key,
        Unavailable when it is damaged or cannot be used.
        """
        options = options or JournalOptions()
        connection = await asyncio.to_thread(_connect, path, sealer, options)
        writer = Writer(path, connection, busy_timeout_s=options.busy_timeout_s, max_waiting=options.max_waiting_writes)
        journal = cls(path, clock, sealer, options, writer=writer, readers=Readers(path, busy_timeout_s=options.busy_timeout_s))
        try:
            # Reading every spec finds a damaged one now, not when its camera is to start.
            await journal.streams()
            for key in await journal._read(event_log.unfinished_renames):
                await journal._rename(key)
        except BaseException:
            await journal.close()
            raise
        return journal

    async def streams(self) -> list[StreamSpec]:
        """All stream specs, in the order in which they were added."""
        return await self._read(lambda connection: specs.load(connection, self._sealer))

    async def add_stream(self, spec: StreamSpec) -> None:
        """Store a new spec; Conflict if its id is taken, Overloaded beyond the limit of streams."""
        record = write_spec(spec, self._sealer)

        def work(connection: sqlite3.Connection) -> None:
            specs.check_key(connection, self._sealer, self._path.name)
            specs.add(connection, spec.id, record, self._options)

        await self._write(work)

    async def replace_stream(self, spec: StreamSpec) -> None:
        """Store the spec in place of the one with its id."""
        record = write_spec(spec, self._sealer)

        def work(connection: sqlite3.Connection) -> None:
            specs.check_key(connection, self._sealer, self._path.name)
            specs.replace(connection, spec.id, record)

        await self._write(work)

    async def remove_stream(self, stream_id: str) -> None:
        """Forget a spec. Its events stay; its undelivered ones become dead letters."""
        now = self._clock.now()
        await self._write(lambda connection: specs.remove(connection, stream_id, now, self._options), erases=True)

    async def append(self, events: Sequence[Event], pictures: Sequence[Picture], sinks: Mapping[str, Sequence[str]]) -> list[Event]:
        """Store events, their pictures, and one delivery for each sink key of ``sinks[event.id]``: all or nothing.

        Returns the events with their cursors. An event whose id is stored already is left as it is.
        Pictures that none of the events refers to are not kept.
        """
        entries = [event_log.Entry(event, write_event(event)) for event in events]
        jpegs = {picture.id: picture.jpeg for picture in pictures}
        queues = {event_id: tuple(sink_keys) for event_id, sink_keys in sinks.items()}
        now = self._clock.now()

        def work(connection: sqlite3.Connection) -> list[Event]:
            stored = event_log.append(connection, entries, jpegs, queues, now, self._options)
            # Whoever prunes may be late; a little each time keeps up with any rate.
            if retention.is_far_beyond(connection, self._options):
                retention.erase_some(connection, now, self._options)
            return stored

        return await self._write(work)

    async def events(self, *, after: int = 0, before: int | None = None, limit: int = 100, where: EventFilter | None = None) -> list[Event]:
        """Events with cursor > ``after``, oldest first; with ``before``, those with cursor < ``before``, newest first."""
        check_limit(limit)
        return await self._read(lambda connection: event_log.page(connection, after, before, limit, where))

    async def event(self, event_id: str) -> Event:
        """One event."""
        return await self._read(lambda connection: event_log.one(connection, event_id))

    async def picture(self, picture_id: str) -> bytes:
        """The JPEG bytes of a picture. NotFound once its event was pruned."""
        return await self._read(lambda connection: event_log.picture(connection, picture_id))

    async def name_stranger(self, stranger_id: str, *, name: str, collection: str = "", identity_id: str = "", into: str = "") -> int:
        """Let past events follow: a stranger became an identity, or was merged ``into`` another. Returns how many.

        Follows in ``who``, ``faces`` and ``message``; kinds stay what they were. Done in small
        steps, which go on when the file is opened again if the process ends in between.
        """
        rename = Rename(stranger_id, name, collection, identity_id, into)
        async with self._renaming:
            key = await self._write(lambda connection: event_log.begin_rename(connection, rename))
            return await self._rename(key)

    @property
    def revisit_s(self) -> float:
        """How often to look for what another process, such as a command line, has queued."""
        return _REVISIT_S

    async def lanes(self, *, free: bool = False) -> list[Lane]:  # noqa: ARG002 - nobody else owns one
        """Every lane with something to deliver."""
        return await self._read(outbox.lanes)

    async def claim(self, lane: Lane) -> bool:  # noqa: ARG002 - whichever it is
        """Always: one process delivers."""
        return True

    async def release(self, lane: Lane) -> bool:  # noqa: ARG002 - whichever it is
        """Always: nothing was taken."""
        return True

    async def pending(self, lane: Lane, *, after: int = 0, limit: int = 16) -> list[Delivery]:
        """The oldest deliveries of a lane with id > ``after``, in order."""
        check_limit(limit)
        return await self._read(lambda connection: outbox.pending(connection, lane, after, limit))

    async def delivered(self, delivery_id: int) -> None:
        """Take a delivery out of the outbox."""
        await self._write(lambda connection: outbox.take(connection, delivery_id))

    async def failed(self, delivery_id: int, error: str) -> None:
        """Count a failed attempt; the delivery stays the first of its lane. 500 characters of ``error`` are kept."""
        await self._write(lambda connection: outbox.note_failure(connection, delivery_id, error))

    async def bury(self, delivery_id: int, error: str) -> None:
        """Give a delivery up: it becomes a dead letter."""
        now = self._clock.now()
        await self._write(lambda connection: outbox.bury_one(connection, delivery_id, error, now, self._options))

    async def dead_letters(self, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """Deliveries that were given up, by id."""
        check_limit(limit)
        return await self._read(lambda connection: outbox.dead_letters(connection, after, limit))

    async def replay(self, letter_ids: Sequence[int]) -> int:
        """Queue dead letters again, at the end of their lanes, in order of their events; unknown ids are passed over.

        Those of removed streams raise Conflict, and none is queued. Returns how many.
        """
        ids, now = tuple(letter_ids), self._clock.now()
        return await self._write(lambda connection: outbox.replay(connection, ids, now, self._options))

    async def discard(self, letter_ids: Sequence[int]) -> int:
        """Erase dead letters. Returns how many there were."""
        ids = tuple(letter_ids)
        return await self._write(lambda connection: outbox.discard(connection, ids))

    async def prune(self) -> int:
        """Erase what is beyond the retention (age, number, bytes of pictures). Returns how many events went.

        Done in small steps: other changes come in between.
        """
        now, erased, within = self._clock.now(), 0, False
        while not within:
            some = await self._write(lambda connection: retention.erase_some(connection, now, self._options))
            erased += some
            within = some < retention.AT_ONCE
        await self._write(retention.forget_empty_lanes, erases=erased > 0)
        return erased

    async def close(self) -> None:
        """Flush and release. Idempotent."""
        await self._readers.close()
        await asyncio.to_thread(self._writer.close)

    async def _rename(self, key: int) -> int:
        followed, finished = 0, False
        while not finished:
            some, finished = await self._write(lambda connection: event_log.go_on_renaming(connection, key))
            followed += some
        return followed

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._readers.run(work)

    async def _write(self, work: Callable[[sqlite3.Connection], T], *, erases: bool = False) -> T:
        return await asyncio.wrap_future(self._writer.write(work, erases=erases))


def _connect(path: Path, sealer: Sealer, options: JournalOptions) -> sqlite3.Connection:
    prepare(path, JOURNAL, busy_timeout_s=options.busy_timeout_s)
    with storage_errors(path), contextlib.ExitStack() as stack:
        connection = connect(path, busy_timeout_s=options.busy_timeout_s, writable=True, max_bytes=options.max_bytes)
        stack.callback(connection.close)
        with transaction(connection):
            specs.use_key(connection, sealer, path.name)
        stack.pop_all()
        return connection
