"""Embeddings against all collections of a stream: the one person they belong to, or nobody."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from face_server.domain.appearance import Answer
from face_server.domain.decision import Decision
from face_server.domain.embedding import Embedding
from face_server.domain.events import Who
from face_server.domain.identity import Candidate
from face_server.domain.ports import Gallery
from face_server.domain.streams import StreamSpec
from face_server.errors import InvalidInput, ModelMismatch, NotFound
from face_server.pipeline.recognition import IdentifyOptions, Recognition

_log = logging.getLogger(__name__)

_FIRM_LEAD = 0.05
"""A vote that decides alone beats the threshold by this much at least, however strict the threshold is."""


@dataclass(frozen=True, slots=True)
class _Match:
    """The best people of one collection for one embedding."""

    collection: str
    decision: Decision
    firm_from: float

    @property
    def excess(self) -> float:
        """By how much the best person beats the threshold; collections of different size compare by it."""
        best = self.decision.candidates[:1]
        return best[0].similarity - self.decision.threshold if best else -2.0


class Matcher:
    """Identifies embeddings in the collections of one stream."""

    def __init__(self, recognition: Recognition, gallery: Gallery) -> None:
        self._recognition = recognition
        self._gallery = gallery
        self._problems: dict[str, str] = {}

    @property
    def problem(self) -> str:
        """Why some of the collections cannot be searched, as sentences; empty if all can."""
        return "; ".join(self._problems.values())

    def forget_problems(self) -> None:
        """Start anew, as with other collections."""
        self._problems.clear()

    async def answer(self, spec: StreamSpec, embeddings: Sequence[Embedding]) -> list[Answer]:
        """For each embedding the person of all collections that beats its threshold by most, or nobody.

        Where a margin is asked for, it must also lead by it over other people of the other
        collections. A collection that does not exist or is of another model is left out and named
        in ``problem``. Raises Unavailable when the gallery is away.
        """
        if not embeddings:
            return []
        found = [await self._search(spec, name, embeddings) for name in spec.collections]
        return [_best([matches[index] for matches in found if matches]) for index in range(len(embeddings))]

    async def _search(self, spec: StreamSpec, name: str, embeddings: Sequence[Embedding]) -> list[_Match]:
        options = IdentifyOptions(limit=2, threshold=spec.rules.threshold, margin=spec.rules.margin)
        try:
            decisions = await self._recognition.identify(name, embeddings, options)
            conflict = self._recognition.conflict_threshold(await self._gallery.collection(name))
        except NotFound:
            self._report(spec.id, name, f"collection {name!r} does not exist")
            return []
        except ModelMismatch:
            self._report(spec.id, name, f"collection {name!r} holds embeddings of another model")
            return []
        except InvalidInput as error:
            self._report(spec.id, name, f"collection {name!r} cannot be searched: {error.message}")
            return []
        self._problems.pop(name, None)
        return [_Match(name, one, max(conflict or 1.0, one.threshold + _FIRM_LEAD)) for one in decisions]

    def _report(self, stream_id: str, name: str, sentence: str) -> None:
        if self._problems.get(name) != sentence:
            _log.warning("stream %s: %s", stream_id, sentence)
        self._problems[name] = sentence


def _best(matches: Sequence[_Match]) -> Answer:
    """The answer of several collections to one embedding."""
    named = [match for match in matches if match.decision.match]
    if not named:
        return Answer()
    best = max(named, key=lambda match: match.excess)
    person = best.decision.candidates[0]
    rivals = [one for match in matches if match is not best for one in match.decision.candidates if not _same(one, person)]
    lead = min((person.similarity - rival.similarity for rival in rivals), default=2.0)
    if lead < best.decision.margin:
        return Answer()
    who = Who(person.identity.name, person.similarity, best.decision.threshold, best.collection, person.identity.id)
    return Answer(who, firm=person.similarity >= best.firm_from)


def _same(one: Candidate, other: Candidate) -> bool:
    """Whether people of two collections are one: by id, or by name."""
    return one.identity.id == other.identity.id or (bool(one.identity.name) and one.identity.name == other.identity.name)
