"""From similarities to a name, or to the honest answer "unknown"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from face_server.domain.identity import Candidate


class Verdict(StrEnum):
    """Why a decision is what it is."""

    MATCH = "match"
    NO_CANDIDATE = "no_candidate"
    BELOW_THRESHOLD = "below_threshold"
    WITHIN_MARGIN = "within_margin"


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer for one probe. ``match`` is None for unknown; ``candidates`` are best first."""

    verdict: Verdict
    threshold: float
    margin: float
    candidates: tuple[Candidate, ...]

    @property
    def match(self) -> Candidate | None:
        """The person, or None for unknown."""
        return self.candidates[0] if self.verdict is Verdict.MATCH else None


def decide(candidates: Sequence[Candidate], threshold: float, margin: float) -> Decision:
    """Name the best of ``candidates`` (best first, different people) or say unknown.

    A match needs similarity >= threshold, and a lead of at least ``margin`` over the second person.
    """
    verdict = Verdict.MATCH
    if not candidates:
        verdict = Verdict.NO_CANDIDATE
    elif candidates[0].similarity < threshold:
        verdict = Verdict.BELOW_THRESHOLD
    elif len(candidates) > 1 and candidates[0].similarity - candidates[1].similarity < margin:
        verdict = Verdict.WITHIN_MARGIN
    return Decision(verdict, threshold, margin, tuple(candidates))


@dataclass(frozen=True, slots=True)
class Calibration:
    """The upper tail of a model's measured impostor similarities.

    ``similarities`` rise, ``log10_fmr`` fall: at each similarity the log10 of the share of
    comparisons of different people that reach it. Thresholds beyond the table extrapolate its
    last segment, which errs towards stricter.
    """

    similarities: tuple[float, ...]
    log10_fmr: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.similarities, self.similarities[1:], strict=False))
        falling = all(a > b for a, b in zip(self.log10_fmr, self.log10_fmr[1:], strict=False))
        if len(self.similarities) != len(self.log10_fmr) or len(self.similarities) < 2 or not (rising and falling):
            raise ValueError("a Calibration needs two or more points, rising in similarity and falling in FMR")

    def threshold_at_fmr(self, fmr: float) -> float:
        """The 1:1 threshold at which different people match with probability ``fmr``."""
        wanted = np.log10(fmr)
        if wanted < self.log10_fmr[-1]:
            rise = self.similarities[-1] - self.similarities[-2]
            fall = self.log10_fmr[-1] - self.log10_fmr[-2]
            return min(1.0, float(self.similarities[-1] + (wanted - self.log10_fmr[-1]) * rise / fall))
        return float(np.interp(-wanted, -np.array(self.log10_fmr), self.similarities))

    def threshold_at_fpir(self, fpir: float, identities: int, templates: int | None = None) -> float:
        """The 1:N threshold at which a stranger gets a name with probability ``fpir``.

        A stranger is compared with each of ``identities`` people: FPIR = 1 − (1 − FMR)^C, Grother &
        Ngan, NISTIR 8009, with C independent comparisons. On LFW this meets the measured FPIR up to
        10 % and errs towards stricter above. A person with k ``templates`` gives strangers √k times
        the chances of a person with one (measured for 2 to 10 photos, scored half by the best and
        half by the mean), so C = √(identities · templates).
        """
        people = max(1, identities)
        comparisons = np.sqrt(people * max(people, templates or 0))
        return self.threshold_at_fmr(1.0 - (1.0 - fpir) ** (1.0 / comparisons))
