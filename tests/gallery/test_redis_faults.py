"""A gallery in Redis while Redis is killed, stands still, changes its master, or is reached over a bad line."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.redis_server import Line, RedisServer, SentinelSite, missing
from face_server.domain.identity import RemoveIdentity
from face_server.errors import FaceServerError, Unavailable
from face_server.gallery.redis import RedisGallery
from face_server.workers import Workers
from tests.gallery.redis_parts import named, person, replica, until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


class Enrolling:
    """Enrols people through some replicas in turn, for ever, and remembers who was acknowledged."""

    def __init__(self, *replicas: RedisGallery) -> None:
        self.replicas = replicas
        self.acknowledged: set[int] = set()
        self.deleted: set[int] = set()
        self.refused = 0

    async def run(self) -> None:
        """Enrol two people, delete the second of them."""
        for seed in itertools.count(step=2):
            gallery = self.replicas[seed // 2 % len(self.replicas)]
            try:
                await gallery.apply("all", [*person(f"p{seed}", seed), *person(f"p{seed + 1}", seed + 1)])
                self.acknowledged.add(seed)
                await gallery.apply("all", [RemoveIdentity(f"p{seed + 1}")])
                self.deleted.add(seed + 1)
            except Unavailable:
                self.refused += 1
                await asyncio.sleep(0.02)

    async def check(self, *replicas: RedisGallery) -> None:
        """Nobody who was acknowledged is missing, nobody who was deleted is named, and all replicas are equal to the store."""
        for gallery in replicas or self.replicas:
            await until(lambda gallery=gallery: gallery.freshness.current)
            for seed in self.acknowledged:
                assert await named(gallery, seed) == f"p{seed}"
            for seed in self.deleted:
                assert await named(gallery, seed) == ""
            assert await gallery.index_differences() == 0


@asynccontextmanager
async def enrolling(*replicas: RedisGallery) -> AsyncIterator[Enrolling]:
    """Somebody enrols during the block."""
    work = Enrolling(*replicas)
    task = asyncio.create_task(work.run())
    try:
        yield work
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_kill_9_of_redis_loses_nothing_acknowledged(tmp_path: Path, workers: Workers) -> None:
    """Six times during enrolment: searches go on meanwhile, writes are refused, all heals by itself."""
    with RedisServer(tmp_path) as server:
        async with replica(server.url, workers) as first, replica(server.url, workers) as second:
            async with enrolling(first, second) as work:
                for number in range(6):
                    before = len(work.acknowledged)
                    await until(lambda before=before: len(work.acknowledged) >= before + 5)
                    await asyncio.to_thread(server.kill)
                    known = min(work.acknowledged)
                    assert await named(first, known) == f"p{known}"
                    if not number % 3:
                        await until(lambda: not first.freshness.current and not second.freshness.current)
                        assert "reached" in first.freshness.reason
                        assert first.freshness.stale_since is not None
                        assert abs(time.time() - first.freshness.stale_since) < 5
                    await asyncio.to_thread(server.start)
            assert work.refused
            await work.check()


async def test_a_redis_that_stands_still_is_said_and_heals(tmp_path: Path, workers: Workers) -> None:
    """SIGSTOP: searches answer as quickly as ever, writes are refused and soon at once, listings too; then all goes on."""
    with RedisServer(tmp_path) as server:
        async with replica(server.url, workers, timeout_s=1.0) as gallery, replica(server.url, workers, timeout_s=1.0) as other:
            await gallery.apply("all", [*person("ada", 1), *person("bob", 2)])
            await until(lambda: named(other, 1))
            server.freeze()
            with pytest.raises(Unavailable, match="did not answer in time") as refused:
                await gallery.apply("all", person("eve", 3))
            assert refused.value.retry_after_s > 0
            await until(lambda: "did not answer" in gallery.freshness.reason)
            begun = time.monotonic()
            assert await named(gallery, 1) == "ada"
            for call in (gallery.apply("all", person("x", 4)), gallery.records("all"), gallery.identity("all", "ada")):
                with pytest.raises(Unavailable):
                    await call
            assert (await gallery.collection("all")).identities == 2
            assert time.monotonic() - begun < 0.5
            server.thaw()
            await until(lambda: gallery.freshness.current)
            await gallery.apply("all", [RemoveIdentity("ada")])
            await asyncio.sleep(0.2)
            assert await named(other, 1) == ""
            assert await gallery.index_differences() == await other.index_differences() == 0


async def test_a_failover_loses_nothing_that_a_replica_had_to_have(tmp_path: Path, workers: Workers) -> None:
    """Sentinel makes another server master while people are enrolled, each change acknowledged by one replica at least."""
    with SentinelSite(tmp_path) as site:
        async with replica(site.url, workers, wait_replicas=1) as first, replica(site.url, workers, wait_replicas=1) as second:
            async with enrolling(first, second) as work:
                await until(lambda: len(work.acknowledged) > 20)
                old = site.master
                await asyncio.to_thread(old.kill)
                before = len(work.acknowledged)
                await until(lambda: len(work.acknowledged) > before + 20, 60)
            assert site.master is not old
            await work.check()


async def test_a_failover_that_lost_changes_is_noticed(tmp_path: Path, workers: Workers) -> None:
    """The new master never heard of the last people: no replica names them any more."""
    with SentinelSite(tmp_path) as site:
        async with replica(site.url, workers) as first, replica(site.url, workers) as second:
            await first.apply("all", person("ada", 1))
            await asyncio.sleep(0.3)
            master = site.master
            replicas = [one for one in site.servers if one is not master]
            for one in replicas:
                await asyncio.to_thread(one.command, "CONFIG", "SET", "repl-timeout", 3600)
                # What the master sends is not read any more; the server goes on serving.
                await asyncio.to_thread(one.command, "REPLICAOF", "127.0.0.1", "1")
            await first.apply("all", [*person("lost", 2), RemoveIdentity("ada")])
            await until(lambda: named(second, 2))
            await asyncio.to_thread(master.kill)
            await until(lambda: site.master is not master, 40)
            await until(lambda: first.freshness.current and second.freshness.current, 30)
            for gallery in (first, second):
                assert await named(gallery, 2) == ""
                assert await named(gallery, 1) == "ada"
                assert await gallery.index_differences() == 0


async def test_a_slow_line_that_is_cut_again_and_again(tmp_path: Path, workers: Workers) -> None:
    """30 ms each way and cuts: what was acknowledged is there; while the line is dead the replica says since when it is stale."""
    with RedisServer(tmp_path) as server, Line(server.port) as line:
        async with replica(server.url, workers) as near, replica(line.url, workers, timeout_s=2.0) as far:
            async with enrolling(far) as work:
                line.delay_s = 0.03
                for _ in range(8):
                    await asyncio.sleep(0.4)
                    await asyncio.to_thread(line.cut)
            line.delay_s = 0.0
            assert len(work.acknowledged) > 2
            await work.check(near, far)
            line.dead = True
            await asyncio.to_thread(line.cut)
            await near.apply("all", [*person("late", 10_001), RemoveIdentity("p0")])
            await until(lambda: not far.freshness.current, 0.5)
            assert await named(far, 0) == "p0", "cut off, it goes on with what it knows and says so"
            line.dead = False
            await until(lambda: named(far, 10_001))
            assert await named(far, 0) == ""
            with pytest.raises(FaceServerError):
                await far.apply("all", [RemoveIdentity("p0")])
