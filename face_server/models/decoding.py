"""What the detection families share: from anchors of a batch to faces of each picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from face_server.domain.image import Floats
from face_server.domain.ports import Tensors
from face_server.models.contract import Recipe

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class RawDetections:
    """Faces of one picture in canvas pixels, before suppression and in no order.

    ``boxes`` N×4 (x1, y1, x2, y2), ``scores`` N in 0..1, ``landmarks`` N×5×2, all float32.
    """

    boxes: Floats
    scores: Floats
    landmarks: Floats


class DetectorFamily(Protocol):
    """Networks that share one output contract."""

    recipe: Recipe
    min_score: float
    max_iou: float

    def decode(self, outputs: Tensors, height: int, width: int, min_score: float) -> list[RawDetections]:
        """Faces with score >= ``min_score`` for each canvas of ``height``×``width`` pixels in the batch."""
        ...


class Collector:
    """Gathers the anchors that pass, level by level, and hands them out picture by picture."""

    def __init__(self, pictures: int) -> None:
        self._pictures = pictures
        self._parts: list[tuple[Indices, Floats, Floats, Floats]] = []

    def add(self, picture: Indices, boxes: Floats, scores: Floats, landmarks: Floats) -> None:
        """Add K faces: their picture's index (rising), K×4 boxes, K scores, K×10 or K×5×2 landmarks."""
        self._parts.append((picture, boxes, scores, landmarks.reshape(-1, 5, 2)))

    def split(self) -> list[RawDetections]:
        """One RawDetections a picture."""
        if not self._parts:
            empty = RawDetections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32))
            return [empty] * self._pictures
        columns: list[NDArray[Any]] = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        picture, boxes, scores, landmarks = columns
        if self._pictures == 1:
            return [RawDetections(boxes, scores, landmarks)]
        chosen = [picture == index for index in range(self._pictures)]
        return [RawDetections(boxes[rows], scores[rows], landmarks[rows]) for rows in chosen]


def corners(centre: Floats, size: Floats) -> Floats:
    """K×4 boxes from K×2 centres and K×2 sizes."""
    half = size * np.float32(0.5)
    return np.concatenate((centre - half, centre + half), axis=1)


def cells(index: Indices, columns: int) -> Floats:
    """K×2 (x, y) grid coordinates of flat cell indices in a grid ``columns`` wide."""
    return np.stack((index % columns, index // columns), axis=1).astype(np.float32)
