"""Replicas that share cameras, to be killed and frozen at any moment.

Started once with a folder, the address of a Redis and a pace: "life", or "fast" with a third of the
patience that replicas have in life. For each line "NAME URL ROOM" on its input it forks a replica (URL: another address
of the same Redis, or "-") and says its process id. What a replica does is in the file NAME-PID of the folder, a
line each: "frame STREAM SECONDS" for frames of its cameras (of the machine's monotonic clock), "stored STREAM
ID" for events that its journal has taken. SIGTERM ends a replica in good order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from face_server.clock import SystemClock
from face_server.domain.event_ids import new_event_id
from face_server.domain.events import Event, EventKind
from face_server.domain.frame import Frame, SourceInfo
from face_server.domain.image import Pixels
from face_server.domain.streams import StreamSpec
from face_server.domain.tracks import Look
from face_server.journal.options import JournalOptions
from face_server.journal.redis import RedisJournal
from face_server.journal.sealing import Sealer
from face_server.journal.spool import SpoolingJournal
from face_server.redis_connection import RedisOptions, open_redis
from face_server.streams.owned import OwnedStreams
from face_server.streams.parts import StreamParts
from face_server.streams.redis_ownership import RedisOwnership, RedisOwnershipOptions
from face_server.streams.registry import StreamChecks
from face_server.streams.shared import SharedStreams
from face_server.streams.spreading import SpreadOptions
from face_server.streams.supervisor import Supervisor
from face_server.streams.tenancy import TenancyOptions
from face_server.video.scene import draw_scene, no_signal_card
from face_server.video.synthetic import SyntheticCamera, SyntheticOptions, SyntheticSource
from face_server.workers import Workers

Say = Callable[[str], None]

PACES = {
    "life": (RedisOwnershipOptions(), TenancyOptions()),
    "fast": (
        RedisOwnershipOptions(lease_s=1.2, presence_s=1.4, timeout_s=0.5, connect_timeout_s=0.4),
        TenancyOptions(beat_s=0.35, spread=SpreadOptions(grace_s=1.2, courtesy_s=0.5, settled_s=1.0, rebalance_s=0.4)),
    ),
}


class MarkedSource:
    """A source that notes each frame."""

    def __init__(self, source: SyntheticSource, stream_id: str, say: Say) -> None:
        self._source = source
        self._stream_id = stream_id
        self._say = say

    async def open(self, take: Callable[[Frame], None]) -> SourceInfo:
        """See ``FrameSource.open``."""

        def noted(frame: Frame) -> None:
            self._say(f"frame {self._stream_id} {time.monotonic():.3f}")
            take(frame)

        return await self._source.open(noted)

    async def ended(self) -> None:
        """See ``FrameSource.ended``."""
        await self._source.ended()

    async def close(self) -> None:
        """See ``FrameSource.close``."""
        await self._source.close()


class Eyes:
    """Sees somebody else on every fifth frame."""

    problem = ""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._frames = 0

    async def look(self, frame: Frame) -> Look:
        """See ``Watcher.look``."""
        self._frames += 1
        if self._frames % 5:
            return Look()
        now = time.time()
        return Look(events=(Event(new_event_id(now), EventKind.PERSON_SEEN, self._spec.id, now, now, now, message=str(os.getpid())),))

    async def pass_time(self) -> Look:
        """See ``Watcher.pass_time``."""
        return Look()

    def change(self, spec: StreamSpec) -> None:
        """See ``Watcher.change``."""

    def leave(self) -> Look:
        """See ``Watcher.leave``."""
        now = time.time()
        left = Event(new_event_id(now), EventKind.PERSON_LEFT, self._spec.id, now, now, now, message=str(os.getpid()))
        return Look(events=(left,))


class Nobody:
    """Needs to know no specs."""

    def set_specs(self, specs) -> None:
        """See ``SpecListener.set_specs``."""

    def put_spec(self, spec) -> None:
        """See ``SpecListener.put_spec``."""

    def drop_spec(self, stream_id) -> None:
        """See ``SpecListener.drop_spec``."""


def note(file: int, text: str) -> None:
    """One line, written at once or not at all."""
    os.write(file, f"{text}\n".encode())


async def serve(folder: Path, url: str, pace: str, name: str, room: int, say: Say) -> None:
    """One replica, until SIGTERM."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    clock = SystemClock()
    connection = await open_redis(RedisOptions(url))
    lasting, tenancy = PACES[pace]
    ownership = RedisOwnership(connection, clock, lasting)
    with Workers(2) as workers:
        sealer = Sealer.from_key(bytes(32))
        inner = await RedisJournal.open(connection, clock, sealer, JournalOptions(), workers)

        async def publish(spec: StreamSpec, look: Look) -> None:
            for event in await journal.append(look.events, look.pictures, {event.id: ["log"] for event in look.events}):
                say(f"stored {spec.id} {event.id}")

        def open_source(_url: str, spec: StreamSpec) -> MarkedSource:
            return MarkedSource(SyntheticCamera(clock, SyntheticOptions(64, 48, fps=10)).connect(), spec.id, say)

        async def encode(_pixels: Pixels) -> bytes:
            return b"JPEG"

        async def probe(_spec: StreamSpec) -> SourceInfo:
            return SourceInfo(64, 48, 10.0, "raw")

        parts = StreamParts(open_source, Eyes, publish, draw_scene, no_signal_card, encode, workers)
        owned = OwnedStreams(Supervisor(parts, clock), ownership, clock, replace(tenancy, name=name, room=room))
        journal = await SpoolingJournal.open(inner, folder / f"spool-{name}", clock, sealer, fence=owned)
        checks = StreamChecks(lambda _: None, lambda _: None, lambda url: url, probe)
        streams = SharedStreams(journal, owned, Nobody(), clock, checks, announce=owned.announce)
        await streams.resume()
        keeping = asyncio.create_task(owned.run(streams.refresh))
        await ended.wait()
        keeping.cancel()
        await owned.close()
        await journal.close()
    await connection.close()


def main() -> None:
    """Fork a replica a line of input."""
    folder, url, pace = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        name, own_url, room = line.split()
        child = os.fork()
        if child:
            os.write(1, f"{child}\n".encode())
        else:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            logging.basicConfig(filename=folder / f"{name}-{os.getpid()}.log", level="INFO", format="%(relativeCreated)d %(message)s")
            notes = os.open(folder / f"{name}-{os.getpid()}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            asyncio.run(serve(folder, url if own_url == "-" else own_url, pace, name, int(room), partial(note, notes)))
            os._exit(0)


if __name__ == "__main__":
    main()
