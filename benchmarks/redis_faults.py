"""Redis, the way to it and the replicas are made to fail, and what was lost is counted.

``python -m benchmarks.redis_faults [--only NAME] [--rounds N] [--quick] [--out docs/benchmarks.md]``. The tests run a part of it.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.redis_fleet import FLEET_ROUNDS, kill_at_random
from benchmarks.redis_server import Line, RedisServer, SentinelSite
from benchmarks.redis_site import LATE_S, REPLICAS, STREAMS, Outcome, ReplicaSite, open_site
from benchmarks.report import machine, replace_section, table
from benchmarks.service import MODELS, Service

Fault = Callable[[ReplicaSite], None]

_SETTLED_S = 3.0
_GUESTS = 20


def redis_killed(site: ReplicaSite, away_s: float = 10.0) -> None:
    """Redis is killed and comes back."""
    site.redis.kill()
    _away(site, away_s)
    site.redis.start()
    site.note_back()


def redis_frozen(site: ReplicaSite, away_s: float = 30.0) -> None:
    """Redis stands still with every connection open."""
    site.redis.freeze()
    _away(site, away_s)
    site.redis.thaw()
    site.note_back()


def redis_cut_off(site: ReplicaSite, away_s: float = 20.0) -> None:
    """Nobody reaches Redis: new connections end at once, too."""
    site.line.dead = True
    site.line.cut()
    _away(site, away_s)
    site.line.dead = False
    site.note_back()


def connections_cut(site: ReplicaSite) -> None:
    """Every connection breaks again and again."""
    for _ in range(20):
        site.line.cut()
        time.sleep(random.uniform(0.1, 1.0))
    site.note_back()


def line_slow(site: ReplicaSite) -> None:
    """The way to Redis takes a tenth of a second, then half a second, each way."""
    for delay_s in (0.1, 0.5):
        site.line.delay_s = delay_s
        time.sleep(10)
    site.line.delay_s = 0.0
    site.note_back()


def failover(site: ReplicaSite) -> None:
    """The master is killed; Sentinel makes a replica master, and the old one returns as a replica."""
    master = site.redis.master
    master.kill()
    Service.wait_for(lambda: site.redis.master is not master, 30, "a new master")
    site.note_back()
    master.start()
    Service.wait_for(lambda: master.command("ROLE")[0] in (b"slave", "slave"), 30, "the old master to be a replica")
    time.sleep(_SETTLED_S)


def master_frozen(site: ReplicaSite) -> None:
    """The master stands still until long after another one was made."""
    master = site.redis.master
    master.freeze()
    Service.wait_for(lambda: site.redis.master is not master, 30, "a new master")
    site.note_back()
    time.sleep(10)
    master.thaw()
    Service.wait_for(lambda: master.command("ROLE")[0] in (b"slave", "slave"), 30, "the old master to be a replica")
    site.note_back()


def memory_full(site: ReplicaSite, away_s: float = 10.0) -> None:
    """Redis reaches maxmemory, and is given more later."""
    site.redis.command("CONFIG", "SET", "maxmemory", "1mb")
    site.remark = _refusal(site, "enrol: 503 storage_full")
    time.sleep(away_s)
    site.redis.command("CONFIG", "SET", "maxmemory", "0")
    site.note_back()


def disk_full(site: ReplicaSite, away_s: float = 10.0) -> None:
    """The file that Redis logs to cannot grow; space is made later. Changes are flushed every second, as is usual."""
    pid = site.redis.process.pid
    largest = max(file.stat().st_size for file in site.redis.folder.rglob("*.aof"))
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, limits[1]))
    site.remark = _refusal(site, "enrol: 503 storage_full")
    time.sleep(away_s)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    site.note_back()


def flushed(site: ReplicaSite) -> None:
    """An operator empties the database: all is lost. Nobody must be named any more, and the service must go on."""
    Service.wait_for(lambda: len(site.guests.present()) >= _GUESTS, 60, "some guests")
    site.guests.pause()
    site.watch.end()
    guests = site.guests.present()[:_GUESTS]
    before = [desk.look(site.guests.vector(guest)).named for desk in site.desks().values() for guest in guests]
    if before != guests * len(site.desks()):
        raise RuntimeError("not every guest is known before the flush")
    site.journal()
    site.redis.command("FLUSHALL")
    since = time.monotonic()
    time.sleep(0.2)
    sights = [desk.look(site.guests.vector(guest)) for desk in site.desks().values() for guest in guests]
    site.guests.tally.phantoms += sum(bool(one.named) and one.sure for one in sights)
    said = lambda: all("journal" in site.complaints(service, past=True) for service in site.alive())  # noqa: E731 - read once
    Service.wait_for(said, 15, "every replica to say that Redis was emptied")
    logged = lambda: all(any("was emptied" in line for line in service.log) for service in site.alive())  # noqa: E731 - read once
    Service.wait_for(logged, 15, "every replica to log that Redis was emptied")
    site.noticed_s.append(time.monotonic() - since)
    site.remark = f"{sum(bool(one.named) for one in sights)} of {len(sights)} named after 0.2 s"
    # What the database held is nobody's any more; the receiver had its events.
    site.guests.forget()
    _restore(site)
    site.note_back()
    site.remark += f", in service after {time.monotonic() - since:.1f} s"
    site.guests.go_on()
    site.watch.begin()


def replica_killed(site: ReplicaSite) -> None:
    """A replica is killed at some moment and started again a little later; which one is chance."""
    number = random.randrange(len(site.services))
    site.kill(number)
    began = time.monotonic()
    site.wait_until_running(30)
    site.remark = f"{site.remark}{', ' if site.remark else 'taken over after '}{time.monotonic() - began:.1f} s"
    time.sleep(random.uniform(0, 2))
    site.start(number)
    site.note_back()


def replica_killed_redis_away(site: ReplicaSite) -> None:
    """A replica is killed while Redis is away, with events on its disk; then both come back."""
    site.redis.kill()
    _away(site, 6)
    site.kill(0)
    site.redis.start()
    site.start(0)
    site.note_back()


def replica_restarted(site: ReplicaSite) -> None:
    """Replicas are stopped politely and started again, one by one."""
    for number in range(len(site.services)):
        site.stop(number)
        site.wait_until_running(30)
        site.start(number)
        site.note_back()


def _away(site: ReplicaSite, seconds: float) -> None:
    """Redis cannot be asked for so long; the replicas say so."""
    since = time.monotonic()
    site.note_noticed(since)
    time.sleep(max(0.0, seconds - (time.monotonic() - since)))


def _refusal(site: ReplicaSite, sign: str) -> str:
    """Wait until writes are refused in that way, and say so."""
    began, tally = time.monotonic(), site.guests.tally
    before = tally.refused[sign]
    Service.wait_for(lambda: tally.refused[sign] > before, 30, f"a refusal {sign!r}; there are {tally.refused}")
    site.noticed_s.append(time.monotonic() - began)
    return sign


def _restore(site: ReplicaSite) -> None:
    """What an operator does after a flush: the collection and the cameras are made again."""
    Service.wait_for(lambda: not any(site.complaints(one) for one in site.alive()), 60, "the replicas to be well")
    first = site.alive()[0]
    if not first.get("/v1/collections")["collections"]:
        first.send("POST", "/v1/collections", {"name": "default"})
    site.register()
    time.sleep(1)
    site.excuse()


@contextmanager
def alone(models: Path, *options: str) -> Iterator[ReplicaSite]:
    """A site with one Redis."""
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder), *options) as redis, ExitStack() as stack:
        yield stack.enter_context(open_site(redis, redis.url, models=models))


@contextmanager
def relaxed(models: Path) -> Iterator[ReplicaSite]:
    """A site with one Redis that flushes its log every second."""
    with alone(models, "--appendfsync", "everysec") as site:
        yield site


@contextmanager
def behind_a_line(models: Path) -> Iterator[ReplicaSite]:
    """A site whose way to Redis can be cut."""
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as redis, Line(redis.port) as line, ExitStack() as stack:
        yield stack.enter_context(open_site(redis, line.url, models=models, line=line))


@contextmanager
def with_sentinel(models: Path) -> Iterator[ReplicaSite]:
    """A site with a Redis, two replicas of it and Sentinel; a write counts once one of the replicas has it."""
    with tempfile.TemporaryDirectory() as folder, SentinelSite(Path(folder)) as redis, ExitStack() as stack:
        yield stack.enter_context(open_site(redis, redis.url, models=models, wait_replicas=1))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault, how often it happens, and at what kind of site."""

    fault: Fault
    rounds: int = 1
    place: Callable[[Path], AbstractContextManager[ReplicaSite]] = alone


SCENARIOS: dict[str, Scenario] = {
    "Redis killed (kill -9), back after 10 s": Scenario(redis_killed, 3),
    "Redis frozen (SIGSTOP) for 30 s": Scenario(redis_frozen, 2),
    "Redis cut off for 20 s": Scenario(redis_cut_off, 2, behind_a_line),
    "connections cut 20 times": Scenario(connections_cut, 2, behind_a_line),
    "Redis 0.2 s away, then 1 s": Scenario(line_slow, 1, behind_a_line),
    "failover: master killed": Scenario(failover, 2, with_sentinel),
    "failover: master frozen": Scenario(master_frozen, 1, with_sentinel),
    "FLUSHALL": Scenario(flushed, 1),
    "maxmemory reached": Scenario(memory_full, 2),
    "Redis's disk full": Scenario(disk_full, 1, relaxed),
    "replica killed (kill -9)": Scenario(replica_killed, 6),
    "replica killed while Redis is away": Scenario(replica_killed_redis_away, 2),
    "replicas restarted one by one": Scenario(replica_restarted, 1),
}
FLEET = "replicas killed in random order"


def run(name: str, models: Path = MODELS, rounds: int | None = None) -> Outcome:
    """Play one scenario at a site of its own, and count."""
    if name == FLEET:
        return kill_at_random(rounds or FLEET_ROUNDS, seed=random.getrandbits(32))
    scenario = SCENARIOS[name]
    rounds = rounds or scenario.rounds
    with scenario.place(models) as site:
        for _ in range(rounds):
            site.wait_for_events(2)
            scenario.fault(site)
        site.wait_for_events(1)
        return site.count(name, rounds)


def page(outcomes: list[Outcome]) -> str:
    """The table of all scenarios."""
    head = [
        "fault",
        "rounds",
        "writes",
        "lost",
        "phantoms",
        "searches",
        "refused",
        "ran twice",
        f"idle > {LATE_S:.0f} s",
        "longest idle, s",
        "events",
        "lost",
        "delivered again",
        "out of order",
        "noticed, s",
        "back, s",
        "",
    ]
    return f"""
## Faults of Redis and of replicas

Measured on {machine()}: {REPLICAS} servers, {STREAMS} cameras, a receiver of events, and people who are enrolled at one server after
the other, looked for at all of them and deleted again, all the time; every part is a process of its own. *Writes*: enrolments and deletions
that were acknowledged; *lost*: those that are not in the store, or not in the index of every replica, at the end. *Phantoms*: people
named later than 0.2 s after their deletion was acknowledged, by a replica that did not say that its gallery was old. *Refused* are
searches; writes are refused with 503 and Retry-After while Redis is away. *Ran twice*, *idle*: streams that two replicas ran at once, or
none did. *Events* are those in the journal; lost are those that the receiver never had, and those that the receiver or a reader
of `/v1/events` once had and the journal has no longer. *Noticed*: until every replica says so; *back*: from the end of the fault until all
replicas are well and every stream was analysed again.

{table(head, [one.row() for one in outcomes])}
"""


def main() -> None:
    """Play the scenarios, and print or publish the table."""
    names = [*SCENARIOS, FLEET]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--only", choices=names, action="append")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true", help="one round of each, ten of the last")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    outcomes = []
    for name in chosen.only or names:
        few = (10 if name == FLEET else 1) if chosen.quick else None
        outcomes.append(run(name, chosen.models, chosen.rounds or few))
        print(" | ".join(outcomes[-1].row()), flush=True)
        print(f"  writes refused: {dict(outcomes[-1].tally.refused)}, unseen {outcomes[-1].tally.unseen}, away {outcomes[-1].tally.away}")
    if chosen.out:
        replace_section(chosen.out, "redis-faults", page(outcomes))


if __name__ == "__main__":
    main()
