"""Boxes, detections and faces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.domain.embedding import Embedding, ModelId
from face_server.domain.face import Box, Detection, Face

finite = st.floats(-1e4, 1e4)
factors = st.floats(0.01, 100)
LANDMARKS = np.array([(1, 2), (3, 2), (2, 3), (1, 4), (3, 4)], np.float32)


def test_a_box_measures_itself() -> None:
    """Width, height and area follow from the corners, also outside the picture."""
    box = Box(-10, 5, 20, 25)
    assert (box.width, box.height, box.area) == (30, 20, 600)


@pytest.mark.parametrize("corners", [(2, 0, 1, 5), (0, 5, 1, 2), (float("nan"), 0, 1, 1)])
def test_a_box_with_swapped_or_undefined_corners_is_refused(corners: tuple[float, float, float, float]) -> None:
    """A box cannot have a negative or undefined extent."""
    with pytest.raises(ValueError, match="x1 <= x2"):
        Box(*corners)


@given(finite, finite, st.floats(0, 1e4), st.floats(0, 1e4), factors, factors)
def test_scaling_a_box_scales_its_extent(x1: float, y1: float, width: float, height: float, x: float, y: float) -> None:
    """A box in a picture twice as wide is twice as wide and lies twice as far to the right."""
    box = Box(x1, y1, x1 + width, y1 + height)
    scaled = box.scaled(x, y)
    assert scaled.width == pytest.approx(box.width * x, rel=1e-6, abs=1e-6)
    assert scaled.height == pytest.approx(box.height * y, rel=1e-6, abs=1e-6)
    back = scaled.scaled(1 / x, 1 / y)
    assert (back.x1, back.y1) == pytest.approx((box.x1, box.y1), rel=1e-9, abs=1e-9)


def test_scaling_a_detection_moves_box_and_landmarks_alike() -> None:
    """Box and landmarks stay in one coordinate frame; the score and the original stay as they are."""
    detection = Detection(Box(0, 0, 4, 6), 0.75, LANDMARKS)
    scaled = detection.scaled(2, 3)
    assert scaled.box == Box(0, 0, 8, 18)
    assert scaled.score == 0.75
    np.testing.assert_array_equal(scaled.landmarks, LANDMARKS * [2, 3])
    assert scaled.landmarks.dtype == np.float32
    np.testing.assert_array_equal(detection.landmarks[0], [1, 2])


@pytest.mark.parametrize("landmarks", [np.zeros((5, 2)), np.zeros((5, 3), np.float32), np.zeros(10, np.float32)])
def test_landmarks_of_another_shape_or_type_are_refused(landmarks: np.ndarray) -> None:
    """The message states the expected shape and dtype."""
    with pytest.raises(ValueError, match="5×2 float32"):
        Detection(Box(0, 0, 1, 1), 0.5, landmarks)


def test_a_face_with_an_embedding_keeps_everything_else() -> None:
    """Filling in the embedding makes a new face and leaves the old one without."""
    embedding = Embedding.from_values([3.0, 4.0], ModelId("m", "ab", 1, 2))
    crop = np.zeros((112, 112, 3), np.uint8)
    face = Face(Detection(Box(0, 0, 4, 6), 0.75, LANDMARKS), crop=crop)
    filled = face.with_embedding(embedding)
    assert filled.embedding is embedding
    assert filled.crop is crop
    assert filled.detection is face.detection
    assert face.embedding is None
