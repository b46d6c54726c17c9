"""Estimating when a frame was made."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.video.source_clock import Playback, SourceClock, Unpaced

FRAME_S = 0.04


def test_age_of_a_steady_camera_is_the_delay_above_the_smallest() -> None:
    """A frame that took 30 ms longer than the quickest one is 30 ms old."""
    clock = SourceClock()
    for number in range(50):
        delay = 0.03 if number % 10 == 9 else 0.0
        now = 100 + number * FRAME_S + delay
        assert now - clock.captured_at(number * FRAME_S, now, prompt=True) == pytest.approx(delay, abs=1e-9)


def test_lag_of_our_own_process_shows_for_as_long_as_it_lasts() -> None:
    """While data lies unread the old minimum stands, however long ago it was."""
    clock = SourceClock()
    clock.captured_at(0.0, 0.0, prompt=True)
    for number in range(1, 1500):
        now = number * FRAME_S + 2.0
        assert now - clock.captured_at(number * FRAME_S, now, prompt=False) == pytest.approx(2.0, abs=0.05)


def test_a_clock_that_runs_apart_is_followed() -> None:
    """A camera whose clock is half a percent slow never looks more than a twentieth of a second late."""
    clock = SourceClock()
    for number in range(10_000):
        now = number * FRAME_S
        assert now - clock.captured_at(now * 0.995, now, prompt=True) <= 0.055


def test_a_burst_of_old_pictures_on_connecting_is_known_as_old() -> None:
    """After a server has sent its last two seconds at once, what follows in time is fresh."""
    clock = SourceClock()
    for number in range(50):
        clock.captured_at(number * FRAME_S, 0.0, prompt=False)
    assert clock.captured_at(50 * FRAME_S, FRAME_S, prompt=True) == pytest.approx(FRAME_S)
    assert clock.age(51 * FRAME_S, 1.0) == pytest.approx(1.0 - 2 * FRAME_S)


@pytest.mark.parametrize("jump_s", [-3600.0, -1.0, 3600.0])
def test_jumps_of_the_time_stamps_start_anew(jump_s: float) -> None:
    """After a reset or a leap frames are fresh again, and time never goes back."""
    clock, last = SourceClock(), -math.inf
    for number in range(20):
        now = number * FRAME_S
        captured_at = clock.captured_at(5000 + now + (jump_s if number >= 10 else 0.0), now, prompt=True)
        assert last <= captured_at <= now
        assert now - captured_at < 0.001
        last = captured_at


def test_missing_time_stamps_count_as_now() -> None:
    """A frame without a time stamp was made when it came; the next one with a stamp is as before."""
    clock = SourceClock()
    clock.captured_at(0.0, 10.0, prompt=True)
    assert clock.captured_at(None, 10.04, prompt=True) == 10.04
    assert clock.captured_at(0.08, 10.18, prompt=True) == pytest.approx(10.08)


@given(st.lists(st.tuples(st.none() | st.floats(-1e6, 1e6), st.floats(0, 3), st.booleans()), max_size=60))
def test_captured_at_never_goes_back_nor_ahead(steps: list[tuple[float | None, float, bool]]) -> None:
    """Whatever the time stamps, frames stay in order and are never from the future."""
    clock, now, last = SourceClock(), 0.0, -math.inf
    for media_s, wait_s, prompt in steps:
        now += wait_s
        captured_at = clock.captured_at(media_s, now, prompt=prompt)
        assert last <= captured_at <= now + 1e-6
        last = captured_at


def test_playback_paces_by_time_stamps() -> None:
    """A recording that is decoded at once is due at its own pace."""
    playback = Playback()
    assert [playback.captured_at(n * 0.1, 5.0, prompt=False) for n in range(4)] == pytest.approx([5.0, 5.1, 5.2, 5.3])


def test_playback_waits_for_late_data_and_not_for_a_slow_reader() -> None:
    """Data that had to be waited for moves the rest back; a frame that we were slow with is late."""
    playback = Playback()
    playback.captured_at(0.0, 0.0, prompt=False)
    assert playback.captured_at(1.0, 3.0, prompt=False) == 1.0
    assert playback.age(1.0, 3.0) == 2.0
    assert playback.captured_at(2.0, 5.0, prompt=True) == 5.0
    assert playback.captured_at(2.5, 5.0, prompt=False) == 5.5


def test_playback_survives_a_jump() -> None:
    """Time stamps that start again go on from now."""
    playback = Playback()
    playback.captured_at(100.0, 0.0, prompt=False)
    assert playback.captured_at(0.0, 0.5, prompt=False) == 0.5
    assert playback.captured_at(0.1, 0.5, prompt=False) == pytest.approx(0.6)


def test_unpaced_is_now() -> None:
    """A file that is read as fast as possible has no delay."""
    assert Unpaced().captured_at(7.0, 3.0, prompt=False) == 3.0
    assert Unpaced().age(7.0, 30.0) == 0.0
