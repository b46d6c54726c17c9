"""How a gallery lies in Redis: names of keys, and people and templates as compact binary. docs/redis.md shows it with sizes."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face_server.domain.embedding import Embedding, ModelId
from face_server.domain.identity import Collection, Identity, Template, TemplateRecord
from face_server.domain.image import Floats
from face_server.errors import InvalidInput, Unavailable

AREA = "gallery"
VERSION = 1

_PERSON = struct.Struct("<d8sI")
_TEMPLATE = struct.Struct("<BBBxHHqddd4s")
_KEY = struct.Struct("<q")
_FORMAT = 1
_HAS_CROP = 1
_HAS_DIGEST = 2
_DIGEST_BYTES = 32
_MARK_BYTES = 4
_UNIT_TOLERANCE = 1e-2

_HEX = re.compile(r"[0-9a-f]{64}")

Keys = NDArray[np.int64]

parse_model = functools.lru_cache(maxsize=64)(ModelId.parse)


def key_bytes(key: int) -> bytes:
    """A key of a person or template as the store has it."""
    return _KEY.pack(key)


def key_of(packed: bytes) -> int:
    """One key."""
    key: int = _KEY.unpack(packed)[0]
    return key


def keys_of(packed: bytes) -> Keys:
    """Keys that lie one behind the other."""
    return np.frombuffer(packed, "<i8").astype(np.int64, copy=False)


def name_digest(name: str) -> bytes:
    """What a name is looked up by."""
    return hashlib.blake2b(_bytes(name), digest_size=8).digest()


def image_mark(image_digest: str) -> bytes:
    """What a picture is looked up by; b"" for what is no sha256."""
    return bytes.fromhex(image_digest)[:8] if _HEX.fullmatch(image_digest) else b""


def sought(text: str) -> bytes:
    """An id as it is looked for: what is no valid Unicode is never found."""
    return _bytes(text)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@functools.lru_cache(maxsize=64)
def model_mark(model: ModelId) -> bytes:
    """The first bytes of the sha256 of a model id: each template carries them."""
    return hashlib.sha256(str(model).encode()).digest()[:_MARK_BYTES]


# Collections: a hash of texts.


def pack_settings(collection: Collection, created_at: float) -> list[str]:
    """Fields and values of the settings that callers choose, and of what never changes."""
    return [*pack_choices(collection), "name", collection.name, "model", str(collection.model), "created_at", repr(created_at)]


def pack_choices(collection: Collection) -> list[str]:
    """Fields and values of the settings that may be replaced."""
    threshold = "" if collection.threshold is None else repr(float(collection.threshold))
    numbers = ["margin", repr(float(collection.margin)), "target_fpir", repr(float(collection.target_fpir))]
    return ["threshold", threshold, *numbers, "keep_crops", str(int(collection.keep_crops))]


def unpack_settings(fields: Sequence[bytes], key: str) -> Collection:
    """A collection from fields and values in turn. Raises Unavailable that names ``key`` for a half-written one."""
    found = {name.decode(): value.decode("utf-8", "replace") for name, value in zip(fields[::2], fields[1::2], strict=False)}
    try:
        return Collection(
            found["name"],
            parse_model(found["model"]),
            float(found["threshold"]) if found["threshold"] else None,
            float(found["margin"]),
            float(found["target_fpir"]),
            found["keep_crops"] == "1",
            float(found["created_at"]),
            identities=int(found["identities"]),
            templates=int(found["templates"]),
        )
    except (KeyError, ValueError, InvalidInput) as error:
        raise damaged(key, "is no whole collection") from error


# People: created_at, digest of the name, number of templates, their keys, then what only Python reads.


def pack_person(identity: Identity) -> bytes:
    """What follows the keys of the templates: id, name and metadata."""
    name, own_id = _bytes(identity.name), identity.id.encode()
    metadata = json.dumps(dict(identity.metadata), ensure_ascii=False).encode() if identity.metadata else b""
    return b"".join((len(own_id).to_bytes(1, "little"), own_id, len(name).to_bytes(2, "little"), name, metadata))


def pack_time(seconds: float) -> bytes:
    """A time as people have it."""
    return struct.pack("<d", seconds)


def template_keys(person: bytes) -> bytes:
    """The packed keys of a person's templates."""
    return person[_PERSON.size : _PERSON.size + _KEY.size * template_count(person)]


def template_count(person: bytes) -> int:
    """How many templates a person has."""
    count: int = int.from_bytes(person[_PERSON.size - 4 : _PERSON.size], "little")
    return count


def identity_id(person: bytes) -> bytes:
    """The id of a person."""
    first = _PERSON.size + _KEY.size * template_count(person)
    return person[first + 1 : first + 1 + person[first]]


def check_person(person: bytes, place: str) -> None:
    """Refuse a person who is not whole: Unavailable that names the key."""
    first = _PERSON.size + _KEY.size * template_count(person) if len(person) > _PERSON.size else len(person)
    name_at = first + 1 + person[first] if first < len(person) else len(person)
    if name_at + 2 > len(person) or name_at + 2 + int.from_bytes(person[name_at : name_at + 2], "little") > len(person):
        raise damaged(place, "holds a half-written identity")


def unpack_person(person: bytes) -> Identity:
    """The identity of a person that was checked."""
    created_at, _, count = _PERSON.unpack_from(person)
    first = _PERSON.size + _KEY.size * count
    id_end = first + 1 + person[first]
    name_end = id_end + 2 + int.from_bytes(person[id_end : id_end + 2], "little")
    metadata = json.loads(person[name_end:]) if len(person) > name_end else {}
    return Identity(person[first + 1 : id_end].decode(), person[id_end + 2 : name_end].decode(), metadata, created_at, count)


# Templates.


def pack_template(record: TemplateRecord, created_at: float) -> bytes:
    """A template without the key of its owner, which the store knows."""
    template, embedding = record.template, record.embedding
    digest, source, own_id = bytes.fromhex(template.image_digest), _bytes(template.source), template.id.encode()
    flags = (_HAS_CROP if record.crop is not None else 0) | (_HAS_DIGEST if digest else 0)
    sizes = (len(own_id), len(source), embedding.model.dimension)
    numbers = (float(template.quality), created_at, float(embedding.norm))
    head = _TEMPLATE.pack(_FORMAT, flags, *sizes, 0, *numbers, model_mark(embedding.model))
    return b"".join((head, own_id, source, digest, embedding.vector.astype("<f4", copy=False).tobytes()))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Templates as an index takes them: ids, owners, and N×d float32 vectors, in the order of their keys."""

    ids: list[bytes]
    owners: Keys
    vectors: Floats


def unpack_batch(records: Sequence[bytes], model: ModelId, place: str) -> Batch:
    """Read many templates at once. Raises Unavailable that names ``place`` for one that is half-written or of another model."""
    mark, size = model_mark(model), 4 * model.dimension
    ids, owners, vectors = [], [], []
    for record in records:
        if len(record) < _TEMPLATE.size:
            raise damaged(place, "holds a half-written template")
        form, flags, id_length, source_length, dimension, owner, _, _, _, its_mark = _TEMPLATE.unpack_from(record)
        own_id = record[_TEMPLATE.size : _TEMPLATE.size + id_length]
        whole = _TEMPLATE.size + id_length + source_length + (_DIGEST_BYTES if flags & _HAS_DIGEST else 0) + 4 * dimension
        if form != _FORMAT or len(record) != whole:
            raise damaged(place, f"holds the half-written template {own_id[:40].decode('utf-8', 'replace')!r}")
        if its_mark != mark or dimension != model.dimension:
            raise damaged(place, f"holds the template {own_id.decode('utf-8', 'replace')!r} of another model than {model}")
        ids.append(own_id)
        owners.append(owner)
        vectors.append(record[-size:])
    matrix = np.frombuffer(b"".join(vectors), "<f4").reshape(-1, model.dimension).astype(np.float32, copy=False)
    lengths = np.einsum("nd,nd->n", matrix, matrix)
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) < _UNIT_TOLERANCE))
    if len(wrong):
        raise damaged(place, f"holds the template {ids[int(wrong[0])].decode()!r}, whose embedding is no unit vector")
    return Batch(ids, np.array(owners, np.int64), matrix)


def unpack_template(key: int, record: bytes, owner_id: bytes, crops_after: int) -> Template:
    """What is listed of a template; its vector may have been left off. Crops of keys up to ``crops_after`` are gone."""
    _, flags, id_length, source_length, _, _, quality, created_at, _, _ = _TEMPLATE.unpack_from(record)
    source_at = _TEMPLATE.size + id_length
    digest_at = source_at + source_length
    digest = record[digest_at : digest_at + _DIGEST_BYTES].hex() if flags & _HAS_DIGEST else ""
    return Template(
        record[_TEMPLATE.size : source_at].decode(),
        owner_id.decode(),
        quality,
        created_at,
        record[source_at:digest_at].decode(),
        digest,
        bool(flags & _HAS_CROP) and key > crops_after,
    )


def unpack_record(row: Sequence[Any], model: ModelId, crops_after: int, place: str) -> TemplateRecord:
    """A template with embedding and crop, of a row (key, record, owner's id, crop)."""
    packed_key, record, owner_id, crop = row
    batch = unpack_batch([record], model, place)
    template = unpack_template(key_of(packed_key), record, owner_id, crops_after)
    norm = _TEMPLATE.unpack_from(record)[8]
    return TemplateRecord(template, Embedding(batch.vectors[0], norm, model), crop if template.has_crop else None)


def damaged(place: str, what: str) -> Unavailable:
    """The error for something in the store that is not as it was written."""
    return Unavailable(f"the key {place} {what}; restore Redis from a backup, or the gallery from an export", code="storage_corrupt")
