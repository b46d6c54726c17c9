"""The shared journal: one Redis for many replicas."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence

from face_server.domain.events import DeadLetter, Delivery, Event, EventFilter, Lane, Picture
from face_server.domain.ports import Clock
from face_server.domain.streams import StreamSpec
from face_server.errors import Conflict, FaceServerError, NotFound, Overloaded, Unavailable
from face_server.journal.options import JournalOptions, check_limit
from face_server.journal.records import read_spec, write_spec
from face_server.journal.redis_claims import REVISIT_S
from face_server.journal.redis_events import RedisEvents
from face_server.journal.redis_outbox import RedisOutbox
from face_server.journal.redis_records import whole
from face_server.journal.redis_scripts import Refused
from face_server.journal.redis_session import Session
from face_server.journal.references import Rename
from face_server.journal.sealing import Sealer
from face_server.redis_connection import Connection
from face_server.workers import Workers

_EVERYTHING = EventFilter()
_WAIT_MS = 1_000
_AGAIN_S = 1.0
_PAGE = 200


class RedisJournal:
    """``domain.stream_ports.Journal`` in Redis, for any number of replicas.

    A change is made whole or not at all, and acknowledged when Redis has it (how durably says its
    configuration: ``appendfsync``, replicas to wait for). Cursors are milliseconds of Unix time or more,
    rise in the order in which events become visible, and go on rising when Redis has lost its memory.
    Addresses and secrets of streams are sealed with the key of ``sealer``, which all replicas share.
    A record that cannot be read is passed over in lists, and told of in the log with its key.
    While Redis is away everything raises Unavailable, within its time limits.
    """

    def __init__(self, session: Session, clock: Clock, sealer: Sealer, options: JournalOptions, workers: Workers) -> None:
        self._session = session
        self._clock = clock
        self._sealer = sealer
        self._options = options
        self._workers = workers
        # Seen by operators in XPENDING; nobody else may have the same.
        owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._events = RedisEvents(session, clock, options, workers)
        self._outbox = RedisOutbox(session, clock, options, owner)

    @classmethod
    async def open(cls, connection: Connection, clock: Clock, sealer: Sealer, options: JournalOptions, workers: Workers) -> RedisJournal:
        """Open the journal at ``connection``, or begin one, and finish what an ended process began.

        Closing the journal leaves the connection open. Raises ConfigurationError for another sealing key
        and a newer layout, Unavailable for keys of other types and while Redis is away.
        """
        session = Session(connection, sealer, clock, max_waiting=options.max_waiting_writes)
        await session.find()
        journal = cls(session, clock, sealer, options, workers)
        await journal.streams()
        await journal._events.finish_renames()
        return journal

    @property
    def revisit_s(self) -> float:
        """How often to look for lanes that another replica has filled or left."""
        return REVISIT_S

    @property
    def problem(self) -> str:
        """A sentence about what Redis lost (emptied, put back to an older state) since this process began; empty if nothing."""
        return self._session.problem

    @property
    def damage(self) -> list[str]:
        """What was passed over since this process began because it cannot be read, a sentence each; at most a thousand."""
        return self._session.damage

    async def streams(self) -> list[StreamSpec]:
        """All stream specs, in the order in which they were added; those that cannot be read are passed over."""
        _, *rows = await self._session.read("specs")
        return await self._workers.run(self._specs, rows) if len(rows) > _PAGE else self._specs(rows)

    async def add_stream(self, spec: StreamSpec) -> None:
        """Store a new spec; Conflict if its id is taken, Overloaded beyond the limit of streams."""
        await self._change_stream("add", spec.id, write_spec(spec, self._sealer))

    async def replace_stream(self, spec: StreamSpec) -> None:
        """Store the spec in place of the one with its id."""
        await self._change_stream("replace", spec.id, write_spec(spec, self._sealer))

    async def remove_stream(self, stream_id: str) -> None:
        """Forget a spec. Its events stay; its undelivered ones become dead letters."""
        await self._change_stream("remove", stream_id, "")

    async def append(self, events: Sequence[Event], pictures: Sequence[Picture], sinks: Mapping[str, Sequence[str]]) -> list[Event]:
        """Store events, their pictures, and one delivery for each sink key of ``sinks[event.id]``: all or nothing.

        Returns the events with their cursors. An event whose id is stored already is left as it is, so
        after Unavailable the same call may be repeated. Pictures that none of the events refers to are not kept.
        """
        stored, erased = await self._events.append(events, pictures, sinks)
        self._outbox.count_erased(erased)
        return stored

    async def events(self, *, after: int = 0, before: int | None = None, limit: int = 100, where: EventFilter | None = None) -> list[Event]:
        """Events with cursor > ``after``, oldest first; with ``before``, those with cursor < ``before``, newest first."""
        check_limit(limit)
        return await self._events.page(after, before, limit, where or _EVERYTHING)

    async def event(self, event_id: str) -> Event:
        """One event."""
        return await self._events.one(event_id)

    async def picture(self, picture_id: str) -> bytes:
        """The JPEG bytes of a picture. NotFound once its event was pruned."""
        return await self._events.picture(picture_id)

    async def name_stranger(self, stranger_id: str, *, name: str, collection: str = "", identity_id: str = "", into: str = "") -> int:
        """Let past events follow: a stranger became an identity, or was merged ``into`` another. Returns how many.

        Follows in ``who``, ``faces`` and ``message``; kinds stay what they were. Done in small
        steps, which go on when a journal is opened if the process ends in between.
        """
        return await self._events.rename(Rename(stranger_id, name, collection, identity_id, into))

    async def lanes(self, *, free: bool = False) -> list[Lane]:
        """Every lane with something to deliver; with ``free`` only those that no other replica owns."""
        return await self._outbox.lanes(free=free)

    async def claim(self, lane: Lane) -> bool:
        """Own a lane: asked before each delivery. False if another replica does, or nothing waits in it.

        An owner that vanishes is followed by another within ``LEASE_S`` and ``revisit_s``.
        """
        return await self._outbox.claims.claim(lane)

    async def release(self, lane: Lane) -> bool:
        """Own a lane no longer, now that it is empty. False if something waits in it again: then it stays one's own."""
        return await self._outbox.claims.release(lane)

    async def pending(self, lane: Lane, *, after: int = 0, limit: int = 16) -> list[Delivery]:
        """The oldest deliveries of a lane with id > ``after``, in order."""
        return await self._outbox.pending(lane, after, limit)

    async def delivered(self, delivery_id: int) -> None:
        """Take a delivery out of the outbox. NotFound also when its lane has another owner now."""
        await self._outbox.settle("take", delivery_id)

    async def failed(self, delivery_id: int, error: str) -> None:
        """Count a failed attempt; the delivery stays the first of its lane. 500 characters of ``error`` are kept."""
        await self._outbox.settle("fail", delivery_id, error)

    async def bury(self, delivery_id: int, error: str) -> None:
        """Give a delivery up: it becomes a dead letter."""
        await self._outbox.settle("bury", delivery_id, error)

    async def dead_letters(self, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """Deliveries that were given up, by id."""
        return await self._outbox.dead_letters(after, limit)

    async def replay(self, letter_ids: Sequence[int]) -> int:
        """Queue dead letters again, at the end of their lanes, in order of their events; unknown ids are passed over.

        Those of removed streams raise Conflict, and none is queued. Returns how many.
        """
        return await self._outbox.replay(letter_ids)

    async def discard(self, letter_ids: Sequence[int]) -> int:
        """Erase dead letters. Returns how many there were."""
        return await self._outbox.discard(letter_ids)

    async def prune(self) -> int:
        """Erase what is beyond the retention (age, number, bytes of pictures). Returns how many events went.

        Done in small steps: other changes come in between.
        """
        return await self._events.prune()

    async def follow(self, *, after: int | None = None) -> AsyncIterator[list[Event]]:
        """Every event with cursor > ``after``, whichever replica appended it, in order and without gaps; then each as it happens.

        Without ``after`` from the newest on. Goes on by itself while Redis is away; ends when the journal is closed.
        """
        cursor = None if after is None else whole(after)
        news = _News(self._session, "event_news")
        while not self._session.scripts.closed:
            try:
                await news.mark()
                if cursor is None:
                    cursor = await self._events.newest()
                while page := await self._events.page(cursor, None, _PAGE, _EVERYTHING):
                    yield page
                    cursor = page[-1].cursor
                await news.wait()
            except FaceServerError:
                await self._clock.sleep(_AGAIN_S)

    async def spec_changes(self) -> AsyncIterator[None]:
        """An item each time the stream specs have changed since the last, whichever replica changed them, and one to begin with.

        Goes on by itself while Redis is away; ends when the journal is closed.
        """
        seen: tuple[str, bytes] | None = None
        news = _News(self._session, "stream_news")
        while not self._session.scripts.closed:
            try:
                await news.mark()
                # The journal's id too: an emptied one begins to count anew.
                revision, *_ = await self._session.read("specs")
                if (self._session.id, revision) != seen:
                    seen = (self._session.id, revision)
                    yield None
                await news.wait()
            except FaceServerError:
                await self._clock.sleep(_AGAIN_S)

    async def close(self) -> None:
        """Leave the lanes to other replicas and refuse everything from now on; the connection stays open. Idempotent."""
        if not self._session.scripts.closed:
            await self._outbox.claims.close()
            self._session.scripts.close()

    async def _change_stream(self, verb: str, stream_id: str, record: str) -> None:
        bounds = (self._options.max_streams, repr(self._clock.now()), self._options.max_dead_letters)
        try:
            erased = await self._session.write("stream", verb, stream_id, self._sealer.fingerprint.hex(), record, *bounds)
        except Refused as refusal:
            if refusal.word == "EXISTS":
                raise Conflict(f"there is a stream {stream_id!r} already", code="stream_exists", field="id") from refusal
            if refusal.word == "FULL":
                message = f"there may be {self._options.max_streams} streams; remove one first"
                raise Overloaded(message, code="too_many_streams", retry_after_s=60.0) from refusal
            raise NotFound(f"no stream has the id {stream_id[:80]!r}", field="stream_id") from refusal
        self._outbox.count_erased(erased)

    def _specs(self, rows: Sequence[bytes]) -> list[StreamSpec]:
        found: list[StreamSpec] = []
        for stream_id, record in zip(rows[::2], rows[1::2], strict=True):
            try:
                found.append(read_spec(record.decode("utf-8", "replace"), self._sealer))
            except Unavailable:
                place = f"its field {stream_id.decode('utf-8', 'replace')!r} holds no readable stream"
                self._session.tell_damage(Unavailable(f"the key {self._session.scripts.key('streams')} is damaged: {place}"))
        return found


class _News:
    """Waits for additions to a small stream of notices. One that is missed costs a second, no more."""

    def __init__(self, session: Session, name: str) -> None:
        self._scripts = session.scripts
        self._key = session.scripts.key(name)
        self._last = b"0-0"

    async def mark(self) -> None:
        """What is added from now on ends the next wait."""
        newest = await self._scripts.command(f"the key {self._key}", "XREVRANGE", self._key, "+", "-", "COUNT", 1)
        self._last = newest[0][0] if newest else b"0-0"

    async def wait(self) -> None:
        """Wait for an addition, for a second at most."""
        client = self._scripts.connection.client
        async with self._scripts.errors(f"the key {self._key}"):
            await client.xread({self._key: self._last}, count=1, block=_WAIT_MS)
