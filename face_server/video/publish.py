"""A stream sent to a media server by RTMP or RTSP, through an ffmpeg that is watched and replaced."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from face_server.domain.frame import Frame
from face_server.domain.ports import Clock
from face_server.domain.stream_ports import DrawScene
from face_server.domain.tracks import SeenTrack
from face_server.errors import FaceServerError, InvalidInput, Unavailable
from face_server.video.composing import Composer, published_size
from face_server.video.encoding import EncodingPlan, publish_arguments, reason_of, secrets_of
from face_server.video.ffmpeg import FfmpegProcess, find_ffmpeg
from face_server.video.overlay import Overlay
from face_server.video.pacing import FrameRate, Pacer

_log = logging.getLogger(__name__)

SCHEMES = ("rtmp", "rtmps", "rtsp", "rtsps")

_MAX_WAITING = 4
"""Frames that may wait while one is drawn and sent: enough for a hiccup, too few to lag."""

_SETTLED_S = 1.0
"""A new size of the source must hold for so long before the encoder is started anew for it."""

_LISTEN_S = 0.25
"""The process is listened to at least so often, however few frames come."""

_HEALTHY_S = 10.0
"""After so long of publishing the next failure is retried at once again."""


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """How a stream is published.

    ``title`` stands in the corner and on the card. ``fps`` 0 is the source's own rate (at most
    ``max_fps``). A source larger than ``max_long_px`` × ``max_short_px`` is scaled down.
    ``max_kbps`` 0 follows from size and rate. ``preset`` is x264's: of a street in full HD superfast
    was as good as veryfast at the same bitrate (42.5 dB) for half the time. ``ffmpeg`` is the program (None: found). Without
    frames for ``away_s`` the card is shown; before any frame came, after ``first_frame_s``, at
    ``card_width`` × ``card_height``. The media server has failed when it does not take the stream
    within ``connect_s`` or takes nothing for ``stall_s``; it is tried again after ``backoff_s``, then
    doubled up to ``max_backoff_s``.
    """

    title: str = ""
    fps: float = 0.0
    max_fps: float = 60.0
    max_long_px: int = 1920
    max_short_px: int = 1080
    max_kbps: int = 0
    preset: str = "superfast"
    ffmpeg: Path | None = None
    first_frame_s: float = 3.0
    away_s: float = 2.0
    card_width: int = 1280
    card_height: int = 720
    card_fps: float = 25.0
    connect_s: float = 8.0
    stall_s: float = 4.0
    backoff_s: float = 0.5
    max_backoff_s: float = 5.0


def check_publish_url(url: str) -> None:
    """Raise InvalidInput (field ``url``) unless the URL is one that can be published to. Nothing is connected."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in SCHEMES and bool(parts.hostname) and (parts.port or 1) > 0 and parts.path.strip("/") != ""
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise InvalidInput("a stream is published to rtmp://host/app/name or rtsp://host/name (rtmps and rtsps likewise)", field="url")


class FfmpegView:
    """``LiveView`` that draws, encodes and pushes in one thread of its own and one ffmpeg process.

    It begins at once and is always on: what fails is begun again. ``take`` and ``show`` only leave
    references behind, so that neither a slow encoder nor a frozen media server holds up anybody.
    ``url`` holds a stream key or credentials: it is in no log and no ``state``, but, as with any
    ffmpeg, in the list of processes of this machine. Raises InvalidInput for a malformed URL.
    """

    def __init__(self, url: str, clock: Clock, draw: DrawScene, options: PublishOptions = PublishOptions()) -> None:
        check_publish_url(url)
        self._url = url
        self._clock = clock
        self._draw = draw
        self._options = options
        self._overlay = Overlay()
        self._waiting: deque[Frame] = deque(maxlen=_MAX_WAITING)
        self._arrived = threading.Condition()
        self._closing = threading.Event()
        self._closed = False
        self._closers: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._rate = FrameRate()
        self._newest: Frame | None = None
        self._newest_at = clock.monotonic()
        self._plan: EncodingPlan | None = None
        self._resized_at: float | None = None
        self._state = "connecting"
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)
        self._thread.start()

    def take(self, frame: Frame) -> None:
        """See ``LiveView.take``."""
        with self._arrived:
            if not self._closing.is_set():
                self._waiting.append(frame)
                self._arrived.notify()

    def show(self, tracks: Sequence[SeenTrack], frame: Frame) -> None:
        """See ``LiveView.show``."""
        self._overlay.show(tracks, width=frame.width, height=frame.height, at=frame.captured_at)

    @property
    def state(self) -> str:
        """See ``LiveView.state``: publishing, connecting, or waiting and why; stopped once closed."""
        return self._state

    async def close(self) -> None:
        """See ``LiveView.close``."""
        done = asyncio.get_running_loop().create_future()
        with self._arrived:
            self._closing.set()
            self._waiting.clear()
            self._arrived.notify()
            if self._closed:
                return
            self._closers.append((asyncio.get_running_loop(), done))
        await done

    def _run(self) -> None:
        """What the thread does until the view is closed."""
        attempts = 0
        try:
            while not self._closing.is_set():
                begun_at = self._clock.monotonic()
                try:
                    self._publish(self._planned())
                    continue
                except FaceServerError as error:
                    reason = error.message
                except Exception:  # noqa: BLE001 - the thread has no caller: without it the stream would stay dark for ever
                    _log.exception("publishing failed unexpectedly")
                    reason = "an internal error"
                attempts = 1 if self._clock.monotonic() - begun_at > _HEALTHY_S else attempts + 1
                self._wait(reason, attempts)
        finally:
            with self._arrived:
                self._closed = True
                self._state = "stopped"
                self._waiting.clear()
                self._newest = None
                for loop, done in self._closers:
                    _resolve(loop, done)

    def _wait(self, reason: str, attempts: int) -> None:
        if self._closing.is_set():
            return
        state = f"waiting: {reason}"
        if state != self._state:
            _log.warning("publishing %s: %s", self._options.title or "a stream", reason)
        self._state = state
        longest = min(self._options.max_backoff_s, self._options.backoff_s * 2.0 ** min(attempts - 1, 16))
        self._closing.wait(longest * random.uniform(0.5, 1.0))  # noqa: S311 - spreads attempts, keeps no secret

    def _planned(self) -> EncodingPlan:
        """Size and rate of what comes; waits for the first frames, but not for ever."""
        until = self._clock.monotonic() + self._options.first_frame_s
        while not self._closing.is_set() and not self._rate.value and (left := until - self._clock.monotonic()) > 0:
            self._next_frame(min(left, 0.1))
        self._plan = self._wanted()
        self._resized_at = None
        return self._plan

    def _wanted(self) -> EncodingPlan:
        options, frame, before = self._options, self._newest, self._plan
        size = (options.card_width, options.card_height) if frame is None else (frame.width, frame.height)
        width, height = published_size(*size, max_long_px=options.max_long_px, max_short_px=options.max_short_px)
        fps = min(options.fps or self._rate.value, options.max_fps)
        if not fps:
            fps = before.fps if before is not None else options.card_fps
        return EncodingPlan(width, height, fps, settled=bool(options.fps or self._rate.value))

    def _outgrown(self, plan: EncodingPlan) -> bool:
        """Whether the source has become another one for long enough to encode it anew."""
        wanted = self._wanted()
        if not plan.settled and wanted.settled and abs(wanted.fps - plan.fps) > 0.05 * plan.fps:
            return True
        if (wanted.width, wanted.height) == (plan.width, plan.height):
            self._resized_at = None
            return False
        now = self._clock.monotonic()
        self._resized_at = self._resized_at if self._resized_at is not None else now
        return now - self._resized_at >= _SETTLED_S

    def _publish(self, plan: EncodingPlan) -> None:
        """One ffmpeg from start to end: returns when another one is needed at once, raises when it failed."""
        if self._closing.is_set():
            return
        options = self._options
        arguments = publish_arguments(self._url, plan, preset=options.preset, max_kbps=options.max_kbps, timeout_s=options.stall_s)
        process = FfmpegProcess(find_ffmpeg(options.ffmpeg), arguments, self._clock, secrets=secrets_of(self._url))
        try:
            self._feed(process, plan)
        except Unavailable as error:
            process.end()
            raise Unavailable(reason_of(error.code, process), code=error.code) from error
        finally:
            process.end()

    def _feed(self, process: FfmpegProcess, plan: EncodingPlan) -> None:
        options = self._options
        pacer = Pacer(plan.fps)
        composer = Composer(plan.width, plan.height, draw=self._draw, overlay=self._overlay, title=options.title)
        picture: memoryview | None = None
        fed = 0
        while not self._closing.is_set():
            frame = self._next_frame(min(1 / plan.fps, _LISTEN_S))
            now = self._clock.monotonic()
            slots = pacer.silence(now) if frame is None else pacer.frame(frame.captured_at, now)
            if self._outgrown(plan):
                return
            # Repeats come before the picture that follows them.
            for left in range(slots, 0, -1):
                if left == 1 or picture is None:
                    picture = self._picture(composer)
                if not process.write(picture, stall_s=options.stall_s if process.frames else options.connect_s, keep_on=self._goes_on):
                    return
                fed += 1
                if fed == 1:
                    # It waited for the connection: time has passed that nobody needs to see.
                    pacer.restart()
                    break
            process.listen()
            self._judge(process, fed, 3 / plan.fps)

    def _picture(self, composer: Composer) -> memoryview:
        frame, now = self._newest, self._clock.now()
        silent_s = self._clock.monotonic() - self._newest_at
        if frame is None or silent_s > self._options.away_s:
            return composer.card(None if frame is None else frame.taken_at, now)
        return composer.frame(frame)

    def _judge(self, process: FfmpegProcess, fed: int, least_s: float) -> None:
        """Notice a process that takes pictures and sends none for the stall time, at least ``least_s``."""
        if process.frames:
            if self._state != "publishing":
                _log.info("publishing %s", self._options.title or "a stream")
            self._state = "publishing"
        limit_s = max(least_s, self._options.stall_s if process.frames else self._options.connect_s)
        if fed > process.frames and self._clock.monotonic() - process.progressed_at > limit_s:
            raise Unavailable("ffmpeg sends nothing", code="publish_stalled")

    def _goes_on(self) -> bool:
        return not self._closing.is_set()

    def _next_frame(self, timeout_s: float) -> Frame | None:
        """The oldest waiting frame; None when none comes in time. It is then the newest one known."""
        with self._arrived:
            if not self._waiting and not self._closing.is_set():
                self._arrived.wait(timeout_s)
            if not self._waiting:
                return None
            frame = self._waiting.popleft()
        self._rate.add(frame.number, frame.captured_at)
        self._newest, self._newest_at = frame, self._clock.monotonic()
        return frame


def _resolve(loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
    def resolve() -> None:
        if not done.done():
            done.set_result(None)

    if not loop.is_closed():
        loop.call_soon_threadsafe(resolve)
