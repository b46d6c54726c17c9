"""A decoded picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""H×W×3 (one picture) or N×H×W×3 (a batch) uint8 in BGR order, OpenCV's convention."""

Floats = NDArray[np.float32]


def check_pixels(pixels: NDArray[Any], what: str) -> None:
    """Refuse anything but an H×W×3 uint8 array with at least one pixel (ValueError)."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"{what} must be H×W×3 uint8 BGR, got {pixels.dtype} {pixels.shape}")


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Upright pixels of a picture and the size of the picture they came from.

    ``pixels`` is H×W×3 uint8 BGR with EXIF orientation applied. A large JPEG may have been
    decoded at a fraction of its size: ``source_width`` and ``source_height`` are then the full
    size in pixels, and ``source_scale`` is above 1.
    """

    pixels: Pixels
    source_width: int
    source_height: int

    def __post_init__(self) -> None:
        check_pixels(self.pixels, "pixels of an Image")
        if self.source_width < self.width or self.source_height < self.height:
            raise ValueError("the source of an Image cannot be smaller than its pixels")

    @classmethod
    def from_pixels(cls, pixels: Pixels) -> Image:
        """An image whose pixels are the full-size picture."""
        check_pixels(pixels, "pixels of an Image")
        return cls(pixels, int(pixels.shape[1]), int(pixels.shape[0]))

    @property
    def width(self) -> int:
        """Columns of ``pixels``."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows of ``pixels``."""
        return int(self.pixels.shape[0])

    @property
    def source_scale(self) -> tuple[float, float]:
        """Source pixels per decoded pixel, horizontally and vertically."""
        return self.source_width / self.width, self.source_height / self.height
