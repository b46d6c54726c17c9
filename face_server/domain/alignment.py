"""From five landmarks to the aligned crop that recognition networks expect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from face_server.domain.face import Detection
from face_server.domain.image import Floats, Pixels

CROP_SIZE_PX = 112

_MAX_OVERSAMPLING = 8
"""Bounds the work for faces of more than about 900 px; they keep a trace of aliasing."""

ARCFACE_TEMPLATE: Floats = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)],
    np.float32,
)
"""Where the five landmarks lie in a 112×112 crop (ArcFace, Deng et al. 2019), x and y in pixels."""


def similarity_transform(source: Floats, target: Floats) -> Floats:
    """The 2×3 matrix of rotation, uniform scale and shift that best maps ``source`` onto ``target``.

    Both are N×2 points. Least squares after Umeyama, "Least-squares estimation of transformation
    parameters between two point patterns", PAMI 1991, eq. 40–43. Source points that coincide (to
    a thousandth of a pixel) have no scale; they map onto the target's centre.
    """
    source_mean, target_mean = source.mean(0, dtype=np.float64), target.mean(0, dtype=np.float64)
    source_centred, target_centred = source - source_mean, target - target_mean
    covariance = target_centred.T @ source_centred / len(source)
    u, singular, vt = np.linalg.svd(covariance)
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = u @ np.diag(signs) @ vt
    variance = source_centred.var(axis=0).sum()
    scale = float((singular * signs).sum() / variance) if variance > 1e-6 else 0.0
    matrix = np.empty((2, 3), np.float32)
    matrix[:, :2] = scale * rotation
    matrix[:, 2] = target_mean - scale * rotation @ source_mean
    return matrix


def aligned_crop(pixels: Pixels, landmarks: Floats) -> Pixels:
    """Warp the face at ``landmarks`` (5×2, in ``pixels``) onto the ArcFace template.

    Returns 112×112×3 uint8 in the colour order of ``pixels``; black outside the picture. A face of
    more than 1.5 times the crop's size is averaged, not sampled: sampling would alias, and the same
    face decoded at half the size would get another embedding. Landmarks and template are points of the plane in
    which pixel i covers [i, i + 1), so the crop does not depend on the size of the decode either.
    """
    matrix = similarity_transform(landmarks, ARCFACE_TEMPLATE)
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    oversampling = min(_MAX_OVERSAMPLING, max(1, round(1 / max(scale, 1e-6))))
    matrix *= oversampling
    # OpenCV counts from pixel centres: move the origin by half a pixel on both sides.
    matrix[:, 2] += matrix[:, :2] @ np.array([0.5, 0.5], np.float32) - np.float32(0.5)
    side = CROP_SIZE_PX * oversampling
    crop = cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_LINEAR)
    if oversampling > 1:
        crop = cv2.resize(crop, (CROP_SIZE_PX, CROP_SIZE_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(crop, np.uint8)


def aligned_crops(pixels: Pixels, detections: Sequence[Detection]) -> Pixels:
    """N×112×112×3 aligned crops of N detections in ``pixels``."""
    crops = np.empty((len(detections), CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8)
    for index, detection in enumerate(detections):
        crops[index] = aligned_crop(pixels, detection.landmarks)
    return crops
