"""Who is here, since when, and whether that was announced: each visit once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from face_server.domain.events import ALERTS, DEPARTURES, Event, Who


@dataclass(frozen=True, slots=True)
class Visit:
    """A stretch of time in which somebody was seen again and again; Unix seconds."""

    who: Who
    started_at: float
    last_at: float


@dataclass(slots=True)
class _Open:
    visit: Visit
    announced: bool


class VisitBook:
    """The visits of one stream, for each person apart, so that nobody mutes a bystander.

    A visit begins when somebody is seen and ends when they were not for more than ``absence_s``. It is
    announced once, at its beginning. A new visit within ``realert_s`` of the last announcement of the
    same person stays silent to its end, unless ``realert_on_return``. A track that is taken for one
    person, then for another, then for the first again announces neither anew: both visits go on.
    Memory is bounded by who was seen within the longer of the two times.

    Times may jitter; a clock that is set by more than ``absence_s``, forth or back, ends visits.
    """

    def __init__(self, realert_s: float, absence_s: float, realert_on_return: bool) -> None:
        self._realert_s = realert_s
        self._absence_s = absence_s
        self._realert_on_return = realert_on_return
        self._open: dict[str, _Open] = {}
        self._announced_at: dict[str, float] = {}
        self._ended: list[Visit] = []

    def seen(self, who: Who, at: float) -> bool:
        """Note that ``who`` is here at ``at`` (Unix seconds); True exactly when that must be announced now.

        The name and similarity of the visit become those of the latest call.
        """
        self._end_if_over(who.key, at)
        going_on = self._open.get(who.key)
        if going_on is not None:
            visit = going_on.visit
            going_on.visit = replace(visit, who=who, last_at=max(visit.last_at, at))
            return False
        announce = self._may_announce(who.key, at)
        if announce:
            self._announced_at[who.key] = at
        self._open[who.key] = _Open(Visit(who, at, at), announce)
        return announce

    def pass_time(self, now: float) -> list[Visit]:
        """The announced visits that ended by ``now`` and were not returned before, first ended first."""
        for key in list(self._open):
            self._end_if_over(key, now)
        longest = max(self._realert_s, self._absence_s)
        self._announced_at = {key: at for key, at in self._announced_at.items() if key in self._open or abs(now - at) <= longest}
        ended, self._ended = sorted(self._ended, key=lambda visit: visit.last_at), []
        return ended

    def open_visits(self) -> list[Visit]:
        """Everybody who is here, announced or not, first come first."""
        return sorted((one.visit for one in self._open.values()), key=lambda visit: visit.started_at)

    def end(self) -> list[Visit]:
        """Nobody looks any more: every visit ends when its person was last seen. Returns as ``pass_time``; announcements stay known."""
        self._ended += [one.visit for one in self._open.values() if one.announced]
        self._open.clear()
        ended, self._ended = sorted(self._ended, key=lambda visit: visit.last_at), []
        return ended

    def recall(self, events: Iterable[Event]) -> None:
        """Take up what an earlier book announced, oldest first: whoever did not leave was last seen when announced.

        For a fresh book. Announcements before the last of the same person do not matter.
        """
        for event in events:
            who = event.who
            if who is None:
                continue
            if event.kind in ALERTS:
                self._announced_at[who.key] = event.ended_at
                self._open[who.key] = _Open(Visit(who, event.ended_at, event.ended_at), True)
            elif event.kind in DEPARTURES:
                self._open.pop(who.key, None)

    def change(self, realert_s: float, absence_s: float, realert_on_return: bool) -> None:
        """Go on under other rules; open visits and announcements stay known."""
        self._realert_s = realert_s
        self._absence_s = absence_s
        self._realert_on_return = realert_on_return

    def follow(self, old_key: str, who: Who) -> None:
        """The person of ``old_key`` is now known as ``who``: their visit goes on, without a second announcement.

        Where ``who`` has a visit of their own, the two become one.
        """
        if old_key == who.key:
            return
        announced_at = self._announced_at.pop(old_key, None)
        if announced_at is not None:
            self._announced_at[who.key] = max(announced_at, self._announced_at.get(who.key, announced_at))
        old, own = self._open.pop(old_key, None), self._open.get(who.key)
        if old is None:
            return
        visit = replace(old.visit, who=who)
        if own is not None:
            started_at = min(visit.started_at, own.visit.started_at)
            visit = Visit(who, started_at, max(visit.last_at, own.visit.last_at))
        self._open[who.key] = _Open(visit, old.announced or (own is not None and own.announced))

    def _may_announce(self, key: str, at: float) -> bool:
        last = self._announced_at.get(key)
        return last is None or self._realert_on_return or abs(at - last) >= self._realert_s

    def _end_if_over(self, key: str, now: float) -> None:
        going_on = self._open.get(key)
        if going_on is not None and abs(now - going_on.visit.last_at) > self._absence_s:
            del self._open[key]
            if going_on.announced:
                self._ended.append(going_on.visit)
