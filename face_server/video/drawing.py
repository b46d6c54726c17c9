"""Boxes and text on a picture: what every drawing of faces is made of."""

from __future__ import annotations

import cv2
import numpy as np

from face_server.domain.face import Box
from face_server.domain.image import Floats, Pixels

Colour = tuple[int, int, int]
"""Blue, green, red."""

TEXT: Colour = (255, 255, 255)
_LANDMARKS: tuple[Colour, ...] = ((255, 160, 0), (0, 220, 255), (80, 80, 255), (255, 60, 220), (120, 255, 120))
"""Image-left eye, image-right eye, nose, image-left and image-right mouth corner."""

FONT = "uni"
"""OpenCV's built-in typeface with Latin, Greek, Cyrillic, Chinese, Japanese and Korean: WenQuanYi Micro Hei, Apache-2.0."""

_MAX_TEXT = 64
_FAR_PX = 1000.0
_DIMMED, _DIMMED_BY = 0.3, 21.0
"""Behind text a picture keeps this share of its brightness and gets this much of grey."""


class Pen:
    """Draws on one canvas (H×W×3 BGR, in place) with line widths and text sizes that suit its size.

    Coordinates are pixels of the canvas and may lie far outside of it. For one thread.
    """

    def __init__(self, canvas: Pixels) -> None:
        self._canvas = canvas
        self._height, self._width = canvas.shape[:2]
        long_side = max(self._height, self._width)
        self.line_px = max(1, round(long_side / 640))
        self.text_px = min(64, max(11, round(long_side / 60)))
        # A typeface of its own for each picture: one that threads share draws wrong glyphs.
        self._font = cv2.FontFace(FONT)

    def box(self, box: Box, colour: Colour, *, line_px: int = 0) -> None:
        """The outline of a box; ``line_px`` 0 is the width that suits the canvas."""
        cv2.rectangle(self._canvas, self._point(box.x1, box.y1), self._point(box.x2, box.y2), colour, line_px or self.line_px)

    def landmarks(self, landmarks: Floats, box_width: float) -> None:
        """The five landmarks (5×2) of a face, as dots of a colour each."""
        radius = min(max(1, round(box_width * 0.025)), 3 * self.line_px + 2)
        for (x, y), colour in zip(landmarks, _LANDMARKS, strict=True):
            cv2.circle(self._canvas, self._point(x, y), radius, colour, cv2.FILLED, cv2.LINE_AA)

    def label(self, text: str, box: Box, *, above: bool, colour: Colour = TEXT) -> None:
        """Text on a plate outside the box, at its upper or lower edge; inside where the picture ends there."""
        text = printable(text)
        if not text:
            return
        # Faces of a crowd get smaller text, so that labels do not hide the neighbours.
        size_px = max(min(self.text_px, round(min(box.width, self._width) * 0.3)), min(self.text_px, 11))
        width, height = self._extent(text, size_px)
        left, top = self._point(box.x1, box.y1 - height if above else box.y2 + self.line_px)
        if top < 0:
            top += height
        if top + height > self._height:
            top -= height
        self._plate(text, size_px, min(left, self._width - width), top, colour)

    def footer(self, text: str) -> None:
        """A line in the lower left corner."""
        text = printable(text)
        if text:
            self._plate(text, self.text_px, 0, self._height, TEXT)

    def centred(self, text: str, *, middle: float, size_px: int, colour: Colour = TEXT) -> None:
        """A line without a plate, centred at the height ``middle`` (0 is the upper edge, 1 the lower), made to fit the width."""
        text = printable(text)
        if not text:
            return
        width, _ = self._extent(text, size_px)
        if width > self._width:
            size_px = max(1, size_px * self._width // width)
            width, _ = self._extent(text, size_px)
        self._write(text, size_px, (self._width - width) // 2, round(self._height * middle - size_px * 0.675), colour)

    def _plate(self, text: str, size_px: int, left: int, top: int, colour: Colour) -> None:
        width, height = self._extent(text, size_px)
        left = max(0, left)
        top = min(max(0, top), max(0, self._height - height))
        region = self._canvas[top : top + height, left : left + width]
        cv2.convertScaleAbs(region, dst=region, alpha=_DIMMED, beta=_DIMMED_BY)
        self._write(text, size_px, left, top, colour)

    def _write(self, text: str, size_px: int, left: int, top: int, colour: Colour) -> None:
        baseline = top + round(size_px * 1.35) - round(size_px * 0.3)
        cv2.putText(self._canvas, text, (left + round(size_px * 0.25), baseline), colour, self._font, size_px)

    def _extent(self, text: str, size_px: int) -> tuple[int, int]:
        """Width and height of the plate for ``text``, the same height for every text."""
        _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), self._font, size_px)
        return int(width) + round(size_px * 0.5) + 1, round(size_px * 1.35)

    def _point(self, x: float, y: float) -> tuple[int, int]:
        """Whole pixels; far outside is brought near, as drawing counts in 16 bits."""
        return (
            round(min(max(float(x), -_FAR_PX), self._width + _FAR_PX)),
            round(min(max(float(y), -_FAR_PX), self._height + _FAR_PX)),
        )


def printable(text: str) -> str:
    """One line of at most 64 characters without control characters and lone surrogates."""
    line = "".join(character if character.isprintable() else " " for character in text[:_MAX_TEXT])
    return line.strip()


def blank(width: int, height: int, colour: Colour) -> Pixels:
    """A canvas of one colour."""
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = colour
    return canvas
