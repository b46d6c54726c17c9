"""Frames to tracks, and from each track the shots that are worth an embedding. Runs in worker threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from face_server.domain.alignment import aligned_crop
from face_server.domain.appearance import Belief, BeliefOptions, Shot, prospect
from face_server.domain.face import Box, Detection
from face_server.domain.frame import Frame
from face_server.domain.image import Image, Pixels
from face_server.domain.ports import DetectHere, Detector
from face_server.domain.quality import measure_quality
from face_server.domain.streams import StreamRules
from face_server.domain.tracking import Tracker
from face_server.domain.tracks import Track
from face_server.workers import Workers

TRACKING_SIZE_PX = 640
"""Long side of the picture in which faces are followed, whatever the detector sees: its size may change, tracks go on."""

_CUT_EVERY_S = 0.7
"""At least so often shots are taken of everybody, even if none is needed."""

MAX_EMBEDDED = 4
"""Most shots of one frame that are embedded, of those of whom least is known: in a crowd that is late already the frames must not take
ever longer, as faces then move further from one to the next, tracks break, and still more faces are new."""

_CLOSE_UP = 2.0
"""Sides of a close-up in sides of the face's box."""

_CLOSE_UP_SIZE_PX = 320
"""Long side at which a close-up is searched: the face is then about half of that."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """A shot to embed, and the belief that asks for it."""

    belief: Belief
    shot: Shot


@dataclass(frozen=True, slots=True, eq=False)
class Following:
    """One frame: all live tracks in its pixels, how many faces were found, and what to embed."""

    tracks: tuple[Track, ...] = ()
    faces: int = 0
    chosen: tuple[Chosen, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    track: Track
    belief: Belief
    promise: float


class Follower:
    """Detects, filters, tracks and measures; keeps a ``Belief`` for each live track."""

    def __init__(
        self,
        detector: Detector,
        workers: Workers,
        tracker: Tracker,
        options: BeliefOptions,
        min_score: float,
    ) -> None:
        self._detector = detector
        self._workers = workers
        self._tracker = tracker
        self._options = options
        self._min_score = min_score
        self._beliefs: dict[int, Belief] = {}
        self._cut_at = -np.inf
        # A pass whose caller was broken off runs to its end in its thread: the next one comes after it.
        self._one_at_a_time = threading.RLock()
        self.started = 0

    def belief(self, track: Track) -> Belief:
        """What is believed of a live track."""
        return self._beliefs[track.id]

    async def follow(self, frame: Frame, rules: StreamRules, *, detail: bool = False) -> Following:
        """Take in a frame: one pass through a worker where the detector runs here and there is one source.

        ``detail`` says that ``frame.image()`` comes from a larger picture of the camera, of nearly the same moment.
        """
        here = self._detector.runner()
        if here is not None and not detail:
            return await self._workers.run(self._follow_here, frame, rules, here)
        image = await self._workers.run(frame.scaled, rules.detection_size_px)
        (found,) = await self._detector.detect([image], min_score=self._score(rules), max_size_px=rules.detection_size_px)
        tracks, faces, wanted = await self._workers.run(self._track, frame, image, found, rules)
        if wanted and detail:
            return Following(tracks, faces, await self._cut_detail(frame, image, wanted, rules))
        return Following(tracks, faces, await self._workers.run(self._cut, frame, wanted, rules) if wanted else ())

    def _score(self, rules: StreamRules) -> float:
        return self._min_score if rules.min_score is None else rules.min_score

    def _follow_here(self, frame: Frame, rules: StreamRules, detect: DetectHere) -> Following:
        with self._one_at_a_time:
            image = frame.scaled(rules.detection_size_px)
            found = detect(image, self._score(rules), rules.detection_size_px)
            tracks, faces, wanted = self._track(frame, image, found, rules)
            return Following(tracks, faces, self._cut(frame, wanted, rules))

    def _track(
        self, frame: Frame, image: Image, found: Sequence[Detection], rules: StreamRules
    ) -> tuple[tuple[Track, ...], int, list[_Wanted]]:
        """Follow the detections that count, and see of which tracks a shot would be of use."""
        counting = [one for one in (each.scaled(*image.source_scale) for each in found) if _counts(one, frame, rules)]
        scale = min(1.0, TRACKING_SIZE_PX / max(frame.width, frame.height))
        size = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
        small = (
            image if (image.width, image.height) == size else Image(_resized(image.pixels, size), image.source_width, image.source_height)
        )
        x, y = size[0] / frame.width, size[1] / frame.height
        with self._one_at_a_time:
            live = self._tracker.update([one.scaled(x, y) for one in counting], small, at=frame.captured_at)
            tracks = tuple(replace(track, detection=track.detection.scaled(1 / x, 1 / y)) for track in live)
            self.started += sum(track.id not in self._beliefs for track in tracks)
            self._beliefs = {track.id: self._beliefs.get(track.id) or Belief(self._options) for track in tracks}
            return tracks, len(counting), self._wanted(tracks, frame.captured_at, rules.embed_budget)

    def _wanted(self, tracks: Sequence[Track], at: float, budget: int) -> list[_Wanted]:
        """Of whom to take shots. Converting a large frame costs more than cutting, so all that may be of use are taken from one."""
        found = [_Wanted(track, self._beliefs[track.id], _promise(track)) for track in tracks if not track.missed]
        if at - self._cut_at < _CUT_EVERY_S and not any(one.belief.needs_shot(one.promise, at, budget) for one in found):
            return []
        self._cut_at = at
        return [one for one in found if one.belief.needs_shot(one.promise, at, budget) or one.belief.welcomes_shot(one.promise)]

    def _cut(self, frame: Frame, wanted: Sequence[_Wanted], rules: StreamRules) -> tuple[Chosen, ...]:
        """Shots from the frame itself, at full size."""
        if not wanted:
            return ()
        pixels = frame.image().pixels
        return self._choose(frame, wanted, [(pixels, one.track.detection) for one in wanted], rules)

    async def _cut_detail(self, frame: Frame, image: Image, wanted: Sequence[_Wanted], rules: StreamRules) -> tuple[Chosen, ...]:
        """Shots from a larger picture of another moment: the faces are looked for again, in close-ups.

        One that is not found there is cut from ``image``, in which it was detected.
        """
        places = [one.track.detection for one in wanted]
        cuts = await self._workers.run(lambda: [_close_up(frame.image().pixels, place.box) for place in places])
        images = [cut for cut, _, _ in cuts]
        found = await self._detector.detect(images, min_score=self._score(rules), max_size_px=_CLOSE_UP_SIZE_PX)
        again = [_nearest(faces, place, left, top) for faces, place, (_, left, top) in zip(found, places, cuts, strict=True)]

        def choose() -> tuple[Chosen, ...]:
            large, x, y = frame.image().pixels, image.width / frame.width, image.height / frame.height
            sources = [(large, face) if face else (image.pixels, place.scaled(x, y)) for face, place in zip(again, places, strict=True)]
            return self._choose(frame, wanted, sources, rules)

        return await self._workers.run(choose)

    def _choose(
        self, frame: Frame, wanted: Sequence[_Wanted], sources: Sequence[tuple[Pixels, Detection]], rules: StreamRules
    ) -> tuple[Chosen, ...]:
        """Cut, measure, and ask each belief which shot it wants embedded."""
        chosen = []
        for one, (pixels, face) in zip(wanted, sources, strict=True):
            crop = aligned_crop(pixels, face.landmarks)
            size_px = min(face.box.width, face.box.height)
            quality = measure_quality(crop, face.landmarks, size_px=size_px, detection_score=face.score)
            shot = Shot(frame.captured_at, frame.taken_at, one.track.detection, crop, quality)
            best = one.belief.consider(shot, one.promise, rules.embed_budget)
            if best is not None:
                chosen.append(Chosen(one.belief, best))
        # Whoever has to wait asks again with the next frame.
        chosen.sort(key=lambda one: (len(one.belief.samples), -one.shot.quality.score))
        return tuple(chosen[:MAX_EMBEDDED])


def _promise(track: Track) -> float:
    box = track.detection.box
    return prospect(track.detection, min(box.width, box.height))


def _counts(detection: Detection, frame: Frame, rules: StreamRules) -> bool:
    box = detection.box
    x, y = (box.x1 + box.x2) / 2 / frame.width, (box.y1 + box.y2) / 2 / frame.height
    return min(box.width, box.height) >= rules.min_face_px and rules.watches(x, y)


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _close_up(pixels: Pixels, box: Box) -> tuple[Image, int, int]:
    """The part of a picture around a box, and its left upper corner."""
    height, width = pixels.shape[:2]
    half = _CLOSE_UP * max(box.width, box.height) / 2
    x, y = (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2
    left, top = (int(min(max(0.0, low), size - 1)) for low, size in ((x - half, width), (y - half, height)))
    right, bottom = max(left + 1, int(min(width, x + half))), max(top + 1, int(min(height, y + half)))
    return Image.from_pixels(np.ascontiguousarray(pixels[top:bottom, left:right])), left, top


def _nearest(faces: Sequence[Detection], place: Detection, left: int, top: int) -> Detection | None:
    """The face of a close-up that is the one expected at ``place``: about there and about as large; in the pixels of the large picture."""
    x, y = (place.box.x1 + place.box.x2) / 2, (place.box.y1 + place.box.y2) / 2
    side = max(place.box.width, place.box.height)
    best, nearest = None, 0.75 * side
    for face in faces:
        box = Box(face.box.x1 + left, face.box.y1 + top, face.box.x2 + left, face.box.y2 + top)
        distance = float(np.hypot((box.x1 + box.x2) / 2 - x, (box.y1 + box.y2) / 2 - y))
        if distance < nearest and 0.5 <= max(box.width, box.height) / max(side, 1e-6) <= 2.0:
            moved = np.array([left, top], np.float32)
            best, nearest = Detection(box, face.score, face.landmarks + moved), distance
    return best
