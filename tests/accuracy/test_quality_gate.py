"""The enrolment gate on real faces: good pictures pass, pictures spoilt on purpose do not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.lfw import Lfw
from benchmarks.shots import central_face
from face_server.backends.onnx import OnnxBackend
from face_server.domain.alignment import aligned_crop
from face_server.domain.face import Detection, Face
from face_server.domain.image import Image
from face_server.domain.quality import Quality, QualityLimits, Reason, estimate_pose, measure_quality
from face_server.models.detector import NetworkDetector
from face_server.models.weights import WeightsStore
from face_server.workers import Workers

LIMITS = QualityLimits()
Look = Callable[[list[Path]], list[tuple[Image, list[Detection]]]]


@dataclass(frozen=True)
class Portrait:
    """A face as enrolment sees it."""

    crop: np.ndarray
    detection: Detection

    @property
    def quality(self) -> Quality:
        """What the gate reads."""
        return self.changed(lambda crop: crop)

    def changed(self, spoil: Callable[[np.ndarray], np.ndarray]) -> Quality:
        """What the gate reads after the crop was changed."""
        box = self.detection.box
        size = min(box.width, box.height)
        return measure_quality(spoil(self.crop), self.detection.landmarks, size_px=size, detection_score=self.detection.score)


@pytest.fixture(scope="module")
def look(weights: WeightsStore) -> Look:
    """A function that finds the faces of files with yunet at its shipped score."""

    async def find(files: list[Path]) -> list[tuple[Image, list[Detection]]]:
        entry = weights.entry("yunet")
        with Workers(2) as workers:
            backend = await OnnxBackend.open([weights.pull("yunet")], workers)
            detector = NetworkDetector(entry, backend, workers)
            images = [Image.from_pixels(np.asarray(cv2.imread(str(file), cv2.IMREAD_COLOR), np.uint8)) for file in files]
            found = await detector.detect(images, min_score=entry.detection_score, max_size_px=640)
            await backend.close()
        return list(zip(images, found, strict=True))

    return lambda files: asyncio.run(find(files))


@pytest.fixture(scope="module")
def firsts(shared: Path, look: Look) -> list[Portrait]:
    """The first pictures of 200 people of LFW."""
    lfw = Lfw.read(shared / "data" / "lfw")
    portraits = []
    for image, detections in look([lfw.path(number) for number in lfw.enrolled[::2]]):
        face = central_face([Face(detection) for detection in detections], image)
        assert face is not None
        portraits.append(Portrait(aligned_crop(image.pixels, face.detection.landmarks), face.detection))
    return portraits


def test_first_pictures_of_lfw_pass(firsts: list[Portrait]) -> None:
    """99 of 100 ordinary press photos are fit for enrolment."""
    refused = [portrait.quality for portrait in firsts if portrait.quality.reasons(LIMITS)]
    assert len(refused) <= 0.01 * len(firsts), [quality.reasons(LIMITS) for quality in refused]


def test_sharpness_brightness_and_size_refuse_no_portrait(shared: Path, look: Look) -> None:
    """The largest face of every picture of photos/people is fit."""
    files = sorted(path for path in (shared / "data" / "photos" / "people").rglob("*.*") if path.is_file())
    for file, (image, detections) in zip(files, look(files), strict=True):
        largest = max(detections, key=lambda detection: detection.box.area)
        quality = Portrait(aligned_crop(image.pixels, largest.landmarks), largest).quality
        assert quality.reasons(LIMITS) == (), file.name


@pytest.mark.parametrize(("sigma", "share"), [(4.0, 0.99), (3.0, 0.98)])
def test_strong_blur_is_refused(firsts: list[Portrait], sigma: float, share: float) -> None:
    """A Gaussian of three pixels in the crop, and surely of four, reads as blurred."""
    blurred = [portrait.changed(lambda crop: cv2.GaussianBlur(crop, (0, 0), sigma)) for portrait in firsts]
    assert np.mean([Reason.LOW_SHARPNESS in quality.reasons(LIMITS) for quality in blurred]) >= share


def test_slight_blur_passes(firsts: list[Portrait]) -> None:
    """A Gaussian of one pixel costs nobody the enrolment."""
    blurred = [portrait.changed(lambda crop: cv2.GaussianBlur(crop, (0, 0), 1)) for portrait in firsts]
    assert np.mean([Reason.LOW_SHARPNESS in quality.reasons(LIMITS) for quality in blurred]) <= 0.02


def test_darkness_is_refused_as_darkness(firsts: list[Portrait]) -> None:
    """A fifth of the light is too dark; it does not count as blurred."""
    dark = [portrait.changed(lambda crop: (crop * 0.2).astype(np.uint8)).reasons(LIMITS) for portrait in firsts]
    assert np.mean([Reason.LOW_BRIGHTNESS in reasons for reasons in dark]) >= 0.98
    assert np.mean([Reason.LOW_SHARPNESS in reasons for reasons in dark]) <= 0.02


def test_overexposure_is_refused(firsts: list[Portrait]) -> None:
    """A face washed out to white is too bright."""
    white = [portrait.changed(lambda crop: np.clip(crop.astype(np.float32) * 1.5 + 140, 0, 255).astype(np.uint8)) for portrait in firsts]
    assert np.mean([Reason.HIGH_BRIGHTNESS in quality.reasons(LIMITS) for quality in white]) >= 0.95


def test_frontal_faces_read_as_frontal(firsts: list[Portrait]) -> None:
    """Press photos face the camera: the median angles are near zero, so the estimate has no bias."""
    poses = [portrait.quality.pose for portrait in firsts]
    assert abs(np.median([pose.yaw for pose in poses])) < 4
    assert abs(np.median([pose.pitch for pose in poses])) < 3


def test_mirroring_a_face_mirrors_its_yaw(firsts: list[Portrait]) -> None:
    """Left and right are treated alike."""
    for portrait in firsts[:40]:
        points = portrait.detection.landmarks
        mirrored = (points * np.array([-1, 1], np.float32))[[1, 0, 2, 4, 3]]
        assert estimate_pose(mirrored).yaw == pytest.approx(-estimate_pose(points).yaw, abs=1e-3)
        assert estimate_pose(mirrored).pitch == pytest.approx(estimate_pose(points).pitch, abs=1e-3)


def test_faces_in_a_crowd_are_refused_for_being_small(shared: Path, look: Look, firsts: list[Portrait]) -> None:
    """The small faces of WIDER FACE never become templates, and enlarged to a crop they read half as sharp as portraits."""
    folder = shared / "data" / "wider"
    names = sorted(json.loads((folder / "gt.json").read_text("utf-8")))[::12]
    small = []
    for image, detections in look([folder / "images" / name for name in names]):
        for detection in detections:
            if min(detection.box.width, detection.box.height) < 20:
                quality = Portrait(aligned_crop(image.pixels, detection.landmarks), detection).quality
                assert Reason.SMALL_FACE in quality.reasons(LIMITS)
                small.append(quality.sharpness)
    assert len(small) >= 20
    assert np.median(small) < 0.5 * np.median([portrait.quality.sharpness for portrait in firsts])
