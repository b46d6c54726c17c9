"""Letterboxes and box arithmetic. Arrays of boxes are N×4 float32 x1, y1, x2, y2."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from face_server.domain.image import Floats


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How a picture is fitted into a network's canvas: scaled, placed top-left, zero-padded.

    ``width`` and ``height`` are the canvas, ``inner_width`` and ``inner_height`` the scaled picture
    in it. All in pixels.
    """

    width: int
    height: int
    inner_width: int
    inner_height: int
    scale_x: float
    scale_y: float

    @classmethod
    def fit(cls, width: int, height: int, max_size_px: int, *, stride: int = 32, upscale: bool = False, square: bool = False) -> Letterbox:
        """Fit a ``width``×``height`` picture so that its long side is at most ``max_size_px``.

        The canvas is the scaled picture rounded up to multiples of ``stride``, or the full
        ``max_size_px`` square where a backend batches equal shapes. Smaller pictures keep their
        size unless ``upscale``.
        """
        ratio = max_size_px / max(width, height)
        scale = ratio if upscale else min(1.0, ratio)
        inner_width = max(1, round(width * scale))
        inner_height = max(1, round(height * scale))
        side = math.ceil(max_size_px / stride) * stride
        canvas_width = side if square else math.ceil(inner_width / stride) * stride
        canvas_height = side if square else math.ceil(inner_height / stride) * stride
        return cls(canvas_width, canvas_height, inner_width, inner_height, inner_width / width, inner_height / height)

    def to_picture(self, points: Floats) -> Floats:
        """Map …×2 canvas points to the picture's pixels."""
        return np.divide(points, np.array([self.scale_x, self.scale_y], np.float32), dtype=np.float32)


def boxes_iou(boxes: Floats, box: Floats) -> Floats:
    """Intersection over union of N boxes with one box, N values in 0..1."""
    top_left = np.maximum(boxes[:, :2], box[:2])
    bottom_right = np.minimum(boxes[:, 2:], box[2:])
    overlap = np.prod(np.clip(bottom_right - top_left, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    union = areas + np.prod(box[2:] - box[:2]) - overlap
    result: Floats = overlap / np.maximum(union, np.float32(1e-9))
    return result


def suppression_groups(boxes: Floats, scores: Floats, max_iou: float) -> list[NDArray[np.intp]]:
    """Greedy suppression: per kept box its index, then those of the boxes it suppressed.

    A box is suppressed by the highest-scored kept box that it overlaps by more than ``max_iou``.
    Groups come highest score first; equal scores keep the order of the input.
    """
    order = np.argsort(-scores, kind="stable")
    groups: list[NDArray[np.intp]] = []
    while order.size:
        covered = boxes_iou(boxes[order], boxes[order[0]]) > max_iou
        covered[0] = True
        groups.append(order[covered])
        order = order[~covered]
    return groups


def non_maximum_suppression(boxes: Floats, scores: Floats, max_iou: float) -> NDArray[np.intp]:
    """The indices of the boxes that ``suppression_groups`` keeps, highest score first."""
    return np.array([group[0] for group in suppression_groups(boxes, scores, max_iou)], np.intp)
