"""What the camera did between two frames, on pictures that were shifted on purpose."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from face_server.domain.camera_motion import CameraMotion, Motion


def _scenery(seed: int) -> np.ndarray:
    grain = np.random.default_rng(seed).uniform(0, 255, (60, 100, 3)).astype(np.uint8)
    return cv2.resize(grain, (1000, 600), interpolation=cv2.INTER_CUBIC)


def _view(scenery: np.ndarray, x: int, y: int) -> np.ndarray:
    return np.ascontiguousarray(scenery[y : y + 360, x : x + 640])


def test_the_first_frame_is_no_motion():
    """There is nothing to compare the first frame with, nor the first after forgetting."""
    camera = CameraMotion()
    assert camera.look(_view(_scenery(0), 0, 0)) == Motion()
    camera.forget()
    assert camera.look(_view(_scenery(1), 0, 0)) == Motion()


@pytest.mark.parametrize(("right", "down"), [(0, 0), (35, 0), (-60, 20), (100, -45), (10, 5)])
def test_a_turn_of_the_camera_is_measured(right, down):
    """The scenery moves by what the view was shifted, to within a pixel of the thumbnail."""
    scenery, camera = _scenery(2), CameraMotion()
    camera.look(_view(scenery, 180, 120))
    motion = camera.look(_view(scenery, 180 - right, 120 - down))
    assert not motion.cut
    assert (motion.right_px, motion.down_px) == pytest.approx((right, down), abs=5)


def test_another_scenery_is_a_cut():
    """When layout and colours change, it is a cut; the frame after it is compared with the new scenery."""
    camera = CameraMotion()
    red, blue = _scenery(3), _scenery(4)
    red[..., 0] //= 4
    blue[..., 2] //= 4
    assert [camera.look(_view(one, 0, 0)).cut for one in (red, blue, blue, red)] == [False, True, False, True]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_plain_pictures_are_no_cut(level):
    """A covered lens shows nothing to compare: it neither cuts nor moves."""
    camera = CameraMotion()
    plain = np.full((360, 640, 3), level, np.uint8)
    for _ in range(3):
        motion = camera.look(plain)
        assert not motion.cut
        assert (motion.right_px, motion.down_px) == pytest.approx((0, 0), abs=1e-3)


def test_a_change_of_resolution_is_no_cut():
    """The same scenery in another size is the same scenery."""
    camera, scenery = CameraMotion(), _scenery(5)
    view = _view(scenery, 100, 100)
    camera.look(view)
    assert not camera.look(cv2.resize(view, (1280, 720))).cut
