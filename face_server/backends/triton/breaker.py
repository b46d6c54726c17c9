"""When to leave a server alone that fails, and when to try it again."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from face_server.domain.ports import Clock

_GROWTH: Final = 2.0
_LEAST_S: Final = 0.1
"""A caller is never asked to come back sooner than this."""


class Circuit(StrEnum):
    """``closed``: calls flow; ``open``: none do until the pause is over; ``half_open``: one probe decides."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """The circuit to one server, or to one of its models.

    It opens after ``failures`` failed calls in a row, or by ``trip``, for ``pause_s``. When that is
    over, ``begin_probe`` lets one probe through. A probe that fails doubles the pause, up to
    ``max_pause_s``; one that succeeds closes the circuit.
    """

    def __init__(self, clock: Clock, *, failures: int, pause_s: float, max_pause_s: float) -> None:
        self._clock = clock
        self._limit = failures
        self._pause_s = pause_s
        self._max_pause_s = max(pause_s, max_pause_s)
        self._failures = 0
        self._next_pause_s = pause_s
        self._open_until_s = 0.0
        self.circuit = Circuit.CLOSED

    @property
    def closed(self) -> bool:
        """Whether calls may go to the server."""
        return self.circuit is Circuit.CLOSED

    @property
    def retry_after_s(self) -> float:
        """Seconds until the next probe: when asking again makes sense. At least 0.1 unless closed, then 0."""
        return 0.0 if self.closed else max(_LEAST_S, self._open_until_s - self._clock.monotonic())

    @property
    def probe_due(self) -> bool:
        """Whether the pause is over, and nobody probes yet."""
        return self.circuit is Circuit.OPEN and self._clock.monotonic() >= self._open_until_s

    def begin_probe(self) -> bool:
        """Whether a probe may go out now; if so, this caller must report how it ended."""
        if self.probe_due:
            self.circuit = Circuit.HALF_OPEN
            return True
        return False

    def call_succeeded(self) -> None:
        """Forget the failures so far. A late answer does not close an open circuit: a probe does."""
        self._failures = 0

    def call_failed(self) -> None:
        """Count a failure of a call; too many in a row open the circuit."""
        if self.closed:
            self._failures += 1
            if self._failures >= self._limit:
                self.trip()

    def probe_succeeded(self) -> None:
        """Close the circuit."""
        self.circuit = Circuit.CLOSED
        self._failures = 0
        self._next_pause_s = self._pause_s

    def trip(self) -> None:
        """Open the circuit now, for longer if a probe has just failed."""
        if self.circuit is Circuit.OPEN:
            return
        self.circuit = Circuit.OPEN
        self._open_until_s = self._clock.monotonic() + self._next_pause_s
        self._next_pause_s = min(self._max_pause_s, self._next_pause_s * _GROWTH)
