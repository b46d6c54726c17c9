"""What is known of a stream right now: counters of its frames, and where it stands."""

from __future__ import annotations

import math
import statistics
import threading
from collections import deque

from face_server.domain.frame import Frame, SourceInfo
from face_server.domain.ports import Clock
from face_server.domain.streams import StreamState, StreamStatus
from face_server.telemetry import redact

RATE_WINDOW_S = 10
LATENCIES = 100


class Rate:
    """Occurrences a second over the last ten whole seconds, in constant memory."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque(maxlen=RATE_WINDOW_S + 1)
        self._first_at = math.nan

    def add(self, at: float) -> None:
        """One more, at ``at`` seconds."""
        if math.isnan(self._first_at):
            self._first_at = at
        second = math.floor(at)
        if self._counts and self._counts[-1][0] == second:
            second, count = self._counts.pop()
            self._counts.append((second, count + 1))
        else:
            self._counts.append((second, 1))

    def read(self, now: float) -> float:
        """The rate now. The current second has not passed and is left out, unless nothing else is known."""
        current = math.floor(now)
        recent = [(second, count) for second, count in self._counts if second >= current - RATE_WINDOW_S]
        whole = sum(count for second, count in recent if second < current)
        begin = max(self._first_at, current - RATE_WINDOW_S)
        if whole and current - begin >= 1.0:
            return whole / (current - begin)
        everything = sum(count for _, count in recent)
        elapsed = now - begin
        return everything / elapsed if everything > 1 and elapsed >= 0.5 else 0.0


class FrameCounts:
    """Counts the frames of a stream, through all of its connections. Safe from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rate = Rate()
        self._flowing_since: float | None = None
        self.last_at: float | None = None
        """``Clock.monotonic`` seconds of the last frame's arrival."""
        self.last_taken_at: float | None = None
        """Unix seconds of the last frame's arrival."""
        self.size = (0, 0)
        self.decoded = 0
        self.dropped = 0
        self.stale = 0
        self._stale_rate = Rate()

    def decode(self, frame: Frame) -> None:
        """A frame arrived."""
        now = self._clock.monotonic()
        with self._lock:
            self.decoded += 1
            self.size = (frame.width, frame.height)
            self._rate.add(now)
            if self._flowing_since is None:
                self._flowing_since = now
            self.last_at = now
            self.last_taken_at = self._clock.now()

    def drop(self, frames: int = 1) -> None:
        """Frames that were due gave way to newer ones."""
        with self._lock:
            self.dropped += frames

    def expire(self, frames: int = 1) -> None:
        """Frames that were due were too old."""
        with self._lock:
            self.stale += frames
            self._stale_rate.add(self._clock.monotonic())

    @property
    def flowing(self) -> bool:
        """Whether frames come, as far apart as the source makes them."""
        with self._lock:
            return self._flowing_since is not None

    def interrupted(self) -> None:
        """Frames stopped coming."""
        with self._lock:
            self._flowing_since = None

    @property
    def flowing_s(self) -> float:
        """For how long frames have come without a gap."""
        with self._lock:
            return 0.0 if self._flowing_since is None or self.last_at is None else self.last_at - self._flowing_since

    @property
    def away_s(self) -> float:
        """Seconds since the last frame; infinite before the first."""
        with self._lock:
            return math.inf if self.last_at is None else self._clock.monotonic() - self.last_at

    def fps(self) -> float:
        """Frames that arrived a second."""
        with self._lock:
            return self._rate.read(self._clock.monotonic())

    def stale_fps(self) -> float:
        """Frames a second that were due and too old."""
        with self._lock:
            return self._stale_rate.read(self._clock.monotonic())


class StreamRecord:
    """Where a stream stands. Everything but ``frames`` belongs to the event loop."""

    def __init__(self, stream_id: str, clock: Clock) -> None:
        self.id = stream_id
        self._clock = clock
        self.frames = FrameCounts(clock)
        self.state = StreamState.STOPPED
        self.since = clock.now()
        self.reason = ""
        self.code = ""
        self.connected = False
        self.codec = ""
        self.connections = 0
        """Connections that could be made."""
        self.last_error = ""
        self.analysed = 0
        self.last_analysed_at: float | None = None
        self.trouble = ""
        """Why frames that arrive are not analysed."""
        self._analysed_rate = Rate()
        self._latencies: deque[float] = deque(maxlen=LATENCIES)

    def enter(self, state: StreamState, reason: str = "", code: str = "") -> None:
        """Be in ``state`` from now on, for a reason that names no address."""
        if state is not self.state:
            self.since = self._clock.now()
        self.state, self.reason, self.code = state, redact(reason), code

    def error(self, message: str) -> None:
        """Remember the last error."""
        self.last_error = redact(message)

    def connect(self, info: SourceInfo) -> None:
        """A connection was made."""
        self.connected = True
        self.connections += 1
        self.codec = info.codec
        self.frames.size = (info.width, info.height)

    def disconnect(self) -> None:
        """A connection ended."""
        self.connected = False
        self.frames.interrupted()

    def analyse(self, captured_at: float) -> None:
        """A frame that was captured at ``captured_at`` has been looked at."""
        now = self._clock.monotonic()
        self.analysed += 1
        self.last_analysed_at = self._clock.now()
        self._analysed_rate.add(now)
        self._latencies.append(max(0.0, now - captured_at))

    def status(self, *, attempts: int, waiting: str, publishing: str, viewers: int, problem: str = "") -> StreamStatus:
        """All of it, for people. ``waiting`` is why events are not stored, ``problem`` why not everybody is recognised, if so."""
        frames, now = self.frames, self._clock.monotonic()
        width, height = frames.size
        away_s = frames.away_s
        latencies = sorted(self._latencies)
        reason, code = self.reason or redact(self._hindrance() or waiting), self.code
        if problem and not reason and self.state is StreamState.RUNNING:
            reason, code = redact(problem), "recognition_incomplete"
        return StreamStatus(
            id=self.id,
            state=self.state,
            since=self.since,
            reason=reason,
            code=code,
            attempts=attempts,
            connected=self.connected,
            width=width,
            height=height,
            codec=self.codec,
            source_fps=round(frames.fps(), 2),
            analysed_fps=round(self._analysed_rate.read(now), 2),
            decoded=frames.decoded,
            analysed=self.analysed,
            dropped=frames.dropped,
            stale=frames.stale,
            last_frame_age_s=None if math.isinf(away_s) else away_s,
            last_analysed_at=self.last_analysed_at,
            latency_s=statistics.median(latencies) if latencies else None,
            latency_p95_s=latencies[min(len(latencies) - 1, math.ceil(0.95 * len(latencies)) - 1)] if latencies else None,
            reconnects=max(0, self.connections - 1),
            last_error=self.last_error,
            publishing=publishing,
            viewers=viewers,
        )

    def _hindrance(self) -> str:
        """Why a stream that runs recognises nobody."""
        if self.state is not StreamState.RUNNING:
            return ""
        if not self.trouble and not self._analysed_rate.read(self._clock.monotonic()) and self.frames.stale_fps():
            return "every frame arrives later than staleness_s allows"
        return self.trouble
