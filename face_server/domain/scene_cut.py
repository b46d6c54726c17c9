"""Whether the camera looks at something else than on the frame before."""

from __future__ import annotations

import cv2
import numpy as np

from face_server.domain.image import Floats, Pixels

_COLUMNS, _ROWS = 32, 18

# At a cut the layout of the picture and its colours both change.
_MIN_LAYOUT = 0.5
_MIN_COLOURS = 0.6


class SceneCut:
    """Compares each frame with the one before."""

    def __init__(self) -> None:
        self._before: tuple[Floats, Floats] | None = None

    def look(self, pixels: Pixels) -> bool:
        """Whether a cut lies between the frame before and this one (H×W×3 BGR)."""
        small = cv2.resize(pixels, (_COLUMNS * 4, _ROWS * 4), interpolation=cv2.INTER_NEAREST)
        thumbnail = cv2.resize(small, (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA).astype(np.float32)
        layout, colours = _layout(thumbnail), _colours(np.asarray(small, np.uint8))
        before, self._before = self._before, (layout, colours)
        if before is None:
            return False
        return float(layout @ before[0]) < _MIN_LAYOUT and float(np.minimum(colours, before[1]).sum()) < _MIN_COLOURS

    def forget(self) -> None:
        """Compare the next frame with none."""
        self._before = None


def _layout(thumbnail: Floats) -> Floats:
    grey = thumbnail.mean(axis=2).reshape(-1)
    grey = grey - grey.mean()
    return np.asarray(grey / max(float(np.linalg.norm(grey)), 1e-6), np.float32)


def _colours(small: Pixels) -> Floats:
    counts = cv2.calcHist([cv2.cvtColor(small, cv2.COLOR_BGR2HSV)], [0, 1], None, [12, 4], [0, 180, 0, 256])
    return np.asarray(counts.reshape(-1) / counts.sum(), np.float32)
