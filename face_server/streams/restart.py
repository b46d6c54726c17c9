"""When to try a camera again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Failure(StrEnum):
    """Why a connection ended, as far as trying again goes."""

    UNREACHABLE = "unreachable"
    """It could not be made."""
    LOST = "lost"
    """It worked for a while, or at least opened."""
    OPERATOR = "operator"
    """Somebody must change something: credentials, codec, a missing file."""


@dataclass(frozen=True, slots=True)
class RestartOptions:
    """Delays before the next attempt, in seconds.

    The first is at most ``first_s``; each further ceiling is twice the last, up to ``max_s``.
    While a camera cannot be reached and its last frame is younger than ``young_s``, no delay is
    longer than ``young_max_s``: it is probably rebooting. Failures that need a person wait for
    ``slow_s`` to ``slow_max_s``, except the first ``slow_grace`` of a camera that was well a moment
    ago: those come from cameras that are not quite up yet. Only ``healthy_s`` of frames without a
    gap let everything be forgotten.
    """

    first_s: float = 0.5
    max_s: float = 30.0
    young_s: float = 60.0
    young_max_s: float = 2.0
    slow_s: float = 60.0
    slow_max_s: float = 600.0
    slow_grace: int = 2
    slow_grace_s: float = 4.0
    healthy_s: float = 10.0


_LEAST_S = 0.1


class RestartPolicy:
    """Exponential back-off with full jitter (a delay is drawn from all of 0 to the ceiling).

    After an outage of a switch, cameras must not all come back in the same instant; after a
    connection that opens and dies at once, the next must not open and die at once again: opening
    alone never resets anything.
    """

    def __init__(self, options: RestartOptions, chance: random.Random) -> None:
        self.options = options
        self._chance = chance
        self.attempts = 0
        """Connections that ended since frames were last healthy."""
        self._lost = 0
        self._slow = 0

    def healthy(self) -> None:
        """Frames have come for long enough: forget what was."""
        self.attempts = self._lost = self._slow = 0

    def delay_s(self, failure: Failure, *, away_s: float) -> float:
        """How long to wait after a failure, ``away_s`` after the last frame (infinite: there never was one)."""
        options = self.options
        young = away_s < options.young_s
        self.attempts += 1
        if failure is Failure.OPERATOR:
            self._slow += 1
            if young and self._slow <= options.slow_grace:
                return self._between(1.0, options.slow_grace_s)
            return self._between(options.slow_s, _doubled(2 * options.slow_s, self._slow - 1, options.slow_max_s))
        if failure is Failure.LOST:
            self._lost += 1
            return self._between(_LEAST_S, _doubled(options.first_s, self._lost - 1, options.max_s))
        ceiling_s = _doubled(options.first_s, self.attempts - 1, options.max_s)
        if young:
            ceiling_s = min(ceiling_s, options.young_max_s)
        return self._between(_LEAST_S, ceiling_s)

    def _between(self, low_s: float, high_s: float) -> float:
        return self._chance.uniform(low_s, max(low_s, high_s))


def _doubled(first_s: float, times: int, most_s: float) -> float:
    # The exponent is bounded: a camera may be away for years.
    return min(most_s, first_s * 2.0 ** min(times, 32))
