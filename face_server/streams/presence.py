"""When a stream counts as lost, and when as recovered."""

from __future__ import annotations

from face_server.domain.events import EventKind
from face_server.streams.status import FrameCounts

LOST_AFTER_S = 3.0
BACK_AFTER_S = 2.0


class Presence:
    """Says once that a stream which worked gives no more frames, and once that it does again.

    A short gap is silent, and so is a camera that opens and dies at once: it is not back.
    """

    def __init__(self) -> None:
        self._up = False
        self._lost = False

    def recall_loss(self) -> None:
        """It was said before a restart of the service that the stream is lost: its return is owed."""
        self._lost = True

    def rest(self) -> None:
        """The operator stopped the stream: its silence is nobody's fault."""
        self._up = False

    def tick(self, frames: FrameCounts) -> EventKind | None:
        """What is to be said now. Call it a few times a second while the stream should run."""
        # A camera that gives a frame every few seconds is not away in between.
        if self._up and frames.away_s > LOST_AFTER_S and not frames.flowing:
            self._up, self._lost = False, True
            return EventKind.STREAM_LOST
        if not self._up and frames.flowing_s >= BACK_AFTER_S:
            self._up = True
            if self._lost:
                self._lost = False
                return EventKind.STREAM_RECOVERED
        return None
