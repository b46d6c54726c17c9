"""What is known of one face in one picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from face_server.domain.embedding import Embedding
from face_server.domain.image import Floats, Pixels
from face_server.domain.quality import Quality


@dataclass(frozen=True, slots=True)
class Box:
    """Corners in pixels, x to the right and y down; may reach beyond the picture."""

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        if not (self.x1 <= self.x2 and self.y1 <= self.y2):
            raise ValueError(f"a Box needs x1 <= x2 and y1 <= y2, got {self}")

    @property
    def width(self) -> float:
        """Horizontal extent in pixels."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """Vertical extent in pixels."""
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        """Square pixels."""
        return self.width * self.height

    def scaled(self, x: float, y: float) -> Box:
        """The same box in a picture that is ``x`` times as wide and ``y`` times as high."""
        return Box(self.x1 * x, self.y1 * y, self.x2 * x, self.y2 * y)


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """A face that was found: box, score in 0..1 and five landmarks; no identity.

    ``landmarks`` is 5×2 float32 (x, y) in the box's pixels: image-left eye, image-right eye,
    nose, image-left and image-right mouth corner.
    """

    box: Box
    score: float
    landmarks: Floats

    def __post_init__(self) -> None:
        if self.landmarks.shape != (5, 2) or self.landmarks.dtype != np.float32:
            raise ValueError(f"landmarks must be 5×2 float32, got {self.landmarks.dtype} {self.landmarks.shape}")

    def scaled(self, x: float, y: float) -> Detection:
        """The same detection in a picture that is ``x`` times as wide and ``y`` times as high."""
        return Detection(self.box.scaled(x, y), self.score, self.landmarks * np.array([x, y], np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A detection in source-image pixels and what was asked to be computed from it.

    ``crop`` is the aligned crop, 112×112×3 uint8 BGR. ``quality``, ``embedding`` and ``crop`` are
    None where the analysis options did not ask for them.
    """

    detection: Detection
    quality: Quality | None = None
    embedding: Embedding | None = None
    crop: Pixels | None = None

    def with_embedding(self, embedding: Embedding) -> Face:
        """The same face with its embedding filled in."""
        return replace(self, embedding=embedding)
