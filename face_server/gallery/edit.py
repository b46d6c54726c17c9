"""Writing a gallery file: what each change does to its tables. Blocking; inside a transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from face_server.domain.identity import (
    AddTemplate,
    Change,
    Collection,
    Identity,
    MergeIdentities,
    MoveTemplate,
    PutIdentity,
    RemoveIdentity,
    RemoveTemplate,
    TemplateRecord,
)
from face_server.errors import NotFound
from face_server.gallery.limits import GalleryLimits
from face_server.gallery.refusals import (
    collection_taken,
    merged_with_itself,
    template_missing,
    template_taken,
    too_many_collections,
    too_many_templates,
)
from face_server.gallery.store import StoredCollection, identity_with_id, sought, vector_bytes

_REVISIONS_KEPT = 256
_ERASED_AT_ONCE = 1_000
_ERASE_SOME = (
    "DELETE FROM templates WHERE key IN (SELECT key FROM templates WHERE collection_key = ? LIMIT ?)",
    "DELETE FROM identities WHERE key IN (SELECT key FROM identities WHERE collection_key = ? LIMIT ?)",
)


def insert_collection(connection: sqlite3.Connection, collection: Collection, now: float, limits: GalleryLimits) -> int:
    """Store a new, empty collection and return its key. Raises Conflict, InputTooLarge."""
    if connection.execute("SELECT 1 FROM collections WHERE name = ?", (collection.name,)).fetchone() is not None:
        raise collection_taken(collection.name)
    (count,) = connection.execute("SELECT COUNT(*) FROM collections").fetchone()
    if count >= limits.collections:
        raise too_many_collections(limits.collections)
    key = connection.execute(
        "INSERT INTO collections (name, model, threshold, margin, target_fpir, keep_crops, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            collection.name,
            str(collection.model),
            collection.threshold,
            collection.margin,
            collection.target_fpir,
            collection.keep_crops,
            collection.created_at or now,
        ),
    ).lastrowid
    assert key is not None
    return key


def replace_settings(connection: sqlite3.Connection, stored: StoredCollection, wanted: Collection) -> bool:
    """Store new settings; whether that erased crops, because they are no longer kept. Raises ModelMismatch."""
    stored.value.model.require(wanted.model, f"collection {wanted.name!r}")
    connection.execute(
        "UPDATE collections SET threshold = ?, margin = ?, target_fpir = ?, keep_crops = ? WHERE key = ?",
        (wanted.threshold, wanted.margin, wanted.target_fpir, wanted.keep_crops, stored.key),
    )
    if wanted.keep_crops or not stored.value.keep_crops:
        return False
    connection.execute("DELETE FROM crops WHERE template_key IN (SELECT key FROM templates WHERE collection_key = ?)", (stored.key,))
    connection.execute("UPDATE templates SET has_crop = 0 WHERE collection_key = ? AND has_crop", (stored.key,))
    return True


def erase_collection(connection: sqlite3.Connection, stored: StoredCollection) -> None:
    """Delete a collection and everything in it, piecemeal: SQLite keeps old pages of a statement in memory."""
    for statement in _ERASE_SOME:
        while connection.execute(statement, (stored.key, _ERASED_AT_ONCE)).rowcount:
            pass
    connection.execute("DELETE FROM collections WHERE key = ?", (stored.key,))


class Edit:
    """Changes to one collection within one transaction.

    After ``run``, ``touched`` holds the keys of people whose existence or templates changed and
    ``erased`` says whether rows were deleted.
    """

    def __init__(self, connection: sqlite3.Connection, collection: StoredCollection, now: float, limits: GalleryLimits) -> None:
        self._connection = connection
        self._collection = collection
        self._now = now
        self._limits = limits
        self._keys: dict[str, int] = {}
        self._counts: dict[int, int] = {}
        self._identities = 0
        self._templates = 0
        self.touched: set[int] = set()
        self.erased = False

    def run(self, changes: Sequence[Change]) -> None:
        """Make ``changes`` in order, update the counts and begin a new revision if people changed."""
        for change in changes:
            self._make(change)
        counts = [(count, key) for key, count in self._counts.items()]
        self._connection.executemany("UPDATE identities SET templates = ? WHERE key = ?", counts)
        if not self.touched:
            return
        key, revision = self._collection.key, self._collection.revision + 1
        self._connection.execute(
            "UPDATE collections SET identities = identities + ?, templates = templates + ?, revision = ? WHERE key = ?",
            (self._identities, self._templates, revision, key),
        )
        self._connection.executemany("INSERT INTO touched VALUES (?, ?, ?)", [(key, revision, person) for person in self.touched])
        self._connection.execute("DELETE FROM touched WHERE collection_key = ? AND revision <= ?", (key, revision - _REVISIONS_KEPT))

    def _make(self, change: Change) -> None:
        match change:
            case PutIdentity(identity):
                self._put(identity)
            case AddTemplate(record):
                self._add(record)
            case RemoveIdentity(identity_id):
                self._remove_identity(identity_id)
            case RemoveTemplate(template_id):
                self._remove_template(template_id)
            case MoveTemplate(template_id, identity_id):
                self._move(template_id, identity_id)
            case MergeIdentities(source_id, target_id):
                self._merge(source_id, target_id)

    def _put(self, identity: Identity) -> None:
        metadata = json.dumps(dict(identity.metadata), ensure_ascii=False)
        try:
            key = self._person(identity.id)
        except NotFound:
            inserted = self._connection.execute(
                "INSERT INTO identities (collection_key, id, name, metadata, created_at) VALUES (?, ?, ?, ?, ?)",
                (self._collection.key, identity.id, identity.name, metadata, identity.created_at or self._now),
            ).lastrowid
            assert inserted is not None
            self._keys[identity.id], self._counts[inserted] = inserted, 0
            self._identities += 1
            self.touched.add(inserted)
        else:
            self._connection.execute("UPDATE identities SET name = ?, metadata = ? WHERE key = ?", (identity.name, metadata, key))

    def _add(self, record: TemplateRecord) -> None:
        template, collection = record.template, self._collection
        person = self._person(template.identity_id)
        taken = self._connection.execute("SELECT 1 FROM templates WHERE collection_key = ? AND id = ?", (collection.key, template.id))
        if taken.fetchone() is not None:
            raise template_taken(template.id, collection.value.name)
        self._grow(person, 1)
        crop = record.crop if collection.value.keep_crops else None
        embedding = record.embedding
        key = self._connection.execute(
            "INSERT INTO templates (collection_key, identity_key, id, quality, created_at, source, image_digest, norm, vector, has_crop)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                collection.key,
                person,
                template.id,
                template.quality,
                template.created_at or self._now,
                template.source,
                template.image_digest,
                embedding.norm,
                vector_bytes(embedding),
                crop is not None,
            ),
        ).lastrowid
        if crop is not None:
            self._connection.execute("INSERT INTO crops VALUES (?, ?)", (key, crop))
        self._templates += 1

    def _remove_identity(self, identity_id: str) -> None:
        person = self._person(identity_id)
        self._templates -= self._counts[person]
        self._erase_person(identity_id)

    def _remove_template(self, template_id: str) -> None:
        template, person = self._template(template_id)
        self._connection.execute("DELETE FROM templates WHERE key = ?", (template,))
        self._grow(person, -1)
        self._templates -= 1
        self.erased = True

    def _move(self, template_id: str, identity_id: str) -> None:
        template, source = self._template(template_id)
        target = self._person(identity_id)
        if source == target:
            return
        self._grow(source, -1)
        self._grow(target, 1)
        self._connection.execute("UPDATE templates SET identity_key = ? WHERE key = ?", (target, template))

    def _merge(self, source_id: str, target_id: str) -> None:
        if source_id == target_id:
            raise merged_with_itself()
        source, target = self._person(source_id), self._person(target_id)
        self._grow(target, self._counts[source])
        self._connection.execute("UPDATE templates SET identity_key = ? WHERE identity_key = ?", (target, source))
        self._erase_person(source_id)

    def _erase_person(self, identity_id: str) -> None:
        person = self._keys.pop(identity_id)
        del self._counts[person]
        self._connection.execute("DELETE FROM identities WHERE key = ?", (person,))
        self._identities -= 1
        self.touched.add(person)
        self.erased = True

    def _person(self, identity_id: str) -> int:
        if identity_id not in self._keys:
            key, identity = identity_with_id(self._connection, self._collection, identity_id)
            self._keys[identity_id] = key
            self._counts.setdefault(key, identity.templates)
        return self._keys[identity_id]

    def _template(self, template_id: str) -> tuple[int, int]:
        row = self._connection.execute(
            "SELECT t.key, i.key, i.templates FROM templates t JOIN identities i ON i.key = t.identity_key"
            " WHERE t.collection_key = ? AND t.id = ?",
            (self._collection.key, sought(template_id)),
        ).fetchone()
        if row is None:
            raise template_missing(template_id, self._collection.value.name)
        template, person, count = row
        self._counts.setdefault(person, count)
        return template, person

    def _grow(self, person: int, by: int) -> None:
        count, limit = self._counts[person] + by, self._limits.templates_per_identity
        if by > 0 and count > limit:
            raise too_many_templates(limit, count)
        self._counts[person] = count
        self.touched.add(person)
