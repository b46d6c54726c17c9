"""Publishes events and delivers them until it is killed: a process of test_delivery_killed.

Arguments: folder of the journal, the first number, how many, and the addresses of a webhook and of
an MQTT broker. Prints each number once its event is stored.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from face_server.clock import SystemClock
from face_server.domain.events import Event, EventKind
from face_server.domain.streams import SinkKind, SinkSpec, StreamSpec
from face_server.domain.tracks import Look
from face_server.errors import Conflict
from face_server.journal.sealing import Sealer
from face_server.journal.sqlite import SqliteJournal
from face_server.sinks.opening import SinkOpener, SinkOptions
from face_server.streams.delivery import EventBus
from face_server.streams.lanes import DeliveryOptions
from face_server.workers import Workers


async def work(folder: Path, first: int, count: int, webhook: str, mqtt: str) -> None:
    """Publish, and end when everything has been delivered."""
    clock = SystemClock()
    journal = await SqliteJournal.open(folder / "journal.sqlite", clock, Sealer.from_key(bytes(32)))
    spec = StreamSpec("door", "rtsp://camera/", sinks=(SinkSpec(SinkKind.WEBHOOK, webhook), SinkSpec(SinkKind.MQTT, mqtt, topic="faces")))
    try:
        await journal.add_stream(spec)
    except Conflict:
        await journal.replace_stream(spec)
    with Workers(1) as workers:
        opener = SinkOpener(workers, clock, SinkOptions(timeout_s=2))
        bus = EventBus(journal, opener.open, clock, DeliveryOptions(first_pause_s=0.05, last_pause_s=0.2))
        running = asyncio.create_task(bus.run())
        for number in range(first, first + count):
            now = clock.now()
            event = Event(f"event{number:06d}", EventKind.PERSON_LEFT, "door", now, now, now)
            await bus.publish(spec, Look(events=(event,)))
            print(number, flush=True)  # noqa: T201 - read by the test
        while await journal.lanes():  # noqa: ASYNC110 - the journal announces nothing
            await asyncio.sleep(0.02)
        await bus.close()
        await asyncio.wait({running})
        opener.close()
    await journal.close()


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]))
