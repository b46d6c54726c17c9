"""Several processes that serve the same cameras: who they are, and which of them runs what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from face_server.domain.streams import StreamStatus


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a stream, for as long as it is renewed.

    ``token`` is the fencing token: each new claim of a stream has a larger one, also after the owners'
    memory was lost. What bears a smaller token than a stream's newest comes from a former owner.
    ``secret`` is how whoever keeps the claims knows this one again.
    """

    stream_id: str
    token: int
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Hold:
    """Who runs a stream: the id of a replica, empty where nobody does.

    ``free`` says that its last owner let go of it in good order, so anybody may have it at once; ``fresh``
    that it is not known to have had an owner. A stream that nobody holds and that is neither was lost: its owner may still
    come back.
    """

    replica: str = ""
    free: bool = False
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaNote:
    """What a replica says of itself. ``name`` and ``url`` (where others reach it; empty: nowhere) are for people and for other replicas.

    ``room`` is how many streams it would run in all (0: none), ``statuses`` are those of the streams that it runs.
    """

    id: str
    name: str
    url: str = ""
    room: int = 0
    statuses: tuple[StreamStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class Meeting:
    """What a replica learns when it shows itself to the others.

    ``lost`` are the streams among its claims that somebody else has taken meanwhile. ``others`` are the
    replicas that showed themselves lately, without itself. ``revision`` changes with the registered
    streams. ``restarts`` counts, by stream, how often it was told to connect anew.
    """

    lost: frozenset[str] = frozenset()
    others: tuple[ReplicaNote, ...] = ()
    revision: int = 0
    restarts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """How sure a replica may be that a stream is its own.

    ``token`` is that of its newest claim, 0 without one. ``sure`` is False once the claim has not been
    renewed for so long that somebody else may have it. ``lost_at`` is when it learnt that somebody has
    (Unix seconds), None while it has not.
    """

    token: int = 0
    sure: bool = True
    lost_at: float | None = None
