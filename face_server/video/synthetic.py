"""A camera that is made of a script: for tests and demonstrations of everything that goes wrong with real ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from weakref import WeakSet

import cv2
import numpy as np

from face_server.domain.frame import Frame, SourceInfo
from face_server.domain.image import Pixels, check_pixels
from face_server.domain.ports import Clock
from face_server.domain.stream_ports import TakeFrame
from face_server.errors import SourceFailed

_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class SyntheticOptions:
    """How a synthetic camera behaves while it is well.

    ``pictures`` (H×W×3 BGR) are shown in turn, a moving pattern where there are none. A file is what
    is not ``live``: it waits for its reader and ends after ``frames`` (0: never). ``delay_s`` is the
    age of a frame on arrival. With ``own_thread`` off the event loop hands over the frames, which
    makes tests under a fake clock repeatable; files always need the thread, since their reader may
    hold them back.
    """

    width: int = 320
    height: int = 180
    fps: float = 25.0
    pictures: tuple[Pixels, ...] = ()
    live: bool = True
    frames: int = 0
    delay_s: float = 0.0
    open_timeout_s: float = 5.0
    read_timeout_s: float = 4.0
    own_thread: bool = True

    def __post_init__(self) -> None:
        if not (self.fps > 0 and self.width > 0 and self.height > 0):
            raise ValueError(f"a synthetic camera needs a size and a frame rate above 0, got {self.width}×{self.height} at {self.fps}")
        if not (self.live or self.own_thread):
            raise ValueError("a synthetic file needs a thread of its own")
        for picture in self.pictures:
            check_pixels(picture, "pictures of a synthetic camera")


class SyntheticCamera:
    """The camera itself, which outlives connections to it. ``connect`` makes a source; the rest are its troubles.

    ``opened`` counts the attempts to connect, ``connections`` are those that are open now.
    """

    def __init__(self, clock: Clock, options: SyntheticOptions | None = None) -> None:
        self.clock = clock
        self.options = options or SyntheticOptions()
        self.size = (self.options.width, self.options.height)
        self.opened = 0
        self.refusal: SourceFailed | None = None
        self.frozen = False
        self.garbled = False
        self.opens = True
        self.closes = True
        self._well = asyncio.Event()
        self._connections: WeakSet[SyntheticSource] = WeakSet()

    def connect(self) -> SyntheticSource:
        """A fresh source, not yet open."""
        return SyntheticSource(self)

    @property
    def connections(self) -> list[SyntheticSource]:
        """The sources that are open now."""
        return [source for source in self._connections if source.is_open]

    def heal(self) -> None:
        """Be well again: new connections work, open ones that froze go on."""
        self.refusal = None
        self.frozen = self.garbled = False
        self.opens = self.closes = True
        self._well.set()

    def die(self) -> None:
        """End every connection and refuse new ones, as a camera without power."""
        self.refuse(SourceFailed("the camera refuses the connection", code="source_unreachable"))
        self.hang_up(SourceFailed("the camera ended the connection", code="source_lost"))

    def hang_up(self, error: SourceFailed | None = None) -> None:
        """End every connection with ``error``; new ones work unless refused."""
        for source in self.connections:
            source.fail(error or SourceFailed("the camera ended the connection", code="source_lost"))

    def refuse(self, error: SourceFailed) -> None:
        """Answer new connections with ``error``."""
        self.refusal = error

    def refuse_credentials(self) -> None:
        """As ``refuse``, because somebody changed the password."""
        self.refuse(SourceFailed("the camera refuses the credentials", code="source_credentials", needs_operator=True))

    def freeze(self) -> None:
        """Keep connections open and say nothing more; new ones time out."""
        self.frozen = True

    def garble(self) -> None:
        """Send what cannot be decoded: connections open and fail after the read timeout."""
        self.garbled = True

    def resize(self, width: int, height: int) -> None:
        """Go on in another size, in the middle of every connection."""
        self.size = (width, height)

    def never_open(self) -> None:
        """Hang in ``open`` until healed, whatever its timeout says or who cancels: a defect of the reader."""
        self._well.clear()
        self.opens = False

    def hang_in_close(self) -> None:
        """Hang in ``close`` until healed, whoever cancels: a defect of the reader."""
        self._well.clear()
        self.closes = False

    async def hang(self) -> None:
        """Wait until healed; cannot be cancelled."""
        while not self._well.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self._well.wait()

    def joined(self, source: SyntheticSource) -> None:
        """A source was opened."""
        self._connections.add(source)

    def frame(self, number: int, position_s: float) -> Frame:
        """What the camera sees now."""
        delay_s = self.options.delay_s
        picture = partial(_picture, self.options.pictures, number)
        return Frame(
            number,
            self.size,
            picture,
            captured_at=self.clock.monotonic() - delay_s,
            taken_at=self.clock.now() - delay_s,
            position_s=position_s,
        )


class SyntheticSource:
    """``FrameSource``: one connection to a synthetic camera."""

    def __init__(self, camera: SyntheticCamera) -> None:
        self._camera = camera
        self._ended: asyncio.Future[None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether it was opened and has neither failed nor been closed."""
        return self._ended is not None and not self._ended.done() and not self._closed

    async def open(self, take: TakeFrame) -> SourceInfo:
        """See ``FrameSource.open``."""
        camera, options = self._camera, self._camera.options
        camera.opened += 1
        if not camera.opens:
            await camera.hang()
            raise SourceFailed("the camera did not answer for long", code="source_timeout")
        if camera.frozen:
            await camera.clock.sleep(options.open_timeout_s)
            raise SourceFailed(f"the camera did not answer within {options.open_timeout_s:g} s", code="source_timeout")
        await camera.clock.sleep(0)
        if camera.refusal is not None:
            refusal = camera.refusal
            raise SourceFailed(refusal.message, code=refusal.code, needs_operator=refusal.needs_operator)
        self._ended = asyncio.get_running_loop().create_future()
        camera.joined(self)
        self._pump = asyncio.create_task(self._run(take))
        width, height = camera.size
        return SourceInfo(width, height, options.fps, "synthetic", options.live)

    async def ended(self) -> None:
        """See ``FrameSource.ended``."""
        if self._ended is None:
            raise RuntimeError("the source was not opened")
        await asyncio.shield(self._ended)

    async def close(self) -> None:
        """See ``FrameSource.close``."""
        self._closed = True
        if self._pump is not None:
            self._pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump
            self._pump = None
        if self._thread is not None:
            # A frame that is being taken right now is the last one.
            await asyncio.wait([asyncio.wrap_future(self._thread.submit(_nothing))], timeout=_CLOSE_S)
            self._thread.shutdown(wait=False)
            self._thread = None
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        if not self._camera.closes:
            await self._camera.hang()

    def fail(self, error: SourceFailed) -> None:
        """End this connection with ``error``."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)
            # Nobody may be waiting any more: that must not be reported as a forgotten error.
            self._ended.exception()
        if self._pump is not None:
            self._pump.cancel()

    async def _run(self, take: TakeFrame) -> None:
        """Hand over frames at the camera's pace until the end of the script, of the connection, or of patience."""
        camera, options = self._camera, self._camera.options
        give = self._giver(take)
        period_s = 1.0 / options.fps
        start = last = camera.clock.monotonic()
        for tick in itertools.count():
            if options.frames and tick >= options.frames:
                break
            if options.live or camera.frozen or camera.garbled:
                await camera.clock.sleep(max(0.0, start + tick * period_s - camera.clock.monotonic()))
            now = camera.clock.monotonic()
            if not (camera.frozen or camera.garbled):
                await give(camera.frame(tick, tick * period_s))
                last = now
            elif now - last >= options.read_timeout_s:
                code = "source_garbled" if camera.garbled else "source_timeout"
                self.fail(SourceFailed(f"no frame could be decoded for {options.read_timeout_s:g} s", code=code))
                return
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _giver(self, take: TakeFrame) -> Callable[[Frame], Awaitable[None]]:
        if not self._camera.options.own_thread:

            async def give_here(frame: Frame) -> None:
                take(frame)

            return give_here
        self._thread = thread = ThreadPoolExecutor(1, "synthetic-camera")
        loop = asyncio.get_running_loop()

        async def give(frame: Frame) -> None:
            await loop.run_in_executor(thread, take, frame)

        return give


def _nothing() -> None:
    """Only its turn is waited for."""


def _picture(pictures: Sequence[Pixels], number: int, width: int, height: int) -> Pixels:
    """Picture ``number`` of the script in the wanted size."""
    picture = pictures[number % len(pictures)] if pictures else _pattern(number)
    if picture.shape[:2] == (height, width):
        return picture.copy()
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _pattern(number: int) -> Pixels:
    """A grey ramp with a white bar that moves, 180×320."""
    ramp = np.broadcast_to(np.linspace(0, 200, 320, dtype=np.uint8)[None, :, None], (180, 320, 3)).copy()
    left = number * 8 % 304
    ramp[:, left : left + 16] = 255
    return ramp
