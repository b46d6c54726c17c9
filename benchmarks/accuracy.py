"""Recognition accuracy on Labeled Faces in the Wild, through the pipeline as shipped.

    python -m benchmarks.accuracy --embedder sface --embedder arcface_mobilefacenet
    python -m benchmarks.accuracy --out docs/benchmarks.md --roc docs/assets/roc.png

Prints Markdown tables and the calibration that the measured impostors give; ``--out`` writes them
between the ``accuracy`` markers of a page.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import protocols
from benchmarks.lfw import Lfw
from benchmarks.measures import unit
from benchmarks.report import machine, percent, plot_roc, replace_section, table, with_interval
from benchmarks.shots import Shots, cached_shots, open_pipeline
from benchmarks.tail import Tail, measure_tail
from face_server.domain.decision import Calibration
from face_server.models.calibrations import recognition_of
from face_server.models.weights import WeightsStore

SIZES = (50, 100, 200, 400)


@dataclass(frozen=True, eq=False)
class Run:
    """Everything measured of one detector and embedder."""

    detector: str
    embedder: str
    description: str
    lfw: Lfw
    shots: Shots
    tail: Tail
    measured: Calibration
    shipped: Calibration

    @property
    def title(self) -> str:
        """Both networks."""
        return f"{self.embedder} behind {self.detector}"


async def measure(weights: WeightsStore, lfw: Lfw, detector: str, embedder: str, *, cache: Path | None, threads: int | None) -> Run:
    """Send every picture through the pipeline and compare all templates with all probes."""
    files = [lfw.path(image) for image in range(len(lfw.images))]
    async with open_pipeline(weights, detector, embedder, threads) as pipeline:
        shots = await cached_shots(pipeline, files, detector, cache)
        description = pipeline.description
    seen = shots.found
    tail = measure_tail(unit(shots.template[seen]), unit(shots.probe[seen]), lfw.person[seen])
    measured = tail.calibration()
    return Run(detector, embedder, description, lfw, shots, tail, measured, recognition_of(embedder).calibration or measured)


def headline(runs: Sequence[Run]) -> str:
    """Pairs, rank-1 and open set in one table."""
    rows = []
    for run in runs:
        pairs = protocols.verification(run.lfw, run.shots)
        found = protocols.searches(run.lfw, run.shots)
        size = len(run.lfw.enrolled)
        (opened,) = protocols.open_set(found, run.shipped, [size])
        listed, everything, _ = pairs.tar[1e-3]
        known, strangers = int((found.mate >= 0).sum()), int((found.mate < 0).sum())
        rows.append(
            [
                run.title,
                with_interval(pairs.accuracy, len(run.lfw.pairs)),
                f"{listed:.4f} / {everything:.4f}",
                with_interval(found.rank_one, known),
                f"{opened.threshold:.3f}",
                with_interval(opened.fpir, strangers),
                with_interval(opened.fnir, known),
                str(int((~run.shots.found).sum())),
            ]
        )
    head = ["", "LFW pairs", "TAR at FMR 1e-3, listed / all pairs", "rank-1", "threshold", "FPIR", "FNIR", "pictures without a face"]
    return table(head, rows)


def curve(run: Run) -> str:
    """Open-set identification over gallery sizes, and with people kept apart."""
    found = protocols.searches(run.lfw, run.shots)
    rows = [
        [f"{row.people}", f"{row.threshold:.3f}", _spread(row.fpir, row.fpir_spread), _spread(row.fnir, row.fnir_spread)]
        for row in protocols.open_set(found, run.shipped, SIZES)
    ]
    for half, row in enumerate(protocols.held_out(run.lfw, run.shots)):
        rows.append([f"{row.people}, held out {'AB'[half]}", f"{row.threshold:.3f}", percent(row.fpir), percent(row.fnir)])
    return table(["enrolled people", "threshold", "FPIR", "FNIR"], rows)


def tail_table(run: Run) -> str:
    """The similarity that strangers reach, measured and in the shipped calibration."""
    rows = []
    for level in (-1.0, -2.0, -3.0, -4.0, -5.0, -6.0):
        reaching = 10.0**level * len(run.tail.impostors)
        rows.append(
            [
                f"1e{level:.0f}",
                f"{run.tail.similarity_at(level):.4f}",
                f"{run.shipped.threshold_at_fmr(10.0**level):.4f}",
                f"{reaching:,.0f}",
            ]
        )
    return table(["FMR", "measured", "shipped", "comparisons that reach it"], rows)


def scoring(run: Run) -> str:
    """The rules that score a person with three photos."""
    people, probes, rules = protocols.scoring_rules(run.lfw, run.shots, run.shipped)
    rows = [
        [
            rule.name,
            f"{rule.threshold:.3f}",
            percent(rule.fnir),
            percent(rule.rank_one),
            percent(rule.default_fpir),
            percent(rule.default_fnir),
        ]
        for rule in rules
    ]
    head = [f"{people} people, {probes} probes", "threshold", "FNIR at FPIR 1 %", "rank-1", "FPIR by default", "FNIR by default"]
    return table(head, rows)


def mirroring(run: Run) -> str:
    """What averaging with the mirror image brings."""
    rows = [
        [row.name, percent(row.accuracy), percent(row.rank_one), f"{row.threshold:.3f}", percent(row.fnir)]
        for row in protocols.averaging(run.lfw, run.shots)
    ]
    return table(["", "LFW pairs", "rank-1", "threshold", "FNIR at FPIR 1 %"], rows)


def page(runs: Sequence[Run], roc: str) -> str:
    """The whole section."""
    first = runs[0]
    lfw, strangers = first.lfw, np.unique(first.lfw.person[first.lfw.strangers])
    picture = f"\n![Verification on LFW: true accept rate over false match rate]({roc})\n" if roc else ""
    parts = [
        "## Recognition accuracy",
        (
            f"Labeled Faces in the Wild, deep-funneled: {len(lfw.images):,} pictures of {lfw.person.max() + 1:,} people, "
            f"{len(lfw.pairs):,} listed pairs (two official folds), {len(lfw.enrolled)} enrolled people with "
            f"{len(lfw.probes):,} probes, and {len(lfw.strangers):,} pictures of {len(strangers)} people of whom nothing is enrolled. "
            "Every picture goes through the pipeline as shipped: decoder, detector at its default score and 640 px, alignment, "
            "embedder. Where several faces are found, the one nearest the picture's centre counts, as LFW names it; a picture "
            "without a face matches nobody. "
            f"Measured on {machine()}; {first.description}. Brackets are 95 % intervals."
        ),
        headline(runs),
        (
            "*LFW pairs*: the threshold of each fold is the best one of the other fold. *TAR*: at the similarity that 0.1 % of all "
            f"{protocols.verification(lfw, first.shots).impostors:,} pairs of different people of the set reach; 600 listed pairs alone "
            "cannot resolve it. *Rank-1, FPIR, FNIR*: one photo a person enrols, averaged with its mirror image; the threshold is the "
            "default one for FPIR 1 % and the gallery's size. Labels are taken as they are: two of the strangers' pictures show Joseph "
            "Blatter, who is enrolled as Sepp Blatter."
        ),
        picture,
        "### Strangers and gallery size",
        (
            f"{first.title}. Means (and standard deviations) over 30 random galleries drawn from the {len(lfw.enrolled)} people. The "
            "shipped thresholds come from all pictures of the set, these strangers among them. So the last two rows measure without that: "
            "calibrated on one half of the strangers alone, searched with the other half's pictures, nobody in both."
        ),
        curve(first),
        "### Impostor tails",
        (
            "Mirror-averaged templates against plain probes of other people, as in a search. Thresholds for a gallery of N people take "
            "the similarity at FMR 1 − (1 − FPIR)^(1/N); with T templates in all, √(N·T) takes the place of N. The table that ships ends "
            "at 10^−4.5 and is continued with its last slope: beyond it a few pictures decide, and among them people whom LFW lists "
            "under two names."
        ),
        *(part for run in runs for part in (f"{run.title}:", tail_table(run))),
        "### Several photos of a person",
        (
            f"{first.title}. People with more than three pictures enrol three, their others are probes, everybody else is a stranger. "
            "The threshold for FPIR 1 % is measured on these strangers, for each rule alike."
        ),
        scoring(first),
        "### Mirror images",
        f"{first.title}. One photo a person; thresholds measured on these strangers, for each row alike.",
        mirroring(first),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def calibration_source(run: Run) -> str:
    """The measured calibration as the line that ``face_server.models.calibrations`` holds."""
    return f"{run.embedder}: 1:1 at FMR 1e-3 {run.measured.threshold_at_fmr(1e-3):.4f}, {run.measured}"


def _spread(mean: float, deviation: float) -> str:
    return percent(mean) if deviation == 0 else f"{percent(mean)} (± {100 * deviation:.2f})"


async def _measure_all(arguments: argparse.Namespace) -> list[Run]:
    weights = WeightsStore(arguments.models, [arguments.data.parent / "models"])
    lfw = Lfw.read(arguments.data / "lfw")
    embedders = arguments.embedder or ["sface", "arcface_mobilefacenet"]
    return [
        await measure(weights, lfw, detector, embedder, cache=arguments.cache, threads=arguments.threads)
        for detector in arguments.detector or ["yunet"]
        for embedder in embedders
    ]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedder", action="append", help="catalogue name; may be repeated (sface and arcface_mobilefacenet)")
    parser.add_argument("--detector", action="append", help="catalogue name; may be repeated (yunet)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder that holds lfw/ (../shared/data)")
    parser.add_argument("--models", type=Path, default=Path("data/models"), help="folder of installed networks (data/models)")
    parser.add_argument("--cache", type=Path, help="keep embeddings here between runs; delete it after changes of the pipeline")
    parser.add_argument("--threads", type=int, help="worker threads (one a core)")
    parser.add_argument("--out", type=Path, help="page whose accuracy section is replaced")
    parser.add_argument("--roc", type=Path, help="PNG file for the ROC plot")
    arguments = parser.parse_args()
    runs = asyncio.run(_measure_all(arguments))
    link = ""
    if arguments.roc is not None:
        plot_roc({run.title: protocols.verification(run.lfw, run.shots).roc for run in runs}, arguments.roc)
        base = arguments.out.parent if arguments.out is not None else Path()
        link = arguments.roc.relative_to(base).as_posix() if arguments.roc.is_relative_to(base) else arguments.roc.as_posix()
    text = page(runs, link)
    print(text)
    for run in runs:
        print(calibration_source(run))
    if arguments.out is not None:
        replace_section(arguments.out, "accuracy", text)


if __name__ == "__main__":
    main()
