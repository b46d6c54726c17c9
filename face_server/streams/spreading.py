"""Which streams a replica takes, and which it gives back, so that all replicas have their share."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from face_server.domain.replicas import Hold, ReplicaNote


@dataclass(frozen=True, slots=True)
class SpreadOptions:
    """The patience of a replica, in seconds.

    A stream whose owner vanished is taken after it was nobody's for ``grace_s``: long enough for an owner who was merely cut off, or
    whose Redis was, to come back first. With its share of streams a replica leaves what is nobody's to those with fewer for
    ``courtesy_s`` more. Once the replicas have been the same for ``settled_s``, one with more than its share gives a stream back every
    ``rebalance_s``.
    """

    grace_s: float = 3.0
    courtesy_s: float = 1.5
    settled_s: float = 5.0
    rebalance_s: float = 2.0


def fair_share(streams: int, rooms: Iterable[int]) -> int:
    """The smallest number of streams a replica with which all are run, if each takes that many or as many as it has room for."""
    left, waiting = streams, sorted(room for room in rooms if room > 0)
    share = 0
    while left > 0 and waiting:
        more = min(-(-left // len(waiting)), waiting[0] - share)
        share += more
        left -= more * len(waiting)
        waiting = [room for room in waiting if room > share]
    return share


class Spreading:
    """What one replica knows of streams that others run or nobody does.

    Times are those of its own monotonic clock, and only time in which it saw the others counts: after any
    interruption (Redis away, this process frozen) it watches anew.
    """

    def __init__(self, options: SpreadOptions, chance: random.Random) -> None:
        self._options = options
        self._chance = chance
        self._nobodys_since: dict[str, float] = {}
        self._had_owner: set[str] = set()
        self._holds: Mapping[str, Hold] = {}
        self._others: tuple[str, ...] = ()
        self._rooms: tuple[int, ...] = ()
        self._settled_since = 0.0
        self._gave_at = 0.0

    def interrupted(self) -> None:
        """The others could not be seen for a while."""
        self._nobodys_since.clear()
        self._others = ()

    def meet(self, others: Sequence[ReplicaNote], now: float) -> None:
        """These are the other replicas."""
        ids = tuple(sorted(note.id for note in others if note.room > 0))
        if ids != self._others:
            self._others, self._settled_since = ids, now
        self._rooms = tuple(note.room for note in others)

    def see(self, holds: Mapping[str, Hold], now: float) -> None:
        """These hold the streams that are not this replica's."""
        self._holds = holds
        self._nobodys_since = {stream_id: self._nobodys_since.get(stream_id, now) for stream_id, hold in holds.items() if not hold.replica}
        self._had_owner = (self._had_owner & holds.keys()) | {stream_id for stream_id, hold in holds.items() if hold.replica}

    def share(self, streams: int, room: int) -> int:
        """How many of all ``streams`` this replica should run."""
        return min(room, fair_share(streams, (room, *self._rooms)))

    def to_take(self, *, mine: int, streams: int, room: int, now: float) -> list[tuple[str, bool]]:
        """The streams to claim now, and of each whether its owner vanished.

        In an order of chance, so that replicas rarely want the same at once.
        """
        share, options = self.share(streams, room), self._options
        wanted: list[tuple[str, bool]] = []
        for stream_id in self._chance.sample(sorted(self._nobodys_since), len(self._nobodys_since)):
            hold = self._holds[stream_id]
            # One that had an owner a moment ago and is said to be new: all keys were lost, and the owner may come back.
            at_once = hold.free or (hold.fresh and stream_id not in self._had_owner)
            waited_s = now - self._nobodys_since[stream_id]
            due_s = 0.0 if at_once else options.grace_s
            count = mine + len(wanted)
            if count < room and waited_s >= due_s + (0.0 if count < share else options.courtesy_s):
                wanted.append((stream_id, not at_once))
        return wanted

    def gives_back(self, *, mine: int, streams: int, room: int, now: float) -> bool:
        """Whether to let go of a stream now: there are others with room for it, and all else has settled."""
        options = self._options
        ready = self._others and not self._nobodys_since and now - self._settled_since >= options.settled_s
        if not ready or mine <= self.share(streams, room) or now - self._gave_at < options.rebalance_s:
            return False
        self._gave_at = now
        return True
