"""How the camera moved since the frame before, or whether it looks at something else."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from face_server.domain.image import Floats, Pixels

# The size at which frames are compared, and of the squares in which patterns are.
_WIDTH, _HEIGHT = 128, 72
_BLOCK = 8

# A block whose grey levels deviate less (root mean square) shows nothing to compare.
_PLAIN = 3.0

# A block is kept where its pattern correlates by more than this with that of the frame before.
_KEPT = 0.5

# At a cut nearly all blocks change (12 to 16 % remain by chance) and the colours too (0.5 to 0.74 in
# common). A light that flickers leaves both alone; somebody who fills the picture changes as many
# blocks, but keeps 0.88 of the colours and more.
_MIN_KEPT_BLOCKS = 0.3
_MIN_KEPT_COLOURS = 0.82

# A shift must explain so much more of the picture than none does.
_MIN_GAIN = 0.1


@dataclass(frozen=True, slots=True)
class Motion:
    """Between two frames: whether a cut lies there, else by how many pixels the scenery moved."""

    cut: bool = False
    right_px: float = 0.0
    down_px: float = 0.0


class CameraMotion:
    """Compares each frame with the one before it, as thumbnails: a fraction of a millisecond."""

    def __init__(self) -> None:
        self._before: tuple[Floats, Floats] | None = None
        self._window = cv2.createHanningWindow((_WIDTH, _HEIGHT), cv2.CV_32F)

    def look(self, pixels: Pixels) -> Motion:
        """What the camera did before this frame (H×W×3 BGR, any size)."""
        # Nearest first: averaging a full frame would cost more than all the rest.
        sampled = cv2.resize(pixels, (_WIDTH * 2, _HEIGHT * 2), interpolation=cv2.INTER_NEAREST)
        small = cv2.resize(sampled, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
        grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.float32)
        colours = _colours(np.asarray(small, np.uint8))
        before, self._before = self._before, (grey, colours)
        if before is None:
            return Motion()
        (right, down), kept = self._shift(before[0], grey)
        if kept < _MIN_KEPT_BLOCKS and float(np.minimum(colours, before[1]).sum()) < _MIN_KEPT_COLOURS:
            return Motion(cut=True)
        return Motion(False, right * pixels.shape[1] / _WIDTH, down * pixels.shape[0] / _HEIGHT)

    def forget(self) -> None:
        """Compare the next frame with none."""
        self._before = None

    def _shift(self, before: Floats, grey: Floats) -> tuple[tuple[float, float], float]:
        """By how far the thumbnail moved, and the share of its blocks that this explains.

        Phase correlation (Kuglin & Hines 1975): it finds the shift that most of the picture shares.
        """
        still = _kept(before, grey)
        # Windowed copies: given a window, OpenCV multiplies its arguments in place.
        (right, down), _ = cv2.phaseCorrelate(before * self._window, grey * self._window)
        x, y = round(right), round(down)
        if (x == 0 and y == 0) or abs(x) > _WIDTH // 2 or abs(y) > _HEIGHT // 2:
            return ((right, down) if still > _KEPT else (0.0, 0.0)), still
        moved = _kept(
            before[max(0, -y) : _HEIGHT - max(0, y), max(0, -x) : _WIDTH - max(0, x)],
            grey[max(0, y) : _HEIGHT - max(0, -y), max(0, x) : _WIDTH - max(0, -x)],
        )
        return ((right, down), moved) if moved > still + _MIN_GAIN else ((0.0, 0.0), still)


def _kept(before: Floats, after: Floats) -> float:
    """The share of blocks whose pattern is the same in both; of plain pictures 1."""
    rows, columns = (min(one, other) // _BLOCK for one, other in zip(before.shape, after.shape, strict=True))
    (old, old_contrast), (new, new_contrast) = _blocks(before, rows, columns), _blocks(after, rows, columns)
    told = np.maximum(old_contrast, new_contrast) > _PLAIN
    return float((np.sum(old * new, axis=1)[told] > _KEPT).mean()) if told.any() else 1.0


def _blocks(grey: Floats, rows: int, columns: int) -> tuple[Floats, Floats]:
    """The pattern of each block as a unit vector without its mean, and its contrast."""
    squares = grey[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK).transpose(0, 2, 1, 3)
    blocks = squares.reshape(rows * columns, _BLOCK * _BLOCK)
    blocks = blocks - blocks.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(blocks, axis=1)
    return blocks / np.maximum(lengths, np.float32(1e-6))[:, None], lengths / np.float32(_BLOCK)


def _colours(small: Pixels) -> Floats:
    """How often each hue at each saturation occurs, summing to 1."""
    counts = cv2.calcHist([cv2.cvtColor(small, cv2.COLOR_BGR2HSV)], [0, 1], None, [12, 4], [0, 180, 0, 256])
    return np.asarray(counts.reshape(-1) / counts.sum(), np.float32)
