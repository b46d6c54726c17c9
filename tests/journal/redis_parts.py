"""Journals of several replicas in one real Redis."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from face_server.clock import SystemClock
from face_server.domain.events import Event, EventKind, Lane
from face_server.domain.ports import Clock
from face_server.domain.streams import SinkKind, SinkSpec, StreamSpec
from face_server.journal.options import JournalOptions
from face_server.journal.redis import RedisJournal
from face_server.journal.sealing import Sealer
from face_server.redis_connection import Connection, RedisOptions, open_redis
from face_server.workers import Workers
from tests.sinks.receivers import RedisServer, redis_server

PREFIX = "face_server:{main:journal}:v1:"
DOOR = Lane("door", "hook")
GATE = Lane("gate", "hook")


def spec(stream_id: str, **more: Any) -> StreamSpec:
    """A stream with credentials."""
    sinks = (SinkSpec(SinkKind.WEBHOOK, f"https://hooks.example/{stream_id}", secret="s3cret"),)
    return StreamSpec(stream_id, f"rtsp://admin:pa55@10.0.0.9/{stream_id}", sinks=sinks, **more)


def event(event_id: str, stream: str = "door", **more: Any) -> Event:
    """A stream that was lost."""
    return Event(event_id, EventKind.STREAM_LOST, stream, **({"at": 9e9, "started_at": 9e9, "ended_at": 9e9} | more))


def names(items: list) -> list[str]:
    """The ids of events, or of the events of deliveries and letters."""
    return [one.id if isinstance(one, Event) else one.event.id for one in items]


async def put(journal: RedisJournal, lane: Lane, *event_ids: str) -> None:
    """Append events one by one, each to be delivered on one lane."""
    for event_id in event_ids:
        await journal.append([event(event_id, lane.stream_id)], [], {event_id: [lane.sink_key]})


class Site:
    """A Redis and the replicas that share it."""

    def __init__(self, server: RedisServer, stack: contextlib.AsyncExitStack) -> None:
        self.server = server
        self.workers = stack.enter_context(Workers(1))
        self._stack = stack

    async def connection(self, **options: Any) -> Connection:
        """Connections of a replica of its own."""
        connection = await open_redis(RedisOptions(f"redis://127.0.0.1:{self.server.port}/2", **options))
        self._stack.push_async_callback(connection.close)
        return connection

    async def replica(
        self, clock: Clock | None = None, key: bytes = bytes(32), bounds: dict[str, Any] | None = None, **options: Any
    ) -> RedisJournal:
        """A journal as a new replica opens it."""
        connection = await self.connection(**options)
        sealer, limits = Sealer.from_key(key), JournalOptions(**bounds or {})
        journal = await RedisJournal.open(connection, clock or SystemClock(), sealer, limits, self.workers)
        self._stack.push_async_callback(journal.close)
        return journal

    def command(self, *words: object) -> Any:
        """One command, from outside of every replica."""
        return self.server.command(*words)


@contextlib.asynccontextmanager
async def site(folder: Path, *options: str) -> AsyncIterator[Site]:
    """A Redis that keeps every write on disk."""
    async with redis_server(folder, *options) as server, contextlib.AsyncExitStack() as stack:
        yield Site(server, stack)


def claims(shared: Site) -> list[tuple[bytes, bytes, int, int]]:
    """Entry, owner, milliseconds since it was renewed and number of owners of each claimed lane."""
    # As a script: the client's own reading of this reply knows its short form only.
    found: list[tuple[bytes, bytes, int, int]] = shared.command(
        "EVAL", "return redis.call('XPENDING', KEYS[1], 'senders', '-', '+', 1000)", 1, f"{PREFIX}lanes"
    )
    return found


def abandon(shared: Site, lane: Lane, idle_ms: int = 60_000) -> None:
    """Make the claim of a lane look as if its owner had not renewed it for long."""
    entry = shared.command("HGET", f"{PREFIX}lane_entries", f"{lane.stream_id}/{lane.sink_key}")
    for found, owner, _, _ in claims(shared):
        if found == entry:
            aged = "return redis.call('XCLAIM', KEYS[1], 'senders', ARGV[1], 0, ARGV[2], 'IDLE', ARGV[3], 'JUSTID')"
            shared.command("EVAL", aged, 1, f"{PREFIX}lanes", owner, entry, idle_ms)
