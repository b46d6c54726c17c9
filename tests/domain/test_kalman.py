"""Boxes that move, predicted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.domain.face import Box
from face_server.domain.kalman import BoxFilter


def _box(x: float, y: float, size: float) -> Box:
    return Box(x - size / 2, y - size / 2, x + size / 2, y + size / 2)


@given(st.floats(-200, 200), st.floats(-200, 200), st.floats(10, 300), st.lists(st.floats(0.04, 0.5), min_size=12, max_size=20))
def test_a_steady_motion_is_learnt_at_any_rate_of_frames(right, down, size, steps):
    """After a dozen frames at irregular times the next place is known to within a fifth of the face."""
    motion, now = BoxFilter(_box(0, 0, size)), 0.0
    right, down = right * size / 100, down * size / 100
    for step in steps:
        now += step
        motion.predict(step)
        motion.update(_box(right * now, down * now, size))
    motion.predict(0.2)
    now += 0.2
    found = motion.box
    assert (found.x1 + found.x2) / 2 == pytest.approx(right * now, abs=0.2 * size)
    assert (found.y1 + found.y2) / 2 == pytest.approx(down * now, abs=0.2 * size)
    assert found.width == pytest.approx(size, rel=0.1)


@given(st.integers(1, 20), st.floats(0.1, 2.0))
def test_a_long_step_is_as_good_as_many_short_ones(pieces, total):
    """Predicting at once or piece by piece comes to the same place; being unsure grows with time."""
    once, often = BoxFilter(_box(50, 50, 40)), BoxFilter(_box(50, 50, 40))
    for motion in (once, often):
        motion.predict(0.2)
        motion.update(_box(60, 55, 41))
    before = once.spread
    once.predict(total)
    for _ in range(pieces):
        often.predict(total / pieces)
    assert np.allclose(once.place, often.place, atol=1e-6)
    assert np.allclose(once.spread, often.spread, rtol=0.05)
    assert (once.spread > before).all()


def test_measuring_makes_sure_and_shifting_leaves_it_alone():
    """An update shrinks the spread; a shift of the picture moves the place by exactly that."""
    motion = BoxFilter(_box(100, 100, 50))
    motion.predict(0.5)
    unsure = motion.spread
    motion.update(_box(104, 100, 50))
    assert (motion.spread < unsure).all()
    sure, place = motion.spread, motion.place.copy()
    motion.shift(7, -3)
    assert np.allclose(motion.place - place, [7, -3, 0, 0])
    assert np.array_equal(motion.spread, sure)


def test_a_box_without_extent_is_a_pixel():
    """A degenerate detection is followed as a box of one pixel instead of failing."""
    motion = BoxFilter(Box(5, 5, 5, 5))
    motion.predict(0.1)
    motion.update(Box(6, 5, 6, 5))
    assert motion.box.width == pytest.approx(1, rel=0.5)
