"""Events and their pictures in Redis."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import orjson

from face_server.domain.events import Event, EventFilter, Lane, Picture
from face_server.domain.ports import Clock
from face_server.errors import NotFound, Unavailable
from face_server.journal.options import JournalOptions
from face_server.journal.redis_claims import lane_name
from face_server.journal.redis_records import append_document, filter_arguments, indexes_of, read_value, to_json, whole, write_value
from face_server.journal.redis_session import Session
from face_server.journal.references import Rename, pictures_of
from face_server.workers import Workers

_DAY_S = 86_400.0
_LOOKED_AT = 1_000
_RENAMED_AT_ONCE = 100
_ERASED_AT_ONCE = 32
_SPARED_AT_ONCE = 500
# Beyond so many events the event loop is left to others meanwhile.
_MANY = 32

_log = logging.getLogger(__name__)


class RedisEvents:
    """The part of a journal that remembers; see ``RedisJournal``."""

    def __init__(self, session: Session, clock: Clock, options: JournalOptions, workers: Workers) -> None:
        self._session = session
        self._clock = clock
        self._options = options
        self._workers = workers
        self._newest_stored = 0

    async def append(
        self, events: Sequence[Event], pictures: Sequence[Picture], sinks: Mapping[str, Sequence[str]]
    ) -> tuple[list[Event], int]:
        """Store events. Returns them with their cursors, and how many dead letters had to go."""
        if not events:
            return [], 0
        jpegs = {picture.id: picture.jpeg for picture in pictures}

        def prepared() -> tuple[bytes, list[bytes], list[bytes]]:
            values = [write_value(event) for event in events]
            used = sorted({one for event in events for one in pictures_of(event)} & jpegs.keys())
            lanes = [[lane_name(Lane(event.stream_id, key)) for key in sinks.get(event.id, ())] for event in events]
            return append_document(events, used, lanes), values, [jpegs[one] for one in used]

        document, values, kept = await self._workers.run(prepared) if len(events) > _MANY else prepared()
        options = self._options
        journal = self._session.id
        bounds = (self._newest_stored, repr(self._clock.now()), options.max_pending_per_lane, options.max_dead_letters)
        behind, erased, count, picture_bytes, rows = await self._session.write("append", *bounds, document, *values, *kept)
        if behind and self._session.id == journal:
            self._session.notice_older()
        if behind:
            self._newest_stored = 0
        stored = [self._stored(event, *row) for event, row in zip(events, rows, strict=True)]
        self._newest_stored = max(self._newest_stored, *(event.cursor for event in stored))
        # Whoever prunes may be late; a little each time keeps up with any rate.
        if count > options.max_events * 1.05 or picture_bytes > options.max_picture_bytes * 1.05:
            await self._erase(once=True)
        return stored, int(erased)

    async def page(self, after: int, before: int | None, limit: int, where: EventFilter) -> list[Event]:
        """Events that pass a filter, oldest first; with ``before`` those below it, newest first."""
        found: list[Event] = []
        low, high = whole(after), "" if before is None else whole(before)
        times = ["" if at is None else repr(float(at)) for at in (where.since, where.until)]
        groups = filter_arguments(where)
        while len(found) < limit:
            order = "ASC" if before is None else "DESC"
            resume, *rows = await self._session.read("page", low, high, limit - len(found), order, *times, _LOOKED_AT, *groups)
            found += await self._workers.run(self._readable, rows) if len(rows) > 2 * _MANY else self._readable(rows)
            if not resume:
                break
            low, high = (int(resume), high) if before is None else (low, int(resume))
        return found

    async def one(self, event_id: str) -> Event:
        """An event. Raises NotFound."""
        cursor = await self._session.scripts.command(self._key("log"), "ZSCORE", self._key("log"), event_id)
        if cursor is None:
            raise NotFound(f"no event has the id {event_id[:80]!r}", field="event_id")
        number = int(float(cursor))
        value = await self._session.scripts.command(self._key("events"), "HGET", self._key("events"), number)
        return read_value(value, number, self._key("events"))

    async def newest(self) -> int:
        """The cursor of the newest event, 0 without any."""
        rows = await self._session.scripts.command(self._key("log"), "ZRANGE", self._key("log"), 0, 0, "REV", "WITHSCORES")
        return int(float(rows[0][1] if isinstance(rows[0], (list, tuple)) else rows[1])) if rows else 0

    async def picture(self, picture_id: str) -> bytes:
        """The bytes of a picture. Raises NotFound."""
        key = self._key(f"picture:{picture_id}")
        jpeg = await self._session.scripts.command(f"the key {key}", "GET", key)
        if jpeg is None:
            raise NotFound(f"no picture has the id {picture_id[:80]!r}, or its events were erased", field="picture_id")
        return bytes(jpeg)

    async def rename(self, rename: Rename) -> int:
        """Note what to rename among the events until now, and do it. Returns in how many."""
        key, last = await self._session.write("rename", to_json(asdict(rename) | {"done": 0, "last": 0}))
        return await self._go_on(key, rename, 0, int(last))

    async def finish_renames(self) -> None:
        """Finish what processes that ended early have left."""
        pairs = await self._session.scripts.command(self._key("renames"), "HGETALL", self._key("renames"))
        notes = pairs if isinstance(pairs, dict) else dict(zip(pairs[::2], pairs[1::2], strict=True))
        for key, record in sorted(notes.items(), key=lambda pair: int(pair[0])):
            note = orjson.loads(record)
            done, last = note.pop("done"), note.pop("last")
            await self._go_on(key, Rename(**note), int(done), int(last))

    async def prune(self) -> int:
        """Erase what is beyond the retention, in small steps. Returns how many events went."""
        return await self._erase(once=False)

    async def _go_on(self, key: bytes, rename: Rename, done: int, last: int) -> int:
        """Rename step by step; events that somebody else changes meanwhile are looked at again."""
        followed = 0
        index = self._key(f"index:mention:{rename.stranger_id}")
        while True:
            reach = ("ZRANGE", index, f"({done}", last, "BYSCORE", "LIMIT", 0, _RENAMED_AT_ONCE)
            cursors = await self._session.scripts.command(f"the key {index}", *reach)
            values = await self._values(cursors)
            finished = len(cursors) < _RENAMED_AT_ONCE
            then = int(cursors[-1]) if cursors else done
            record = b"" if finished else to_json(asdict(rename) | {"done": then, "last": last})
            document, pairs = self._rewritten(cursors, values, rename)
            some, all_of_them = await self._session.write("rewrite", key, record, document, *pairs)
            followed += int(some)
            if not all_of_them:
                continue
            if finished:
                return followed
            done = then

    async def _values(self, cursors: Sequence[bytes]) -> list[bytes | None]:
        if not cursors:
            return []
        return list(await self._session.scripts.command(self._key("events"), "HMGET", self._key("events"), *cursors))

    def _rewritten(self, cursors: Sequence[bytes], values: Sequence[bytes | None], rename: Rename) -> tuple[bytes, list[bytes]]:
        rows, pairs = [], []
        for event, old in self._events(cursors, values):
            changed = rename.in_event(event)
            before, after = indexes_of(event), indexes_of(changed)
            rows.append([str(event.cursor), [one for one in before if one not in after], [one for one in after if one not in before]])
            pairs += [old, write_value(changed)]
        return to_json(rows), pairs

    async def _erase(self, *, once: bool) -> int:
        options, erased, undelivered, turn, cursor, done = self._options, 0, 0, 1, b"0", 0
        oldest = repr(self._clock.now() - options.retention_days * _DAY_S) if options.retention_days > 0 else ""
        bounds = (oldest, options.max_events, options.max_picture_bytes)
        while not done and not (once and erased):
            reply = await self._session.write("prune", *bounds, turn, cursor, _ERASED_AT_ONCE, _SPARED_AT_ONCE)
            some, waiting, turn, cursor, done = reply
            erased += int(some)
            undelivered += waiting
        if undelivered:
            _log.warning("%d deliveries were erased with their events: the journal is beyond its bounds", undelivered)
        return erased

    def _stored(self, event: Event, cursor: bytes, known: bytes) -> Event:
        """The event as it is stored now: as given, or as it was before."""
        number = int(float(cursor))
        if known:
            try:
                return read_value(known, number, self._key("events"))
            except Unavailable as error:
                self._session.tell_damage(error)
        return replace(event, cursor=number)

    def _readable(self, rows: Sequence[Any]) -> list[Event]:
        return [event for event, _ in self._events(rows[::2], rows[1::2])]

    def _events(self, cursors: Sequence[bytes], values: Sequence[bytes | None]) -> list[tuple[Event, bytes]]:
        """Those that can be read; the others are told of in the log."""
        found: list[tuple[Event, bytes]] = []
        for cursor, value in zip(cursors, values, strict=True):
            try:
                found.append((read_value(value, int(cursor), self._key("events")), value or b""))
            except Unavailable as error:
                self._session.tell_damage(error)
        return found

    def _key(self, name: str) -> str:
        return self._session.scripts.key(name)
