"""Where to draw whom on frames that were not analysed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from face_server.domain.face import Box, Detection
from face_server.domain.image import Floats
from face_server.domain.tracks import SeenTrack

_STEADY = 0.7
"""How much of a new velocity counts beside the old one: boxes tremble by a few pixels."""

_MAX_AHEAD_S = 0.5
_GONE_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Mark:
    seen: SeenTrack
    corners: Floats
    velocity: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """What one analysed frame said: corners in shares of the picture, velocities in shares a second."""

    at: float = 0.0
    interval_s: float = 0.0
    marks: tuple[_Mark, ...] = ()


class Overlay:
    """Moves the boxes of the last analysed frame along until the next one, and drops them when they are old.

    ``show`` and ``at`` may be called from two threads.
    """

    def __init__(self) -> None:
        self._shown = _Shown()

    def show(self, tracks: Sequence[SeenTrack], *, width: int, height: int, at: float) -> None:
        """Tracks in pixels of a frame of width × height that was captured ``at`` (``Clock.monotonic`` seconds)."""
        before = self._shown
        elapsed_s = at - before.at
        known = {mark.seen.track.id: mark for mark in before.marks} if 0 < elapsed_s <= max(_GONE_S, 2 * before.interval_s) else {}
        scale = np.array([width, height, width, height], np.float32)
        marks = []
        for seen in tracks:
            box = seen.track.detection.box
            corners = np.array([box.x1, box.y1, box.x2, box.y2], np.float32) / scale
            old = known.get(seen.track.id)
            velocity = np.zeros(4, np.float32)
            if old is not None:
                velocity = np.float32(_STEADY) * (corners - old.corners) / np.float32(elapsed_s) + np.float32(1 - _STEADY) * old.velocity
            marks.append(_Mark(seen, corners, velocity))
        # One assignment: the other thread sees the old marks or the new ones.
        self._shown = _Shown(at, elapsed_s if known else 0.0, tuple(marks))

    def at(self, moment: float, *, width: int, height: int) -> list[SeenTrack]:
        """The tracks where they are expected at ``moment``, in pixels of a picture of width × height.

        Left out are those not found on an analysed frame of the last second (for longer where frames
        are analysed less often than that).
        """
        shown = self._shown
        gone_s = max(_GONE_S, 1.5 * shown.interval_s)
        if moment - shown.at > gone_s:
            return []
        ahead_s = min(max(moment - shown.at, -_MAX_AHEAD_S), _MAX_AHEAD_S)
        scale = np.array([width, height, width, height], np.float32)
        return [
            _moved(mark.seen, (mark.corners + mark.velocity * np.float32(ahead_s)) * scale)
            for mark in shown.marks
            if moment - mark.seen.track.last_at <= gone_s
        ]


def _moved(seen: SeenTrack, corners: Floats) -> SeenTrack:
    """The track with its box at ``corners`` and its landmarks where they were in the box."""
    x1, y1, x2, y2 = (float(value) for value in corners)
    detection = seen.track.detection
    box = Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    size = np.array([max(detection.box.width, 1.0), max(detection.box.height, 1.0)], np.float32)
    shares = (detection.landmarks - np.array([detection.box.x1, detection.box.y1], np.float32)) / size
    landmarks = shares * np.array([box.width, box.height], np.float32) + np.array([box.x1, box.y1], np.float32)
    return replace(seen, track=replace(seen.track, detection=Detection(box, detection.score, landmarks)))
