"""Faces drawn onto their picture, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from face_server.domain.face import Detection, Face
from face_server.domain.image import Image, Pixels
from face_server.domain.ports import PaintOptions
from face_server.video.jpeg import encode_jpeg
from face_server.workers import Workers

_Colour = tuple[int, int, int]

# All colours are BGR.
_BOX: _Colour = (60, 200, 60)
_BOX_WITHOUT_NAME: _Colour = (0, 165, 255)
_TEXT: _Colour = (255, 255, 255)
_PLATE: _Colour = (30, 30, 30)
_LANDMARKS: tuple[_Colour, ...] = ((255, 160, 0), (0, 220, 255), (80, 80, 255), (255, 60, 220), (120, 255, 120))
"""Image-left eye, image-right eye, nose, image-left and image-right mouth corner."""

_FONT = "uni"
"""OpenCV's built-in typeface with Latin, Greek, Cyrillic, Chinese, Japanese and Korean."""

_MAX_TEXT = 64
_JPEG_QUALITY = 90


class JpegPainter:
    """``Painter`` that answers JPEG and draws in worker threads."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def paint(self, image: Image, faces: Sequence[Face], options: PaintOptions) -> bytes:
        """See ``Painter.paint``."""
        return await self._workers.run(_paint, image, faces, options)


def _paint(image: Image, faces: Sequence[Face], options: PaintOptions) -> bytes:
    across, down = image.source_scale
    return encode_jpeg(draw_faces(image.pixels, faces, options, scale=(1 / across, 1 / down)), _JPEG_QUALITY)


def draw_faces(pixels: Pixels, faces: Sequence[Face], options: PaintOptions, *, scale: tuple[float, float] = (1.0, 1.0)) -> Pixels:
    """A copy of ``pixels`` (H×W×3 BGR) with boxes and what ``options`` ask for.

    ``faces`` are in source pixels; ``scale`` is pixels per source pixel, where ``pixels`` are a
    smaller decode. ``options.names`` go with ``faces`` in order; a face without one is drawn in
    another colour once any name is given.
    """
    canvas = pixels.copy()
    pen = _Pen(canvas)
    names = options.names + ("",) * len(faces)
    marks = [(face.detection.scaled(*scale), face, name) for face, name in zip(faces, names, strict=False)]
    for detection, _, name in marks:
        pen.box(detection, _BOX if name or not options.names else _BOX_WITHOUT_NAME)
        if options.landmarks:
            pen.landmarks(detection)
    # Text comes last, so that no neighbour's box strikes it through.
    for detection, face, name in marks:
        score = f"{detection.score:.2f}" if options.scores else ""
        pen.label(" ".join(part for part in (name, score) if part), detection, above=True)
        if options.sizes:
            pen.label(f"w:{round(face.detection.box.width)}", detection, above=False)
    pen.footer(options.footer)
    return canvas


class _Pen:
    """Draws on one canvas with line widths and text sizes that suit its size."""

    def __init__(self, canvas: Pixels) -> None:
        self._canvas = canvas
        self._height, self._width = canvas.shape[:2]
        long_side = max(self._height, self._width)
        self._line_px = max(1, round(long_side / 640))
        self._text_px = min(64, max(11, round(long_side / 60)))
        # A typeface of its own for each picture: one that threads share draws wrong glyphs.
        self._font = cv2.FontFace(_FONT)

    def box(self, detection: Detection, colour: _Colour) -> None:
        box = detection.box
        cv2.rectangle(self._canvas, self._point(box.x1, box.y1), self._point(box.x2, box.y2), colour, self._line_px)

    def landmarks(self, detection: Detection) -> None:
        radius = min(max(1, round(detection.box.width * 0.025)), 3 * self._line_px + 2)
        for (x, y), colour in zip(detection.landmarks, _LANDMARKS, strict=True):
            cv2.circle(self._canvas, self._point(x, y), radius, colour, cv2.FILLED, cv2.LINE_AA)

    def label(self, text: str, detection: Detection, *, above: bool) -> None:
        """Text on a plate outside the box, at its upper or lower edge; inside where the picture ends there."""
        text = _printable(text)
        if not text:
            return
        box = detection.box
        # Faces of a crowd get smaller text, so that labels do not hide the neighbours.
        size_px = max(min(self._text_px, round(box.width * 0.3)), min(self._text_px, 11))
        width, height = self._extent(text, size_px)
        left, top = self._point(box.x1, box.y1 - height if above else box.y2 + self._line_px)
        if top < 0:
            top += height
        if top + height > self._height:
            top -= height
        self._plate(text, size_px, min(left, self._width - width), top, width, height)

    def footer(self, text: str) -> None:
        """A line in the lower left corner."""
        text = _printable(text)
        if text:
            width, height = self._extent(text, self._text_px)
            self._plate(text, self._text_px, 0, self._height - height, width, height)

    def _plate(self, text: str, size_px: int, left: int, top: int, width: int, height: int) -> None:
        left = max(0, left)
        top = min(max(0, top), max(0, self._height - height))
        region = self._canvas[top : top + height, left : left + width]
        region[:] = (region.astype(np.uint16) * 3 + np.array(_PLATE, np.uint16) * 7) // 10
        baseline = top + height - round(size_px * 0.3)
        cv2.putText(self._canvas, text, (left + round(size_px * 0.25), baseline), _TEXT, self._font, size_px)

    def _extent(self, text: str, size_px: int) -> tuple[int, int]:
        """Width and height of the plate for ``text``, the same height for every text."""
        _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), self._font, size_px)
        return int(width) + round(size_px * 0.5) + 1, round(size_px * 1.35)

    def _point(self, x: float, y: float) -> tuple[int, int]:
        """Whole pixels; far outside is brought near, as drawing counts in 16 bits."""
        return round(min(max(float(x), -1000.0), self._width + 1000.0)), round(min(max(float(y), -1000.0), self._height + 1000.0))


def _printable(text: str) -> str:
    """One line of at most 64 characters without control characters and lone surrogates."""
    line = "".join(character if character.isprintable() else " " for character in text[:_MAX_TEXT])
    return line.strip()
