"""Two faces of one picture are never the same person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from face_server.domain.appearance import Belief
from face_server.domain.tracks import SeenTrack, Track

_LEAD = 1.5
"""How much more evidence takes a name away from the track that bears it: less would change hands to and fro."""


class Claims:
    """Remembers which track bears whose name, from frame to frame."""

    def __init__(self) -> None:
        self._bearers: dict[str, int] = {}

    def settle(self, in_view: Sequence[tuple[Track, Belief]]) -> list[SeenTrack]:
        """The tracks, in order, with whom each is believed to be.

        Where several claim one person, the one with the most evidence gets the name and the others
        stay undecided. A face that is on the frame comes before one that is only expected there.
        """
        claims: defaultdict[str, list[tuple[Track, Belief]]] = defaultdict(list)
        for track, belief in in_view:
            if belief.who:
                claims[belief.who.key].append((track, belief))
        self._bearers = {key: self._bearer(key, claimants) for key, claimants in claims.items()}
        return [
            SeenTrack(track, belief.who if belief.who and self._bearers[belief.who.key] == track.id else None) for track, belief in in_view
        ]

    def _bearer(self, key: str, claimants: Sequence[tuple[Track, Belief]]) -> int:
        found = [claim for claim in claimants if not claim[0].missed] or claimants
        track, belief = max(found, key=lambda claim: (claim[1].support, -claim[0].id))
        before = next((one for one in found if one[0].id == self._bearers.get(key)), None)
        return before[0].id if before and belief.support < _LEAD * before[1].support else track.id
