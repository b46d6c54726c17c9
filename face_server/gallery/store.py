"""Reading a gallery file: SQL to values of the domain. Blocking; for one thread at a time."""
# ruff: noqa: S608 - statements are put together from constants of this file, values are bound

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from face_server.domain.embedding import Embedding, ModelId
from face_server.domain.identity import Collection, Identity, Template, TemplateRecord
from face_server.gallery.refusals import collection_missing, identity_missing, template_missing

Row = tuple[Any, ...]

_COLLECTION = "key, revision, name, model, threshold, margin, target_fpir, keep_crops, created_at, identities, templates"
_IDENTITY = "key, id, name, metadata, created_at, templates"
_TEMPLATE = "t.key, t.id, i.id, t.quality, t.created_at, t.source, t.image_digest, t.has_crop"
_OWNERS = (
    "SELECT t.key, t.id, i.key, i.id, i.name, i.metadata, i.created_at, i.templates FROM templates t"
    " JOIN identities i ON i.key = t.identity_key WHERE t.key IN "
)
# A statement for each small number of keys costs a fifth of reading them from JSON.
_FEW_KEYS = 16
_TEMPLATES = f"SELECT {_TEMPLATE} FROM templates t JOIN identities i ON i.key = t.identity_key"
_RECORDS = (
    f"SELECT {_TEMPLATE}, t.norm, t.vector, c.jpeg FROM templates t"
    " JOIN identities i ON i.key = t.identity_key LEFT JOIN crops c ON c.template_key = t.key"
)
_LITTLE_ENDIAN = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class StoredCollection:
    """A collection and what the file knows it by."""

    key: int
    revision: int
    value: Collection


def sought(text: str) -> str:
    """``text`` as SQLite can look for it: what is no valid Unicode becomes what is never stored."""
    return text if text.isascii() or _is_unicode(text) else "\x00"


def vector_bytes(embedding: Embedding) -> bytes:
    """The vector as little-endian float32."""
    return embedding.vector.astype(_LITTLE_ENDIAN).tobytes()


def all_collections(connection: sqlite3.Connection) -> list[StoredCollection]:
    """Every collection, by name."""
    return [_collection(row) for row in connection.execute(f"SELECT {_COLLECTION} FROM collections ORDER BY name")]


def collection_named(connection: sqlite3.Connection, name: str) -> StoredCollection:
    """One collection. Raises NotFound."""
    row = connection.execute(f"SELECT {_COLLECTION} FROM collections WHERE name = ?", (sought(name),)).fetchone()
    if row is None:
        raise collection_missing(name)
    return _collection(row)


def identities_after(
    connection: sqlite3.Connection, collection: StoredCollection, name: str | None, after: str, limit: int
) -> list[Identity]:
    """Up to ``limit`` identities with id > ``after``, by id, of exactly that ``name`` if it is given."""
    by_name, values = ("AND name = ?", [sought(name)]) if name is not None else ("", [])
    rows = connection.execute(
        f"SELECT {_IDENTITY} FROM identities WHERE collection_key = ? {by_name} AND id > ? ORDER BY id LIMIT ?",
        (collection.key, *values, sought(after), limit),
    )
    return [_identity(row) for row in rows]


def identity_with_id(connection: sqlite3.Connection, collection: StoredCollection, identity_id: str) -> tuple[int, Identity]:
    """An identity and its key. Raises NotFound."""
    row = connection.execute(
        f"SELECT {_IDENTITY} FROM identities WHERE collection_key = ? AND id = ?", (collection.key, sought(identity_id))
    ).fetchone()
    if row is None:
        raise identity_missing(identity_id, collection.value.name)
    return row[0], _identity(row)


def templates_of(connection: sqlite3.Connection, identity_key: int) -> list[Template]:
    """Templates of an identity, oldest first."""
    rows = connection.execute(f"{_TEMPLATES} WHERE t.identity_key = ? ORDER BY t.created_at, t.id", (identity_key,))
    return [_template(row) for row in rows]


def owners_of(connection: sqlite3.Connection, template_keys: Sequence[int]) -> dict[int, tuple[str, Identity]]:
    """Ids of templates and the identities they belong to, by the templates' keys; missing ones are left out."""
    if len(template_keys) <= _FEW_KEYS:
        rows = connection.execute(f"{_OWNERS}({','.join('?' * len(template_keys))})", template_keys)
    else:
        rows = connection.execute(f"{_OWNERS}(SELECT value FROM json_each(?))", (_json(template_keys),))
    return {row[0]: (row[1], _identity(row[2:])) for row in rows}


def records_after(connection: sqlite3.Connection, collection: StoredCollection, after: str, limit: int) -> list[TemplateRecord]:
    """Up to ``limit`` templates with template id > ``after``, with vectors and crops, by id."""
    rows = connection.execute(
        f"{_RECORDS} WHERE t.collection_key = ? AND t.id > ? ORDER BY t.id LIMIT ?", (collection.key, sought(after), limit)
    )
    return [_record(row, collection.value.model) for row in rows]


def record_with_id(connection: sqlite3.Connection, collection: StoredCollection, template_id: str) -> TemplateRecord:
    """One template with vector and crop. Raises NotFound."""
    row = connection.execute(f"{_RECORDS} WHERE t.collection_key = ? AND t.id = ?", (collection.key, sought(template_id))).fetchone()
    if row is None:
        raise template_missing(template_id, collection.value.name)
    return _record(row, collection.value.model)


def template_from_image(connection: sqlite3.Connection, collection: StoredCollection, image_digest: str) -> Template | None:
    """The oldest template made from the picture with this sha256."""
    # The condition on '' lets SQLite use the partial index.
    row = connection.execute(
        f"{_TEMPLATES} WHERE t.collection_key = ? AND t.image_digest = ? AND t.image_digest <> '' ORDER BY t.created_at, t.id LIMIT 1",
        (collection.key, sought(image_digest)),
    ).fetchone()
    return None if row is None else _template(row)


def all_vectors(connection: sqlite3.Connection, collection_key: int | None, batch: int) -> Iterator[list[Row]]:
    """Templates in batches of (collection key, key, identity key, vector bytes), by key; of one collection or all."""
    # The plus keeps SQLite from walking an index and looking up every row: the table itself is in key order.
    cursor = connection.execute(
        "SELECT collection_key, key, identity_key, vector FROM templates WHERE ?1 IS NULL OR +collection_key = ?1 ORDER BY key",
        (collection_key,),
    )
    while rows := cursor.fetchmany(batch):
        yield rows


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _json(keys: Sequence[int]) -> str:
    return json.dumps(list(keys))


# Every search reads its collection, and there are few models.
_model = functools.lru_cache(maxsize=64)(ModelId.parse)


def _collection(row: Row) -> StoredCollection:
    key, revision, name, model, threshold, margin, target_fpir, keep_crops, created_at, identities, templates = row
    value = Collection(
        name, _model(model), threshold, margin, target_fpir, bool(keep_crops), created_at, identities=identities, templates=templates
    )
    return StoredCollection(key, revision, value)


def _identity(row: Row) -> Identity:
    _, identity_id, name, metadata, created_at, templates = row
    return Identity(identity_id, name, json.loads(metadata) if metadata != "{}" else {}, created_at, templates)


def _template(row: Row) -> Template:
    _, template_id, identity_id, quality, created_at, source, image_digest, has_crop = row
    return Template(template_id, identity_id, quality, created_at, source, image_digest, bool(has_crop))


def _record(row: Row, model: ModelId) -> TemplateRecord:
    norm, vector, jpeg = row[8:]
    embedding = Embedding(np.frombuffer(vector, _LITTLE_ENDIAN).astype(np.float32), norm, model)
    return TemplateRecord(_template(row[:8]), embedding, jpeg)
