"""The arithmetic of the detection benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.wider import Truth, average_precision
from face_server.domain.face import Box, Detection


def face(x: float, score: float) -> Detection:
    """A 10×10 detection at ``x``."""
    return Detection(Box(x, 0, x + 10, 10), score, np.zeros((5, 2), np.float32))


def truth(*xs: float, counting: set[int]) -> Truth:
    """10×10 faces at ``xs`` of which some count."""
    boxes = np.array([(x, 0, x + 10, 10) for x in xs], np.float32).reshape(-1, 4)
    return Truth(Path("unused"), boxes, {"easy": frozenset(counting)})


def test_everything_found_and_nothing_else_is_one() -> None:
    """A perfect detector, whatever its scores, also beside faces that do not count."""
    assert average_precision([truth(0, 50, 90, counting={0, 1})], [[face(50, 0.9), face(1, 0.3), face(90, 0.99)]], "easy") == 1.0


def test_a_wrong_answer_costs_what_the_curve_says() -> None:
    """Right, wrong, right of two faces: 1/2 at precision 1 and 1/2 at precision 2/3."""
    found = [[face(0, 0.9), face(200, 0.8), face(50, 0.7)]]
    assert average_precision([truth(0, 50, counting={0, 1})], found, "easy") == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_the_second_answer_on_a_face_is_wrong() -> None:
    """A duplicate counts against the detector like an answer on nothing."""
    found = [[face(0, 0.9), face(1, 0.8), face(50, 0.7)]]
    assert average_precision([truth(0, 50, counting={0, 1})], found, "easy") == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_answers_of_all_images_share_one_curve() -> None:
    """A confident mistake in one image lowers the precision of every weaker answer elsewhere."""
    truths = [truth(counting=set()), truth(0, counting={0})]
    assert average_precision(truths, [[face(0, 0.9)], [face(0, 0.5)]], "easy") == pytest.approx(0.5)
    assert average_precision(truths, [[face(0, 0.4)], [face(0, 0.5)]], "easy") == 1.0


def test_a_face_that_is_missed_is_missing_from_recall() -> None:
    """Half of the faces found without a mistake is one half; nothing found is zero."""
    assert average_precision([truth(0, 50, counting={0, 1})], [[face(0, 0.9)]], "easy") == 0.5
    assert average_precision([truth(0, 50, counting={0, 1})], [[]], "easy") == 0.0
