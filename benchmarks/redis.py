"""What sharing state in a Redis costs: ``python -m benchmarks.redis [--quick] [--out docs/benchmarks.md]``."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.redis_faults import alone, replica_killed, replica_restarted
from benchmarks.redis_gallery import WATCHERS, fill, rates, scale, visibility
from benchmarks.redis_server import RedisServer
from benchmarks.report import machine, replace_section, table
from benchmarks.search import unit_vectors
from benchmarks.service import MODELS, Service
from face_server.domain.embedding import ModelId

_SECRET = "00" * 32


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    sizes: tuple[int, ...] = (100_000, 1_000_000)
    served: int = 100_000
    rounds: int = 300
    enrolled: int = 1_000
    rate_s: float = 4.0
    idle_s: float = 10.0
    kills: int = 3


QUICK = Effort((20_000,), 20_000, 100, 200, 1.0, 5.0, 1)


@contextmanager
def served(models: Path, count: int) -> Iterator[tuple[Service, Service]]:
    """The same gallery behind a server with SQLite and behind one with Redis."""
    with ExitStack() as stack:
        alone_at, shared_at, redis_at = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(3))
        redis = stack.enter_context(RedisServer(redis_at))
        with Service(alone_at, models=models) as probe:
            model = ModelId.parse(probe.get("/v1/info")["model"])
        for file in alone_at.glob("gallery.sqlite*"):
            file.unlink()
        vectors = unit_vectors(count, seed=1)
        asyncio.run(fill(str(alone_at / "gallery.sqlite"), vectors, model))
        asyncio.run(fill(redis.url, vectors, model))
        environment = {"FACE_SERVER_STATE__REDIS_URL": redis.url, "FACE_SERVER_STREAMS__SECRET_KEY": _SECRET}
        yield (
            stack.enter_context(Service(alone_at, models=models)),
            stack.enter_context(Service(shared_at, environment=environment, models=models)),
        )


def identify(services: tuple[Service, Service], rounds: int, count: int) -> list[list[str]]:
    """Milliseconds of a request, of one probe and of 32, at one server after the other in turn."""
    vectors = unit_vectors(count, seed=1)
    noise = np.random.default_rng(9)
    rows = []
    for probes in (1, 32):
        took: list[list[float]] = [[], []]
        for number in range(rounds):
            rows_of = noise.integers(0, count, probes)
            body = {"embeddings": vectors[rows_of].tolist()}
            # Who is asked first gains nothing over the whole.
            for place in (0, 1) if number % 2 else (1, 0):
                began = time.perf_counter()
                services[place].send("POST", "/v1/collections/default/identify", body)
                took[place].append(1000 * (time.perf_counter() - began))
        sqlite, redis = (statistics.median(one) for one in took)
        ratio = statistics.median(a / b for a, b in zip(*took, strict=True))
        rows.append([f"{probes}", f"{sqlite:.2f}", f"{redis:.2f}", f"**{ratio:.3f}**"])
    return rows


def idle_ms(service: Service, seconds: float) -> float:
    """Processor time in ms a second while nobody asks."""
    began, used = time.monotonic(), service.cpu_s()
    time.sleep(seconds)
    return 1000 * (service.cpu_s() - used) / (time.monotonic() - began)


def takeovers(models: Path, kills: int) -> list[list[str]]:
    """Seconds in which a stream ran nowhere, after its owner was killed, and after it ended politely."""
    rows = []
    for name, fault, rounds in (("killed (kill -9)", replica_killed, kills), ("ended politely", replica_restarted, max(1, kills // 2))):
        with alone(models) as site:
            for _ in range(rounds):
                fault(site)
            site.watch.end()
            dark_s = [one for one in site.watch.dark_s if one > 0]
        rows.append([name, f"{len(dark_s)}", f"{statistics.median(dark_s):.1f}" if dark_s else "–", f"{max(dark_s, default=0):.1f}"])
    return rows


def page(models: Path, effort: Effort) -> str:
    """The whole section."""
    head = ["pace", "templates a second", "p50 ms", "p99 ms", "worst ms"]
    lags = [("20 a second", asyncio.run(visibility(effort.enrolled // 4, 0.05))), ("at once", asyncio.run(visibility(effort.enrolled, 0)))]
    visible = table(
        head, [[name, f"{lag.rate:.0f}", f"{lag.p50_ms:.0f}", f"**{lag.p99_ms:.0f}**", f"{lag.worst_ms:.0f}"] for name, lag in lags]
    )
    single = table(["one by one", "one caller", "16 callers"], asyncio.run(rates(effort.rate_s)))
    sizes = table(
        ["templates", "Redis /s", "SQLite /s", "start from Redis s", "from SQLite s", "bytes in Redis", "ratio"],
        [asyncio.run(scale(count)).row() for count in effort.sizes],
    )
    with served(models, effort.served) as services:
        idle = [idle_ms(service, effort.idle_s) for service in services]
        compared = table(["probes", "SQLite ms", "Redis ms", "SQLite / Redis"], identify(services, effort.rounds, effort.served))
    owners = table(["owner", "streams", "median s", "worst s"], takeovers(models, effort.kills))
    return f"""
## Shared state in Redis

Measured on {machine()}, which also run Redis (7.0, its log on disk before a change is acknowledged unless said otherwise). Random
128-dimensional templates, one a person.

**Visible elsewhere.** Three replicas: one enrols; from its acknowledgement until the slower of the {WATCHERS} others has the template in
its index, looked at every 2 ms. 0 is before the acknowledgement.

{visible}

**Enrolling**, templates a second: each in a change of its own, until it is acknowledged and in the index of the replica that was asked.

{single}

**Many.** Stored in changes of 2,500 people; started in a process of its own, until the first search is answered. Bytes are what Redis
uses more than before, its log of changes included, a template; the ratio is over vector (512), numbers, digest of the picture,
ids and name.

{sizes}

The bar of 1.4 is met by the template itself (790 bytes, 1.27; 1.26 with 512 dimensions), and by people of 512 dimensions with two
templates each (1.31), not by people of 128 dimensions with one: a person has three entries in hashes and three places in orders, and
Redis adds about 70 bytes to an entry and 37 to a place, 320 of the 1,029 bytes.

**Identify** in a gallery of {effort.served:,}, over HTTP, by embeddings that it holds; medians of {effort.rounds} requests to both in turn.
The ratio is the median of theirs: a replica's search does not ask Redis.

{compared}

**A replica that nobody asks** uses {idle[1]:.0f} ms of a processor a second with Redis, {idle[0]:.0f} ms with SQLite.

**Owners.** Seconds in which a stream ran nowhere when the replica that ran it was gone.

{owners}
"""


def main() -> None:
    """Measure, and print or publish the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--quick", action="store_true", help="a look, with small galleries")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    section = page(chosen.models, QUICK if chosen.quick else Effort())
    if chosen.out:
        replace_section(chosen.out, "redis", section)
    print(section)


if __name__ == "__main__":
    main()
