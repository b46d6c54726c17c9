"""A camera made of a video file, for trying the service without one: MPEG-TS over HTTP, in real time, for ever."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import io
import math
import re
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self
from urllib.parse import quote

import av
import av.error
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from face_server.errors import ConfigurationError, InvalidInput

_CODECS = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})
_MAX_BYTES = 1 << 29
_MAX_REQUEST = 8192
_PATIENCE_S = 5.0
# Decoding times of the first pictures lie before their presentation; MPEG-TS has no times below zero.
_LEAD_S = 1


@dataclass(frozen=True, slots=True)
class _Unit:
    """A coded picture: times in seconds from the start of the file."""

    packet: Packet[VideoStream]
    pts_s: Fraction
    dts_s: Fraction


class _Video:
    """The coded pictures of a file, in memory, in decoding order."""

    def __init__(self, file: Path) -> None:
        try:
            self._container: InputContainer = av.open(str(file), options={"protocol_whitelist": "file"})
        except (av.error.FFmpegError, OSError) as error:
            raise InvalidInput("the file is missing or is no video", field="file") from error
        try:
            self.stream: VideoStream = self._playable()
            self.units = self._read()
        except BaseException:
            self._container.close()
            raise
        self.keyframes = [number for number, unit in enumerate(self.units) if unit.packet.is_keyframe]
        if not self.keyframes:
            self.close()
            raise InvalidInput("the file holds no picture to start from", field="file")
        self._starts = [float(self.units[number].pts_s) for number in self.keyframes]
        last = max(self.units, key=lambda unit: unit.pts_s)
        rate = self.stream.average_rate or Fraction(25)
        self.duration_s = last.pts_s + 1 / rate

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    def start_at(self, position_s: float) -> int:
        """The keyframe from which on ``position_s`` can be shown."""
        return self.keyframes[max(0, bisect.bisect_right(self._starts, position_s) - 1)]

    def _playable(self) -> VideoStream:
        stream = next(iter(self._container.streams.video), None)
        if stream is None:
            raise InvalidInput("the file has no video track", field="file")
        if stream.codec_context is None or stream.codec_context.name not in _CODECS:
            raise InvalidInput("a demo camera sends H.264, H.265 or MPEG-4 as it is in the file; convert this one first", field="file")
        return stream

    def _read(self) -> list[_Unit]:
        units: list[_Unit] = []
        size = 0
        for packet in self._container.demux(self.stream):
            if packet.pts is None or packet.dts is None or packet.time_base is None:
                continue
            size += packet.size
            if size > _MAX_BYTES:
                raise InvalidInput(f"a demo camera plays at most {_MAX_BYTES >> 20} MiB of video", field="file")
            units.append(_Unit(packet, packet.pts * packet.time_base, packet.dts * packet.time_base))
        first = min((unit.pts_s for unit in units), default=Fraction(0))
        return [_Unit(unit.packet, unit.pts_s - first, unit.dts_s - first) for unit in units]


class _Sink(io.RawIOBase):
    """Where a muxer writes to."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: object) -> int:
        """Keep the bytes until ``taken``."""
        piece = bytes(data)  # type: ignore[call-overload]  # whatever holds bytes
        self.data += piece
        return len(piece)

    def taken(self) -> bytes:
        """What was written since the last time."""
        data = bytes(self.data)
        self.data.clear()
        return data


class _Muxer:
    """One viewer's MPEG-TS."""

    def __init__(self, video: _Video) -> None:
        self._sink = _Sink()
        self._output: OutputContainer = av.open(self._sink, "w", format="mpegts", options={"flush_packets": "1"})
        self._stream = self._output.add_stream_from_template(video.stream)

    def add(self, unit: _Unit, start_s: Fraction) -> bytes:
        """The bytes of a coded picture whose file began at ``start_s`` of this camera's life."""
        packet, base = unit.packet, Fraction(1, 90_000)
        packet.time_base = base
        packet.pts = round((unit.pts_s + start_s + _LEAD_S) / base)
        packet.dts = round((unit.dts_s + start_s + _LEAD_S) / base)
        packet.stream = self._stream
        self._output.mux(packet)
        return self._sink.taken()

    def close(self) -> None:
        """End the stream."""
        self._output.close()


class DemoCamera:
    """Serves ``file`` at ``url``; every viewer sees the same moment, as with a real camera.

    The coded pictures are sent as they are, so that a viewer costs next to nothing. Time stamps go
    on over the loops. The file is read into memory by ``start``, which raises InvalidInput (field
    "file") for what is no H.264, H.265 or MPEG-4 video or too large, ConfigurationError for a port
    that is taken. More than ``max_viewers`` are answered 503; one that does not read is dropped.
    """

    def __init__(self, file: Path, host: str = "127.0.0.1", port: int = 0, *, max_viewers: int = 8) -> None:
        self._file = file
        self._host = host
        self._port = port
        self._max_viewers = max_viewers
        self._video: _Video | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._viewers = 0
        self._began_at = 0.0

    @property
    def url(self) -> str:
        """Where it is seen; with port 0 known once it has started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}{self._path}"

    @property
    def viewers(self) -> int:
        """How many watch now."""
        return self._viewers

    async def start(self) -> None:
        """Read the file and listen."""
        self._video = await asyncio.to_thread(_Video, self._file)
        try:
            self._server = await asyncio.start_server(self._answer, self._host, self._port, limit=_MAX_REQUEST)
        except OSError as error:
            self._video.close()
            raise ConfigurationError(f"port {self._port} of {self._host} cannot be listened on; choose another") from error
        self._port = self._server.sockets[0].getsockname()[1]
        self._began_at = time.monotonic()

    async def stop(self) -> None:
        """Send every viewer away. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=1.0)
        if self._video is not None:
            self._video.close()
            self._video = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    @property
    def _path(self) -> str:
        return "/" + quote(re.sub(r"\s+", "_", self._file.stem)) + ".ts"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task, video = asyncio.current_task(), self._video
        if task is None or video is None:
            writer.close()
            return
        self._connections.add(task)
        try:
            with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await self._serve(video, reader, writer)
        except asyncio.CancelledError:
            # asyncio reports cancelled connections as failures of the server; ``stop`` cancels them on purpose.
            if self._server is not None:
                raise
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, video: _Video, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            method, _, rest = (await reader.readuntil(b"\r\n\r\n")).partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
        status = "200 OK"
        if path != self._path:
            status = "404 Not Found"
        elif method not in (b"GET", b"HEAD"):
            status = "405 Method Not Allowed"
        elif self._viewers >= self._max_viewers:
            status = "503 Service Unavailable"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: video/mp2t\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n".encode())
        if status.startswith("200") and method == b"GET":
            self._viewers += 1
            try:
                await self._play(video, writer)
            finally:
                self._viewers -= 1

    async def _play(self, video: _Video, writer: asyncio.StreamWriter) -> None:
        """Send from the last keyframe up to now at once, and from there on in real time."""
        muxer = _Muxer(video)
        try:
            loops, position_s = divmod(time.monotonic() - self._began_at, float(video.duration_s))
            start_s, number = math.floor(loops) * video.duration_s, video.start_at(position_s)
            while True:
                for unit in video.units[number:]:
                    wait_s = self._began_at + float(start_s + unit.dts_s) - time.monotonic()
                    if wait_s > 0:
                        await asyncio.sleep(wait_s)
                    writer.write(muxer.add(unit, start_s))
                    async with asyncio.timeout(_PATIENCE_S):
                        await writer.drain()
                start_s, number = start_s + video.duration_s, 0
        finally:
            muxer.close()
