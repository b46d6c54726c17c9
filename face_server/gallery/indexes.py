"""Keeps the index of every collection equal to the store."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face_server.domain.embedding import ModelId
from face_server.domain.image import Floats
from face_server.errors import Unavailable
from face_server.gallery import store
from face_server.gallery.index import CollectionIndex, IndexChange
from face_server.memory import return_freed_memory
from face_server.sqlite_file import snapshot

_BATCH = 512
_UNIT_TOLERANCE = 1e-2

_log = logging.getLogger(__name__)


class Indexes:
    """One ``CollectionIndex`` a collection, by the collection's key.

    ``get`` is for any thread; everything else is for the one thread that writes.
    """

    def __init__(self, make_index: Callable[[int], CollectionIndex] = CollectionIndex) -> None:
        self._make_index = make_index
        self._indexes: dict[int, CollectionIndex] = {}

    @property
    def nbytes(self) -> int:
        """Memory held by all indexes."""
        return sum(index.nbytes for index in list(self._indexes.values()))

    def get(self, collection_key: int) -> CollectionIndex | None:
        """The index of a collection, if it was loaded; compare its revision with the store's."""
        return self._indexes.get(collection_key)

    def load(self, connection: sqlite3.Connection, collection_key: int | None = None) -> None:
        """Build the index of one collection, or of all, from the store, in batches."""
        self._indexes.update(self._built(connection, collection_key))
        connection.execute("PRAGMA shrink_memory")
        return_freed_memory()

    def _built(self, connection: sqlite3.Connection, collection_key: int | None) -> dict[int, CollectionIndex]:
        with snapshot(connection):
            wanted = "SELECT key, model, revision, identities, templates FROM collections WHERE ?1 IS NULL OR key = ?1"
            collections = connection.execute(wanted, (collection_key,)).fetchall()
            dimensions = {key: ModelId.parse(model).dimension for key, model, *_ in collections}
            loading = {key: self._make_index(dimension) for key, dimension in dimensions.items()}
            for key, _, _, identities, templates in collections:
                index = loading[key]
                index.expect(identities, templates)
                people = connection.execute("SELECT key FROM identities WHERE collection_key = ? ORDER BY key", (key,))
                while some := people.fetchmany(_BATCH):
                    index.load(IndexChange(new_people=np.array([person for (person,) in some], np.int64)))
            for rows in store.all_vectors(connection, collection_key, _BATCH):
                for key in {row[0] for row in rows}:
                    loading[key].load(_added([row[1:] for row in rows if row[0] == key], dimensions[key]))
            for key, _, revision, *_ in collections:
                loading[key].finish_load(revision)
        return loading

    def follow(self, connection: sqlite3.Connection, collection_key: int) -> None:
        """Bring one index to the store's revision, whoever made it: this process or another."""
        row = connection.execute("SELECT model, revision FROM collections WHERE key = ?", (collection_key,)).fetchone()
        index = self._indexes.get(collection_key)
        if row is None:
            self._indexes.pop(collection_key, None)
        elif index is None:
            self.load(connection, collection_key)
        elif index.revision != row[1]:
            try:
                followed = _advance(connection, collection_key, index, ModelId.parse(row[0]).dimension)
            except Exception:  # noqa: BLE001 - whatever is wrong with the copy, the store is the truth: copy it again
                _log.exception("an index could not follow the store and is built anew")
                followed = False
            if not followed:
                self.load(connection, collection_key)

    def differences(self, connection: sqlite3.Connection) -> int:
        """How many people and templates of the store their index lacks, misplaces or has too many."""
        found = 0
        with snapshot(connection):
            for key, model, revision in connection.execute("SELECT key, model, revision FROM collections").fetchall():
                index = self._indexes.get(key)
                if index is None or index.revision != revision:
                    found += 1
                else:
                    found += _differences(connection, key, index, ModelId.parse(model).dimension)
        return found


def _advance(connection: sqlite3.Connection, collection_key: int, index: CollectionIndex, dimension: int) -> bool:
    """Apply what changed since the index's revision; False if the store no longer knows."""
    with snapshot(connection):
        (revision,) = connection.execute("SELECT revision FROM collections WHERE key = ?", (collection_key,)).fetchone()
        log = connection.execute(
            "SELECT revision, identity_key FROM touched WHERE collection_key = ? AND revision > ? ORDER BY revision",
            (collection_key, index.revision),
        ).fetchall()
        if not log or log[0][0] != index.revision + 1:
            return False
        touched = sorted({person for _, person in log})
        change = _change(connection, index, touched, dimension)
    index.apply(change, revision)
    return True


def _change(connection: sqlite3.Connection, index: CollectionIndex, touched: Sequence[int], dimension: int) -> IndexChange:
    wanted = json.dumps(touched)
    people = {key for (key,) in connection.execute("SELECT key FROM identities WHERE key IN (SELECT value FROM json_each(?))", (wanted,))}
    stored = dict(
        connection.execute("SELECT key, identity_key FROM templates WHERE identity_key IN (SELECT value FROM json_each(?))", (wanted,))
    )
    indexed = {template: person for person in touched for template in index.template_keys_of(person)}
    added = [template for template, person in stored.items() if indexed.get(template) != person]
    rows = connection.execute(
        "SELECT key, identity_key, vector FROM templates WHERE key IN (SELECT value FROM json_each(?))", (json.dumps(added),)
    ).fetchall()
    arrived = _added(rows, dimension)
    return IndexChange(
        removed_templates=[(person, template) for template, person in indexed.items() if stored.get(template) != person],
        removed_people=[person for person in touched if person not in people and index.has(person)],
        new_people=np.array(sorted(person for person in people if not index.has(person)), np.int64),
        template_keys=arrived.template_keys,
        owner_keys=arrived.owner_keys,
        vectors=arrived.vectors,
    )


def _added(rows: Sequence[tuple[int, int, bytes]], dimension: int) -> IndexChange:
    """Rows of (template key, owner key, vector bytes) as a change. Raises Unavailable for damaged vectors."""
    packed = b"".join([vector for _, _, vector in rows])
    if len(packed) != len(rows) * dimension * 4:
        raise _damaged()
    vectors = np.frombuffer(packed, "<f4").reshape(-1, dimension).astype(np.float32, copy=False)
    lengths = np.einsum("nd,nd->n", vectors, vectors)
    if not (np.abs(lengths - 1.0) < _UNIT_TOLERANCE).all():
        raise _damaged()
    keys: NDArray[Any] = np.array([(key, owner) for key, owner, _ in rows], np.int64).reshape(-1, 2)
    return IndexChange(template_keys=keys[:, 0], owner_keys=keys[:, 1], vectors=vectors)


def _damaged() -> Unavailable:
    return Unavailable("the gallery holds a damaged embedding; restore it from a backup or an export", code="storage_corrupt")


def _differences(connection: sqlite3.Connection, collection_key: int, index: CollectionIndex, dimension: int) -> int:
    people = {key for (key,) in connection.execute("SELECT key FROM identities WHERE collection_key = ?", (collection_key,))}
    found = len(people.symmetric_difference(index.people().tolist()))
    template_keys, owner_keys = index.contents()
    order = np.argsort(template_keys)
    matched = 0
    for rows in store.all_vectors(connection, collection_key, _BATCH):
        expected = _added([row[1:] for row in rows], dimension)
        places = np.searchsorted(template_keys[order], expected.template_keys)
        there = places < len(order)
        chosen = order[places[there]]
        same_key = template_keys[chosen] == expected.template_keys[there]
        same_owner = owner_keys[chosen] == expected.owner_keys[there]
        same_vector = (index.vectors(chosen) == _as_searched(expected.vectors[there])).all(axis=1)
        good = int((same_key & same_owner & same_vector).sum())
        found += len(rows) - good
        matched += good
    return found + len(template_keys) - matched


def _as_searched(vectors: Floats) -> Floats:
    return vectors.astype(np.float16).astype(np.float32)
