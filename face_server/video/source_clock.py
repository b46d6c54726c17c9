"""When a camera made a frame, estimated from the frame's time stamp and the moment it came out of the decoder."""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

_STEP_BACK_S = 0.5
_JUMP_AHEAD_S = 10.0


class Timing(Protocol):
    """Turns time stamps of a source (seconds; None where it gives none) into ``Clock.monotonic`` seconds."""

    def captured_at(self, media_s: float | None, now: float, *, prompt: bool) -> float:
        """When the frame was made, never before the one before it.

        ``now`` is when it came out of the decoder. ``prompt`` says that its data was waited for, so
        that nothing lies unread. A moment after ``now`` asks the caller to wait until then.
        """
        ...

    def age(self, media_s: float | None, now: float) -> float:
        """How old data with that time stamp is, if it can be known; 0.0 where it cannot."""
        ...


class SourceClock:
    """The timing of a live source.

    A time stamp and the moment of its arrival differ by an unknown constant plus a delay of 0 or
    more, so the smallest difference seen lately stands for no delay, and what a frame's difference
    has above that is its delay: in the camera's send buffer, the network, the decoder and this
    process. "Lately" is ``window_s``, for clocks that run apart; it holds differences of frames that
    were waited for only: as long as our own reading lags, the old minimum stands and the lag shows
    however long it lasts. Time stamps that step back or leap ahead start anew.
    """

    def __init__(self, window_s: float = 10.0) -> None:
        self._window_s = window_s
        # (arrival, difference) with differences ascending: the head is the smallest of the window.
        self._smallest: deque[tuple[float, float]] = deque()
        self._last = (-math.inf, -math.inf)
        self._captured_at = -math.inf

    def captured_at(self, media_s: float | None, now: float, *, prompt: bool) -> float:
        """See Timing; never after ``now``."""
        if media_s is None or not math.isfinite(media_s):
            return self._later(now)
        last_media_s, last_at = self._last
        self._last = (media_s, now)
        if not -_STEP_BACK_S <= media_s - last_media_s <= now - last_at + _JUMP_AHEAD_S:
            self._smallest.clear()
        difference = now - media_s
        if prompt or not self._smallest or difference <= self._smallest[0][1]:
            self._remember(now, difference)
        return self._later(min(now, media_s + self._smallest[0][1]))

    def age(self, media_s: float | None, now: float) -> float:
        """See Timing."""
        if media_s is None or not self._smallest:
            return 0.0
        return max(0.0, now - media_s - self._smallest[0][1])

    def _remember(self, now: float, difference: float) -> None:
        while self._smallest and self._smallest[-1][1] >= difference:
            self._smallest.pop()
        self._smallest.append((now, difference))
        while self._smallest[0][0] < now - self._window_s:
            self._smallest.popleft()

    def _later(self, at: float) -> float:
        self._captured_at = max(self._captured_at, at)
        return self._captured_at


class Playback:
    """The timing of a recording that is played as if it were live, and of live streams that come in pieces (HLS).

    A frame is due when as much time has passed since the first as their time stamps say. Data that
    comes too late through no fault of ours (``prompt``) moves everything after it back.
    """

    def __init__(self) -> None:
        self._start_at: float | None = None
        self._media_s = 0.0
        self._due_at = -math.inf

    def captured_at(self, media_s: float | None, now: float, *, prompt: bool) -> float:
        """See Timing; may be after ``now``: the frame is not due yet."""
        if media_s is None or not math.isfinite(media_s):
            return max(now, self._due_at)
        step = media_s - self._media_s
        self._media_s = media_s
        if self._start_at is None or not -_STEP_BACK_S <= step <= _JUMP_AHEAD_S:
            self._start_at = max(now, self._due_at) - media_s
        elif prompt and now > self._start_at + media_s:
            self._start_at = now - media_s
        self._due_at = max(self._due_at, self._start_at + media_s)
        return self._due_at

    def age(self, media_s: float | None, now: float) -> float:
        """See Timing."""
        if media_s is None or self._start_at is None:
            return 0.0
        return max(0.0, now - media_s - self._start_at)


class Unpaced:
    """The timing of a recording that is read as fast as its reader takes it: a frame is made when it is decoded."""

    def captured_at(self, media_s: float | None, now: float, *, prompt: bool) -> float:  # noqa: ARG002 - Timing's signature
        """See Timing; always ``now``."""
        return now

    def age(self, media_s: float | None, now: float) -> float:  # noqa: ARG002 - Timing's signature
        """See Timing; always 0."""
        return 0.0
