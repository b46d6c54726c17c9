"""Faces followed from frame to frame, so that each is recognised once and not on every picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from face_server.domain.assignment import assign
from face_server.domain.camera_motion import CameraMotion, Motion
from face_server.domain.face import Box, Detection
from face_server.domain.geometry import boxes_iou
from face_server.domain.image import Floats, Image
from face_server.domain.kalman import BoxFilter
from face_server.domain.sight import Sight, Sights, differences, moved, sight_of
from face_server.domain.tracks import Track

# How much of a track's looks the newest sight is.
_FRESH = 0.5

# A doubtful detection is seen again where it overlaps one of the frame before so far.
_SAME_PLACE = 0.3
_NOWHERE: Floats = np.zeros((0, 4), np.float32)


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """How long a face may be out of sight, and how different two sights of it.

    A track that was not found for more than ``max_missed_s`` ends; one that was found on the frame
    before may go on for ``max_gap_s``, so that cameras that give a frame every two seconds have tracks
    at all. ``max_difference`` (0..1) is that
    of a detection from the track it continues. Detections below ``weak_share`` of the best score
    around continue tracks, but begin one only at the second sight. At most ``max_tracks`` live.
    """

    max_missed_s: float = 1.2
    max_gap_s: float = 2.5
    max_difference: float = 0.58
    weak_share: float = 0.75
    max_tracks: int = 128


class _Path:
    """A track that goes on."""

    def __init__(self, number: int, sight: Sight, at: float) -> None:
        self.id = number
        self.motion = BoxFilter(sight.detection.box)
        self.sight = sight
        self.looks = sight.looks
        self.first_at = self.last_at = at
        self.hits = 1
        self.missed = 0

    def go_on(self, step_s: float, camera: Motion) -> None:
        self.motion.predict(step_s)
        self.motion.shift(camera.right_px, camera.down_px)
        self.missed += 1

    def find(self, sight: Sight, at: float) -> None:
        self.motion.update(sight.detection.box)
        self.sight = sight
        looks = (1.0 - _FRESH) * self.looks + _FRESH * sight.looks
        self.looks = (looks / max(float(np.linalg.norm(looks)), 1e-6)).astype(np.float32)
        self.last_at = at
        self.hits += 1
        self.missed = 0

    def track(self) -> Track:
        detection = moved(self.sight, self.motion.box) if self.missed else self.sight.detection
        return Track(self.id, detection, self.first_at, self.last_at, self.hits, self.missed)


class Tracker:
    """Gives detections of successive frames the ids of the faces they belong to.

    A Kalman filter predicts each face; predictions and detections are paired at the least cost of
    overlap, distance, size, landmarks and looks, confident detections first (as in ByteTrack,
    Zhang et al. 2022). Ids count up from 1 for the life of the tracker and are never used again.
    A camera cut ends all tracks. The result does not depend on the order of the detections. Not
    safe to call from two threads at once.
    """

    def __init__(self, options: TrackerOptions | None = None) -> None:
        self._options = options or TrackerOptions()
        self._camera = CameraMotion()
        self._paths: list[_Path] = []
        self._doubtful = _NOWHERE
        self._started = 0
        self._at = -np.inf

    def update(self, detections: Sequence[Detection], image: Image, *, at: float) -> list[Track]:
        """Take in a frame: all live tracks by id, those found on it and those missed for a short while.

        ``detections`` are in the pixels of ``image``. ``at`` is when the frame was taken
        (monotonic seconds); a time before that of the last frame counts as the same.
        """
        camera = self._camera.look(image.pixels)
        if camera.cut:
            self._end_all()
        before, self._at = self._at, max(at, self._at)
        self._paths = [path for path in self._paths if self._at - path.last_at <= self._patience_s(path)]
        for path in self._paths:
            path.go_on(self._at - before, camera)
        strong, weak = self._sights(detections, image)
        strangers = self._continue(strong)
        doubtful = self._continue(weak)
        places = self._doubtful + np.array([camera.right_px, camera.down_px] * 2, np.float32)
        again = [sight for sight in doubtful if (boxes_iou(places, sight.corners) > _SAME_PLACE).any()]
        self._doubtful = np.stack([sight.corners for sight in doubtful]) if doubtful else _NOWHERE
        for sight in (*strangers, *again):
            self._begin(sight)
        return [path.track() for path in self._paths]

    def _patience_s(self, path: _Path) -> float:
        missed_s = self._options.max_missed_s
        return missed_s if path.missed else max(missed_s, self._options.max_gap_s)

    def reset(self) -> None:
        """End all tracks, as where another source begins. Ids go on counting."""
        self._end_all()
        self._camera.forget()

    def _end_all(self) -> None:
        self._paths = []
        self._doubtful = _NOWHERE

    def _sights(self, detections: Sequence[Detection], image: Image) -> tuple[list[Sight], list[Sight]]:
        """What is on the frame, the confident and the doubtful, in an order of their own."""
        ordered = sorted(detections, key=_rank)[: self._options.max_tracks]
        best = max((one.score for one in (*ordered[:1], *(path.sight.detection for path in self._paths))), default=0.0)
        sights = [sight_of(one, image.pixels) for one in ordered]
        confident = sum(one.score >= self._options.weak_share * best for one in ordered)
        return sights[:confident], sights[confident:]

    def _continue(self, sights: list[Sight]) -> list[Sight]:
        """Give sights to the tracks that are still missing on this frame; returns those left over."""
        missing = [path for path in self._paths if path.missed]
        if not missing or not sights:
            return sights
        seen = Sights.of(sights)
        costs = np.stack([differences(path.motion, path.sight, path.looks, seen) for path in missing])
        pairs = assign(costs, self._options.max_difference)
        for row, column in pairs:
            missing[row].find(sights[column], self._at)
        taken = {column for _, column in pairs}
        return [sight for column, sight in enumerate(sights) if column not in taken]

    def _begin(self, sight: Sight) -> None:
        if len(self._paths) < self._options.max_tracks:
            self._started += 1
            self._paths.append(_Path(self._started, sight, self._at))


def _rank(detection: Detection) -> tuple[float, ...]:
    box: Box = detection.box
    return (-detection.score, box.x1, box.y1, box.x2, box.y2, *detection.landmarks.reshape(-1).tolist())
