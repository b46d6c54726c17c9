"""A source read by FFmpeg's libraries."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator

import av
import av.error
import cv2
import numpy as np
from av.codec.codec import UnknownCodecError
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from face_server.domain.frame import SourceInfo
from face_server.domain.image import Pixels
from face_server.domain.ports import Clock
from face_server.domain.streams import Transport
from face_server.errors import SourceFailed
from face_server.video.camera_addresses import existing_file, is_device, is_file, resolve_and_check
from face_server.video.capture_options import CaptureOptions
from face_server.video.reader import Decoded, Progress
from face_server.video.source_clock import Playback, SourceClock, Timing, Unpaced
from face_server.video.source_errors import source_failure

# Demuxers that play what they are given; none that opens further files but HLS, whose protocols are bounded.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,m4v,mjpeg,mpjpeg,mxf,ivf"
_HLS = "hls,applehttp,aac,mp3,ac3,webvtt"
_UNTIMED = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "m4v", "mpegvideo"})
"""Formats without time stamps: FFmpeg invents some at 25 frames a second."""

_GRACE_S = 1.0
"""How much later than the watchdog the library gives up: it ends with a half-read picture, or with an error that misleads."""
_WAITED_S = 0.001
_TRUSTED_RUN = 3
"""So many sound pictures in a row, and the decoder is believed again."""
_ONE_THREAD = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}
"""How a picture is converted without further threads, which PyAV 16 does anyway."""
_ROTATIONS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}


class PyavConnection:
    """One connection through PyAV.

    RTSP asks for video only and probes for a tenth of a second, so that it opens in about 0.2 s.
    Decoding uses one thread: frame threads would hold back as many pictures as there are threads.
    Certificates of rtsps and https cameras are not verified: cameras sign their own. HTTP redirects
    are not followed, as they lead past the check of addresses; no proxy is used.
    """

    def __init__(self, url: str, options: CaptureOptions, clock: Clock, transport: Transport) -> None:
        self._url = url
        self._options = options
        self._clock = clock
        self._transport = transport
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None

    def open(self) -> SourceInfo:
        """See Connection."""
        address, name, settings = self._address()
        timeout = (self._options.open_timeout_s + _GRACE_S, self._options.read_timeout_s + _GRACE_S)
        try:
            self._container = av.open(address, format=name, options=settings, timeout=timeout)
        except (av.error.FFmpegError, OSError, ValueError, UnknownCodecError) as error:
            raise source_failure(error, opening=True, local=self._local) from error
        stream = next(iter(self._container.streams.video), None)
        if stream is None:
            raise SourceFailed("the source has no video track", code="source_codec", needs_operator=True)
        # PyAV gives tracks whose codec this FFmpeg cannot decode no codec context.
        if stream.codec_context is None:
            raise SourceFailed("the video codec of the source is not supported", code="source_codec", needs_operator=True)
        stream.codec_context.thread_count = 1
        self._stream = stream
        rate = stream.average_rate or stream.guessed_rate
        size = (stream.codec_context.width, stream.codec_context.height)
        return SourceInfo(*size, float(rate or 0.0), stream.codec_context.name, live=not self._recorded or self._options.realtime)

    def timing(self) -> Timing:
        """See Connection."""
        if self._recorded:
            return Playback() if self._options.realtime else Unpaced()
        return Playback() if self._format == "hls" else SourceClock()

    def pictures(self, progress: Progress, behind: Callable[[float | None], bool]) -> Iterator[Decoded]:
        """See Connection.

        Pictures that the decoder itself marks as damaged are left out: they would show faces that
        nobody has. So are the first pictures after something that could not be decoded: of pure noise
        about one packet in a hundred passes for a sound picture, but never several in a row.
        """
        if self._container is None or self._stream is None:
            raise SourceFailed("the source is not open", code="source_lost")
        stream, context = self._stream, self._stream.codec_context
        untimed = self._format in _UNTIMED and not self._recorded
        packets = self._container.demux(stream)
        skipping, skipped, sound = False, 0, _TRUSTED_RUN
        while True:
            progress.blocked_since = started = self._clock.monotonic()
            begun = time.perf_counter()
            try:
                packet = next(packets)
            except (StopIteration, av.error.EOFError):
                break
            except (av.error.FFmpegError, OSError) as error:
                raise source_failure(error, opening=False, local=self._local) from error
            prompt = time.perf_counter() - begun > _WAITED_S
            at = None if packet.pts is None or packet.time_base is None else float(packet.pts * packet.time_base)
            if skipping or behind(at):
                skipping = not packet.is_keyframe or (not prompt and behind(at))
                if skipping:
                    skipped += 1
                    # What is thrown away on purpose is no sign of a broken camera.
                    progress.picture_at = progress.picture_at if prompt else started
                    continue
                context.flush_buffers()
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, OSError, ValueError):
                skipped, sound = skipped + 1, 0
                continue
            for frame in frames:
                sound = sound + 1 if isinstance(frame, VideoFrame) and not frame.is_corrupt else 0
                if not isinstance(frame, VideoFrame) or sound < _TRUSTED_RUN:
                    skipped += 1
                    continue
                media_s = None if untimed or frame.time is None else frame.time
                yield Decoded(_upright_size(frame), Converter(frame), media_s, prompt, skipped)
                skipped = 0
        if not self._recorded:
            raise SourceFailed("the camera ended the connection", code="source_lost")

    def close(self) -> None:
        """See Connection."""
        container, self._container, self._stream = self._container, None, None
        if container is not None:
            container.close()

    @functools.cached_property
    def _local(self) -> bool:
        return is_file(self._url) or is_device(self._url)

    @functools.cached_property
    def _recorded(self) -> bool:
        """Whether it has an end: a file here, or one that a web server holds."""
        if self._local:
            return is_file(self._url)
        return self._container is not None and self._url[:4].lower() == "http" and bool(self._container.duration) and self._format != "hls"

    @property
    def _format(self) -> str:
        return "" if self._container is None else self._container.format.name.partition(",")[0]

    def _address(self) -> tuple[str, str | None, dict[str, str]]:
        """What FFmpeg is given: address, format (None: probed), options."""
        if is_device(self._url):
            return self._url, "video4linux2", {}
        if is_file(self._url):
            return str(existing_file(self._url, self._options)), None, {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
        resolve_and_check(self._url, self._options)
        scheme, _, rest = self._url.partition("://")
        scheme = scheme.lower()
        microseconds = str(int((max(self._options.open_timeout_s, self._options.read_timeout_s) + _GRACE_S) * 1e6))
        probe = {"analyzeduration": "100000"}
        if scheme.startswith("rtsp"):
            transport = "tcp" if scheme != "rtsp" else str(self._transport)
            address = "rtsp://" + rest if scheme == "rtspt" else self._url
            return (
                address,
                "rtsp",
                probe
                | {
                    "rtsp_transport": transport,
                    "allowed_media_types": "video",
                    "timeout": microseconds,
                    "max_delay": "100000",
                    "protocol_whitelist": "rtsp,rtsps,rtp,srtp,udp,tcp,tls,crypto",
                },
            )
        settings = probe | {"rw_timeout": microseconds, "format_whitelist": f"{_FORMATS},{_HLS}"}
        if scheme.startswith("rtmp"):
            return self._url, None, settings | {"protocol_whitelist": "rtmp,rtmps,tcp,tls"}
        return self._url, None, settings | {"protocol_whitelist": "http,https,tcp,tls,crypto", "max_redirects": "0", "http_proxy": ""}


class Converter:
    """Turns a decoded picture into pixels: right colours, upright, from any thread.

    The matrix (BT.601, BT.709, BT.2020) and the range (limited, full) are those that the stream
    states; BT.601 and limited where it states none, as FFmpeg assumes.
    """

    __slots__ = ("_frame", "_lock")

    def __init__(self, frame: VideoFrame) -> None:
        self._frame = frame
        # A frame is changed for a moment while it is converted.
        self._lock = threading.Lock()

    def __call__(self, width: int, height: int) -> Pixels:
        """``height``×``width``×3 uint8 BGR."""
        rotation = self._frame.rotation % 360
        if rotation in (90, 270):
            width, height = height, width
        smaller = width < self._frame.width or height < self._frame.height
        with self._lock:
            picture = self._frame.reformat(width, height, "bgr24", interpolation="AREA" if smaller else "BILINEAR", **_ONE_THREAD)
        plane = picture.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
        # Copies only where rows are padded.
        pixels = np.ascontiguousarray(rows[:, : width * 3].reshape(height, width, 3))
        return np.asarray(cv2.rotate(pixels, _ROTATIONS[rotation]), np.uint8) if rotation in _ROTATIONS else pixels


def _upright_size(frame: VideoFrame) -> tuple[int, int]:
    return (frame.height, frame.width) if frame.rotation % 360 in (90, 270) else (frame.width, frame.height)
