"""From comparisons of different people to the calibration of an embedder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.lfw import Indices
from benchmarks.measures import threshold_at_rate
from face_server.domain.decision import Calibration
from face_server.domain.image import Floats

LEVELS = (-1.0, -1.5, -2.0, -2.5, -3.0, -3.5, -4.0, -4.5)
"""log10 FMR of the table that ships.

On LFW the table ends at 3e-5, which some 250 comparisons reach. Beyond it a handful of pictures
decides, and among them people who are filed under two names (Joseph and Sepp Blatter): what is
measured there is the labels. ``Calibration`` continues the last segment, which is stricter than the
tail of a normal distribution.
"""

FEWEST = 30
"""A level that fewer comparisons reach than this is left out of a table."""


@dataclass(frozen=True, eq=False)
class Tail:
    """Similarities of comparisons of different people, in no order."""

    impostors: Floats

    def similarity_at(self, level: float) -> float:
        """The lowest similarity that at most a share 10^``level`` of the comparisons reaches."""
        return threshold_at_rate(self.impostors, 10.0**level)

    def calibration(self, levels: Sequence[float] = LEVELS) -> Calibration:
        """The table at the levels that enough comparisons reach; similarities rounded up to 1e-4."""
        usable = tuple(level for level in levels if 10.0**level * len(self.impostors) >= FEWEST)
        return Calibration(tuple(float(np.ceil(self.similarity_at(level) * 1e4) / 1e4) for level in usable), usable)


def measure_tail(templates: Floats, probes: Floats, person: Indices) -> Tail:
    """Compare every template with the probes of all other people.

    ``templates`` and ``probes`` are N×d unit rows of the same N pictures, ``person`` N numbers.
    """
    return Tail((templates @ probes.T)[person[:, None] != person[None]])
