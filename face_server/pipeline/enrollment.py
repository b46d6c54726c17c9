"""Pictures become templates, if they are good enough to be remembered by."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np

from face_server.domain.embedding import Embedding, Embeddings
from face_server.domain.face import Face
from face_server.domain.identity import AddTemplate, Candidate, Collection, Identity, PutIdentity, Template, TemplateRecord
from face_server.domain.ports import AnalysisOptions, Analyzer, Clock, Gallery, ImageCodec
from face_server.domain.quality import QualityLimits, Reason
from face_server.errors import FaceRejected, NotFound
from face_server.pipeline.intake import Intake, Reading, Source
from face_server.pipeline.recognition import Recognition


@dataclass(frozen=True, slots=True)
class EnrollmentPolicy:
    """What the gate asks of a picture.

    Two pictures of one person nearer than ``duplicate_similarity`` count as the same picture.
    """

    limits: QualityLimits = field(default_factory=QualityLimits)
    duplicate_similarity: float = 0.985
    min_score: float = 0.6
    max_size_px: int = 640


@dataclass(frozen=True, slots=True, eq=False)
class Enrolled:
    """A stored template, the identity it belongs to, the face it came from, and what was overridden."""

    identity: Identity
    template: Template
    face: Face | None
    overridden: tuple[Reason, ...] = ()


def new_id() -> str:
    """A fresh id for an identity or template: 16 hex digits from the system's random source."""
    return secrets.token_hex(8)


class Enrollment:
    """The gate in front of a gallery."""

    def __init__(
        self,
        intake: Intake,
        analyzer: Analyzer,
        codec: ImageCodec,
        gallery: Gallery,
        recognition: Recognition,
        clock: Clock,
        policy: EnrollmentPolicy,
    ) -> None:
        self._intake = intake
        self._analyzer = analyzer
        self._codec = codec
        self._gallery = gallery
        self._recognition = recognition
        self._clock = clock
        self._policy = policy
        # Checking against the gallery and adding to it must not interleave within a collection.
        self._gates: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def limits(self) -> QualityLimits:
        """What the gate asks of a face, so that answers can say what it would refuse."""
        return self._policy.limits

    async def enroll(
        self, collection: str, identity: Identity, source: Source | Reading, *, label: str = "", override: bool = False
    ) -> Enrolled:
        """Add a template to ``identity`` (created if its id is new) from a picture of one face.

        A ``Reading`` is a picture that the caller has read already. ``label`` is kept as the
        template's source. Raises FaceRejected with every reason that applies; ``override`` takes the
        largest face in spite of all reasons but no_face, and reports what it overrode.
        """
        stored = await self._gallery.collection(collection)
        stored.model.require(self._analyzer.model, "this server's embedding")
        reading = source if isinstance(source, Reading) else await self._intake.read(source, digest=True)
        options = AnalysisOptions(self._policy.min_score, self._policy.max_size_px, mirror=True, crops=True)
        (faces,) = await self._analyzer.analyze([reading.image], options)
        face, reasons = self._choose(faces)
        if face.embedding is None or face.quality is None or face.crop is None:
            raise AssertionError("the analyzer left out what enrolment asked for")
        if reasons and not override:
            raise _rejected(reasons, faces)
        crop = await self._codec.encode_jpeg(face.crop, quality=92) if stored.keep_crops else None
        template = Template(new_id(), identity.id, face.quality.score, self._clock.now(), label, reading.digest, crop is not None)
        record = TemplateRecord(template, face.embedding, crop)
        return await self._store(stored, identity, record, face, reasons, override=override)

    async def enroll_embedding(
        self, collection: str, identity: Identity, embedding: Embedding, *, label: str = "", override: bool = False
    ) -> Enrolled:
        """Add a template from an embedding that the caller already has, without a picture."""
        stored = await self._gallery.collection(collection)
        stored.model.require(embedding.model, "the embedding")
        record = TemplateRecord(Template(new_id(), identity.id, 0.0, self._clock.now(), label), embedding)
        return await self._store(stored, identity, record, None, (), override=override)

    def _choose(self, faces: list[Face]) -> tuple[Face, tuple[Reason, ...]]:
        if not faces:
            raise _rejected((Reason.NO_FACE,), faces)
        largest = max(faces, key=lambda face: face.detection.box.area)
        unfit = largest.quality.reasons(self._policy.limits) if largest.quality else ()
        return largest, ((Reason.MULTIPLE_FACES, *unfit) if len(faces) > 1 else unfit)

    async def _store(
        self,
        collection: Collection,
        identity: Identity,
        record: TemplateRecord,
        face: Face | None,
        reasons: tuple[Reason, ...],
        *,
        override: bool,
    ) -> Enrolled:
        async with self._gates[collection.name]:
            known = await self._known(collection.name, identity)
            clash = await self._clash(collection, known or identity, record)
            if clash is not None:
                reason, sentence = clash
                reasons = (*reasons, reason)
                if not override:
                    raise FaceRejected(sentence, reasons=reasons, field="image")
            put = () if known else (PutIdentity(replace(identity, created_at=self._clock.now())),)
            await self._gallery.apply(collection.name, [*put, AddTemplate(record)])
            stored, _ = await self._gallery.identity(collection.name, identity.id)
        return Enrolled(stored, record.template, face, reasons)

    async def _known(self, collection: str, identity: Identity) -> Identity | None:
        try:
            return (await self._gallery.identity(collection, identity.id))[0]
        except NotFound:
            return None

    async def _clash(self, collection: Collection, identity: Identity, record: TemplateRecord) -> tuple[Reason, str] | None:
        digest = record.template.image_digest
        twin = await self._gallery.find_image(collection.name, digest) if digest else None
        if twin is not None and twin.identity_id == identity.id:
            return Reason.DUPLICATE, f"this very picture is already enrolled for {identity.name!r} (template {twin.id})"
        if not collection.templates:
            return None
        probe = Embeddings(record.embedding.vector[None], np.array([record.embedding.norm], np.float32), record.embedding.model)
        (candidates,) = await self._gallery.search(collection.name, probe, limit=2)
        own = next((one for one in candidates if one.identity.id == identity.id), None)
        if own is not None and own.template_similarity >= self._policy.duplicate_similarity:
            return Reason.DUPLICATE, f"a nearly identical picture is already enrolled for {identity.name!r} (template {own.template_id})"
        return self._conflict(collection, candidates, identity)

    def _conflict(self, collection: Collection, candidates: list[Candidate], identity: Identity) -> tuple[Reason, str] | None:
        other = next((one for one in candidates if one.identity.id != identity.id), None)
        threshold = self._recognition.conflict_threshold(collection)
        if other is None or threshold is None or other.similarity < threshold:
            return None
        return Reason.IDENTITY_CONFLICT, (
            f"the face looks like another enrolled person, {other.identity.name!r} (identity {other.identity.id}, "
            f"similarity {other.similarity:.3f}, threshold {threshold:.3f})"
        )


def _rejected(reasons: tuple[Reason, ...], faces: list[Face]) -> FaceRejected:
    sentences = {
        Reason.NO_FACE: "no face was found in the picture",
        Reason.MULTIPLE_FACES: f"the picture shows {len(faces)} faces, enrolment needs exactly one",
        Reason.SMALL_FACE: "the face is too small",
        Reason.LOW_SHARPNESS: "the face is blurred",
        Reason.LOW_BRIGHTNESS: "the face is too dark",
        Reason.HIGH_BRIGHTNESS: "the face is overexposed",
        Reason.EXTREME_POSE: "the face is turned too far away",
        Reason.LOW_SCORE: "the detector is not sure that this is a face",
    }
    return FaceRejected("; ".join(sentences[reason] for reason in reasons), reasons=tuple(reasons), field="image")
