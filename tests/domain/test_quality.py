"""What makes a face fit for enrolment, on faces whose faults are known because they were made."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from face_server.domain.alignment import ARCFACE_TEMPLATE
from face_server.domain.quality import Quality, QualityLimits, Reason, detail, estimate_pose, measure_quality

FRONTAL = np.array([(-30, -30), (30, -30), (0, 3), (-25, 30), (25, 30)], np.float32)
"""A frontal face: eye line at −30, mouth line at 30, nose at 0.55 of the way."""


def _texture(contrast: float = 40.0, brightness: float = 120.0) -> np.ndarray:
    """A crop with as much detail as a sharp face: noise of fine and coarse grain."""
    draw = np.random.default_rng(5)
    picture = np.full((112, 112), float(brightness))
    for sigma in (1.0, 2.0, 4.0, 8.0):
        grain = cv2.GaussianBlur(draw.normal(size=(112, 112)), (0, 0), sigma)
        picture += contrast / 2 * grain / grain.std() * (1 if sigma < 4 else 2) / 2
    return np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _measure(crop: np.ndarray, landmarks: np.ndarray = FRONTAL, size_px: float = 100.0, score: float = 0.9) -> Quality:
    return measure_quality(crop, landmarks, size_px=size_px, detection_score=score)


def _turned(yaw: float, pitch: float = 0.0) -> np.ndarray:
    """The landmarks of a head with the nose tip half an eye distance before the face, turned and projected."""
    points = np.column_stack([FRONTAL, [0, 0, -30, 0, 0]]).astype(np.float64)
    a, b = np.radians(yaw), np.radians(pitch)
    x = points[:, 0] * np.cos(a) - points[:, 2] * np.sin(a)
    z = points[:, 0] * np.sin(a) + points[:, 2] * np.cos(a)
    y = points[:, 1] * np.cos(b) - z * np.sin(b)
    return np.column_stack([x, y]).astype(np.float32)


def test_a_good_face_has_no_reasons() -> None:
    """Sharp, well lit, frontal, large: fit under the default limits."""
    quality = _measure(_texture())
    assert quality.reasons(QualityLimits()) == ()
    assert 0 < quality.score <= 1


@pytest.mark.parametrize(
    ("quality", "reason"),
    [
        ({"size_px": 39.9}, Reason.SMALL_FACE),
        ({"sharpness": 0.149}, Reason.LOW_SHARPNESS),
        ({"brightness": 0.149}, Reason.LOW_BRIGHTNESS),
        ({"brightness": 0.901}, Reason.HIGH_BRIGHTNESS),
        ({"yaw": 50.1}, Reason.EXTREME_POSE),
        ({"yaw": -50.1}, Reason.EXTREME_POSE),
        ({"pitch": 40.1}, Reason.EXTREME_POSE),
        ({"pitch": -40.1}, Reason.EXTREME_POSE),
        ({"detection_score": 0.59}, Reason.LOW_SCORE),
    ],
)
def test_each_limit_refuses_for_its_own_reason(quality: dict[str, float], reason: Reason) -> None:
    """Just beyond one limit that reason alone is given; on the limit none."""
    good = {"size_px": 40.0, "sharpness": 0.15, "brightness": 0.15, "yaw": 50.0, "pitch": -40.0, "detection_score": 0.6}

    def judge(values: dict[str, float]) -> tuple[Reason, ...]:
        pose = estimate_pose(FRONTAL).__class__(values["yaw"], values["pitch"], 0.0)
        made = Quality(values["size_px"], values["sharpness"], values["brightness"], pose, values["detection_score"], 0.5)
        return made.reasons(QualityLimits())

    assert judge(good) == ()
    assert judge(good | quality) == (reason,)


def test_every_broken_limit_is_listed_in_order() -> None:
    """A hopeless picture gets all its reasons at once, so that nobody has to try again for each."""
    dark = np.full((112, 112, 3), 5, np.uint8)
    reasons = _measure(dark, _turned(75), size_px=10, score=0.3).reasons(QualityLimits())
    assert reasons == (Reason.SMALL_FACE, Reason.LOW_SHARPNESS, Reason.LOW_BRIGHTNESS, Reason.EXTREME_POSE, Reason.LOW_SCORE)


def test_blur_lowers_sharpness_step_by_step() -> None:
    """Each wider blur reads less sharp, and one of 4 px in the crop is refused."""
    readings = [_measure(_texture()).sharpness]
    readings += [_measure(cv2.GaussianBlur(_texture(), (0, 0), sigma)).sharpness for sigma in (1, 2, 3, 4)]
    assert readings == sorted(readings, reverse=True)
    assert readings[0] > 0.3
    assert readings[-1] < QualityLimits().min_sharpness


@pytest.mark.parametrize("gain", [0.35, 0.6, 1.4])
def test_exposure_does_not_change_sharpness(gain: float) -> None:
    """A darker or brighter print of the same picture is as sharp as before; only brightness moves."""
    crop = _texture(contrast=30, brightness=110)
    exposed = np.clip(crop.astype(np.float32) * gain, 0, 255).astype(np.uint8)
    assert _measure(exposed).sharpness == pytest.approx(_measure(crop).sharpness, abs=0.03)
    assert _measure(exposed).brightness == pytest.approx(_measure(crop).brightness * gain, rel=0.03)


def test_slight_sensor_noise_does_not_hide_blur() -> None:
    """A blurred face with noise of 1.5 grey levels is still refused as blurred."""
    noise = np.random.default_rng(1).normal(0, 1.5, (112, 112, 1))
    blurred = cv2.GaussianBlur(_texture(contrast=60), (0, 0), 4).astype(np.float32) + noise
    assert _measure(np.clip(blurred, 0, 255).astype(np.uint8)).sharpness < QualityLimits().min_sharpness


@pytest.mark.parametrize("period", [8, 12, 24, 48])
def test_detail_is_the_squared_frequency_of_a_wave(period: int) -> None:
    """For a single wave it is its squared frequency in radians per pixel, whatever its strength."""
    wave = np.tile(np.sin(2 * np.pi * np.arange(240) / period), (240, 1)).astype(np.float32)
    frequency = 2 * np.pi / period
    assert detail(60 * wave) == pytest.approx(frequency**2, rel=0.2)
    assert detail(120 * wave.T) == pytest.approx(detail(60 * wave), rel=0.05)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_crop_has_no_sharpness(value: int) -> None:
    """Nothing to see is not sharp, and no division fails."""
    quality = _measure(np.full((112, 112, 3), value, np.uint8))
    assert quality.sharpness == 0
    assert quality.score == 0
    assert quality.brightness == pytest.approx(value / 255, abs=1e-3)


def test_brightness_weighs_colours_as_eyes_do() -> None:
    """Pure green is brighter than pure red, which is brighter than pure blue (BT.601), in BGR order."""
    readings = []
    for channel in range(3):
        crop = np.zeros((112, 112, 3), np.uint8)
        crop[..., channel] = 255
        readings.append(_measure(crop).brightness)
    assert readings == pytest.approx([0.114, 0.587, 0.299], abs=1e-3)


def test_brightness_looks_at_the_face_not_at_its_surroundings() -> None:
    """A bright frame around a dark face does not make the face bright."""
    crop = np.full((112, 112, 3), 250, np.uint8)
    crop[28:100, 28:84] = 20
    assert _measure(crop).brightness == pytest.approx(20 / 255, abs=1e-3)


def test_a_frontal_face_has_no_angles() -> None:
    """The reference face reads zero; the ArcFace template, whose nose is a little higher, nearly so."""
    pose = estimate_pose(FRONTAL)
    assert (pose.yaw, pose.pitch, pose.roll) == pytest.approx((0, 0, 0), abs=0.1)
    template = estimate_pose(ARCFACE_TEMPLATE)
    assert abs(template.yaw) < 3
    assert -10 < template.pitch < 0
    assert abs(template.roll) < 1


@given(st.floats(-65, 65))
def test_yaw_is_that_of_a_turned_head(yaw: float) -> None:
    """For a head of average proportions the estimate is within ten degrees and has the right sign."""
    assert estimate_pose(_turned(yaw)).yaw == pytest.approx(yaw, abs=10)


@given(st.floats(-180, 180), st.floats(0.1, 30), st.floats(-500, 500), st.floats(-45, 45))
def test_pose_is_blind_to_size_place_and_tilt(tilt: float, scale: float, shift: float, yaw: float) -> None:
    """Tilting the picture changes roll only; scaling and shifting change nothing."""
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    moved = (_turned(yaw) @ np.array([[c, s], [-s, c]]) * scale + shift).astype(np.float32)
    pose, upright = estimate_pose(moved), estimate_pose(_turned(yaw))
    assert pose.yaw == pytest.approx(upright.yaw, abs=1)
    assert pose.pitch == pytest.approx(upright.pitch, abs=1)
    assert np.cos(np.radians(pose.roll - tilt)) == pytest.approx(1, abs=1e-2)


def test_looking_down_is_positive_pitch() -> None:
    """The nose sinks towards the mouth when the head nods, and the sign says so."""
    assert estimate_pose(_turned(0, 25)).pitch > 10
    assert estimate_pose(_turned(0, -25)).pitch < -10


def test_degenerate_landmarks_have_finite_angles() -> None:
    """Five equal points are a detector's mistake, not a crash."""
    pose = estimate_pose(np.full((5, 2), 3, np.float32))
    assert np.isfinite([pose.yaw, pose.pitch, pose.roll]).all()


def test_the_score_orders_shots_of_one_person() -> None:
    """Larger, sharper, more frontal and surer each make a better shot, everything else equal."""
    base = _measure(_texture(), _turned(30), size_px=60, score=0.7).score
    assert _measure(_texture(), _turned(30), size_px=90, score=0.7).score > base
    assert _measure(_texture(), _turned(10), size_px=60, score=0.7).score > base
    assert _measure(_texture(), _turned(30), size_px=60, score=0.9).score > base
    assert _measure(cv2.GaussianBlur(_texture(), (0, 0), 2), _turned(30), size_px=60, score=0.7).score < base
    assert (
        _measure(_texture(), _turned(30), size_px=112, score=0.7).score == _measure(_texture(), _turned(30), size_px=500, score=0.7).score
    )
