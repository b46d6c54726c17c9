"""A replica that publishes events of its own stream and delivers whatever waits, until it is killed.

Arguments: port of Redis, a file for what arrives, its name, the first number, and seconds that a delivery takes.
Prints "stored NAME" when the journal has acknowledged an event; after a line on its input it publishes no more.
What arrives is one line in the file: time, name of the replica, stream, event.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from face_server.clock import SystemClock
from face_server.domain.events import Event, EventKind
from face_server.domain.streams import SinkKind, SinkSpec, StreamSpec
from face_server.domain.tracks import Look
from face_server.errors import Conflict, FaceServerError
from face_server.journal.options import JournalOptions
from face_server.journal.redis import RedisJournal
from face_server.journal.sealing import Sealer
from face_server.redis_connection import RedisOptions, open_redis
from face_server.streams.delivery import EventBus
from face_server.streams.lanes import DeliveryOptions
from face_server.workers import Workers

EVERY_S = 0.01


class FileSink:
    """Writes down what arrives, in one file for all replicas."""

    wants_pictures = False

    def __init__(self, path: Path, name: str, takes_s: float) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._name = name
        self._takes_s = takes_s

    async def deliver(self, event: Event, pictures: Mapping[str, bytes]) -> None:
        """One line."""
        os.write(self._file, f"{time.time()} {self._name} {event.stream_id} {event.id}\n".encode())
        await asyncio.sleep(self._takes_s)

    async def close(self) -> None:
        """The file goes with the process."""


async def work(port: int, path: Path, name: str, first: int, takes_s: float) -> None:
    """Publish and deliver."""
    clock, spec = SystemClock(), StreamSpec(name, "rtsp://camera/", sinks=(SinkSpec(SinkKind.WEBHOOK, "http://127.0.0.1:1/"),))
    connection = await open_redis(RedisOptions(f"redis://127.0.0.1:{port}/2", timeout_s=1.0))
    with Workers(1) as workers:
        journal = await RedisJournal.open(connection, clock, Sealer.from_key(bytes(32)), JournalOptions(), workers)
        with contextlib.suppress(Conflict):
            await journal.add_stream(spec)
        bus = EventBus(journal, lambda _: FileSink(path, name, takes_s), clock, DeliveryOptions(first_pause_s=0.05, last_pause_s=0.2))
        running = asyncio.create_task(bus.run())
        stop = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        for number in itertools.count(first):
            if stop.done():
                break
            now = clock.now()
            event = Event(f"{name}-{number:06d}", EventKind.PERSON_LEFT, name, now, now, now)
            while True:
                try:
                    await bus.publish(spec, Look(events=(event,)))
                    break
                except FaceServerError:
                    await asyncio.sleep(0.05)
            print("stored", event.id, flush=True)  # noqa: T201 - read by the test
            await asyncio.sleep(EVERY_S)
        await running


if __name__ == "__main__":
    asyncio.run(work(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
