"""How similar strangers look to each embedder: the thresholds of the catalogue.

Measured with aligned crops from the default detector. An embedder that nobody measured has no entry:
its collections must pin a threshold, or take ``UNMEASURED``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from face_server.domain.decision import Calibration


@dataclass(frozen=True, slots=True)
class Recognition:
    """``threshold`` is the 1:1 default (FMR 0.1 %); ``calibration`` gives 1:N thresholds, None if never measured."""

    threshold: float
    calibration: Calibration | None


UNMEASURED = Recognition(threshold=0.5, calibration=None)
"""For weights a user brings: stricter than any 1:1 threshold measured here, so it errs towards unknown."""

_LEVELS = (-1.0, -1.5, -2.0, -2.5, -3.0, -3.5, -4.0, -4.5)

# Measured by `python -m benchmarks.accuracy` on 2,877 pictures of 1,174 people of LFW behind yunet:
# all 8,266,024 comparisons of a mirror-averaged template with a plain probe of somebody else. Below
# 3e-5 (about 260 comparisons) LFW's labels decide, so the tables end there.
RECOGNITION: Mapping[str, Recognition] = {
    "sface": Recognition(
        threshold=0.3675,
        calibration=Calibration((0.2094, 0.2597, 0.3007, 0.3359, 0.3675, 0.3963, 0.4221, 0.4466), _LEVELS),
    ),
    "arcface_mobilefacenet": Recognition(
        threshold=0.3447,
        calibration=Calibration((0.1477, 0.2094, 0.2609, 0.3059, 0.3447, 0.3803, 0.4125, 0.4436), _LEVELS),
    ),
}


def recognition_of(name: str) -> Recognition:
    """Thresholds of the embedder called ``name``, ``UNMEASURED`` where there is no measurement."""
    return RECOGNITION.get(name, UNMEASURED)
