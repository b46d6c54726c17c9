"""What is known of somebody while they are in view."""

from __future__ import annotations

from dataclasses import dataclass, replace

from face_server.domain.events import Event, Picture, Who
from face_server.domain.face import Detection


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One face followed through the frames of a stream, as of the newest of them.

    ``id`` is unique within the stream for as long as the service runs. ``detection`` is in the
    pixels of the frame; where the face was not found on it (``missed`` > 0 frames in a row), it is
    the prediction. ``first_at`` and ``last_at`` are ``Clock.monotonic`` seconds of the first and the
    last frame on which it was found, ``hits`` their number.
    """

    id: int
    detection: Detection
    first_at: float
    last_at: float
    hits: int
    missed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SeenTrack:
    """A track with what is believed of it: ``who`` is None while undecided."""

    track: Track
    who: Who | None = None

    def scaled(self, x: float, y: float) -> SeenTrack:
        """The same in a picture that is ``x`` times as wide and ``y`` times as high."""
        return replace(self, track=replace(self.track, detection=self.track.detection.scaled(x, y)))


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one analysed frame brought: everybody in view, what happened, and the pictures of it."""

    tracks: tuple[SeenTrack, ...] = ()
    events: tuple[Event, ...] = ()
    pictures: tuple[Picture, ...] = ()
