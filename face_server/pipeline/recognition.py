"""Verification 1:1 and identification 1:N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from face_server.domain.decision import Calibration, Decision, decide
from face_server.domain.embedding import Embedding, Embeddings, ModelId
from face_server.domain.face import Face
from face_server.domain.identity import Candidate, Collection
from face_server.domain.ports import Gallery
from face_server.errors import InvalidInput

DEFAULT_VERIFY_FMR = 1e-3
"""Share of different people that a 1:1 comparison accepts unless the caller names a threshold."""


CONFLICT_FMR = 1e-6
"""Enrolling one person under two identities is suspected only where look-alikes are this rare."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The answer to "is it the same person?": ``similarity`` >= ``threshold``."""

    similarity: float
    threshold: float

    @property
    def same(self) -> bool:
        """Whether the similarity reaches the threshold."""
        return self.similarity >= self.threshold


@dataclass(frozen=True, slots=True)
class IdentifyOptions:
    """How many candidates to report, and what overrides the collection's threshold and margin."""

    limit: int = 5
    threshold: float | None = None
    margin: float | None = None


class Recognition:
    """Compares embeddings with each other and with a gallery, under calibrated thresholds."""

    def __init__(self, gallery: Gallery, calibrations: Mapping[ModelId, Calibration]) -> None:
        self._gallery = gallery
        self._calibrations = calibrations

    def verify(self, first: Embedding, second: Embedding, *, threshold: float | None = None) -> Verification:
        """Compare two embeddings of one model; see ``verification_threshold`` for the default."""
        return Verification(first.similarity(second), self.verification_threshold(first.model, threshold))

    async def verify_identity(
        self, collection: str, identity_id: str, probe: Embedding, *, threshold: float | None = None
    ) -> tuple[Verification, Candidate]:
        """Compare an embedding with one enrolled person."""
        (candidate,) = await self._gallery.compare(collection, identity_id, _batch([probe]))
        return Verification(candidate.similarity, self.verification_threshold(probe.model, threshold)), candidate

    async def identify(self, collection: str, probes: Sequence[Embedding], options: IdentifyOptions) -> list[Decision]:
        """For each embedding the person it belongs to, or unknown, with the best candidates."""
        if not probes:
            return []
        stored = await self._gallery.collection(collection)
        stored.model.require(probes[0].model, "the probe")
        threshold = self.identification_threshold(stored) if options.threshold is None else options.threshold
        margin = stored.margin if options.margin is None else options.margin
        # The margin needs the second person even when one candidate is all the caller wants to see.
        found = await self._gallery.search(collection, _batch(probes), limit=max(2, options.limit))
        decisions = [decide(candidates, threshold, margin) for candidates in found]
        return [Decision(one.verdict, one.threshold, one.margin, one.candidates[: options.limit]) for one in decisions]

    async def identify_faces(self, collection: str, faces: Sequence[Face], options: IdentifyOptions) -> list[Decision]:
        """``identify`` for faces, all of which carry an embedding."""
        return await self.identify(collection, [_embedding_of(face) for face in faces], options)

    def identification_threshold(self, collection: Collection) -> float:
        """The collection's pinned threshold, or the one that its target FPIR needs at its size.

        Raises InvalidInput when neither exists: no threshold pinned and the model not calibrated.
        """
        if collection.threshold is not None:
            return collection.threshold
        calibration = self._calibration(collection.model)
        return calibration.threshold_at_fpir(collection.target_fpir, collection.identities, collection.templates)

    def conflict_threshold(self, collection: Collection) -> float | None:
        """The similarity from which a new template seems to belong to somebody enrolled already.

        Far stricter than naming: in a small collection the identification threshold is low, and a
        refusal needs more certainty than a name. None for a model without calibration or threshold.
        """
        calibration = self._calibrations.get(collection.model)
        if calibration is None:
            return collection.threshold
        return max(self.identification_threshold(collection), calibration.threshold_at_fmr(CONFLICT_FMR))

    def verification_threshold(self, model: ModelId, threshold: float | None = None) -> float:
        """``threshold``, or else the one at which 0.1 % of different people would match."""
        return self._calibration(model).threshold_at_fmr(DEFAULT_VERIFY_FMR) if threshold is None else threshold

    def _calibration(self, model: ModelId) -> Calibration:
        calibration = self._calibrations.get(model)
        if calibration is None:
            message = f"no impostor distribution was measured for {model}: state a threshold in the request or pin one on the collection"
            raise InvalidInput(message, code="threshold_required", field="threshold")
        return calibration


def _batch(probes: Sequence[Embedding]) -> Embeddings:
    vectors = np.stack([probe.vector for probe in probes])
    return Embeddings(vectors, np.array([probe.norm for probe in probes], np.float32), probes[0].model)


def _embedding_of(face: Face) -> Embedding:
    if face.embedding is None:
        raise ValueError("a face without an embedding cannot be identified; analyse it with embed=True")
    return face.embedding
