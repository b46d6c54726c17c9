"""The gallery in Redis by itself: how fast it takes people, how soon others see them, how large it is, how long a replica loads it.

A part of ``benchmarks.redis``. Random unit vectors of 128 dimensions, one template a person, with the
sha256 of a picture each, as enrolling a picture stores it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.redis_server import RedisServer
from benchmarks.search import CHANGES_AT_ONCE, MODEL, unit_vectors
from face_server.clock import SystemClock
from face_server.domain.embedding import Embedding, Embeddings, ModelId
from face_server.domain.identity import AddTemplate, Change, Collection, Identity, PutIdentity, Template, TemplateRecord
from face_server.domain.image import Floats
from face_server.domain.ports import Gallery
from face_server.gallery.redis import RedisGallery
from face_server.gallery.sqlite import SqliteGallery, SqliteOptions
from face_server.redis_connection import RedisOptions, open_redis
from face_server.workers import Workers

COLLECTION = "default"
WATCHERS = 2

_POLL_S = 0.002
_TIMES = 3 * 8
_DIGEST_BYTES = 32


@asynccontextmanager
async def open_gallery(place: str, workers: Workers) -> AsyncIterator[Gallery]:
    """A gallery of the Redis, or of the SQLite file, at ``place``."""
    async with AsyncExitStack() as stack:
        gallery: Gallery
        if "://" in place:
            connection = await open_redis(RedisOptions(place))
            stack.push_async_callback(connection.close)
            gallery = await RedisGallery.open(connection, workers, SystemClock())
        else:
            gallery = await SqliteGallery.open(Path(place), workers, SystemClock(), SqliteOptions())
        stack.push_async_callback(gallery.close)
        yield gallery


def enrolment(number: int, vector: Floats, model: ModelId = MODEL) -> list[Change]:
    """What enrolling a picture of somebody changes."""
    person, template, digest = (hashlib.sha256(f"{kind}{number}".encode()).hexdigest() for kind in ("person", "template", "picture"))
    record = TemplateRecord(
        Template(template[:16], person[:16], 0.5, 0.0, image_digest=digest),
        Embedding(vector, 1.0, model),
    )
    return [PutIdentity(Identity(person[:16], f"Person {number}")), AddTemplate(record)]


def payload_bytes(number: int) -> int:
    """What the store is given for one: vector, three numbers, digest, ids of template and person, and the name."""
    return MODEL.dimension * 4 + _TIMES + _DIGEST_BYTES + 16 + 16 + len(f"Person {number}")


async def fill(place: str, vectors: Floats, model: ModelId = MODEL) -> float:
    """Enrol one person a vector, 2,500 at a time; templates a second."""
    with Workers() as workers:
        async with open_gallery(place, workers) as gallery:
            await gallery.create_collection(Collection(COLLECTION, model))
            step = CHANGES_AT_ONCE // 2
            batches = range(0, len(vectors), step)
            took = 0.0
            for start in batches:
                changes = [
                    change for row in range(start, min(start + step, len(vectors))) for change in enrolment(row, vectors[row], model)
                ]
                began = time.perf_counter()
                await gallery.apply(COLLECTION, changes)
                took += time.perf_counter() - began
    return len(vectors) / took


async def singles(place: str, seconds: float, at_once: int) -> float:
    """Enrol one by one, ``at_once`` callers at a time; templates a second."""
    vectors = unit_vectors(20_000, seed=3)
    numbers = iter(range(10_000_000, 20_000_000))
    stored = 0
    with Workers() as workers:
        async with open_gallery(place, workers) as gallery:
            if not await gallery.collections():
                await gallery.create_collection(Collection(COLLECTION, MODEL))
            began = time.perf_counter()

            async def enrol() -> None:
                nonlocal stored
                while time.perf_counter() - began < seconds:
                    number = next(numbers) + int(began * 1_000) % 1_000_000 * 10
                    await gallery.apply(COLLECTION, enrolment(number, vectors[stored % len(vectors)]))
                    stored += 1

            await asyncio.gather(*(enrol() for _ in range(at_once)))
            return stored / (time.perf_counter() - began)


async def start_s(place: str) -> float:
    """Seconds until a gallery has answered its first search."""
    probe = Embeddings(unit_vectors(1, seed=7), np.ones(1, np.float32), MODEL)
    began = time.perf_counter()
    with Workers() as workers:
        async with open_gallery(place, workers) as gallery:
            await gallery.search(COLLECTION, probe, limit=5)
            return time.perf_counter() - began


async def watch(place: str, until: int) -> list[tuple[int, float]]:
    """Follow, and say when how many templates were seen for the first time; seconds of the machine's monotonic clock."""
    seen: list[tuple[int, float]] = []
    with Workers(1) as workers:
        async with open_gallery(place, workers) as gallery:
            print("ready", flush=True)
            while not seen or seen[-1][0] < until:
                count = (await gallery.collections())[0].templates
                if not seen or count != seen[-1][0]:
                    seen.append((count, time.monotonic()))
                await asyncio.sleep(_POLL_S)
    return seen


@dataclass(frozen=True, slots=True)
class Lag:
    """How long after its acknowledgement a template is seen by the slowest of the other replicas, in ms."""

    rate: float
    p50_ms: float
    p99_ms: float
    worst_ms: float


async def visibility(count: int, pause_s: float) -> Lag:
    """Enrol ``count`` people one by one, with pauses, at one replica while two others watch."""
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as redis, Workers() as workers:
        async with open_gallery(redis.url, workers) as gallery:
            await gallery.create_collection(Collection(COLLECTION, MODEL))
            vectors = unit_vectors(count, seed=5)
            line = [sys.executable, "-m", "benchmarks.redis_gallery", "watch", redis.url, str(count)]
            watchers = [await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE, limit=2**26) for _ in range(WATCHERS)]
            for watcher in watchers:
                assert watcher.stdout is not None
                await watcher.stdout.readline()
            acknowledged, began = [], time.monotonic()
            for number in range(count):
                await gallery.apply(COLLECTION, enrolment(number, vectors[number]))
                acknowledged.append(time.monotonic())
                await asyncio.sleep(pause_s)
            rate = count / (time.monotonic() - began)
            seen = [json.loads((await watcher.communicate())[0]) for watcher in watchers]
    lags = [1000 * max(_lag(one, number, at) for one in seen) for number, at in enumerate(acknowledged, 1)]
    return Lag(rate, statistics.median(lags), float(np.percentile(lags, 99)), max(lags))


def _lag(seen: Sequence[tuple[int, float]], count: int, acknowledged: float) -> float:
    return max(0.0, next(at for known, at in seen if known >= count) - acknowledged)


@dataclass(frozen=True, slots=True)
class Scale:
    """A gallery of ``count`` templates in Redis and in SQLite."""

    count: int
    batch: float
    batch_sqlite: float
    start: float
    start_sqlite: float
    stored_bytes: float
    ratio: float

    def row(self) -> list[str]:
        """A line of the table."""
        starts = [f"{self.start:.1f}", f"{self.start_sqlite:.1f}"]
        return [
            f"{self.count:,}",
            f"{self.batch:,.0f}",
            f"{self.batch_sqlite:,.0f}",
            *starts,
            f"{self.stored_bytes:.0f}",
            f"**{self.ratio:.2f}**",
        ]


async def scale(count: int) -> Scale:
    """Fill both, and load both in processes of their own."""
    with tempfile.TemporaryDirectory() as name, RedisServer(Path(name)) as redis:
        vectors = unit_vectors(count, seed=1)
        file = str(Path(name) / "gallery.sqlite")
        before = redis.command("INFO", "memory")["used_memory"]
        batch = await fill(redis.url, vectors)
        size = (redis.command("INFO", "memory")["used_memory"] - before) / count
        batch_sqlite = await fill(file, vectors)
        del vectors
        start, start_sqlite = await _start_in_a_process(redis.url), await _start_in_a_process(file)
    payload = sum(map(payload_bytes, range(count))) / count
    return Scale(count, batch, batch_sqlite, start, start_sqlite, size, size / payload)


async def _start_in_a_process(place: str) -> float:
    line = [sys.executable, "-m", "benchmarks.redis_gallery", "start", place]
    child = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE)
    output, _ = await child.communicate()
    return float(output)


async def rates(seconds: float) -> list[list[str]]:
    """Enrolling one by one: Redis with its log flushed at every change and every second, and SQLite."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for title, options in (("Redis, each change on disk", ()), ("Redis, on disk within a second", ("--appendfsync", "everysec"))):
            folder = Path(tempfile.mkdtemp(dir=name))
            with RedisServer(folder, *options) as redis:
                rows.append([title, *[f"{await singles(redis.url, seconds, at_once):,.0f}" for at_once in (1, 16)]])
        file = str(Path(name) / "gallery.sqlite")
        rows.append(["SQLite, each change on disk", *[f"{await singles(file, seconds, at_once):,.0f}" for at_once in (1, 16)]])
    return rows


def main() -> None:
    """What runs in processes of its own."""
    what, place = sys.argv[1:3]
    if what == "watch":
        print(json.dumps(uvloop.run(watch(place, int(sys.argv[3])))))
    else:
        print(uvloop.run(start_s(place)))


if __name__ == "__main__":
    main()
