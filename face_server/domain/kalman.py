"""Where a box that moves will be next, and how sure that is."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from face_server.domain.face import Box

Values = NDArray[np.float64]

# In face sizes (the square root of a box's area) and seconds. A head moves by up to 3 of its sizes
# a second when first seen (somebody who walks past) and changes that by about 2 within a second.
_JITTER = np.array([0.06, 0.06, 0.06, 0.06])
_FIRST_SPEED = np.array([3.0, 2.0, 0.3, 0.3])
_RESTLESSNESS = np.array([2.0, 1.5, 0.2, 0.2])

# Speeds fade at these rates a second: half is gone after 2 s, of a change of size after 0.3 s.
_FADING = math.log(2.0) / np.array([2.0, 2.0, 0.3, 0.3])


class BoxFilter:
    """A Kalman filter over a box's centre (x, y, pixels) and the logarithms of its width and height.

    Each of the four moves at nearly constant velocity, independently of the others, so that four
    filters of two states do. Velocities fade without measurements (an integrated Ornstein-Uhlenbeck
    process, Uhlenbeck & Ornstein 1930; its covariance is exact for time steps of any length), so that
    a prediction over a long gap does not run away. Noise is measured in sizes of the box, so it
    needs no knowledge of the camera.
    """

    def __init__(self, box: Box) -> None:
        self._place = _measure(box)
        self._speed = np.zeros(4)
        unit = self._unit()
        # Per value the covariance of place and speed: [[a, b], [b, c]].
        self._a = np.square(_JITTER * unit)
        self._b = np.zeros(4)
        self._c = np.square(_FIRST_SPEED * unit)

    def predict(self, step_s: float) -> None:
        """Move on by ``step_s`` >= 0 seconds."""
        decay = np.exp(-_FADING * step_s)
        # The integral of the fading speed over the step.
        reach = (1.0 - decay) / _FADING
        noise = np.square(_RESTLESSNESS * self._unit())
        self._place += reach * self._speed
        self._speed *= decay
        drift = (2.0 * _FADING * step_s - 3.0 + 4.0 * decay - np.square(decay)) / (2.0 * _FADING**3)
        self._a += 2.0 * reach * self._b + np.square(reach) * self._c + noise * drift
        self._b = decay * (self._b + reach * self._c) + noise * np.square(reach) / 2.0
        self._c = np.square(decay) * self._c + noise * (1.0 - np.square(decay)) / (2.0 * _FADING)

    def shift(self, right_px: float, down_px: float) -> None:
        """The whole picture moved; the face did not."""
        self._place[:2] += (right_px, down_px)

    def update(self, box: Box) -> None:
        """Take in where the box was found."""
        surprise = _measure(box) - self._place
        total = self._a + np.square(_JITTER * self._unit())
        place_gain, speed_gain = self._a / total, self._b / total
        self._place += place_gain * surprise
        self._speed += speed_gain * surprise
        self._c -= speed_gain * self._b
        self._b *= 1.0 - place_gain
        self._a *= 1.0 - place_gain

    @property
    def box(self) -> Box:
        """Where the box is believed to be now."""
        x, y, log_width, log_height = self._place.tolist()
        half_width, half_height = math.exp(log_width) / 2.0, math.exp(log_height) / 2.0
        return Box(x - half_width, y - half_height, x + half_width, y + half_height)

    @property
    def place(self) -> Values:
        """What is believed now: x, y in pixels, log width, log height."""
        return self._place

    @property
    def spread(self) -> Values:
        """The standard deviations of what is measured next: x, y in pixels, log width, log height."""
        return np.asarray(np.sqrt(self._a + np.square(_JITTER * self._unit())))

    def _unit(self) -> Values:
        size = math.exp((self._place[2] + self._place[3]) / 2.0)
        return np.array([size, size, 1.0, 1.0])


def _measure(box: Box) -> Values:
    width, height = max(box.width, 1.0), max(box.height, 1.0)
    return np.array([(box.x1 + box.x2) / 2.0, (box.y1 + box.y2) / 2.0, math.log(width), math.log(height)])
