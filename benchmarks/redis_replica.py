"""Replicas without networks, to be killed in hundreds: cameras, alerts and people as in life, all of it from numbers.

``python -m benchmarks.redis_replica FOLDER URL``. For each name on its input it forks a replica and says its process id.
A replica runs what it owns of the registered streams (each frame is a line "frame STREAM SECONDS", each event that its journal
took "stored STREAM ID", in the file NAME-PID of the folder), delivers events, and answers on the socket NAME.sock, a JSON object a
line: {"do": "enrol"|"erase"|"look"|"known", "guest": …, "vector": […]}. Leases are a third of what they are in life. After SIGUSR1 its
cameras see nobody any more; SIGTERM ends it in good order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from face_server.clock import SystemClock
from face_server.domain.embedding import Embedding, Embeddings, ModelId
from face_server.domain.event_ids import new_event_id
from face_server.domain.events import Event, EventKind
from face_server.domain.frame import Frame, SourceInfo
from face_server.domain.identity import AddTemplate, Collection, Identity, PutIdentity, RemoveIdentity, Template, TemplateRecord
from face_server.domain.image import Floats, Pixels
from face_server.domain.streams import StreamSpec
from face_server.domain.tracks import Look
from face_server.errors import Conflict, FaceServerError
from face_server.gallery.redis import RedisGallery
from face_server.journal.options import JournalOptions
from face_server.journal.redis import RedisJournal
from face_server.journal.sealing import Sealer
from face_server.journal.spool import SpoolingJournal
from face_server.redis_connection import Connection, RedisOptions, open_redis
from face_server.sinks.opening import SinkOpener, SinkOptions
from face_server.streams.delivery import EventBus
from face_server.streams.owned import OwnedStreams
from face_server.streams.parts import PublishEvents, StreamParts
from face_server.streams.redis_ownership import RedisOwnership, RedisOwnershipOptions
from face_server.streams.registry import StreamChecks
from face_server.streams.shared import SharedStreams
from face_server.streams.spreading import SpreadOptions
from face_server.streams.supervisor import Supervisor
from face_server.streams.tenancy import TenancyOptions
from face_server.video.scene import draw_scene, no_signal_card
from face_server.video.synthetic import SyntheticCamera, SyntheticOptions, SyntheticSource
from face_server.workers import Workers

MODEL = ModelId("random", "0" * 12, 1, 32)
COLLECTION = "default"
LEASES = RedisOwnershipOptions(lease_s=1.2, presence_s=1.4, timeout_s=0.5, connect_timeout_s=0.4)
TENANCY = TenancyOptions(beat_s=0.35, spread=SpreadOptions(grace_s=1.2, courtesy_s=0.5, settled_s=1.0, rebalance_s=0.4))

_ALERT_EVERY = 5
_LINE_BYTES = 2**20

Say = Callable[[str], None]


class NotedSource:
    """A camera whose frames are noted."""

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
    """Sees somebody else on every fifth frame, until it is ``shut``."""

    problem = ""
    shut = False

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._frames = 0

    async def look(self, frame: Frame) -> Look:
        """See ``Watcher.look``."""
        del frame
        self._frames += 1
        return Look() if self.shut or self._frames % _ALERT_EVERY else self._seen(EventKind.PERSON_SEEN)

    async def pass_time(self) -> Look:
        """See ``Watcher.pass_time``."""
        return Look()

    def change(self, spec: StreamSpec) -> None:
        """See ``Watcher.change``."""

    def leave(self) -> Look:
        """See ``Watcher.leave``."""
        return Look() if self.shut else self._seen(EventKind.PERSON_LEFT)

    def _seen(self, kind: EventKind) -> Look:
        now = time.time()
        return Look(events=(Event(new_event_id(now), kind, self._spec.id, now, now, now, message=str(os.getpid())),))


class _Desk:
    """Answers whoever enrols and looks for people."""

    def __init__(self, gallery: RedisGallery) -> None:
        self._gallery = gallery

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer line by line."""
        with suppress(ConnectionError):
            while line := await reader.readline():
                try:
                    answer = await self._answer(orjson.loads(line))
                except FaceServerError as error:
                    answer = {"refused": f"{type(error).__name__} {error.code}"}
                writer.write(orjson.dumps(answer) + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        match asked["do"]:
            case "enrol":
                guest = asked["guest"]
                record = TemplateRecord(Template(guest, guest, 1.0, 0.0), Embedding(_vector(asked), 1.0, MODEL))
                await self._gallery.apply(COLLECTION, [PutIdentity(Identity(guest, guest)), AddTemplate(record)])
                return {}
            case "erase":
                await self._gallery.apply(COLLECTION, [RemoveIdentity(asked["guest"])])
                return {}
            case "look":
                sure = self._gallery.freshness.current
                probe = Embeddings(_vector(asked)[None], np.ones(1, np.float32), MODEL)
                ((*found,),) = await self._gallery.search(COLLECTION, probe, limit=1)
                near = [one.identity.id for one in found if one.template_similarity > 0.9]
                return {"named": near[0] if near else "", "sure": sure}
            case _:
                known: list[str] = []
                while page := await self._gallery.identities(COLLECTION, after=known[-1] if known else "", limit=1_000):
                    known += [one.id for one in page]
                return {"known": known}


def _vector(asked: dict[str, Any]) -> Floats:
    return np.asarray(asked["vector"], np.float32)


async def _first_collection(gallery: RedisGallery) -> None:
    if not await gallery.collections():
        with suppress(Conflict):
            await gallery.create_collection(Collection(COLLECTION, MODEL))


async def open_journal(connection: Connection, workers: Workers) -> RedisJournal:
    """The journal of all replicas."""
    return await RedisJournal.open(connection, SystemClock(), Sealer.from_key(bytes(32)), JournalOptions(), workers)


def camera_parts(publish: PublishEvents, workers: Workers, say: Say) -> StreamParts:
    """Streams of cameras whose frames are noted, and which see somebody now and then."""
    clock = SystemClock()

    def open_source(_url: str, spec: StreamSpec) -> NotedSource:
        return NotedSource(SyntheticCamera(clock, SyntheticOptions(64, 48, fps=10)).connect(), spec.id, say)

    async def encode(_pixels: Pixels) -> bytes:
        return b"JPEG"

    return StreamParts(open_source, Eyes, publish, draw_scene, no_signal_card, encode, workers)


def camera_checks() -> StreamChecks:
    """Every stream is welcome."""

    async def probe(_spec: StreamSpec) -> SourceInfo:
        return SourceInfo(64, 48, 10.0, "raw")

    return StreamChecks(lambda _: None, lambda _: None, lambda url: url, probe)


async def _streams(stack: AsyncExitStack, folder: Path, name: str, connection: Connection, workers: Workers, say: Say) -> None:
    """Run this replica's share of the cameras, and deliver, until the stack is closed."""
    clock, sealer = SystemClock(), Sealer.from_key(bytes(32))
    ownership = RedisOwnership(connection, clock, LEASES)
    inner = await open_journal(connection, workers)
    opener = SinkOpener(workers, clock, SinkOptions(timeout_s=5))
    stack.callback(opener.close)

    async def publish(spec: StreamSpec, look: Look) -> None:
        await bus.publish(spec, look)
        for event in look.events:
            say(f"stored {spec.id} {event.id}")

    owned = OwnedStreams(Supervisor(camera_parts(publish, workers, say), clock), ownership, clock, replace(TENANCY, name=name))
    journal = await SpoolingJournal.open(inner, folder / f"spool-{name}", clock, sealer, fence=owned)
    stack.push_async_callback(journal.close)
    bus = EventBus(journal, opener.open, clock)
    stack.push_async_callback(bus.close)
    streams = SharedStreams(journal, owned, bus, clock, camera_checks(), announce=owned.announce)
    stack.push_async_callback(owned.close)
    await streams.resume()
    for task in (asyncio.create_task(owned.run(streams.refresh)), asyncio.create_task(bus.run())):
        stack.callback(task.cancel)


async def _serve(folder: Path, url: str, name: str, say: Say) -> None:
    """One replica, until SIGTERM."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGUSR1, setattr, Eyes, "shut", True)
    async with AsyncExitStack() as stack:
        connection = await open_redis(RedisOptions(url))
        stack.push_async_callback(connection.close)
        workers = stack.enter_context(Workers(2))
        gallery = await RedisGallery.open(connection, workers, SystemClock())
        stack.push_async_callback(gallery.close)
        await _first_collection(gallery)
        await _streams(stack, folder, name, connection, workers, say)
        place = folder / f"{name}.sock"
        place.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(_Desk(gallery).serve, place, limit=_LINE_BYTES)
        stack.callback(server.close)
        await ended.wait()


def note(file: int, text: str) -> None:
    """One line, written at once or not at all."""
    os.write(file, f"{text}\n".encode())


def main() -> None:
    """Fork a replica a line of input."""
    folder, url = Path(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        name = line.strip()
        child = os.fork()
        if child:
            os.write(1, f"{child}\n".encode())
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        logging.basicConfig(filename=folder / f"{name}-{os.getpid()}.log", level="INFO", format="%(relativeCreated)d %(message)s")
        notes = os.open(folder / f"{name}-{os.getpid()}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        asyncio.run(_serve(folder, url, name, partial(note, notes)))
        os._exit(0)


if __name__ == "__main__":
    main()
