"""The circuit to a server, by a clock that tests move."""

from __future__ import annotations

import pytest

from face_server.backends.triton.breaker import Breaker, Circuit
from face_server.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    """Opens after three failures, for one second at first."""
    return Breaker(clock, failures=3, pause_s=1.0, max_pause_s=5.0)


async def test_opens_after_failures_in_a_row(breaker: Breaker) -> None:
    """Two failures are forgiven by a success; three in a row are not."""
    for _ in range(4):
        breaker.call_failed()
        breaker.call_failed()
        assert breaker.closed
        breaker.call_succeeded()
    for _ in range(3):
        breaker.call_failed()
    assert breaker.circuit is Circuit.OPEN


async def test_one_probe_after_the_pause(breaker: Breaker, clock: FakeClock) -> None:
    """No probe before the pause is over, one afterwards, and no second beside it."""
    breaker.trip()
    await clock.advance(0.99)
    assert not breaker.begin_probe()
    await clock.advance(0.02)
    assert breaker.begin_probe()
    assert breaker.circuit is Circuit.HALF_OPEN
    assert not breaker.begin_probe()
    breaker.probe_succeeded()
    assert breaker.closed


async def test_pauses_grow_to_a_bound_and_start_anew(breaker: Breaker, clock: FakeClock) -> None:
    """Failed probes make the pauses 1, 2, 4, 5, 5 seconds long; after a success the next is short again."""
    pauses = []
    for _ in range(5):
        breaker.trip()
        pauses.append(breaker.retry_after_s)
        await clock.advance(breaker.retry_after_s)
        assert breaker.begin_probe()
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
    breaker.probe_succeeded()
    breaker.trip()
    assert breaker.retry_after_s == 1.0


async def test_late_answers_do_not_close_it(breaker: Breaker, clock: FakeClock) -> None:
    """A call that ends well or badly after the circuit opened changes neither the circuit nor the pause."""
    breaker.trip()
    await clock.advance(0.5)
    breaker.call_succeeded()
    breaker.call_failed()
    breaker.trip()
    assert breaker.circuit is Circuit.OPEN
    assert breaker.retry_after_s == 0.5


async def test_says_when_to_come_back(breaker: Breaker, clock: FakeClock) -> None:
    """Nothing while closed, the rest of the pause while open, never less than a tenth of a second."""
    assert breaker.retry_after_s == 0.0
    breaker.trip()
    await clock.advance(0.75)
    assert breaker.retry_after_s == pytest.approx(0.25)
    await clock.advance(10)
    assert breaker.retry_after_s == pytest.approx(0.1)
