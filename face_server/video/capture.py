"""Frames of cameras and files: one connection each, from opening to the last frame."""

from __future__ import annotations

import asyncio

from face_server.domain.frame import Frame, SourceInfo
from face_server.domain.ports import Clock
from face_server.domain.stream_ports import TakeFrame
from face_server.domain.streams import Mode, Transport
from face_server.errors import SourceFailed
from face_server.video.camera_addresses import check_source_url
from face_server.video.capture_options import CaptureOptions
from face_server.video.cudacodec import CudacodecConnection
from face_server.video.pyav_connection import PyavConnection
from face_server.video.reader import Connection, Reader, abandoned_readers, start_reader

__all__ = ["CaptureOptions", "PyavSource", "abandoned_readers", "probe"]

_LOOK_S = 0.1
_LET_GO_S = 0.8


class PyavSource:
    """``FrameSource`` of everything that FFmpeg reads, and with ``Mode.GPU`` of what the GPU decodes.

    A thread of its own connects and decodes; FFmpeg's own timeouts end it late, so its progress is
    watched from outside: a connection that gives no picture for ``read_timeout_s`` has failed,
    whatever the thread does. A thread that does not end is left behind: it hands nothing over and
    holds nothing but itself, ends with the library's timeout (some ten seconds), and is counted
    until then (``abandoned_readers``); beyond ``max_abandoned`` of them ``open`` raises Unavailable.

    A decoder that lags behind a live source for longer than ``staleness_s`` skips to a keyframe;
    ``Frame.number`` counts what was skipped. A file plays as fast as ``take`` allows, or with
    ``realtime`` at its own pace. Files, devices and addresses must be allowed by ``options``.
    """

    def __init__(
        self, url: str, options: CaptureOptions, clock: Clock, *, transport: Transport = Transport.TCP, mode: Mode = Mode.CPU
    ) -> None:
        check_source_url(url, options)
        self._options = options
        self._clock = clock
        self._connection: Connection
        if mode is Mode.GPU:
            self._connection = CudacodecConnection(url, options, clock)
        else:
            self._connection = PyavConnection(url, options, clock, transport)
        self._reader: Reader | None = None
        self._live = True
        self._failure: Exception | None = None

    async def open(self, take: TakeFrame) -> SourceInfo:
        """Connect. Raises SourceFailed within ``open_timeout_s``, Unavailable while too many dead connections hang."""
        if self._reader is not None:
            raise RuntimeError("a source is opened once")
        reader = Reader(self._connection, self._clock, take, staleness_s=self._options.staleness_s)
        start_reader(reader, max_abandoned=self._options.max_abandoned)
        self._reader = reader
        try:
            await asyncio.wait((reader.opened, reader.outcome), timeout=self._options.open_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not reader.opened.done():
                reader.release()
        if reader.opened.done():
            info = reader.opened.result()
            self._live = info.live
            return info
        if not reader.outcome.done():
            raise SourceFailed(f"the camera did not answer within {self._options.open_timeout_s:g} s", code="source_timeout")
        raise reader.outcome.result() or SourceFailed("the source ended before its first picture", code="source_lost")

    async def ended(self) -> None:
        """Wait for the end: returns at the end of a recording, raises SourceFailed otherwise; returns once closed."""
        reader = self._reader
        if reader is None:
            raise RuntimeError("the source was never opened")
        while not reader.released:
            await asyncio.wait((reader.outcome,), timeout=_LOOK_S)
            if reader.outcome.done():
                self._failure = reader.outcome.result()
                break
            if self._live and (failure := self._stuck(reader)) is not None:
                self._failure = failure
                reader.release()
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Let go within a second; the thread is abandoned if it has not ended by then."""
        if self._reader is not None:
            self._reader.release()
            await asyncio.wait((self._reader.gone,), timeout=_LET_GO_S)

    def _stuck(self, reader: Reader) -> SourceFailed | None:
        """What the watchdog says. Time spent outside of the library, in ``take`` or until a frame is due, does not count."""
        limit, now = self._options.read_timeout_s, self._clock.monotonic()
        blocked_since = reader.progress.blocked_since
        if blocked_since is None:
            return None
        if now - blocked_since > limit:
            return SourceFailed(f"the camera has sent nothing for {limit:g} s", code="source_timeout")
        if now - reader.progress.picture_at > limit:
            return SourceFailed(f"the camera has sent no picture that can be decoded for {limit:g} s", code="source_garbled")
        return None


async def probe(
    url: str, options: CaptureOptions, clock: Clock, *, transport: Transport = Transport.TCP, mode: Mode = Mode.CPU
) -> SourceInfo:
    """What the source says of itself, once it has given its first frame.

    Raises InvalidInput for a URL that is not allowed, SourceFailed or Unavailable as ``PyavSource``.
    """
    source = PyavSource(url, options, clock, transport=transport, mode=mode)
    loop = asyncio.get_running_loop()
    first = asyncio.Event()

    def take(_frame: Frame) -> None:
        loop.call_soon_threadsafe(first.set)

    try:
        info = await source.open(take)
        begun, end = asyncio.ensure_future(first.wait()), asyncio.ensure_future(source.ended())
        try:
            await asyncio.wait((begun, end), return_when=asyncio.FIRST_COMPLETED)
            if end.done() and not first.is_set():
                await end
                raise SourceFailed("the source ended before its first picture", code="source_lost")
        finally:
            begun.cancel()
            end.cancel()
        return info
    finally:
        await source.close()
