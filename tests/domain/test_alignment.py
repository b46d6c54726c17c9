"""From five landmarks to the aligned crop."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.domain.alignment import ARCFACE_TEMPLATE, CROP_SIZE_PX, aligned_crop, aligned_crops, similarity_transform
from face_server.domain.face import Box, Detection

angles = st.floats(-180, 180)
scales = st.floats(0.05, 20)
shifts = st.floats(-2000, 2000)


def _moved(points: np.ndarray, angle: float, scale: float, x: float, y: float) -> np.ndarray:
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return (scale * points @ np.array([[c, s], [-s, c]]) + [x, y]).astype(np.float32)


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


@given(angles, scales, shifts, shifts)
def test_a_turned_scaled_and_shifted_face_lands_on_the_template(angle: float, scale: float, x: float, y: float) -> None:
    """Any similarity of the template is undone exactly, whatever the size and tilt of the face."""
    landmarks = _moved(ARCFACE_TEMPLATE, angle, scale, x, y)
    matrix = similarity_transform(landmarks, ARCFACE_TEMPLATE)
    assert matrix.shape == (2, 3)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(_apply(matrix, landmarks), ARCFACE_TEMPLATE, atol=0.05)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=5, max_size=5, unique=True))
def test_the_transform_never_mirrors_shears_or_stretches(points: list[tuple[int, int]]) -> None:
    """Its linear part is a rotation times one scale, also for landmarks that look mirrored."""
    matrix = similarity_transform(np.array(points, np.float32), ARCFACE_TEMPLATE)
    (a, b), (c, d) = matrix[:, :2]
    size = max(1.0, float(np.abs(matrix[:, :2]).max()))
    assert a == pytest.approx(d, abs=1e-4 * size)
    assert b == pytest.approx(-c, abs=1e-4 * size)


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(0, 200)), min_size=5, max_size=5), st.floats(-1, 1), st.floats(-0.2, 0.2))
def test_no_other_similarity_fits_better(points: list[tuple[float, float]], turn: float, grow: float) -> None:
    """Least squares: turning, scaling or shifting the result only makes the fit worse."""
    source = np.array(points, np.float32)
    matrix = similarity_transform(source, ARCFACE_TEMPLATE).astype(np.float64)
    c, s = np.cos(turn) * (1 + grow), np.sin(turn) * (1 + grow)
    other = matrix.copy()
    other[:, :2] = np.array([[c, -s], [s, c]]) @ matrix[:, :2]
    other[:, 2] = ARCFACE_TEMPLATE.mean(0) - other[:, :2] @ source.mean(0)
    error = np.square(_apply(matrix, source) - ARCFACE_TEMPLATE).sum()
    assert error <= np.square(_apply(other, source) - ARCFACE_TEMPLATE).sum() * (1 + 1e-4) + 1e-2


def test_it_agrees_with_an_independent_least_squares_solution() -> None:
    """Solving the four linear unknowns a, b, x, y of a similarity gives the same matrix."""
    draw = np.random.default_rng(3)
    for _ in range(20):
        source = (ARCFACE_TEMPLATE * 2 + draw.normal(0, 6, (5, 2)) + 40).astype(np.float32)
        rows, wanted = [], []
        for (x, y), (u, v) in zip(source, ARCFACE_TEMPLATE, strict=True):
            rows += [(x, -y, 1, 0), (y, x, 0, 1)]
            wanted += [u, v]
        (a, b, shift_x, shift_y), *_ = np.linalg.lstsq(np.array(rows, np.float64), np.array(wanted), rcond=None)
        np.testing.assert_allclose(similarity_transform(source, ARCFACE_TEMPLATE), [(a, -b, shift_x), (b, a, shift_y)], atol=1e-3)


def test_coinciding_landmarks_do_not_fail() -> None:
    """A degenerate detection yields a flat crop, not an error or NaN."""
    landmarks = np.full((5, 2), 7, np.float32)
    matrix = similarity_transform(landmarks, ARCFACE_TEMPLATE)
    assert np.isfinite(matrix).all()
    np.testing.assert_allclose(_apply(matrix, landmarks), np.tile(ARCFACE_TEMPLATE.mean(0), (5, 1)), atol=1e-3)
    assert aligned_crop(np.zeros((20, 20, 3), np.uint8), landmarks).shape == (112, 112, 3)


def test_a_face_on_the_template_is_copied_as_it_is() -> None:
    """With landmarks already in place the crop is the picture's corner, in its colour order."""
    pixels = np.random.default_rng(1).integers(0, 256, (140, 150, 3), np.uint8)
    crop = aligned_crop(pixels, ARCFACE_TEMPLATE)
    assert crop.dtype == np.uint8
    np.testing.assert_allclose(crop.astype(int), pixels[:112, :112].astype(int), atol=2)


def test_a_marked_face_comes_out_upright_with_the_eyes_in_place() -> None:
    """Dots painted on the landmarks of a tilted face appear at the template's five points."""
    landmarks = _moved(ARCFACE_TEMPLATE, 30, 3, 260, 40)
    pixels = np.zeros((600, 700, 3), np.uint8)
    for index, (x, y) in enumerate(landmarks):
        cv2.circle(pixels, (round(float(x)), round(float(y))), 6, (50 + 50 * index, 0, 0), -1)
    crop = aligned_crop(pixels, landmarks)
    for index, (x, y) in enumerate(ARCFACE_TEMPLATE):
        assert crop[round(float(y)), round(float(x)), 0] == pytest.approx(50 + 50 * index, abs=3)


def test_outside_the_picture_is_black() -> None:
    """A face that hangs over the edge is filled up with black, not wrapped or stretched."""
    pixels = np.full((112, 112, 3), 200, np.uint8)
    crop = aligned_crop(pixels, ARCFACE_TEMPLATE - np.array([56, 0], np.float32))
    assert (crop[:, :50] == 0).all()
    assert (crop[:, 60:] == 200).all()


def test_many_crops_are_the_single_ones_in_order() -> None:
    """A batch holds each detection's crop; no detections are an empty batch of the right shape."""
    pixels = np.random.default_rng(2).integers(0, 256, (300, 300, 3), np.uint8)
    faces = [Detection(Box(0, 0, 9, 9), 1, _moved(ARCFACE_TEMPLATE, turn, 1.5, 50, 60)) for turn in (0, 10, -20)]
    crops = aligned_crops(pixels, faces)
    for crop, face in zip(crops, faces, strict=True):
        np.testing.assert_array_equal(crop, aligned_crop(pixels, face.landmarks))
    assert aligned_crops(pixels, []).shape == (0, CROP_SIZE_PX, CROP_SIZE_PX, 3)
