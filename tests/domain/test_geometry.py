"""Letterboxes and box arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.domain.geometry import Letterbox, boxes_iou, non_maximum_suppression, suppression_groups

sides = st.integers(1, 8000)
targets = st.integers(32, 2048)


@st.composite
def some_boxes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Up to twelve boxes of at least one pixel with scores."""
    count = draw(st.integers(0, 12))
    corner = st.integers(0, 60)
    extent = st.integers(1, 60)
    rows = [(draw(corner), draw(corner), draw(extent), draw(extent)) for _ in range(count)]
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in rows], np.float32).reshape(-1, 4)
    scores = np.array([draw(st.integers(0, 10)) / 10 for _ in range(count)], np.float32)
    return boxes, scores


@given(sides, sides, targets, st.sampled_from([1, 16, 32]), st.booleans(), st.booleans())
def test_a_letterbox_holds_the_whole_picture(width: int, height: int, target: int, stride: int, upscale: bool, square: bool) -> None:
    """The canvas is a multiple of the stride, no smaller than the picture in it, and bounded by the target."""
    fit = Letterbox.fit(width, height, target, stride=stride, upscale=upscale, square=square)
    assert fit.width % stride == fit.height % stride == 0
    assert 1 <= fit.inner_width <= fit.width
    assert 1 <= fit.inner_height <= fit.height
    assert max(fit.inner_width, fit.inner_height) <= target
    assert max(fit.width, fit.height) < target + stride
    if not square:
        assert fit.width - fit.inner_width < stride
        assert fit.height - fit.inner_height < stride
    if upscale:
        assert max(fit.inner_width, fit.inner_height) == target
    else:
        assert fit.inner_width <= width
        assert fit.inner_height <= height


@given(sides, sides, targets, st.floats(0, 1), st.floats(0, 1))
def test_points_come_back_to_where_they_were(width: int, height: int, target: int, x: float, y: float) -> None:
    """A point of the picture, scaled onto the canvas, maps back to itself."""
    fit = Letterbox.fit(width, height, target, upscale=True)
    point = np.array([[x * width, y * height]])
    canvas = (point * [fit.scale_x, fit.scale_y]).astype(np.float32)
    np.testing.assert_allclose(fit.to_picture(canvas), point, rtol=1e-5, atol=1e-3)
    assert fit.to_picture(canvas).dtype == np.float32


def test_small_pictures_keep_their_size() -> None:
    """Without upscaling a small picture is only padded to the stride."""
    fit = Letterbox.fit(100, 50, 640)
    assert (fit.width, fit.height, fit.inner_width, fit.inner_height) == (128, 64, 100, 50)
    assert (fit.scale_x, fit.scale_y) == (1.0, 1.0)


def test_a_square_letterbox_has_one_shape_for_all() -> None:
    """Pictures of any aspect share a canvas, so that they fit into one batch."""
    shapes = {(fit.width, fit.height) for fit in (Letterbox.fit(w, h, 640, square=True) for w, h in ((30, 40), (1920, 1080), (10, 4000)))}
    assert shapes == {(640, 640)}


def test_overlap_by_hand() -> None:
    """Half of one box shared by an equal one is a third of their union; touching is none."""
    boxes = np.array([(0, 0, 10, 10), (5, 0, 15, 10), (10, 0, 20, 10), (0, 0, 0, 0)], np.float32)
    np.testing.assert_allclose(boxes_iou(boxes, boxes[0]), [1, 1 / 3, 0, 0], atol=1e-6)


@given(some_boxes())
def test_overlap_is_symmetric_and_a_share(case: tuple[np.ndarray, np.ndarray]) -> None:
    """Intersection over union is in 0..1, the same both ways and 1 with itself."""
    boxes, _ = case
    table = np.array([boxes_iou(boxes, box) for box in boxes]).reshape(len(boxes), len(boxes))
    assert ((table >= 0) & (table <= 1 + 1e-6)).all()
    np.testing.assert_allclose(table, table.T, atol=1e-6)
    np.testing.assert_allclose(np.diag(table), 1, atol=1e-6)


@given(some_boxes(), st.floats(0.05, 0.95))
def test_suppression_keeps_apart_and_drops_only_the_covered(case: tuple[np.ndarray, np.ndarray], limit: float) -> None:
    """Kept boxes overlap little, every dropped box overlaps a kept one with at least its score, and the best stays."""
    boxes, scores = case
    kept = non_maximum_suppression(boxes, scores, limit)
    assert list(scores[kept]) == sorted(scores[kept], reverse=True)
    assert len(set(kept.tolist())) == len(kept)
    for position, index in enumerate(kept):
        assert (boxes_iou(boxes[kept[position + 1 :]], boxes[index]) <= limit).all()
    for index in set(range(len(boxes))) - set(kept.tolist()):
        better = kept[scores[kept] >= scores[index]]
        assert (boxes_iou(boxes[better], boxes[index]) > limit).any()
    if len(boxes):
        assert kept[0] == int(np.argmax(scores))


def test_equal_scores_keep_the_order_of_the_input() -> None:
    """Results do not depend on the sort: of two equal boxes the first stays."""
    boxes = np.array([(0, 0, 10, 10), (0, 0, 10, 10), (50, 50, 60, 60)], np.float32)
    assert non_maximum_suppression(boxes, np.array([0.5, 0.5, 0.5], np.float32), 0.5).tolist() == [0, 2]


def test_no_boxes_are_no_problem() -> None:
    """Nothing found is an empty result of an index type."""
    kept = non_maximum_suppression(np.empty((0, 4), np.float32), np.empty(0, np.float32), 0.5)
    assert kept.shape == (0,)
    assert kept.dtype == np.intp


@pytest.mark.parametrize(("width", "height"), [(1, 8000), (8000, 1)])
def test_slivers_keep_at_least_one_pixel(width: int, height: int) -> None:
    """Extreme aspect ratios do not vanish when scaled down."""
    fit = Letterbox.fit(width, height, 640)
    assert min(fit.inner_width, fit.inner_height) == 1


@given(some_boxes(), st.floats(0.05, 0.95))
def test_suppression_groups_share_out_every_box_once(case: tuple[np.ndarray, np.ndarray], limit: float) -> None:
    """Each box is in one group, the group's first is the kept one, and all others overlap it by more than the limit."""
    boxes, scores = case
    groups = suppression_groups(boxes, scores, limit)
    assert sorted(int(index) for group in groups for index in group) == list(range(len(boxes)))
    assert [group[0] for group in groups] == non_maximum_suppression(boxes, scores, limit).tolist()
    for group in groups:
        assert (boxes_iou(boxes[group[1:]], boxes[group[0]]) > limit).all()
        assert (scores[group] <= scores[group[0]]).all()
