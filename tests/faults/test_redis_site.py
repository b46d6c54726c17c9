"""Redis and replicas fail while people come and go and cameras run. The whole suite: ``python -m benchmarks.redis_faults``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.redis_faults import FLEET, SCENARIOS, alone, flushed, redis_killed, replica_killed, run
from benchmarks.redis_server import missing
from benchmarks.redis_site import Outcome, ReplicaSite

FEW_ROUNDS = 8


@pytest.fixture(scope="module")
def needs_redis() -> None:
    """Skips where no Redis can be started."""
    if reason := missing():
        pytest.skip(f"needs Redis: {reason}")


@pytest.fixture(scope="module")
def site(needs_redis: None, models: Path) -> Iterator[ReplicaSite]:
    """Two servers with two cameras, a receiver, people who come and go, and one Redis."""
    with alone(models) as opened:
        yield opened


def _is_unharmed(outcome: Outcome) -> None:
    tally = outcome.tally
    assert tally.acknowledged > 0
    assert (tally.lost, tally.phantoms, tally.unseen) == (0, 0, 0)
    assert outcome.events > 0
    assert (outcome.lost, outcome.disordered) == (0, 0)
    assert (outcome.twice, outcome.late) == (0, 0)
    # Writes wait for Redis, with an answer that says for how long; searches do not.
    assert tally.searches > 0
    assert not tally.unanswered
    assert all("503 " in refusal and "without" not in refusal for refusal in tally.refused)


def test_redis_and_a_replica_are_killed(site: ReplicaSite):
    """No acknowledged write, event or stream is lost, nobody is named who was deleted, searches go on; all of it heals by itself."""
    site.wait_for_events(1)
    redis_killed(site, 4.0)
    replica_killed(site)
    _is_unharmed(site.count("killed", 1))


def test_an_emptied_redis_is_noticed(site: ReplicaSite):
    """Nobody is named from an index whose store was emptied; it is logged, and the service goes on with what is made anew."""
    site.guests.go_on()
    flushed(site)
    site.wait_for_events(1)
    outcome = site.count("FLUSHALL", 1)
    assert (outcome.tally.lost, outcome.tally.phantoms, outcome.lost, outcome.twice) == (0, 0, 0, 0)
    assert outcome.noticed_s is not None
    assert outcome.noticed_s < 5.0


@pytest.mark.slow
def test_replicas_are_killed_in_random_order(needs_redis: None):
    """While people are enrolled and looked for, cameras run and alerts go out: nothing is lost, and nothing runs twice."""
    outcome = run(FLEET, rounds=FEW_ROUNDS)
    tally = outcome.tally
    assert tally.acknowledged > 0
    assert (tally.lost, tally.phantoms, tally.unseen) == (0, 0, 0)
    assert outcome.events > 0
    assert (outcome.lost, outcome.disordered, outcome.twice, outcome.late) == (0, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_fault(needs_redis: None, models: Path, name: str):
    """Nothing is lost or doubled, and all heals by itself."""
    outcome = run(name, models, rounds=1)
    if name == "FLUSHALL":
        assert (outcome.tally.lost, outcome.tally.phantoms, outcome.lost) == (0, 0, 0)
    else:
        _is_unharmed(outcome)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_replicas_are_killed_two_hundred_times(needs_redis: None):
    """As above, for long."""
    outcome = run(FLEET)
    assert (outcome.tally.lost, outcome.tally.phantoms, outcome.tally.unseen) == (0, 0, 0)
    assert (outcome.lost, outcome.disordered, outcome.twice, outcome.late) == (0, 0, 0, 0)
