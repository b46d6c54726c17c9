"""One picture of a moving one, converted to pixels only where somebody looks at it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from face_server.domain.image import Image, Pixels


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a source says of itself once it is open. ``fps`` is 0 where it does not say.

    ``live`` is False for files: they wait for their reader, cameras do not.
    """

    width: int
    height: int
    fps: float
    codec: str
    live: bool = True


class Frame:
    """A decoded frame of one connection to a source.

    ``number`` counts every decoded frame of the connection from 0, dropped ones too.
    ``captured_at`` (``Clock.monotonic`` seconds) and ``taken_at`` (Unix seconds) are the moment the
    camera made it, estimated from its time stamps, so that their age is the delay of everything up
    to here. ``position_s`` is the place in the file or stream. ``convert(width, height)`` returns
    height×width×3 uint8 BGR pixels; it may be called from any thread and takes milliseconds: never
    on the event loop.
    """

    __slots__ = ("_convert", "_full", "_lock", "captured_at", "height", "number", "position_s", "taken_at", "width")

    def __init__(
        self,
        number: int,
        size: tuple[int, int],
        convert: Callable[[int, int], Pixels],
        *,
        captured_at: float,
        taken_at: float,
        position_s: float,
    ) -> None:
        self.number = number
        self.width, self.height = size
        self.captured_at = captured_at
        self.taken_at = taken_at
        self.position_s = position_s
        self._convert = convert
        self._lock = threading.Lock()
        self._full: Image | None = None

    def pixels(self, width: int, height: int) -> Pixels:
        """height×width×3 uint8 BGR, converted anew. Blocks for milliseconds."""
        return self._convert(width, height)

    def with_detail(self, width: int, height: int, detail: Frame | None) -> Frame:
        """The same moment as a frame of ``width`` × ``height``, the size of the camera's larger picture.

        ``image()`` is the ``detail`` of the same moment, or this frame enlarged where there is none;
        ``scaled()`` is made from this frame, which costs less.
        """

        def convert(wanted_width: int, wanted_height: int) -> Pixels:
            full = (wanted_width, wanted_height) == (width, height)
            return (detail if full and detail is not None else self).pixels(wanted_width, wanted_height)

        return Frame(
            self.number, (width, height), convert, captured_at=self.captured_at, taken_at=self.taken_at, position_s=self.position_s
        )

    def image(self) -> Image:
        """The full picture; converted once, then remembered. Blocks for milliseconds."""
        with self._lock:
            if self._full is None:
                self._full = Image.from_pixels(self._convert(self.width, self.height))
            return self._full

    def scaled(self, max_size_px: int) -> Image:
        """The picture with a long side of at most ``max_size_px``, its aspect ratio kept. Blocks for milliseconds."""
        longest = max(self.width, self.height)
        if longest <= max_size_px or self._full is not None:
            return self.image()
        width = max(1, round(self.width * max_size_px / longest))
        height = max(1, round(self.height * max_size_px / longest))
        return Image(self._convert(width, height), self.width, self.height)
