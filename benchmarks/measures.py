"""The arithmetic of biometric evaluation, after ISO/IEC 19795-1 and NISTIR 8009.

A comparison matches at similarity >= threshold. FMR: share of comparisons of different people that
match. TAR: share of comparisons of one person that match. FPIR: share of searches by strangers that
return anybody. FNIR: share of searches by enrolled people that do not return them first and at or
above the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lfw import Indices, Mask
from face_server.domain.image import Floats

MISSING = -1.0
"""The similarity of anything to a picture in which no face was found: it matches nobody."""


def threshold_at_rate(impostors: Floats, rate: float) -> float:
    """The lowest similarity that at most a share ``rate`` of ``impostors`` reaches."""
    allowed = int(rate * len(impostors))
    if allowed >= len(impostors):
        return float(impostors.min())
    cut = len(impostors) - allowed - 1
    return float(np.nextafter(np.partition(impostors, cut)[cut], np.float32(2)))


def share_at(similarities: Floats, threshold: float) -> float:
    """The share of ``similarities`` that reach ``threshold``; 0 of none."""
    return float(np.mean(similarities >= threshold)) if len(similarities) else 0.0


def best_threshold(similarities: Floats, same: Mask) -> float:
    """The threshold with the highest accuracy; the middle of the gap above it."""
    order = np.argsort(similarities)
    values, labels = similarities[order], same[order]
    # With the threshold below entry k: entries before k are called different, the others the same.
    right = np.concatenate([[0], np.cumsum(~labels)]) + np.concatenate([np.cumsum(labels[::-1])[::-1], [0]])
    best = int(np.argmax(right))
    edges = np.concatenate([[values[0] - 1e-3], values, [values[-1] + 1e-3]])
    return float((edges[best] + edges[best + 1]) / 2)


def accuracy_over_folds(similarities: Floats, same: Mask, fold: Indices) -> tuple[list[float], list[float]]:
    """Accuracy of each fold at the threshold that is best on the other folds, and those thresholds."""
    accuracies, thresholds = [], []
    for number in np.unique(fold):
        held_out = fold == number
        threshold = best_threshold(similarities[~held_out], same[~held_out])
        thresholds.append(threshold)
        accuracies.append(float(np.mean((similarities[held_out] >= threshold) == same[held_out])))
    return accuracies, thresholds


@dataclass(frozen=True, eq=False)
class Searches:
    """Searches of one gallery: ``scores`` is probes × people, ``mate`` each probe's column or -1 for a stranger."""

    scores: Floats
    mate: Indices

    @property
    def strangers(self) -> Floats:
        """The best score of each stranger."""
        scores: Floats = self.scores[self.mate < 0].max(axis=1)
        return scores

    @property
    def rank_one(self) -> float:
        """The share of enrolled people's probes that score highest with themselves."""
        known = self.mate >= 0
        return float(np.mean(self.scores[known].argmax(axis=1) == self.mate[known]))

    def fpir(self, threshold: float) -> float:
        """The share of strangers who are given somebody's name."""
        return share_at(self.strangers, threshold)

    def fnir(self, threshold: float) -> float:
        """The share of enrolled people's probes that are not given their own name."""
        known = self.mate >= 0
        scores, mate = self.scores[known], self.mate[known]
        named = (scores.argmax(axis=1) == mate) & (scores.max(axis=1) >= threshold)
        return float(1 - named.mean())

    def among(self, people: Indices) -> Searches:
        """The same searches of a gallery of these columns only; probes of people left out are dropped."""
        column = np.full(self.scores.shape[1], -2, np.intp)
        column[people] = np.arange(len(people))
        kept = (self.mate < 0) | (column[self.mate] >= 0)
        mate = np.where(self.mate[kept] < 0, -1, column[self.mate[kept]])
        return Searches(self.scores[kept][:, people], mate)


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share that was measured on ``count`` trials (Wilson, JASA 1927)."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z * float(np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))) / (1 + z * z / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def unit(rows: NDArray[Any]) -> Floats:
    """Rows scaled to length 1; rows of NaN (no face) become zero."""
    features = np.nan_to_num(np.asarray(rows, np.float32))
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    result: Floats = (features / np.maximum(lengths, 1e-12)).astype(np.float32)
    return result


def person_scores(similarities: Floats, people: int, weight_of_mean: float) -> Floats:
    """Probes × people from probes × templates, the templates of a person side by side.

    A person scores (1 − w) · best template + w · mean template similarity, w = ``weight_of_mean``.
    """
    grouped = similarities.reshape(len(similarities), people, -1)
    scores: Floats = (1 - weight_of_mean) * grouped.max(axis=2) + weight_of_mean * grouped.mean(axis=2)
    return scores.astype(np.float32)


def roc_points(genuine: Floats, impostors: Floats, rates: Sequence[float]) -> list[tuple[float, float, float]]:
    """(FMR, TAR, threshold) for each of ``rates``."""
    ordered = np.sort(impostors)
    points = []
    for rate in rates:
        allowed = min(int(rate * len(ordered)), len(ordered) - 1)
        threshold = float(np.nextafter(ordered[len(ordered) - allowed - 1], np.float32(2)))
        points.append((rate, share_at(genuine, threshold), threshold))
    return points
