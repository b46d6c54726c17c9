"""The recognition protocols: what is compared with what, and what is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.lfw import Indices, Lfw
from benchmarks.measures import MISSING, Searches, accuracy_over_folds, roc_points, share_at, threshold_at_rate, unit
from benchmarks.shots import Shots
from benchmarks.tail import measure_tail
from face_server.domain.decision import Calibration
from face_server.domain.image import Floats
from face_server.gallery.scoring import person_scores

TARGET_FPIR = 0.01
ROC_RATES = tuple(float(rate) for rate in np.logspace(-5.5, 0, 60))


@dataclass(frozen=True, eq=False)
class Verification:
    """1:1. ``tar`` maps FMR to (TAR of the listed pairs, TAR of all pairs of one person, threshold)."""

    accuracies: list[float]
    thresholds: list[float]
    tar: dict[float, tuple[float, float, float]]
    genuine: int
    impostors: int
    roc: list[tuple[float, float, float]]

    @property
    def accuracy(self) -> float:
        """The mean over the folds."""
        return float(np.mean(self.accuracies))


def verification(lfw: Lfw, shots: Shots, *, mirror: bool = False) -> Verification:
    """The listed pairs, and every pair of the picture set for the thresholds at low FMR."""
    rows = unit(shots.template if mirror else shots.probe)
    listed = _pair_similarities(rows, shots, lfw.pairs)
    accuracies, thresholds = accuracy_over_folds(listed, lfw.same, lfw.fold)
    first, second = np.triu_indices(len(rows), 1)
    everything = _masked(rows @ rows.T, shots)[first, second]
    same = lfw.person[first] == lfw.person[second]
    genuine, impostors = everything[same], everything[~same]
    tar = {}
    for rate in (1e-2, 1e-3, 1e-4):
        threshold = threshold_at_rate(impostors, rate)
        tar[rate] = (share_at(listed[lfw.same], threshold), share_at(genuine, threshold), threshold)
    roc = roc_points(listed[lfw.same], impostors, ROC_RATES)
    return Verification(accuracies, thresholds, tar, len(genuine), len(impostors), roc)


def searches(lfw: Lfw, shots: Shots, *, mirror: bool = True, mirror_probes: bool = False, strangers: Indices | None = None) -> Searches:
    """Search the gallery with the probes of enrolled people and the pictures of strangers.

    A person is enrolled with their first picture; a picture without a face matches nobody.
    ``strangers`` takes these pictures only.
    """
    templates = unit(shots.template if mirror else shots.probe)[lfw.enrolled]
    pictures = np.concatenate([lfw.probes, lfw.strangers if strangers is None else strangers])
    probes = unit(shots.template if mirror_probes else shots.probe)[pictures]
    scores = (probes @ templates.T).astype(np.float32)
    scores[~shots.found[pictures]] = MISSING
    scores[:, ~shots.found[lfw.enrolled]] = MISSING
    column = np.full(int(lfw.person.max()) + 1, -1, np.intp)
    column[lfw.person[lfw.enrolled]] = np.arange(len(lfw.enrolled))
    return Searches(scores, column[lfw.person[pictures]])


@dataclass(frozen=True)
class OpenSet:
    """1:N with strangers at the threshold that a calibration gives: means and spread over galleries."""

    people: int
    threshold: float
    fpir: float
    fpir_spread: float
    fnir: float
    fnir_spread: float


def open_set(everything: Searches, calibration: Calibration, sizes: Sequence[int], galleries: int = 30) -> list[OpenSet]:
    """FPIR and FNIR of random galleries of each size, at the threshold for FPIR 1 % and that size."""
    draw = np.random.default_rng(0)
    rows = []
    for size in sizes:
        threshold = calibration.threshold_at_fpir(TARGET_FPIR, size)
        whole = size == everything.scores.shape[1]
        drawn = [everything.among(draw.permutation(everything.scores.shape[1])[:size]) for _ in range(1 if whole else galleries)]
        fpir = [gallery.fpir(threshold) for gallery in drawn]
        fnir = [gallery.fnir(threshold) for gallery in drawn]
        rows.append(OpenSet(size, threshold, *map(float, (np.mean(fpir), np.std(fpir), np.mean(fnir), np.std(fnir)))))
    return rows


def held_out(lfw: Lfw, shots: Shots) -> list[OpenSet]:
    """Open set with no person in both calibration and test: calibrated on one half of the strangers.

    The whole gallery is searched with the other half's pictures; once each way.
    """
    rows = []
    for half in (0, 1):
        known = lfw.strangers[(lfw.half[lfw.strangers] != half) & shots.found[lfw.strangers]]
        calibration = measure_tail(unit(shots.template[known]), unit(shots.probe[known]), lfw.person[known]).calibration()
        unseen = lfw.strangers[lfw.half[lfw.strangers] == half]
        rows += open_set(searches(lfw, shots, strangers=unseen), calibration, [len(lfw.enrolled)])
    return rows


@dataclass(frozen=True)
class Rule:
    """How several templates of a person were scored, at equal FPIR, and what the shipped threshold gives."""

    name: str
    threshold: float
    fnir: float
    rank_one: float
    default_fpir: float
    default_fnir: float


def scoring_rules(lfw: Lfw, shots: Shots, calibration: Calibration, photos: int = 3) -> tuple[int, int, list[Rule]]:
    """People with more than ``photos`` pictures enrol the first ones; the rest of LFW are strangers.

    Returns the numbers of people and of probes, and a Rule for each share of the best template.
    """
    counts = np.bincount(lfw.person[shots.found], minlength=int(lfw.person.max()) + 1)
    usable = np.flatnonzero(shots.found)
    many = np.flatnonzero(counts > photos)
    own = [usable[lfw.person[usable] == person] for person in many]
    enrolled = np.concatenate([pictures[:photos] for pictures in own])
    pictures = np.concatenate([*(one[photos:] for one in own), usable[~np.isin(lfw.person[usable], many)]])
    mate = np.searchsorted(many, lfw.person[pictures])
    mate[~np.isin(lfw.person[pictures], many)] = -1
    similarities = unit(shots.probe[pictures]) @ unit(shots.template[enrolled]).T
    lengths = np.linalg.norm(unit(shots.template[enrolled]).reshape(len(many), photos, -1).sum(axis=1), axis=1)
    best = similarities.reshape(len(pictures), len(many), photos).max(axis=2)
    mean = similarities.reshape(len(pictures), len(many), photos).sum(axis=2) / lengths
    first = similarities.reshape(len(pictures), len(many), photos)[:, :, 0]
    shipped = np.stack([person_scores(row, np.arange(len(many), dtype=np.int64) * photos, lengths) for row in similarities])
    scored = {"first photo only": first, "best template": best}
    scored |= {f"{share:.2f} best + {1 - share:.2f} mean": share * best + (1 - share) * mean for share in (0.75, 0.5, 0.25)}
    scored |= {"mean template": mean, "as shipped": shipped}
    strict = calibration.threshold_at_fpir(TARGET_FPIR, len(many), len(enrolled))
    rules = [_rule(name, Searches(scores.astype(np.float32), mate), strict) for name, scores in scored.items()]
    return len(many), int((mate >= 0).sum()), rules


def _rule(name: str, found: Searches, strict: float) -> Rule:
    threshold = threshold_at_rate(found.strangers, TARGET_FPIR)
    return Rule(name, threshold, found.fnir(threshold), found.rank_one, found.fpir(strict), found.fnir(strict))


@dataclass(frozen=True)
class Averaging:
    """What is enrolled and what is searched with, at FPIR 1 % measured on the same strangers."""

    name: str
    accuracy: float
    rank_one: float
    threshold: float
    fnir: float


def averaging(lfw: Lfw, shots: Shots) -> list[Averaging]:
    """Mirror averaging on and off, and raw features against unit vectors."""
    variants = {
        "plain templates, plain probes": (shots.probe, shots.probe),
        "mirror-averaged templates (shipped: raw features), plain probes": (shots.template, shots.probe),
        "mirror-averaged templates (unit vectors), plain probes": (unit(shots.probe) + unit(shots.mirrored), shots.probe),
        "mirror-averaged templates and probes": (shots.template, shots.template),
    }
    rows = []
    for name, (templates, probes) in variants.items():
        variant = _with(shots, templates, probes)
        found = searches(lfw, variant)
        threshold = threshold_at_rate(found.strangers, TARGET_FPIR)
        accuracy = verification_accuracy(lfw, variant)
        rows.append(Averaging(name, accuracy, found.rank_one, threshold, found.fnir(threshold)))
    return rows


def verification_accuracy(lfw: Lfw, shots: Shots) -> float:
    """Mean accuracy of the listed pairs, the probe of one picture against the template of the other."""
    first = unit(shots.template)[lfw.pairs[:, 0]]
    second = unit(shots.probe)[lfw.pairs[:, 1]]
    similarities = np.einsum("pd,pd->p", first, second)
    return float(np.mean(accuracy_over_folds(similarities, lfw.same, lfw.fold)[0]))


def _with(shots: Shots, templates: Floats, probes: Floats) -> Shots:
    return Shots(**{**vars(shots), "template": templates, "probe": probes})


def _pair_similarities(rows: Floats, shots: Shots, pairs: Indices) -> Floats:
    similarities: Floats = np.einsum("pd,pd->p", rows[pairs[:, 0]], rows[pairs[:, 1]])
    similarities[~shots.found[pairs].all(axis=1)] = MISSING
    return similarities


def _masked(similarities: Floats, shots: Shots) -> Floats:
    similarities[~shots.found] = MISSING
    similarities[:, ~shots.found] = MISSING
    return similarities
