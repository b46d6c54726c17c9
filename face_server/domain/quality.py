"""How usable a face is for recognition, from its detection and its aligned crop."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from face_server.domain.image import Floats, Pixels


class Reason(StrEnum):
    """Why a picture is refused at enrolment. The first four say that a face is unfit."""

    SMALL_FACE = "small_face"
    LOW_SHARPNESS = "low_sharpness"
    LOW_BRIGHTNESS = "low_brightness"
    HIGH_BRIGHTNESS = "high_brightness"
    EXTREME_POSE = "extreme_pose"
    LOW_SCORE = "low_score"
    NO_FACE = "no_face"
    MULTIPLE_FACES = "multiple_faces"
    DUPLICATE = "duplicate"
    IDENTITY_CONFLICT = "identity_conflict"


@dataclass(frozen=True, slots=True)
class Pose:
    """Head rotation in degrees estimated from five landmarks; 0 is frontal and upright.

    ``yaw`` is positive when the face turns to the image's right, ``pitch`` when it looks down,
    ``roll`` when it tilts clockwise. Coarse (about ±10°): meant for gates, not for measuring.
    """

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """Bounds beyond which a face is unfit for enrolment.

    Set so that more than 99 % of the first pictures of LFW's people pass (brightness 0.30 to 0.77,
    yaw within ±48°, sharpness from 0.16) and faces blurred by 3 px in the crop, profiles and faces
    in the dark do not.
    """

    min_size_px: float = 40.0
    min_sharpness: float = 0.15
    min_brightness: float = 0.15
    max_brightness: float = 0.90
    max_yaw_deg: float = 50.0
    max_pitch_deg: float = 40.0
    min_score: float = 0.6


@dataclass(frozen=True, slots=True)
class Quality:
    """Measures of one face.

    ``size_px`` is the shorter side of the box in source pixels; ``sharpness`` and ``brightness``
    are 0..1; ``score`` in 0..1 combines size, sharpness, frontality and detection score (their
    product, as best-shot selection needs) and orders shots of one person.
    """

    size_px: float
    sharpness: float
    brightness: float
    pose: Pose
    detection_score: float
    score: float

    def reasons(self, limits: QualityLimits) -> tuple[Reason, ...]:
        """Every limit this face breaks, in the order of ``Reason``; empty when fit."""
        checks = {
            Reason.SMALL_FACE: self.size_px < limits.min_size_px,
            Reason.LOW_SHARPNESS: self.sharpness < limits.min_sharpness,
            Reason.LOW_BRIGHTNESS: self.brightness < limits.min_brightness,
            Reason.HIGH_BRIGHTNESS: self.brightness > limits.max_brightness,
            Reason.EXTREME_POSE: abs(self.pose.yaw) > limits.max_yaw_deg or abs(self.pose.pitch) > limits.max_pitch_deg,
            Reason.LOW_SCORE: self.detection_score < limits.min_score,
        }
        return tuple(reason for reason, broken in checks.items() if broken)


# Luma weights of BT.601 in BGR order.
_LUMA = np.array([0.114, 0.587, 0.299], np.float32)

# Detail (mean squared spatial frequency, radians² per pixel²) at which sharpness reads 0.5: the
# median of portraits of 200 px and more. LFW's median of 0.47 reads 0.40. Blurred by a Gaussian of
# 2, 3 and 4 px in the crop LFW falls to 0.13, 0.07 and 0.04; enlarged from 20 px to 0.12.
_HALF_SHARP = 0.7

# Added to the gradient energy, in grey levels²: rounding alone must not look like detail.
_ROUNDING = 0.25

# Nose height between eye line and mouth line of a frontal face: the median of 100 faces of LFW is
# 0.53 to 0.55 with each of yunet, centerface, scrfd and retinaface. (The ArcFace template has 0.49.)
_FRONTAL_NOSE_HEIGHT = 0.55


def estimate_pose(landmarks: Floats) -> Pose:
    """Estimate head rotation from 5×2 landmarks by the nose's place between eyes and mouth.

    In the frame of the eye line: yaw from the nose's sideways offset over the eye distance, pitch
    from its height between eye line and mouth line. Weak-perspective approximation.
    """
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks.astype(np.float64)
    eyes = right_eye - left_eye
    distance = max(float(np.hypot(*eyes)), 1e-6)
    across = eyes / distance
    down = np.array([-across[1], across[0]])
    eye_centre, mouth_centre = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    face_height = max(float((mouth_centre - eye_centre) @ down), 1e-6)
    centre = (eye_centre + mouth_centre) / 2
    yaw = np.degrees(np.arctan(2 * ((nose - centre) @ across) / distance))
    pitch = np.degrees(np.arctan(2 * (((nose - eye_centre) @ down) / face_height - _FRONTAL_NOSE_HEIGHT)))
    return Pose(float(yaw), float(pitch), float(np.degrees(np.arctan2(eyes[1], eyes[0]))))


def detail(luma: Floats) -> float:
    """Mean squared spatial frequency of an H×W picture, in radians² per pixel².

    Energy of the Laplacian over energy of the gradient, both after 3×3 binomial smoothing against
    noise. By Parseval's theorem it is the picture's power-weighted mean of squared frequency: blur
    lowers it, exposure and contrast leave it as it is.
    """
    rows = luma[:-2] + 2 * luma[1:-1] + luma[2:]
    smooth = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / np.float32(16)
    right = smooth[1:-1, 2:] - smooth[1:-1, :-2]
    down = smooth[2:, 1:-1] - smooth[:-2, 1:-1]
    laplacian = smooth[:-2, 1:-1] + smooth[2:, 1:-1] + smooth[1:-1, :-2] + smooth[1:-1, 2:] - 4 * smooth[1:-1, 1:-1]
    gradient_energy = float(np.mean(np.square(right)) + np.mean(np.square(down))) / 4
    return float(np.mean(np.square(laplacian))) / (gradient_energy + _ROUNDING)


def measure_quality(crop: Pixels, landmarks: Floats, *, size_px: float, detection_score: float) -> Quality:
    """Measure a face from its 112×112×3 aligned crop, its 5×2 landmarks and its box's short side.

    Sharpness is d / (d + 0.7), d the ``detail`` of the crop's luma; brightness is the mean luma of
    the crop's centre over 255.
    """
    luma = crop.astype(np.float32) @ _LUMA
    found = detail(luma)
    sharpness = found / (found + _HALF_SHARP)
    brightness = float(luma[28:100, 28:84].mean()) / 255.0
    pose = estimate_pose(landmarks)
    frontality = max(0.0, 1.0 - abs(pose.yaw) / 90.0) * max(0.0, 1.0 - abs(pose.pitch) / 90.0)
    size = min(1.0, size_px / 112.0)
    return Quality(size_px, sharpness, brightness, pose, detection_score, size * sharpness * frontality * detection_score)
