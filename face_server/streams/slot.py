"""Where the thread of a source and the event loop meet: which frames are analysed, and which are not."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable

from face_server.domain.frame import Frame
from face_server.domain.ports import Clock
from face_server.domain.streams import FramePolicy, StreamRules
from face_server.streams.status import FrameCounts

_HELD_OF_A_FILE = 2
_QUEUED = 16


class Pace:
    """Says which frames are due so that no more than ``max_fps`` a second are; 0 is no bound.

    It counts by the frames' own times and catches up within one period, so that 10 of 25 frames
    a second are 10 and not 8.
    """

    def __init__(self, max_fps: float) -> None:
        self._period_s = 1.0 / max_fps if max_fps else 0.0
        self._due_at: float | None = None

    def due(self, at: float) -> bool:
        """Whether the frame of ``at`` seconds is due."""
        if not self._period_s:
            return True
        # A millisecond of grace: time stamps are rounded. Time that runs back is another recording.
        if self._due_at is not None and self._due_at - self._period_s - 1.0 < at < self._due_at - 0.001:
            return False
        late = self._due_at is None or not self._due_at - 0.001 <= at < self._due_at + self._period_s
        self._due_at = (at if late or self._due_at is None else self._due_at) + self._period_s
        return True


class FrameSlot:
    """Holds the frames of one connection that wait to be analysed: one of a live source, unless every one counts.

    Live sources are never held back: what is not analysed in time is dropped and counted, what is
    older than the staleness budget too. Files are held back instead. The event loop is woken
    only for a frame that is due while somebody waits for it. Every frame also goes to ``tap``.
    """

    def __init__(self, rules: StreamRules, clock: Clock, counts: FrameCounts, tap: Callable[[Frame], None]) -> None:
        self._clock = clock
        self._counts = counts
        self._tap = tap
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Condition(threading.Lock())
        self._frames: deque[Frame] = deque()
        self._filled = asyncio.Event()
        self._waiting = False
        self._live: bool | None = None
        self._over = False
        self._closed = False
        self._rules = rules
        self._pace = Pace(rules.max_fps)
        self._since = clock.monotonic()

    def change(self, rules: StreamRules) -> None:
        """Choose frames by other rules from now on."""
        with self._lock:
            if rules.max_fps != self._rules.max_fps:
                self._pace = Pace(rules.max_fps)
            self._rules = rules
            self._lock.notify_all()

    def begin(self, *, live: bool) -> None:
        """The source is open. Until this is said, frames are held back: they may be those of a file."""
        with self._lock:
            self._live = live
            self._since = self._clock.monotonic()
            if live and self._rules.frames is FramePolicy.NEWEST:
                while len(self._frames) > 1:
                    self._frames.popleft()
                    self._counts.drop()
            self._lock.notify_all()

    def take(self, frame: Frame) -> None:
        """A decoded frame; called in the thread of the source. Returns at once, except for files."""
        if self._closed:
            return
        self._counts.decode(frame)
        self._tap(frame)
        with self._lock:
            if self._live is not True:
                self._take_of_file(frame)
            else:
                self._take_live(frame)
            wake = self._waiting and bool(self._frames)
            if wake:
                self._waiting = False
        if wake:
            self._wake()

    async def next(self) -> Frame | None:
        """The next frame to analyse; None once the source is over and nothing is left. May be cancelled at any time."""
        while True:
            with self._lock:
                frame = self._pop()
                if frame is not None or self._over:
                    return frame
                self._waiting = True
                self._filled.clear()
            await self._filled.wait()

    def finish(self) -> None:
        """The source is over: what is still here is to be analysed."""
        with self._lock:
            self._over = True
        self._filled.set()

    def close(self) -> None:
        """Take nothing any more, let go of a source that is held back, and of who waits. Idempotent."""
        with self._lock:
            self._closed = self._over = True
            self._frames.clear()
            self._lock.notify_all()
        self._filled.set()

    def silence_s(self) -> float:
        """For how long the source has brought nothing; 0 while it is being held back."""
        with self._lock:
            if self._frames and not self._live:
                self._since = self._clock.monotonic()
                return 0.0
            last_at = self._counts.last_at
            return self._clock.monotonic() - (self._since if last_at is None else max(self._since, last_at))

    def _due(self, frame: Frame) -> bool:
        rules = self._rules
        if rules.frames is FramePolicy.NTH and frame.number % rules.every_nth:
            return False
        return self._pace.due(frame.captured_at if self._live else frame.position_s)

    def _take_of_file(self, frame: Frame) -> None:
        if not self._due(frame):
            return
        self._lock.wait_for(lambda: len(self._frames) < _HELD_OF_A_FILE or self._live or self._closed)
        if not self._closed:
            self._frames.append(frame)

    def _take_live(self, frame: Frame) -> None:
        frames, due = self._frames, self._due(frame)
        if due and self._is_stale(frame):
            self._counts.expire()
        elif self._rules.frames is FramePolicy.NEWEST:
            if due or frames:
                # A frame that is owed may be newer than the one that was due.
                self._counts.drop(len(frames) if due else 0)
                frames.clear()
                frames.append(frame)
        elif due:
            if len(frames) >= _QUEUED:
                frames.popleft()
                self._counts.drop()
            frames.append(frame)

    def _pop(self) -> Frame | None:
        while self._frames:
            frame = self._frames.popleft()
            self._lock.notify_all()
            if not (self._live and self._is_stale(frame)):
                return frame
            self._counts.expire()
        return None

    def _is_stale(self, frame: Frame) -> bool:
        return self._clock.monotonic() - frame.captured_at > self._rules.staleness_s

    def _wake(self) -> None:
        # A loop that was closed meanwhile has nobody waiting.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._filled.set)
