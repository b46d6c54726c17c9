"""The shared journal on a Cluster, through a failover of Sentinel, and over a bad line."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.redis_server import ClusterSite, Line, RedisServer, SentinelSite, missing
from face_server.clock import SystemClock
from face_server.domain.access import Role
from face_server.domain.events import Picture
from face_server.errors import FaceServerError
from face_server.journal.options import JournalOptions
from face_server.journal.redis import RedisJournal
from face_server.journal.redis_keys import RedisKeyRing
from face_server.journal.sealing import Sealer
from face_server.redis_connection import RedisOptions, open_redis
from face_server.workers import Workers
from tests.journal.redis_parts import DOOR, event, names, put, spec
from tests.sinks.receivers import until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@contextlib.asynccontextmanager
async def replica(url: str, **options: Any) -> AsyncIterator[RedisJournal]:
    """A replica of a journal at an address."""
    connection = await open_redis(RedisOptions(url, **options))
    with Workers(1) as workers:
        journal = await RedisJournal.open(connection, SystemClock(), Sealer.from_key(bytes(32)), JournalOptions(), workers)
        try:
            yield journal
        finally:
            await journal.close()
            await connection.close()


async def test_a_cluster(tmp_path: Path) -> None:
    """Everything lies in one slot: streams, events, pictures, lanes, followers and keys work as elsewhere."""
    with ClusterSite(tmp_path) as cluster:
        async with replica(cluster.url) as one, replica(cluster.url) as two:
            await one.add_stream(spec("door"))
            followed, changes = two.follow(after=0), two.spec_changes()
            await anext(changes)
            waiting = asyncio.ensure_future(anext(followed))
            await one.append([event("e1", picture="p")], [Picture("p", b"jpeg")], {"e1": ["hook"]})
            assert names(await waiting) == ["e1"]
            assert await two.picture("p") == b"jpeg"
            assert await two.claim(DOOR)
            assert not await one.claim(DOOR)
            (delivery,) = await two.pending(DOOR)
            await two.bury(delivery.id, "no")
            assert await two.release(DOOR)
            assert await one.replay([(await one.dead_letters())[0].id]) == 1
            assert await one.name_stranger("s1", name="Bob") == 0
            assert await one.prune() == 0
            changed = asyncio.ensure_future(anext(changes))
            await one.remove_stream("door")
            await changed
            ring = await RedisKeyRing.open(one._session.connection, SystemClock())
            key, secret = await ring.create(Role.READ, "door")
            assert await ring.authenticate(secret) == key
            await ring.close()
            await followed.aclose()
            await changes.aclose()


async def test_a_failover_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """With one replica waited for: the master is killed amid appends; within seconds they go on, and a follower misses nothing."""
    with SentinelSite(tmp_path) as sentinel:
        async with replica(sentinel.url, wait_replicas=1, timeout_s=1.0) as one, replica(sentinel.url, timeout_s=1.0) as two:
            seen: list[str] = []

            async def follow() -> None:
                async for page in two.follow(after=0):
                    seen.extend(names(page))

            following, stored = asyncio.create_task(follow()), []
            ends, killed = time.monotonic() + 30, False
            for number in itertools.count():
                name = f"e{number:05d}"
                while time.monotonic() < ends:
                    with contextlib.suppress(FaceServerError):
                        await put(one, DOOR, name)
                        stored.append(name)
                        break
                    await asyncio.sleep(0.05)
                if number == 200:
                    sentinel.master.kill()
                    killed = True
                if number == 400 or time.monotonic() >= ends:
                    break
            assert killed
            assert len(stored) == 401
            kept = names(await one.events(limit=1_000))
            assert kept == stored
            await until(lambda: len(set(seen)) >= len(stored), 5)
            # What was seen before the failover may have been seen again under another cursor, never in another order.
            assert list(dict.fromkeys(seen)) == stored
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_a_bad_line(tmp_path: Path) -> None:
    """30 ms away and cut again and again: whoever repeats what failed loses nothing and doubles nothing."""
    with RedisServer(tmp_path) as server, Line(server.port) as line:
        line.delay_s = 0.01
        async with replica(line.url, timeout_s=2.0) as one:
            stored: list[str] = []

            async def append(stream: str) -> None:
                for number in range(40):
                    name = f"{stream}-{number:02d}"
                    while True:
                        try:
                            await one.append([event(name, stream)], [], {name: ["hook"]})
                            break
                        except FaceServerError:
                            await asyncio.sleep(0.02)
                    stored.append(name)

            async def cut() -> None:
                while True:
                    await asyncio.sleep(0.15)
                    await asyncio.to_thread(line.cut)

            cutting = asyncio.create_task(cut())
            await asyncio.gather(append("door"), append("gate"), append("yard"))
            cutting.cancel()
            await asyncio.gather(cutting, return_exceptions=True)
        async with replica(server.url) as two:
            kept = names(await two.events(limit=1_000))
            assert sorted(kept) == sorted(stored)
            for stream in ("door", "gate", "yard"):
                own = [name for name in kept if name.startswith(stream)]
                assert own == sorted(own)
            assert names(await two.pending(DOOR, limit=100)) == [f"door-{number:02d}" for number in range(40)]
