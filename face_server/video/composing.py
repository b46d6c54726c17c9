"""Frames and cards as the raw pictures that an encoder takes."""

from __future__ import annotations

import math

import cv2
import numpy as np

from face_server.domain.frame import Frame
from face_server.domain.image import Pixels
from face_server.domain.stream_ports import DrawScene
from face_server.video.overlay import Overlay
from face_server.video.scene import local_time, no_signal_card

_SMALLEST_PX = 16


def published_size(width: int, height: int, *, max_long_px: int, max_short_px: int) -> tuple[int, int]:
    """The size at which a source of width × height is sent out: its own or within the bounds, aspect kept, even."""
    scale = min(1.0, max_long_px / max(width, height), max_short_px / min(width, height))
    return _even(width * scale), _even(height * scale)


def _even(side: float) -> int:
    return max(_SMALLEST_PX, round(side) // 2 * 2)


def _snapped(side: float, full: int) -> int:
    """A side in whole pixels; one pixel of a bar is no bar."""
    return full if side > full - 1.5 else max(1, round(side))


class Composer:
    """Makes pictures of one size: I420 (planes Y, U, V; BT.601, limited range), width × height × 3/2 bytes.

    ``width`` and ``height`` are even. Each method returns the same buffer, filled anew. For one thread.
    """

    def __init__(self, width: int, height: int, *, draw: DrawScene, overlay: Overlay, title: str) -> None:
        self._width, self._height = width, height
        self._draw = draw
        self._overlay = overlay
        self._title = title
        self._buffer = np.empty((height * 3 // 2, width), np.uint8)
        self._card: tuple[float | None, int] | None = None

    def frame(self, frame: Frame) -> memoryview:
        """The frame with everybody marked where they are expected on it, and its time in the corner."""
        self._card = None
        pixels = self._fitted(frame)
        tracks = self._overlay.at(frame.captured_at, width=pixels.shape[1], height=pixels.shape[0])
        footer = f"{self._title}  {local_time(frame.taken_at)}".strip()
        return self._packed(self._draw(pixels, tracks, footer))

    def card(self, since: float | None, now: float) -> memoryview:
        """The card that stands in while the camera is away; ``since`` and ``now`` are Unix seconds."""
        if self._card != (since, int(now)):
            self._card = (since, int(now))
            self._packed(no_signal_card(self._width, self._height, self._title, since, now=now))
        return self._buffer.data

    def _fitted(self, frame: Frame) -> Pixels:
        """The frame at the size of this composer; with bars where its shape is another one."""
        scale = min(self._width / frame.width, self._height / frame.height)
        if scale >= 1 or self._cropped_to(frame.width, frame.height):
            pixels = frame.image().pixels
        else:
            pixels = frame.scaled(math.ceil(max(frame.width, frame.height) * scale)).pixels
        height, width = pixels.shape[:2]
        if self._cropped_to(width, height):
            return pixels[: self._height, : self._width]
        scale = min(self._width / width, self._height / height)
        size = (_snapped(width * scale, self._width), _snapped(height * scale, self._height))
        resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        framed: Pixels = np.zeros((self._height, self._width, 3), np.uint8)
        top, left = (self._height - size[1]) // 2, (self._width - size[0]) // 2
        framed[top : top + size[1], left : left + size[0]] = resized
        return framed

    def _cropped_to(self, width: int, height: int) -> bool:
        """Whether a picture of this size lacks nothing but an odd row or column of being of ours."""
        return 0 <= width - self._width <= 1 and 0 <= height - self._height <= 1

    def _packed(self, pixels: Pixels) -> memoryview:
        cv2.cvtColor(pixels, cv2.COLOR_BGR2YUV_I420, dst=self._buffer)
        return self._buffer.data
