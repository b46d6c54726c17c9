"""One look at a face, and how much it differs from what a track leads to expect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from face_server.domain.assignment import Costs
from face_server.domain.face import Box, Detection
from face_server.domain.geometry import boxes_iou
from face_server.domain.image import Floats, Pixels
from face_server.domain.kalman import BoxFilter

_SIDE = 12

# Shares of what is compared in the difference of a pair; together 1. Chosen with everything else here
# on two real videos at 25 to 2 frames a second, with gaps of up to a second cut into them.
_OVERLAP, _DISTANCE, _SIZE, _SHAPE, _LOOKS, _UNSURE = 0.1, 0.25, 0.15, 0.1, 0.3, 0.1

# Beyond so many standard deviations, and so many sizes of the face, it is somebody else, however
# alike. The second is for detectors, whose boxes jump now and then.
_GATE = 5.0
_MIN_REACH = 0.8

# Where these are reached two sights have nothing in common: distance in sizes of the face, and the
# landmarks' root mean square distance in 0..1 of the box.
_FOREIGN_DISTANCE = 1.5
_FOREIGN_SHAPE = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """A detection and what is compared of it.

    ``corners`` are x1, y1, x2, y2; ``shape`` is 5×2, the landmarks in 0..1 of the box; ``looks`` is a
    unit vector, or zeros where the box lies outside of the picture.
    """

    detection: Detection
    corners: Floats
    shape: Floats
    looks: Floats


def sight_of(detection: Detection, pixels: Pixels) -> Sight:
    """What there is to see of a detection on H×W×3 BGR pixels."""
    box = detection.box
    corner = np.array([box.x1, box.y1], np.float32)
    extent = np.array([max(box.width, 1.0), max(box.height, 1.0)], np.float32)
    corners = np.array([box.x1, box.y1, box.x2, box.y2], np.float32)
    return Sight(detection, corners, (detection.landmarks - corner) / extent, _looks(box, pixels))


def moved(sight: Sight, box: Box) -> Detection:
    """The detection of ``sight`` as it would look in ``box``."""
    corner = np.array([box.x1, box.y1], np.float32)
    extent = np.array([box.width, box.height], np.float32)
    return Detection(box, sight.detection.score, sight.shape * extent + corner)


@dataclass(frozen=True, slots=True, eq=False)
class Sights:
    """What is compared of N sights, side by side: ``places`` are x, y, log width, log height."""

    corners: Floats
    places: Floats
    shapes: Floats
    looks: Floats

    @classmethod
    def of(cls, sights: Sequence[Sight]) -> Sights:
        """One or more sights."""
        corners = np.stack([sight.corners for sight in sights])
        extents = np.log(np.maximum(corners[:, 2:] - corners[:, :2], 1.0))
        places = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2.0, extents], axis=1)
        return cls(corners, places, np.stack([sight.shape for sight in sights]), np.stack([sight.looks for sight in sights]))


def differences(motion: BoxFilter, last: Sight, looks: Floats, sights: Sights) -> Costs:
    """For each sight its difference from a track: 0 as expected, 1 nothing alike, infinity too far away.

    ``motion`` is predicted for the moment of the sights, ``last`` the newest sight of the track and
    ``looks`` what it looked like lately. A track whose place is unsure, for it was missed, differs a
    little from everything, so that it takes no sight from one that is where it was expected.
    """
    expected = motion.box
    size = math.sqrt(expected.area)
    box = np.array([expected.x1, expected.y1, expected.x2, expected.y2], np.float32)
    offsets = np.abs(sights.places - motion.place)
    spread = motion.spread
    away = np.hypot(*(offsets[:, :2] / np.maximum(_GATE * spread[:2], _MIN_REACH * size)).T)
    bent = np.sqrt(np.mean(np.sum(np.square(sights.shapes - last.shape), axis=2), axis=1))
    unlike = 1.0 - sights.looks @ looks
    costs = (
        _OVERLAP * (1.0 - boxes_iou(sights.corners, box))
        + _DISTANCE * np.minimum(1.0, np.hypot(offsets[:, 0], offsets[:, 1]) / (_FOREIGN_DISTANCE * size))
        + _SIZE * np.minimum(1.0, offsets[:, 2:].max(axis=1))
        + _SHAPE * np.minimum(1.0, bent / _FOREIGN_SHAPE)
        + _LOOKS * np.minimum(1.0, unlike)
        + _UNSURE * min(1.0, float(spread[0]) / size)
    )
    return np.where(away > 1.0, np.inf, costs).astype(np.float64)


def _looks(box: Box, pixels: Pixels) -> Floats:
    """Colours around the face without mean and contrast, so that the light may change."""
    # Hair and collar tell more than skin does.
    margin_x, margin_y = 0.2 * box.width, 0.2 * box.height
    left, right = int(max(0, box.x1 - margin_x)), int(min(pixels.shape[1], box.x2 + margin_x))
    top, bottom = int(max(0, box.y1 - margin_y)), int(min(pixels.shape[0], box.y2 + 2 * margin_y))
    if right - left < 2 or bottom - top < 2:
        return np.zeros(_SIDE * _SIDE * 3, np.float32)
    # Every few pixels are enough to average, and a large face costs no more than a small one.
    stride = max(1, (right - left) // (3 * _SIDE))
    sampled = pixels[top:bottom:stride, left:right:stride]
    patch = cv2.resize(sampled, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    values = patch.reshape(-1) - patch.mean()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), np.float32)
