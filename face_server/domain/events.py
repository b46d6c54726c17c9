"""Something happened: what is journaled, shown and sent out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from face_server.domain.face import Box


class EventKind(StrEnum):
    """What can happen on a stream."""

    PERSON_SEEN = "person_seen"
    PERSON_LEFT = "person_left"
    STRANGER_SEEN = "stranger_seen"
    STRANGER_LEFT = "stranger_left"
    STREAM_LOST = "stream_lost"
    STREAM_RECOVERED = "stream_recovered"


ALERTS = frozenset({EventKind.PERSON_SEEN, EventKind.STRANGER_SEEN})
"""Somebody was seen, for the first time in a visit."""

DEPARTURES = frozenset({EventKind.PERSON_LEFT, EventKind.STRANGER_LEFT})
"""A visit that was announced is over."""


@dataclass(frozen=True, slots=True)
class Who:
    """The answer for a track: an enrolled identity or a remembered stranger.

    An identity has ``collection`` and ``identity_id``, a stranger ``stranger_id``; ``name`` is what
    people read. ``similarity`` is that of the decisive vote and ``threshold`` what it had to reach.
    """

    name: str
    similarity: float
    threshold: float
    collection: str = ""
    identity_id: str = ""
    stranger_id: str = ""

    @property
    def key(self) -> str:
        """Equal for the same person."""
        return f"stranger/{self.stranger_id}" if self.stranger_id else f"{self.collection}/{self.identity_id}"


@dataclass(frozen=True, slots=True)
class SceneFace:
    """Somebody on the frame of an event. ``announced`` are those whom the event is about."""

    track: int
    box: Box
    score: float
    who: Who | None = None
    announced: bool = False
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. Receivers tell repeated deliveries by ``id``.

    ``at`` is when it was decided; ``started_at`` and ``ended_at`` span what it is about (Unix
    seconds). ``box`` is in pixels of a frame of ``frame_width`` × ``frame_height``. ``picture`` and
    ``frame_picture`` are ids of the best shot (aligned crop) and of the annotated frame in the journal.
    ``faces`` are all faces of that frame. ``message`` is a sentence for people. ``cursor`` is the
    place in the journal, 0 before it is stored.
    """

    id: str
    kind: EventKind
    stream_id: str
    at: float
    started_at: float
    ended_at: float
    track: int = 0
    who: Who | None = None
    box: Box | None = None
    frame_width: int = 0
    frame_height: int = 0
    picture: str = ""
    frame_picture: str = ""
    faces: tuple[SceneFace, ...] = ()
    message: str = ""
    cursor: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A JPEG that an event refers to."""

    id: str
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to read; empty fields admit everything. Times bound ``Event.at``, Unix seconds."""

    streams: tuple[str, ...] = ()
    kinds: tuple[EventKind, ...] = ()
    identity_id: str = ""
    stranger_id: str = ""
    since: float | None = None
    until: float | None = None

    def admits(self, event: Event) -> bool:
        """Whether ``event`` passes."""
        who = event.who
        return (
            (not self.streams or event.stream_id in self.streams)
            and (not self.kinds or event.kind in self.kinds)
            and (not self.identity_id or (who is not None and who.identity_id == self.identity_id))
            and (not self.stranger_id or (who is not None and who.stranger_id == self.stranger_id))
            and (self.since is None or event.at >= self.since)
            and (self.until is None or event.at < self.until)
        )


@dataclass(frozen=True, slots=True)
class Lane:
    """The deliveries of one stream to one sink; they leave in order."""

    stream_id: str
    sink_key: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to a sink. ``id`` rises in order of the events of a lane."""

    id: int
    lane: Lane
    event: Event
    attempts: int = 0
    queued_at: float = 0.0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A delivery that was given up, with the reason, until somebody replays or discards it."""

    id: int
    lane: Lane
    event: Event
    attempts: int
    error: str
    died_at: float
