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
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.redis_replica import LEASES, TENANCY, Say, camera_checks, camera_parts, note, open_journal
from face_server.clock import SystemClock
from face_server.domain.streams import StreamSpec
from face_server.domain.tracks import Look
from face_server.journal.sealing import Sealer
from face_server.journal.spool import SpoolingJournal
from face_server.redis_connection import RedisOptions, open_redis
from face_server.streams.owned import OwnedStreams
from face_server.streams.redis_ownership import RedisOwnership, RedisOwnershipOptions
from face_server.streams.shared import SharedStreams
from face_server.streams.supervisor import Supervisor
from face_server.streams.tenancy import TenancyOptions
from face_server.workers import Workers

PACES = {
    "life": (RedisOwnershipOptions(), TenancyOptions()),
    "fast": (LEASES, TENANCY),
}


class Nobody:
    """Needs to know no specs."""

    def set_specs(self, specs) -> None:
        """See ``SpecListener.set_specs``."""

    def put_spec(self, spec) -> None:
        """See ``SpecListener.put_spec``."""

    def drop_spec(self, stream_id) -> None:
        """See ``SpecListener.drop_spec``."""


async def serve(folder: Path, url: str, pace: str, name: str, room: int, say: Say) -> None:
    """One replica, until SIGTERM."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    clock = SystemClock()
    connection = await open_redis(RedisOptions(url))
    lasting, tenancy = PACES[pace]
    ownership = RedisOwnership(connection, clock, lasting)
    with Workers(2) as workers:
        inner = await open_journal(connection, workers)

        async def publish(spec: StreamSpec, look: Look) -> None:
            for event in await journal.append(look.events, look.pictures, {event.id: ["log"] for event in look.events}):
                say(f"stored {spec.id} {event.id}")

        owned = OwnedStreams(
            Supervisor(camera_parts(publish, workers, say), clock), ownership, clock, replace(tenancy, name=name, room=room)
        )
        journal = await SpoolingJournal.open(inner, folder / f"spool-{name}", clock, Sealer.from_key(bytes(32)), fence=owned)
        streams = SharedStreams(journal, owned, Nobody(), clock, camera_checks(), announce=owned.announce)
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
