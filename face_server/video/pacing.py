"""The source's clock and the slots of video at a constant frame rate."""

from __future__ import annotations

from collections import deque

COMMON_RATES = (1, 2, 3, 4, 5, 6, 7.5, 8, 10, 12, 12.5, 15, 18, 20, 24000 / 1001, 24, 25, 30000 / 1001, 30, 48, 50, 60000 / 1001, 60)

_NEAR = 0.02
_WINDOW = 50
_SURE = ((0.6, 8), (2.0, 2))
"""Seconds and frames that a rate must rest on, either pair."""


class FrameRate:
    """How many frames a second a source makes, by their numbers and times; 0 while unknown.

    A rate within 2 % of a common one is taken for it.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[int, float]] = deque(maxlen=_WINDOW)

    def add(self, number: int, captured_at: float) -> None:
        """A frame of the source; a smaller number or an earlier time begins anew."""
        if self._seen and (number <= self._seen[-1][0] or captured_at <= self._seen[-1][1]):
            self._seen.clear()
        self._seen.append((number, captured_at))

    @property
    def value(self) -> float:
        """Frames a second, 0 while too few came."""
        if len(self._seen) < 2:
            return 0.0
        frames, seconds = self._seen[-1][0] - self._seen[0][0], self._seen[-1][1] - self._seen[0][1]
        if not any(seconds >= enough_s and frames >= enough for enough_s, enough in _SURE):
            return 0.0
        rate = frames / seconds
        nearest = min(COMMON_RATES, key=lambda common: abs(common - rate))
        return nearest if abs(nearest - rate) <= _NEAR * rate else rate


class Pacer:
    """Decides how many slots of 1/``fps`` seconds each picture fills, so that video plays as fast as life.

    Slots follow the times at which the camera made its frames: a frame that comes late, early or
    never changes how often a picture is shown, not the speed. A frame within three quarters of a
    slot of the next one takes it, so that frames at about this rate fill one slot each.
    After ``silence_s`` without a frame, time itself fills slots. More than ``max_gap_s`` apart the
    source's clock counts as set anew.
    """

    def __init__(self, fps: float, *, silence_s: float = 0.3, max_gap_s: float = 1.0) -> None:
        self._fps = fps
        self._silence_s = max(silence_s, 2.5 / fps)
        self._max_gap = max(max_gap_s, 4 * self._silence_s) * fps
        self._next = 0
        self._origin: float | None = None
        self._delay_s = 0.0
        self._frame_at: float | None = None

    def frame(self, captured_at: float, now: float) -> int:
        """Slots up to and with this frame: 0 none yet (it is too early), n: n − 1 repeats before it.

        Both are ``Clock.monotonic`` seconds. A frame that got none is the picture of the next slot
        that ``silence`` fills.
        """
        self._frame_at = now
        if self._origin is None or abs(self._ahead(captured_at)) > self._max_gap:
            self._origin = captured_at - self._next / self._fps
        self._delay_s = now - captured_at
        ahead = self._ahead(captured_at)
        if ahead <= -0.75:
            return 0
        slots = 1 if ahead < 0.75 else round(ahead) + 1
        self._next += slots
        return slots

    def silence(self, now: float) -> int:
        """Slots to fill with the last picture because no frame has come for a while."""
        if self._frame_at is not None and now - self._frame_at < self._silence_s:
            return 0
        moment = now - self._delay_s
        if self._origin is None or self._ahead(moment) > self._max_gap:
            self._origin = moment - self._next / self._fps
        slots = max(0, int(self._ahead(moment)) + 1) if self._ahead(moment) >= 0 else 0
        self._next += slots
        return slots

    def restart(self) -> None:
        """Whatever comes next takes the next slot: time has passed in which nothing could be sent."""
        self._origin = None

    def _ahead(self, moment: float) -> float:
        assert self._origin is not None
        return (moment - self._origin) * self._fps - self._next
