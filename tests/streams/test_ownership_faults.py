"""Several replicas with one Redis, killed, frozen and cut off: each stream runs on exactly one of them."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.redis_server import Line, RedisServer, missing
from benchmarks.replica_notes import GAP_S, gaps, overlaps
from tests.streams.replicas import Replicas, journaled, register

STREAMS = 6
LONGEST_S = 10.0
# Lease, grace, and what may pass before the first look: see ``Tenancy``.
TAKEN_BY_S = {"life": 8.5, "fast": 4.0}
SLOW = [pytest.mark.slow, pytest.mark.timeout(300)]
# Each test that does not need to be slow runs with a third of the usual patience, and in `make test-all` with all of it.
BOTH = pytest.mark.parametrize("replicas", ["fast", pytest.param("life", marks=SLOW)], indirect=True)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server with the streams registered."""
    if missing():
        pytest.skip(missing())
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as server:
        register(server.url, STREAMS)
        yield server


@pytest.fixture
def replicas(request: pytest.FixtureRequest, tmp_path: Path, redis: RedisServer) -> Iterator[Replicas]:
    """Nobody yet."""
    (tmp_path / "notes").mkdir()
    with Replicas(tmp_path / "notes", redis.url, request.param) as replicas:
        yield replicas


def check_events(replicas: Replicas, redis: RedisServer) -> None:
    """Every acknowledged event is in the journal, once."""
    events, _ = journaled(redis.url, STREAMS)
    ids = [event.id for event in events]
    assert len(set(ids)) == len(ids)
    missed = set(replicas.stored()) - set(ids)
    assert not missed


def kill_at_random(replicas: Replicas, seconds: float, moments: random.Random) -> tuple[list[float], int]:
    """Kill one replica after the other, and start each again a little later. Returns when, and how many rounds that were."""
    kills: list[float] = []
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        time.sleep(moments.uniform(0.1, 4.0))
        name = moments.choice(sorted(replicas.pids))
        kills.append(replicas.send(name, signal.SIGKILL))
        time.sleep(moments.uniform(0.0, 2.0))
        replicas.start(name)
        rounds += 1
    return kills, rounds


@pytest.mark.parametrize(("replicas", "seconds"), [("fast", 8), pytest.param("life", 60, marks=SLOW)], indirect=["replicas"])
def test_kill_9_in_random_order(replicas: Replicas, redis: RedisServer, seconds: int) -> None:
    """No stream runs twice, none is left alone for more than ten seconds after the last kill, no acknowledged event is lost."""
    for name in ("a", "b", "c"):
        replicas.start(name)
    replicas.until_all_run(STREAMS)
    kills, rounds = kill_at_random(replicas, seconds, random.Random(seconds))
    replicas.until_all_run(STREAMS, LONGEST_S)
    end = time.monotonic()
    stretches = replicas.stretches()
    assert overlaps(stretches) == []
    longest = max(gaps(stretches, kills, end))
    assert longest <= LONGEST_S
    time.sleep(2.0)
    for name in list(replicas.pids):
        replicas.send(name, signal.SIGTERM)
    time.sleep(3.0)
    for name in ("a", "b", "c"):
        # Each drains what was left on its disk.
        replicas.start(name, room=0)
    time.sleep(3.0)
    check_events(replicas, redis)
    print(f"{rounds} rounds, longest {longest:.1f} s")  # noqa: T201 - a measured fact for whoever runs it


@pytest.mark.parametrize("replicas", [pytest.param("life", marks=SLOW)], indirect=True)
def test_a_killed_owner_is_followed_within_ten_seconds_and_one_that_ends_at_once(replicas: Replicas) -> None:
    """Streams are spread fairly; those of a replica that ends in good order run elsewhere a moment later; a new one gets its share."""
    replicas.start("a")
    replicas.start("b")
    replicas.until_all_run(STREAMS)
    until_shared(replicas, [3, 3])
    killed_at = replicas.send("a", signal.SIGKILL)
    time.sleep(1.0)
    replicas.until_all_run(STREAMS)
    taken = [one.begin - killed_at for one in replicas.stretches() if one.begin > killed_at]
    assert len(taken) == 3
    assert max(taken) <= TAKEN_BY_S[replicas.pace]
    print(f"taken over after {min(taken):.1f} to {max(taken):.1f} s")  # noqa: T201 - a measured fact for whoever runs it
    replicas.start("c")
    until_shared(replicas, [3, 3])
    ended_at = replicas.send("b", signal.SIGTERM)
    time.sleep(GAP_S + 0.3)
    replicas.until_all_run(STREAMS)
    moved = [one.begin - ended_at for one in replicas.stretches() if one.begin > ended_at]
    assert len(moved) == 3
    assert max(moved) <= 3.0
    print(f"moved after {min(moved):.1f} to {max(moved):.1f} s")  # noqa: T201 - a measured fact for whoever runs it
    assert overlaps(replicas.stretches()) == []


def until_shared(replicas: Replicas, shares: list[int]) -> None:
    """Wait until the streams are spread like that."""
    end = time.monotonic() + 30.0
    while sorted(Counter(replicas.running().values()).values()) != shares:
        assert time.monotonic() < end, replicas.running()
        time.sleep(0.1)


@BOTH
def test_an_owner_that_was_frozen_stops_when_it_wakes(replicas: Replicas, redis: RedisServer) -> None:
    """Others have its streams by then: of what it sees before it notices, nobody is alerted; nothing else is doubled or lost."""
    frozen = replicas.start("a")
    replicas.until_all_run(STREAMS)
    replicas.start("b", room=64)
    until_shared(replicas, [3, 3])
    frozen_at = replicas.send("a", signal.SIGSTOP)
    time.sleep(GAP_S + 0.2)
    replicas.until_all_run(STREAMS)
    time.sleep(1.0)
    thawed_at = replicas.send("a", signal.SIGCONT)
    time.sleep(4.0)
    late = [one for one in replicas.stretches() if one.pid == frozen and one.end > thawed_at and one.begin < thawed_at + 0.8]
    assert all(one.end - thawed_at < 1.0 for one in late)
    taken = [one.begin - frozen_at for one in replicas.stretches() if one.pid != frozen and one.begin > frozen_at]
    assert max(taken[:3]) <= TAKEN_BY_S[replicas.pace]
    for name in list(replicas.pids):
        replicas.send(name, signal.SIGTERM)
    time.sleep(2.0)
    events, queued = journaled(redis.url, STREAMS)
    unseen = [event.id for event in events if event.message == str(frozen) and event.id not in queued]
    print(f"{len(unseen)} event(s) after the thaw")  # noqa: T201 - a measured fact for whoever runs it
    for one in late:
        # What it saw between the takeover and its waking belongs to the new owner.
        wall = time.time() - time.monotonic()
        assert not [
            event.id
            for event in events
            if event.message == str(frozen)
            and event.stream_id == one.stream
            and event.at > wall + thawed_at
            and event.id in queued
            and event.at < wall + one.end + 0.2
        ]
    check_events(replicas, redis)


@BOTH
def test_an_owner_that_is_cut_off_goes_on_until_it_hears_of_the_next(replicas: Replicas, redis: RedisServer) -> None:
    """Its events wait on its disk. Those from before the next owner began are delivered; later ones are kept and delivered to nobody."""
    with Line(redis.port) as line:
        lonely = replicas.start("a", line.url)
        replicas.until_all_run(STREAMS)
        line.dead = True
        line.cut()
        cut_at = time.monotonic()
        replicas.start("b")
        while not [one for one in replicas.stretches() if one.pid != lonely]:
            time.sleep(0.1)
            assert time.monotonic() - cut_at < 20
        taken_at = min(one.begin for one in replicas.stretches() if one.pid != lonely)
        time.sleep(3.0)
        line.dead = False
        back_at = time.monotonic()
        time.sleep(4.0)
        mine = [one for one in replicas.stretches() if one.pid == lonely and one.begin < back_at]
        # It saw pictures all the time, and stopped soon after its first contact.
        assert all(back_at - 0.3 < one.end < back_at + 3.0 for one in mine)
        for name in list(replicas.pids):
            replicas.send(name, signal.SIGTERM)
        time.sleep(2.5)
    events, queued = journaled(redis.url, STREAMS)
    wall = time.time() - time.monotonic()
    own = [event for event in events if event.message == str(lonely) and event.at > wall + cut_at]
    before = [event for event in own if event.at < wall + taken_at - 1.0]
    after = [event for event in own if wall + taken_at + 0.5 < event.at < wall + back_at]
    assert before
    assert after
    assert {event.id for event in before} <= queued
    assert not {event.id for event in after} & queued
    check_events(replicas, redis)


@pytest.mark.parametrize(("replicas", "seconds"), [("fast", 4), pytest.param("life", 30, marks=SLOW)], indirect=["replicas"])
@pytest.mark.parametrize("how", ["killed", pytest.param("frozen", marks=SLOW)])
def test_while_redis_is_away_owners_go_on(replicas: Replicas, redis: RedisServer, how: str, seconds: int) -> None:
    """For longer than every lease. Nothing moves, nothing stops, no event is lost; afterwards all is as before."""
    for name in ("a", "b"):
        replicas.start(name)
    until_shared(replicas, [3, 3])
    time.sleep(2.0)
    before = replicas.running()
    began = time.monotonic()
    if how == "killed":
        redis.kill()
        time.sleep(seconds)
        redis.start()
    else:
        redis.freeze()
        time.sleep(seconds)
        redis.thaw()
    time.sleep(TAKEN_BY_S[replicas.pace])
    assert replicas.running() == before
    stretches = [one for one in replicas.stretches() if one.end > began]
    assert len(stretches) == STREAMS
    assert overlaps(replicas.stretches()) == []
    for name in list(replicas.pids):
        replicas.send(name, signal.SIGTERM)
    time.sleep(2.0)
    events, queued = journaled(redis.url, STREAMS)
    assert {event.id for event in events} == queued
    check_events(replicas, redis)
