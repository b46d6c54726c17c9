"""Pictures of a stream for people who look: drawn only while somebody does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from face_server.domain.frame import Frame
from face_server.domain.image import Pixels
from face_server.domain.ports import Clock
from face_server.domain.stream_ports import DrawScene
from face_server.domain.tracks import SeenTrack
from face_server.errors import Overloaded, Unavailable
from face_server.streams.parts import StreamParts
from face_server.streams.patience import wait_any
from face_server.streams.status import FrameCounts


@dataclass(frozen=True, slots=True)
class ViewingOptions:
    """Bounds of what is shown.

    ``max_viewers`` counts the previews of all streams together. A preview has at most
    ``preview_fps`` pictures a second with a long side of at most ``preview_size_px``; without
    frames for ``card_after_s`` it shows that the camera is away.
    """

    max_viewers: int = 32
    preview_fps: float = 10.0
    preview_size_px: int = 1280
    card_after_s: float = 2.0


_CARD_SIZE = (640, 360)


class Seats:
    """The places for viewers of all streams."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.taken = 0

    def take(self) -> None:
        """Sit down. Overloaded where all places are taken."""
        if self.taken >= self._limit:
            raise Overloaded(
                f"{self._limit} previews are watched already, the most of this server", code="too_many_viewers", retry_after_s=5.0
            )
        self.taken += 1

    def leave(self) -> None:
        """Get up."""
        self.taken -= 1


class Viewing:
    """The newest frame of a stream and the people who look at it.

    A picture is drawn once for everybody who waits for it. Whoever comes late gets the newest and
    has missed those before; nobody waits for them.
    """

    def __init__(self, title: str, parts: StreamParts, clock: Clock, counts: FrameCounts, seats: Seats, options: ViewingOptions) -> None:
        self.title = title
        self._parts = parts
        self._clock = clock
        self._counts = counts
        self._seats = seats
        self._options = options
        self._newest: Frame | None = None
        self._tracks: Sequence[SeenTrack] = ()
        self._track_size = (1, 1)
        self._loop = asyncio.get_running_loop()
        self._arrival: asyncio.Future[None] | None = None
        self._turn = asyncio.Lock()
        self._closed = False
        self._drawn: Frame | None = None
        self._drawn_at = float("-inf")
        self._jpeg = b""
        self._version = 0
        self.viewers = 0

    def take(self, frame: Frame) -> None:
        """The newest frame; called in the thread of the source. Nothing is drawn for it yet."""
        self._newest = frame
        arrival = self._arrival
        if arrival is not None:
            self._arrival = None
            # A loop that was closed meanwhile has nobody waiting.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_arrive, arrival)

    def show(self, tracks: Sequence[SeenTrack], frame: Frame) -> None:
        """Who to mark from now on, as seen on ``frame``."""
        self._tracks, self._track_size = tracks, (frame.width, frame.height)

    def clear(self) -> None:
        """The camera is away: what was seen is no longer so."""
        self._newest, self._tracks = None, ()

    def close(self) -> None:
        """End every preview. Idempotent."""
        self._closed = True
        if self._arrival is not None:
            _arrive(self._arrival)

    async def snapshot(self, *, annotated: bool = True) -> bytes:
        """The newest frame in full size as JPEG. Unavailable while there is none."""
        frame = self._newest
        if frame is None:
            raise Unavailable("the camera gives no picture now", code="no_picture", retry_after_s=2.0)
        if annotated:
            pixels = await self._draw(frame, max(frame.width, frame.height))
        else:
            pixels = (await self._parts.workers.run(frame.image)).pixels
        return await self._parts.encode(pixels)

    @asynccontextmanager
    async def preview(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Pictures as JPEG for as long as the block lasts. Overloaded beyond the limit of viewers."""
        self._seats.take()
        self.viewers += 1
        pictures = self._pictures()
        try:
            yield pictures
        finally:
            self.viewers -= 1
            self._seats.leave()
            await pictures.aclose()

    async def _pictures(self) -> AsyncGenerator[bytes, None]:
        shown = 0
        while not self._closed:
            jpeg, shown = await self._next(shown)
            yield jpeg

    async def _next(self, shown: int) -> tuple[bytes, int]:
        """A picture after ``shown`` and its number. Whoever asks first draws for all who wait."""
        period_s = 1.0 / self._options.preview_fps
        async with self._turn:
            if self._version > shown and self._clock.monotonic() - self._drawn_at < period_s:
                return self._jpeg, self._version
            wait_s = self._drawn_at + period_s - self._clock.monotonic()
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            frame = await self._fresh_frame()
            pixels = await (self._card() if frame is None else self._draw(frame, self._options.preview_size_px))
            jpeg = await self._parts.encode(pixels)
            self._drawn, self._drawn_at, self._jpeg = frame, self._clock.monotonic(), jpeg
            self._version += 1
            return self._jpeg, self._version

    async def _fresh_frame(self) -> Frame | None:
        """A frame that was not drawn yet; None if none comes for a while."""
        if self._has_fresh() or self._closed:
            return self._newest
        arrival = self._arrival = self._loop.create_future()
        # One that came between the look and the wish would not wake anybody.
        if not self._has_fresh():
            await wait_any(self._clock, self._options.card_after_s, [arrival])
        self._arrival = None
        return self._newest if self._has_fresh() else None

    def _has_fresh(self) -> bool:
        return self._newest is not None and self._newest is not self._drawn

    async def _draw(self, frame: Frame, size_px: int) -> Pixels:
        return await self._parts.workers.run(_paint, self._parts.draw, frame, self._tracks, self._track_size, self.title, size_px)

    async def _card(self) -> Pixels:
        width, height = self._counts.size
        scale = self._options.preview_size_px / max(width, height, self._options.preview_size_px)
        size = (round(width * scale), round(height * scale)) if width and height else _CARD_SIZE
        return await self._parts.workers.run(self._parts.draw_card, *size, self.title, self._counts.last_taken_at)


def _arrive(arrival: asyncio.Future[None]) -> None:
    if not arrival.done():
        arrival.set_result(None)


def _paint(draw: DrawScene, frame: Frame, tracks: Sequence[SeenTrack], seen_size: tuple[int, int], title: str, size_px: int) -> Pixels:
    scale = min(1.0, size_px / max(frame.width, frame.height))
    width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    x, y = width / seen_size[0], height / seen_size[1]
    taken = datetime.fromtimestamp(frame.taken_at, UTC).astimezone()
    return draw(frame.pixels(width, height), [seen.scaled(x, y) for seen in tracks], f"{title}  {taken:%Y-%m-%d %H:%M:%S}")
