"""Back-off: quick while a camera reboots, slow for one that flaps, slower for one that needs a person."""

from __future__ import annotations

import random
from math import inf

import pytest

from face_server.streams.restart import Failure, RestartOptions, RestartPolicy

OPTIONS = RestartOptions()


def policy(seed: int) -> RestartPolicy:
    """A policy with chances of its own."""
    return RestartPolicy(OPTIONS, random.Random(seed))


@pytest.mark.parametrize("seed", range(20))
def test_a_rebooting_camera_is_tried_at_least_every_two_seconds(seed: int) -> None:
    """In the first minute no pause is longer than 2 s, and the first is at most half a second."""
    tries, away_s = policy(seed), 0.0
    assert tries.delay_s(Failure.LOST, away_s=0.0) <= 0.5
    while away_s < OPTIONS.young_s:
        wait_s = tries.delay_s(Failure.UNREACHABLE, away_s=away_s)
        assert 0.1 <= wait_s <= 2.0
        away_s += wait_s


def test_an_outage_that_lasts_is_tried_at_random_up_to_half_a_minute() -> None:
    """Later pauses use all of 0 to 30 s and never more."""
    tries = policy(1)
    for _ in range(10):
        tries.delay_s(Failure.UNREACHABLE, away_s=inf)
    waits = [tries.delay_s(Failure.UNREACHABLE, away_s=3600.0) for _ in range(200)]
    assert max(waits) <= 30.0
    assert max(waits) > 25.0
    assert min(waits) < 5.0
    assert 12.0 < sum(waits) / len(waits) < 18.0


def test_a_camera_that_never_worked_is_not_hammered() -> None:
    """Without any frame ever, pauses double from the start."""
    longest = [max(policy_after(attempts, Failure.UNREACHABLE, inf, seed) for seed in range(50)) for attempts in (0, 2, 4, 12)]
    for wait_s, ceiling_s in zip(longest, (0.5, 2.0, 8.0, 30.0), strict=True):
        assert 0.8 * ceiling_s < wait_s <= ceiling_s


def policy_after(attempts: int, failure: Failure, away_s: float, seed: int) -> float:
    """The pause after so many failures."""
    tries = policy(seed)
    for _ in range(attempts):
        tries.delay_s(failure, away_s=away_s)
    return tries.delay_s(failure, away_s=away_s)


def test_a_source_that_opens_and_dies_flaps_slowly() -> None:
    """Opening resets nothing: ten minutes of flapping are fewer than sixty connections, whatever the chance."""
    for seed in range(20):
        tries, passed_s, connections = policy(seed), 0.0, 0
        while passed_s < 600:
            connections += 1
            passed_s += 1.0 + tries.delay_s(Failure.LOST, away_s=0.0)
        assert connections < 60, seed


def test_only_healthy_frames_reset_the_pauses() -> None:
    """After ``healthy`` the next pause is a first one again, and attempts count from none."""
    tries = policy(3)
    for _ in range(12):
        tries.delay_s(Failure.LOST, away_s=0.0)
    assert tries.attempts == 12
    tries.healthy()
    assert tries.attempts == 0
    assert tries.delay_s(Failure.LOST, away_s=0.0) <= 0.5


def test_what_needs_a_person_is_tried_slowly() -> None:
    """Credentials, codecs and missing files wait for one to ten minutes."""
    tries = policy(5)
    waits = [tries.delay_s(Failure.OPERATOR, away_s=inf) for _ in range(30)]
    assert all(60.0 <= wait <= 600.0 for wait in waits)
    assert waits[0] <= 120.0
    assert max(waits) > 300.0


def test_a_camera_that_is_not_quite_up_gets_two_quick_tries() -> None:
    """A camera that was well a moment ago may refuse for a moment; a third refusal is meant."""
    tries = policy(6)
    waits = [tries.delay_s(Failure.OPERATOR, away_s=10.0) for _ in range(3)]
    assert max(waits[:2]) <= OPTIONS.slow_grace_s
    assert waits[2] >= 60.0
    assert policy(6).delay_s(Failure.OPERATOR, away_s=120.0) >= 60.0


def test_years_of_failures_do_not_overflow() -> None:
    """Pauses stay within their bound after any number of attempts."""
    tries = policy(7)
    for _ in range(5000):
        assert tries.delay_s(Failure.LOST, away_s=inf) <= 30.0
