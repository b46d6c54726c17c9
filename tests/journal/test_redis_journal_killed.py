"""Replicas and their Redis are killed while they store and deliver: nothing acknowledged is lost, and order is kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from face_server.errors import Unavailable
from face_server.journal.redis import RedisJournal
from tests.journal.redis_parts import Site, site
from tests.sinks.receivers import until

PROCESS = Path(__file__).with_name("delivering_replica.py")


@dataclass
class Replica:
    """A process that publishes and delivers, and what it said."""

    name: str
    stored: list[str] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None
    listening: asyncio.Task[None] | None = None

    async def start(self, shared: Site, arrived: Path, takes_s: float) -> None:
        """Run it, from where it stopped."""
        first = int(self.stored[-1].rpartition("-")[2]) + 1_000 if self.stored else 0
        line = [sys.executable, str(PROCESS), str(shared.server.port), str(arrived), self.name, str(first), str(takes_s)]
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(*line, stdin=pipe, stdout=pipe)
        self.listening = asyncio.create_task(self._listen(self.process))
        before = len(self.stored)
        await until(lambda: len(self.stored) > before)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.stored.append(line.decode().split()[1])

    async def kill(self) -> None:
        """End it without a word."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        if self.listening is not None:
            await self.listening

    def be_quiet(self) -> None:
        """Publish no more."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")


def arrivals(path: Path) -> list[tuple[float, str, str, str]]:
    """Time, replica, stream and event of what arrived, in order."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(at), replica, stream, name) for at, replica, stream, name in (line.split() for line in lines)]


async def check(journal: RedisJournal, replicas: list[Replica], path: Path, most_repeated: int) -> None:
    """All that was acknowledged is stored and arrived, each stream in order; few arrived twice, and those in a row."""
    found = []
    while page := await journal.events(after=found[-1].cursor if found else 0, limit=1_000):
        found += page
    kept = [one.id for one in found]
    arrived = arrivals(path)
    repeated = 0
    for replica in replicas:
        own = [name for name in kept if name.startswith(replica.name)]
        assert set(replica.stored) <= set(own)
        assert own == sorted(set(own))
        names = [name for _, _, stream, name in arrived if stream == replica.name]
        once = [name for name, _ in itertools.groupby(names)]
        assert once == own
        repeated += len(names) - len(once)
    assert await journal.dead_letters() == []
    assert repeated <= most_repeated


async def delivered(shared: Site, replicas: list[Replica]) -> RedisJournal:
    """A journal in which nothing waits any more."""
    opened: list[RedisJournal] = []

    async def open_once() -> bool:
        # A Redis that was killed a moment ago may still be loading.
        with contextlib.suppress(Unavailable):
            opened.append(await shared.replica())
        return bool(opened)

    await until(open_once)
    journal = opened[0]
    for replica in replicas:
        if replica.process is not None and replica.process.returncode is None:
            replica.be_quiet()

    async def empty() -> bool:
        return not await journal.lanes()

    await until(empty, 60)
    return journal


async def test_kill_9_of_redis_loses_nothing(tmp_path: Path) -> None:
    """Twelve times, while two replicas store and deliver: no acknowledged event is lost, each arrives, in order."""
    moments, path, replicas = random.Random(5), tmp_path / "arrived", [Replica("one"), Replica("two")]
    async with site(tmp_path) as shared:
        try:
            for replica in replicas:
                await replica.start(shared, path, 0.0)
            for _ in range(12):
                await asyncio.sleep(moments.uniform(0.05, 0.5))
                await shared.server.leave()
                await asyncio.sleep(moments.uniform(0.0, 0.3))
                await shared.server.come_back()
            journal = await delivered(shared, replicas)
            await asyncio.gather(*(replica.kill() for replica in replicas))
            assert min(len(replica.stored) for replica in replicas) > 50
            # A kill falls between arrival and note at most once a lane.
            await check(journal, replicas, path, 24)
            assert not journal.problem
        finally:
            await asyncio.gather(*(replica.kill() for replica in replicas))


@pytest.mark.slow
async def test_three_replicas_take_over_from_each_other(tmp_path: Path) -> None:
    """Two are killed while events wait: the third goes on within 10 s where they stopped; nothing is lost, order is kept."""
    path, replicas = tmp_path / "arrived", [Replica("one"), Replica("two"), Replica("three")]
    async with site(tmp_path) as shared:
        try:
            await asyncio.gather(*(replica.start(shared, path, 0.015) for replica in replicas))
            await asyncio.sleep(1.0)
            killed: dict[str, float] = {}
            for victim in (replicas[0], replicas[2]):
                await victim.kill()
                killed[victim.name] = time.time()
                await asyncio.sleep(0.5)

            def took() -> list[float]:
                """For each that was killed, after how many seconds another delivered for it."""
                late = [(at - killed[stream], stream) for at, by, stream, _ in arrivals(path) if stream in killed and by != stream]
                return list({stream: after for after, stream in reversed(late) if after > 0}.values())

            await until(lambda: len(took()) == 2, 12)
            await replicas[0].start(shared, path, 0.0)
            journal = await delivered(shared, replicas)
            await asyncio.gather(*(replica.kill() for replica in replicas))
            await check(journal, replicas, path, 3)
            assert max(took()) < 10, took()
        finally:
            await asyncio.gather(*(replica.kill() for replica in replicas))
