"""Real replicas as processes, and what their cameras saw."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from benchmarks.redis_replica import open_journal
from benchmarks.replica_notes import GAP_S, ReplicaNotes
from face_server.domain.events import Event, Lane
from face_server.domain.streams import StreamSpec
from face_server.redis_connection import RedisOptions, open_redis
from face_server.workers import Workers

ROOT = Path(__file__).resolve().parents[2]


class Replicas(ReplicaNotes):
    """Forks replicas by name, and kills them."""

    def __init__(self, folder: Path, url: str, pace: str) -> None:
        super().__init__(folder)
        self.pace = pace
        self.url = url
        self.pids: dict[str, int] = {}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        line = [sys.executable, "-m", "tests.streams.owning_process", str(self.folder), self.url, self.pace]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process is not None
        for name in list(self.pids):
            self.send(name, signal.SIGKILL)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def start(self, name: str, url: str = "-", room: int = 64) -> int:
        """Start a replica."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{name} {url} {room}\n")
        self._process.stdin.flush()
        self.pids[name] = int(self._process.stdout.readline())
        return self.pids[name]

    def send(self, name: str, number: signal.Signals) -> float:
        """Send a signal; SIGKILL and SIGTERM end it. Returns when that was."""
        with suppress(ProcessLookupError):
            os.kill(self.pids[name], number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            del self.pids[name]
        return time.monotonic()

    def running(self) -> dict[str, int]:
        """Which replica runs each stream just now."""
        now = time.monotonic()
        return {one.stream: one.pid for one in self.stretches() if now - one.end < GAP_S}

    def until_all_run(self, streams: int, timeout_s: float = 20.0) -> float:
        """Wait until that many streams run. Returns how long that took."""
        began = time.monotonic()
        while len(self.running()) < streams:
            if time.monotonic() - began > timeout_s:
                logs = "\n".join(f"{file.name}: {file.read_text()}" for file in self.folder.glob("*.log"))
                raise AssertionError(f"only {self.running()} run\n{logs}")
            time.sleep(0.05)
        return time.monotonic() - began

    def stored(self) -> list[str]:
        """The ids of acknowledged events."""
        return [words[1] for _, words in self.notes("stored")]


def register(url: str, streams: int) -> None:
    """Put streams into the journal."""
    asyncio.run(_register(url, streams))


async def _register(url: str, streams: int) -> None:
    connection = await open_redis(RedisOptions(url))
    with Workers(1) as workers:
        journal = await open_journal(connection, workers)
        for number in range(streams):
            await journal.add_stream(StreamSpec(f"s{number}", "rtsp://10.0.0.9/live"))
        await journal.close()
    await connection.close()


def journaled(url: str, streams: int) -> tuple[list[Event], set[str]]:
    """All events, and the ids of those that wait to be delivered."""
    return asyncio.run(_journaled(url, streams))


async def _journaled(url: str, streams: int) -> tuple[list[Event], set[str]]:
    connection = await open_redis(RedisOptions(url))
    with Workers(1) as workers:
        journal = await open_journal(connection, workers)
        found: list[Event] = []
        while page := await journal.events(after=found[-1].cursor if found else 0, limit=1_000):
            found += page
        queued: set[str] = set()
        for number in range(streams):
            lane = Lane(f"s{number}", "log")
            while not await journal.claim(lane):  # noqa: ASYNC110 - another process held it a moment ago
                await asyncio.sleep(0.1)
            queued |= {delivery.event.id for delivery in await journal.pending(lane, limit=1_000)}
        await journal.close()
    await connection.close()
    return found, queued
