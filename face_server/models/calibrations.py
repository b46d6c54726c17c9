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
    """``threshold`` is the 1:1 default; ``calibration`` gives 1:N thresholds, None if never measured."""

    threshold: float
    calibration: Calibration | None


UNMEASURED = Recognition(threshold=0.5, calibration=None)
"""For weights a user brings: stricter than any 1:1 threshold measured here, so it errs towards unknown."""

RECOGNITION: Mapping[str, Recognition] = {
    # LFW, all impostor pairs; log10 FMR from .335 (1:1) and the 1 % FPIR thresholds at 50..1,680 people.
    "sface": Recognition(
        threshold=0.335,
        calibration=Calibration((0.335, 0.41, 0.42, 0.45, 0.48), (-2.398, -3.697, -3.998, -4.600, -5.223)),
    ),
    # LFW pairs at FMR 1e-3; its tail beyond that has not been measured.
    "arcface_mobilefacenet": Recognition(threshold=0.278, calibration=None),
}


def recognition_of(name: str) -> Recognition:
    """Thresholds of the embedder called ``name``, ``UNMEASURED`` where there is no measurement."""
    return RECOGNITION.get(name, UNMEASURED)
