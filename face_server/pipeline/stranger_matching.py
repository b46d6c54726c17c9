"""Unknown people in view: known again as a stranger, or remembered as a new one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from face_server.domain.appearance import Belief, Sample, Verdict
from face_server.domain.events import Who
from face_server.domain.face import Face
from face_server.domain.visits import VisitBook
from face_server.errors import ModelMismatch, NotFound, Overloaded, Unavailable
from face_server.pipeline.strangers import StrangerBook


class StrangerMatcher:
    """Fills in the ``stranger`` of beliefs, and keeps it right while somebody names, merges or dismisses strangers."""

    def __init__(self, book: StrangerBook) -> None:
        self._book = book
        self.problem = ""
        """Why unknown people are not remembered at the moment, or empty."""

    async def settle(self, found: Sequence[Belief], visits: VisitBook) -> None:
        """Bring the beliefs of all faces on a frame up to date; two of them are never the same stranger."""
        for belief in found:
            if belief.stranger and belief.verdict is Verdict.PERSON:
                await self._become(belief, belief.stranger, visits)
            elif belief.verdict is Verdict.UNKNOWN and belief.tried < belief.embedded:
                try:
                    await self._know(belief, {one.stranger.stranger_id for one in found if one.stranger and one is not belief})
                    self.problem = ""
                except ModelMismatch:
                    self.problem = (
                        "unknown people are not remembered: those remembered so far were seen by another model; "
                        "erase their collection to begin anew"
                    )
                # Last: what the gallery could not answer is asked again.
                belief.tried = belief.embedded

    async def review(self, beliefs: Sequence[Belief], visits: VisitBook) -> None:
        """Look up the strangers in view: they may have got a name, been merged into others, or dismissed."""
        for belief in beliefs:
            stranger = belief.stranger
            if stranger is None:
                continue
            if belief.verdict is Verdict.PERSON:
                await self._become(belief, stranger, visits)
            elif not await self._exists(stranger):
                others = {one.stranger.stranger_id for one in beliefs if one.stranger and one is not belief}
                belief.stranger, _ = await self._recognise(belief, others)
                # Dismissed: not remembered again as long as this track lasts, unless a new sample speaks for it.
                belief.tried = belief.embedded
                if belief.stranger:
                    visits.follow(stranger.key, belief.stranger)

    async def seen(self, who: Who, at: float) -> None:
        """Note when a stranger was last seen (Unix seconds); not where they are gone or the gallery is away: no event waits for it."""
        with contextlib.suppress(NotFound, Overloaded, Unavailable):
            await self._book.seen(who.stranger_id, at)

    async def _become(self, belief: Belief, stranger: Who, visits: VisitBook) -> None:
        """A track that was a stranger's turned out to be a person's.

        If somebody named the stranger, the visit goes on under the name. If better shots told who it
        is, the stranger's visit ends and the person's begins: nobody was told of that person yet.
        """
        if belief.who and not await self._exists(stranger):
            visits.follow(stranger.key, belief.who)
        belief.stranger = None

    async def _exists(self, stranger: Who) -> bool:
        try:
            await self._book.get(stranger.stranger_id)
        except NotFound:
            return False
        return True

    async def _know(self, belief: Belief, others: set[str]) -> None:
        known, shown = await self._recognise(belief, others)
        belief.stranger = belief.stranger or known
        # A stranger is remembered by every shot that adds to what is known, but only if it is theirs beyond doubt.
        if belief.stranger is None or (shown and shown.key == belief.stranger.key):
            belief.stranger = await self._remember(belief, others) or belief.stranger

    async def _recognise(self, belief: Belief, others: set[str]) -> tuple[Who | None, Who | None]:
        """The stranger whom any of the samples shows, and the one whom the best sample shows."""
        found = await self._book.recognise([one.embedding for one in belief.samples], exclude=others)
        known = max((who for who in found if who), key=lambda who: who.similarity, default=None)
        return known, found[belief.samples.index(_best(belief))]

    async def _remember(self, belief: Belief, others: set[str]) -> Who | None:
        """The stranger under whom the best sample is remembered that is good enough; None if none is."""
        for sample in sorted(belief.samples, key=lambda one: -one.weight):
            face = Face(sample.shot.detection, sample.quality, sample.embedding, sample.shot.crop)
            remembered = await self._book.remember(face, exclude=others)
            if remembered is not None:
                return remembered
        return None


def _best(belief: Belief) -> Sample:
    return max(belief.samples, key=lambda one: one.weight)
