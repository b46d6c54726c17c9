"""The memory for unknown people: seen again, on any camera, they keep their number until somebody names them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection as Some
from collections.abc import Sequence
from dataclasses import replace

from face_server.domain.embedding import Embedding
from face_server.domain.events import Who
from face_server.domain.face import Face
from face_server.domain.identity import (
    AddTemplate,
    Candidate,
    Change,
    Collection,
    Identity,
    MergeIdentities,
    PutIdentity,
    RemoveIdentity,
    RemoveTemplate,
    Template,
    TemplateRecord,
)
from face_server.domain.ports import Clock, Gallery, ImageCodec
from face_server.domain.strangers import Stranger, StrangerPolicy, best_and_diverse
from face_server.errors import Conflict, InvalidInput, NotFound
from face_server.pipeline.enrollment import new_id
from face_server.pipeline.recognition import IdentifyOptions, Recognition
from face_server.pipeline.stranger_shelf import StrangerShelf

_DAY_S = 86_400.0

# Being seen is noted at most so often, and counts as another sighting after so long.
_NOTE_EVERY_S = 5.0
_SIGHTING_APART_S = 60.0

# Beyond its capacity the memory forgets this share at once: finding out who was away longest reads all.
_FORGET_SHARE = 0.01
_CHANGES = 1_000


class StrangerBook:
    """Strangers in a collection of their own, under a stricter threshold than the enrolled.

    One at a time: remembering, naming, merging and forgetting wait for each other, so that a number
    is given once and the same face at two cameras becomes one stranger. Strangers survive restarts.
    Embeddings of another model than the stored ones raise ModelMismatch.
    """

    def __init__(
        self, gallery: Gallery, recognition: Recognition, codec: ImageCodec, clock: Clock, policy: StrangerPolicy | None = None
    ) -> None:
        self._gallery = gallery
        self._recognition = recognition
        self._codec = codec
        self._clock = clock
        self._policy = policy or StrangerPolicy()
        self._shelf = StrangerShelf(gallery, self._policy)
        self._one_at_a_time = asyncio.Lock()

    async def recognise(self, embeddings: Sequence[Embedding], *, exclude: Some[str] = ()) -> list[Who | None]:
        """For each embedding the stranger it shows, or None; never one of the ids in ``exclude``."""
        stored = await self._shelf.stored() if embeddings else None
        if stored is None:
            return [None] * len(embeddings)
        found = await self._nearest(stored, embeddings, exclude)
        return [one and _who(one[0].identity, one[0].similarity, one[1]) for one in found]

    async def remember(self, face: Face, *, exclude: Some[str] = ()) -> Who | None:
        """The stranger whom ``face`` shows, a new one unless known; None where its quality is too low to remember.

        ``face`` has quality, embedding and crop. A known stranger counts as seen, and keeps the shot
        if it adds to what is kept. Those of ``exclude`` are somebody else: they are in view elsewhere.
        """
        if face.quality is None or face.embedding is None or face.crop is None:
            raise ValueError("a face to remember needs quality, embedding and crop")
        if face.quality.reasons(self._policy.limits):
            return None
        crop = await self._codec.encode_jpeg(face.crop, quality=92)
        template = Template(new_id(), "", face.quality.score, self._clock.now(), has_crop=True)
        record = TemplateRecord(template, face.embedding, crop)
        async with self._one_at_a_time:
            stored = await self._shelf.opened(face.embedding.model)
            (known,) = await self._nearest(stored, [face.embedding], exclude)
            if known is None:
                return await self._add(stored, record)
            candidate, threshold = known
            await self._see_again(known, record)
            return _who(candidate.identity, candidate.similarity, threshold)

    async def seen(self, stranger_id: str, at: float) -> None:
        """Note that a stranger was seen at ``at`` (Unix seconds), to within five seconds."""
        async with self._one_at_a_time:
            stranger, _ = await self._shelf.stranger(stranger_id)
            if at - stranger.last_seen_at >= _NOTE_EVERY_S:
                await self._shelf.apply([PutIdentity(_seen(stranger, at).identity())])

    async def page(self, *, after: str = "", limit: int = 100) -> list[Stranger]:
        """Strangers with id > ``after``, by id."""
        return await self._shelf.page(after, limit)

    async def get(self, stranger_id: str) -> Stranger:
        """One stranger."""
        return (await self._shelf.stranger(stranger_id))[0]

    async def picture(self, stranger_id: str) -> bytes:
        """The aligned crop of a stranger's best shot, as JPEG."""
        _, templates = await self._shelf.stranger(stranger_id)
        best = max((one for one in templates if one.has_crop), key=lambda one: one.quality, default=None)
        (record,) = await self._shelf.records([best]) if best else (None,)
        if record is None or record.crop is None:
            raise NotFound(f"stranger {stranger_id!r} has no picture", field="stranger_id")
        return record.crop

    async def name(self, stranger_id: str, *, collection: str, name: str = "", identity_id: str = "", override: bool = False) -> Identity:
        """Turn a stranger into an identity of ``collection``: a new one called ``name``, or the existing ``identity_id``.

        The templates go to the identity first and leave the strangers then: whatever happens in
        between, nobody is lost, and the same call again completes it (a new identity has the
        stranger's id). Raises Conflict (identity_conflict) where the stranger looks like somebody
        else in the collection, unless ``override``.
        """
        if collection == self._policy.collection:
            raise InvalidInput(f"collection {collection!r} is for strangers; name another", field="collection")
        if bool(name.strip()) == bool(identity_id):
            raise InvalidInput("a stranger becomes somebody new with a name, or an existing identity_id", field="name")
        async with self._one_at_a_time:
            stored = await self._gallery.collection(collection)
            _, templates = await self._shelf.stranger(stranger_id)
            target, have = await self._target(collection, identity_id or stranger_id, new=not identity_id)
            missing = await self._shelf.records([one for one in templates if one.id not in have])
            if missing and not override:
                await self._refuse_lookalike(stored, [one.embedding for one in missing], identity_id or stranger_id)
            put = () if target else (PutIdentity(Identity(stranger_id, name, created_at=self._clock.now())),)
            adds = [AddTemplate(_given_to(one, identity_id or stranger_id)) for one in missing]
            if put or adds:
                await self._gallery.apply(collection, [*put, *adds])
            await self._shelf.apply([RemoveIdentity(stranger_id)])
            return (await self._gallery.identity(collection, identity_id or stranger_id))[0]

    async def merge(self, source_id: str, target_id: str) -> Stranger:
        """Say that two strangers are one: ``target_id`` stays, with the best shots of both."""
        if source_id == target_id:
            raise InvalidInput("a stranger cannot be merged with itself", field="into")
        async with self._one_at_a_time:
            source, more = await self._shelf.stranger(source_id)
            target, templates = await self._shelf.stranger(target_id)
            merged = replace(
                target,
                first_seen_at=min(source.first_seen_at, target.first_seen_at),
                last_seen_at=max(source.last_seen_at, target.last_seen_at),
                sightings=source.sightings + target.sightings,
                quality=max(source.quality, target.quality),
            )
            dropped = self._surplus(await self._shelf.records([*templates, *more]))
            drops = [RemoveTemplate(one.template.id) for one in dropped]
            await self._shelf.apply([MergeIdentities(source_id, target_id), PutIdentity(merged.identity()), *drops])
            return merged

    async def dismiss(self, stranger_id: str) -> None:
        """Forget a stranger, with templates and crops."""
        async with self._one_at_a_time:
            await self._shelf.stranger(stranger_id)
            await self._shelf.apply([RemoveIdentity(stranger_id)])

    async def expire(self) -> int:
        """Forget those who were not seen for the retention, and those beyond the capacity. Returns how many."""
        async with self._one_at_a_time:
            oldest = self._clock.now() - self._policy.retention_days * _DAY_S
            everybody = sorted([one async for one in self._shelf.everybody()], key=lambda one: one.last_seen_at)
            surplus = max(0, len(everybody) - self._policy.capacity)
            gone = [one for place, one in enumerate(everybody) if place < surplus or one.last_seen_at < oldest]
            await self._forget(gone)
            return len(gone)

    async def _nearest(
        self, stored: Collection, embeddings: Sequence[Embedding], exclude: Some[str]
    ) -> list[tuple[Candidate, float] | None]:
        """For each embedding the nearest stranger outside of ``exclude`` who is near enough, and how near that is."""
        threshold = self._threshold(stored)
        options = IdentifyOptions(limit=len(exclude) + 1, threshold=threshold, margin=0.0)
        decisions = await self._recognition.identify(stored.name, embeddings, options)
        nearest = [next((one for one in each.candidates if one.identity.id not in exclude), None) for each in decisions]
        return [(one, threshold) if one and one.similarity >= threshold else None for one in nearest]

    def _threshold(self, stored: Collection) -> float:
        """In a small memory look-alikes are as alike as in a large one, so a small one counts as larger."""
        least = self._policy.assumed_strangers
        assumed = replace(stored, identities=max(least, stored.identities), templates=max(least, stored.templates))
        try:
            return self._recognition.identification_threshold(assumed)
        except InvalidInput:
            return self._policy.uncalibrated_threshold

    async def _add(self, stored: Collection, record: TemplateRecord) -> Who:
        if stored.identities >= self._policy.capacity:
            await self._make_room()
        number, remember_number = await self._shelf.next_number()
        now = self._clock.now()
        stranger = Stranger(new_id(), number, f"Stranger {number}", now, now, quality=record.template.quality)
        put = PutIdentity(stranger.identity())
        await self._shelf.apply([remember_number, put, AddTemplate(_given_to(record, stranger.id))])
        return _who(put.identity, 1.0, self._threshold(stored))

    async def _see_again(self, known: tuple[Candidate, float], record: TemplateRecord) -> None:
        candidate, threshold = known
        stranger, templates = await self._shelf.stranger(candidate.identity.id)
        again = _seen(stranger, self._clock.now())
        changes: list[Change] = []
        if candidate.similarity >= threshold + self._policy.sure_lead:
            dropped = self._surplus([*await self._shelf.records(templates), record])
            if record not in dropped:
                again = replace(again, quality=max(again.quality, record.template.quality))
                changes = [AddTemplate(_given_to(record, stranger.id)), *(RemoveTemplate(one.template.id) for one in dropped)]
        await self._shelf.apply([PutIdentity(again.identity()), *changes])

    def _surplus(self, records: Sequence[TemplateRecord]) -> list[TemplateRecord]:
        """The shots beyond the best and most different ones."""
        kept = best_and_diverse(records, self._policy.max_templates)
        return [one for index, one in enumerate(records) if index not in kept]

    async def _make_room(self) -> None:
        everybody = sorted([one async for one in self._shelf.everybody()], key=lambda one: one.last_seen_at)
        surplus = len(everybody) + 1 - self._policy.capacity
        if surplus > 0:
            await self._forget(everybody[: max(surplus, int(self._policy.capacity * _FORGET_SHARE))])

    async def _forget(self, gone: Sequence[Stranger]) -> None:
        for start in range(0, len(gone), _CHANGES):
            await self._shelf.apply([RemoveIdentity(one.id) for one in gone[start : start + _CHANGES]])

    async def _target(self, collection: str, identity_id: str, *, new: bool) -> tuple[Identity | None, set[str]]:
        """The identity that takes the templates, if it exists already, and the ids of those it has."""
        try:
            identity, templates = await self._gallery.identity(collection, identity_id)
        except NotFound:
            if new:
                return None, set()
            raise
        return identity, {one.id for one in templates}

    async def _refuse_lookalike(self, stored: Collection, embeddings: Sequence[Embedding], own_id: str) -> None:
        threshold = self._recognition.conflict_threshold(stored)
        if threshold is None or not stored.templates:
            return
        decisions = await self._recognition.identify(stored.name, embeddings, IdentifyOptions(limit=2, threshold=threshold, margin=0.0))
        others = [one for each in decisions for one in each.candidates if one.identity.id != own_id]
        nearest = max(others, key=lambda one: one.similarity, default=None)
        if nearest is not None and nearest.similarity >= threshold:
            raise Conflict(
                f"the stranger looks like {nearest.identity.name!r} of collection {stored.name!r} (identity {nearest.identity.id}, "
                f"similarity {nearest.similarity:.3f}, threshold {threshold:.3f}); give that identity_id if it is the same person",
                code="identity_conflict",
                field="identity_id",
            )


def _who(identity: Identity, similarity: float, threshold: float) -> Who:
    return Who(identity.name, similarity, threshold, stranger_id=identity.id)


def _seen(stranger: Stranger, at: float) -> Stranger:
    apart = at - stranger.last_seen_at >= _SIGHTING_APART_S
    return replace(stranger, last_seen_at=max(at, stranger.last_seen_at), sightings=stranger.sightings + apart)


def _given_to(record: TemplateRecord, identity_id: str) -> TemplateRecord:
    return replace(record, template=replace(record.template, identity_id=identity_id))
