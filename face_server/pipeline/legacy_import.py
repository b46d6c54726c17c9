"""Faces out of the Redis of the system that came before: db 0 has names, db 1 strangers, each with 512 little-endian float32."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from redis.exceptions import ResponseError

from face_server.domain.embedding import Embedding, ModelId
from face_server.domain.identity import AddTemplate, Change, Collection, Identity, PutIdentity, Template, TemplateRecord
from face_server.domain.ports import Clock, Gallery
from face_server.domain.strangers import Stranger, StrangerPolicy
from face_server.errors import InvalidInput, ModelMismatch, NotFound
from face_server.gallery.limits import check_text
from face_server.pipeline.stranger_shelf import StrangerShelf
from face_server.redis_connection import Connection

DIMENSION = 512
_VALUE_BYTES = 4 * DIMENSION
_PAGE = 500
_MAX_NAME = 200
# Lengths of raw embeddings are about 5 to 40; whatever is far from that are no numbers of a network.
_LENGTHS = (1e-3, 1e4)
_MAX_DIGITS = 16
_APART_S = 1e-3

Face = tuple[bytes, bytes | None]
"""A key and its value, None for one that is no text of 2,048 bytes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A key that was left behind, and why."""

    key: str
    reason: str


@dataclass(slots=True)
class LegacyReport:
    """What became of the keys of one database: how many are new, how many were here already, which stay behind."""

    collection: str
    added: int = 0
    skipped: int = 0
    refused: list[Refusal] = field(default_factory=list)


async def legacy_faces(connection: Connection) -> AsyncIterator[list[Face]]:
    """Every key of a database with its value, in pages; a key may come twice. Changes nothing there."""
    cursor: int = 0
    while True:
        async with connection.errors("the face server's Redis"):
            cursor, keys = await connection.client.scan(cursor, count=_PAGE)
            values = await _values(connection.client, keys)
        if keys:
            yield list(zip(keys, values, strict=True))
        if not cursor:
            return


async def _values(client: Any, keys: Sequence[bytes]) -> list[bytes | None]:
    """Only values of the right length are fetched: a foreign one may be of any size."""
    asking = client.pipeline(transaction=False)
    for key in keys:
        asking.strlen(key)
    lengths = await asking.execute(raise_on_error=False)
    for length in lengths:
        if isinstance(length, Exception) and not isinstance(length, ResponseError):
            raise length
    right = [key for key, length in zip(keys, lengths, strict=True) if length == _VALUE_BYTES]
    found = dict(zip(right, await client.mget(right) if right else [], strict=True))
    return [found.get(key) for key in keys]


def require_dimension(model: ModelId) -> None:
    """Raise ModelMismatch for a model that cannot have made the embeddings."""
    if model.dimension != DIMENSION:
        raise ModelMismatch(f"embeddings of the face server have {DIMENSION} numbers, those of {model} have {model.dimension}")


class LegacyImport:
    """Takes them into a gallery. Ids follow from names and numbers, so an import that is run again adds only what is new.

    Vectors are brought to length 1; their quality is unknown and stays 0.
    """

    def __init__(self, gallery: Gallery, clock: Clock, model: ModelId, progress: Callable[[int], None]) -> None:
        require_dimension(model)
        self._gallery = gallery
        self._clock = clock
        self._model = model
        self._progress = progress

    async def people(self, pages: AsyncIterator[list[Face]], collection: str) -> LegacyReport:
        """Each name becomes a person with one template. The collection is made if need be; ModelMismatch if it is another model's."""
        try:
            stored = await self._gallery.collection(collection)
        except NotFound:
            stored = await self._gallery.create_collection(Collection(collection, self._model, created_at=self._clock.now()))
        stored.model.require(self._model, "what is imported")
        report = LegacyReport(collection)
        async for page in pages:
            changes: list[Change] = []
            for key, value in dict(page).items():
                changes += await self._person(key, value, collection, report)
            await self._gallery.apply(collection, changes)
            self._progress(len(page))
        return report

    async def strangers(self, pages: AsyncIterator[list[Face]], policy: StrangerPolicy) -> LegacyReport:
        """Each number becomes a stranger of that number, so that receivers who know it meet the same one; numbers go on above them.

        They count as seen now, the higher numbers last. All stay behind where strangers of another model are remembered.
        """
        shelf, now = StrangerShelf(self._gallery, policy), self._clock.now()
        numbers = {one.number: one.id async for one in shelf.everybody()}
        highest = (await shelf.next_number())[0] - 1
        report = LegacyReport(policy.collection)
        async for page in pages:
            try:
                await shelf.opened(self._model)
            except ModelMismatch:
                reason = f"the collection {policy.collection!r} has strangers of another model; erase it to begin anew"
                report.refused += [Refusal(_shown(key), reason) for key in dict(page)]
                continue
            changes: list[Change] = []
            for key, value in dict(page).items():
                changes += self._stranger(key, value, numbers, report, now)
            highest = max([highest, *numbers])
            if changes:
                await shelf.apply([*changes, shelf.remembering(highest)])
            self._progress(len(page))
        return report

    async def _person(self, key: bytes, value: bytes | None, collection: str, report: LegacyReport) -> list[Change]:
        try:
            name = key.decode()
            check_text(name, "the name", _MAX_NAME, empty=False)
            embedding = self._embedding(value)
        except (UnicodeDecodeError, InvalidInput) as error:
            return _refused(report, key, error.message if isinstance(error, InvalidInput) else "the name is not UTF-8")
        identity = Identity(_id("name", name), name, created_at=self._clock.now())
        known = await self._gallery.identities(collection, name=name, limit=_PAGE)
        if any(one.id == identity.id for one in known):
            report.skipped += 1
            return []
        if known:
            return _refused(report, key, f"collection {collection!r} has another person of that name")
        report.added += 1
        return self._changes(identity, embedding, 0)

    def _stranger(self, key: bytes, value: bytes | None, numbers: dict[int, str], report: LegacyReport, now: float) -> list[Change]:
        try:
            number = _number(key)
            embedding = self._embedding(value)
        except InvalidInput as error:
            return _refused(report, key, error.message)
        own_id = _id("stranger", str(number))
        if number in numbers:
            if numbers[number] != own_id:
                return _refused(report, key, f"another stranger has the number {number} here")
            report.skipped += 1
            return []
        numbers[number] = own_id
        report.added += 1
        # Beyond the capacity those are forgotten first who were not seen for the longest.
        seen_at = now + number * _APART_S if number < 1e6 else now
        return self._changes(Stranger(own_id, number, f"Stranger {number}", seen_at, seen_at).identity(), embedding, 1)

    def _changes(self, identity: Identity, embedding: Embedding, database: int) -> list[Change]:
        template = Template(_id("template", identity.id), identity.id, 0.0, identity.created_at, f"face server, db {database}")
        return [PutIdentity(identity), AddTemplate(TemplateRecord(template, embedding))]

    def _embedding(self, value: bytes | None) -> Embedding:
        """Raises InvalidInput for what is none."""
        if value is None:
            raise InvalidInput(f"its value is no embedding of {_VALUE_BYTES} bytes")
        raw = np.frombuffer(value, "<f4").astype(np.float64)
        length = float(np.linalg.norm(raw))
        if not _LENGTHS[0] < length < _LENGTHS[1]:
            raise InvalidInput("its value holds no numbers that a network gives")
        return Embedding((raw / length).astype(np.float32), length, self._model)


def _number(key: bytes) -> int:
    number = int(key) if key.isdigit() and len(key) < _MAX_DIGITS else 0
    if not number:
        raise InvalidInput("it is no number of a stranger")
    return number


def _refused(report: LegacyReport, key: bytes, reason: str) -> list[Change]:
    report.refused.append(Refusal(_shown(key), reason))
    return []


def _shown(key: bytes) -> str:
    return key[:200].decode("utf-8", "backslashreplace")


def _id(kind: str, text: str) -> str:
    """Like a new id, but the same each time."""
    return hashlib.blake2b(f"{kind}\0{text}".encode(), digest_size=8).hexdigest()
