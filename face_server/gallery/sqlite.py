"""The embedded gallery: one SQLite file, and an index in memory for each collection."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from face_server.domain.embedding import Embeddings
from face_server.domain.identity import Candidate, Change, Collection, Identity, Template, TemplateRecord
from face_server.domain.ports import CURRENT, Clock, Freshness
from face_server.errors import Overloaded
from face_server.gallery import edit, store
from face_server.gallery.candidates import best_first, candidate
from face_server.gallery.connections import Effects, Readers, Writer
from face_server.gallery.index import CollectionIndex, Nearest
from face_server.gallery.indexes import Indexes
from face_server.gallery.limits import GalleryLimits, check_changes, check_collection, check_count, check_probes
from face_server.gallery.refusals import no_template
from face_server.gallery.schema import GALLERY
from face_server.sqlite_file import connect, prepare, snapshot, storage_errors
from face_server.workers import Workers

P = ParamSpec("P")
T = TypeVar("T")

_ATTEMPTS = 100
_FOLLOW_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class SqliteOptions:
    """How the file is used.

    ``busy_timeout_s`` is how long another process may hold the file; ``max_bytes`` bounds its size
    (0: only the disk does); beyond ``max_pending_writes`` waiting changes more are refused.
    """

    busy_timeout_s: float = 10.0
    max_bytes: int = 0
    max_pending_writes: int = 1_024
    limits: GalleryLimits = field(default_factory=GalleryLimits)


class SqliteGallery:
    """``domain.ports.Gallery`` in one file.

    Several processes may use the file at once (a server and a command line): each search first
    makes sure that its index is a copy of the store's present state, so it sees every change
    that was acknowledged to anybody, and no part of one that was not.
    """

    def __init__(
        self, workers: Workers, clock: Clock, options: SqliteOptions, *, readers: Readers, writer: Writer, indexes: Indexes
    ) -> None:
        self._workers = workers
        self._clock = clock
        self._limits = options.limits
        self._readers = readers
        self._writer = writer
        self._indexes = indexes
        # The key of each collection when it was last searched: a guess that saves looking it up twice.
        self._keys: dict[str, int] = {}
        self._scanners = ThreadPoolExecutor(workers.threads, thread_name_prefix="gallery-scan")

    @classmethod
    async def open(cls, path: Path, workers: Workers, clock: Clock, options: SqliteOptions | None = None) -> SqliteGallery:
        """Open the gallery file at ``path``, or make it, and load its vectors.

        Raises ConfigurationError for a file of another kind or a newer version, Unavailable when
        it is damaged or cannot be used.
        """
        options = options or SqliteOptions()
        connection, indexes = await workers.run(_load, path, options)
        writer = Writer(path, connection, indexes, max_pending=options.max_pending_writes)
        readers = Readers(path, busy_timeout_s=options.busy_timeout_s)
        return cls(workers, clock, options, readers=readers, writer=writer, indexes=indexes)

    @property
    def freshness(self) -> Freshness:
        """Always current: each search first makes sure of it."""
        return CURRENT

    @property
    def index_bytes(self) -> int:
        """Memory that the indexes hold."""
        return self._indexes.nbytes

    async def collections(self) -> list[Collection]:
        """All collections with their counts, by name."""
        return [stored.value for stored in await self._read(store.all_collections)]

    async def collection(self, name: str) -> Collection:
        """One collection with its counts."""
        return (await self._read(store.collection_named, name)).value

    async def create_collection(self, collection: Collection) -> Collection:
        """Store a new, empty collection; Conflict if the name is taken."""
        check_collection(collection)

        def work(connection: sqlite3.Connection, effects: Effects) -> Collection:
            effects.collections.add(edit.insert_collection(connection, collection, self._clock.now(), self._limits))
            return store.collection_named(connection, collection.name).value

        return await self._write(work)

    async def update_collection(self, collection: Collection) -> Collection:
        """Replace the settings of the collection of that name; its model cannot change.

        Crops that are kept no longer are erased.
        """
        check_collection(collection)

        def work(connection: sqlite3.Connection, effects: Effects) -> Collection:
            effects.erased |= edit.replace_settings(connection, store.collection_named(connection, collection.name), collection)
            return store.collection_named(connection, collection.name).value

        return await self._write(work)

    async def drop_collection(self, name: str) -> None:
        """Erase a collection and everything in it."""

        def work(connection: sqlite3.Connection, effects: Effects) -> None:
            stored = store.collection_named(connection, name)
            edit.erase_collection(connection, stored)
            effects.collections.add(stored.key)
            effects.erased = True

        await self._write(work)

    async def apply(self, collection: str, changes: Sequence[Change]) -> None:
        """Apply all ``changes`` in order, or none. Returns when store and index have them.

        Times of 0 become now; crops are dropped where the collection keeps none.
        """

        def work(connection: sqlite3.Connection, effects: Effects) -> None:
            stored = store.collection_named(connection, collection)
            check_changes(changes, stored.value.model, self._limits)
            editing = edit.Edit(connection, stored, self._clock.now(), self._limits)
            editing.run(changes)
            effects.erased |= editing.erased
            if editing.touched:
                effects.collections.add(stored.key)

        await self._write(work)

    async def identities(self, collection: str, *, name: str | None = None, after: str = "", limit: int = 100) -> list[Identity]:
        """Identities with id > ``after`` in id order; ``name`` keeps those of exactly that name."""
        check_count(limit, "limit", self._limits.page)
        return await self._read_in(collection, store.identities_after, name, after, limit)

    async def identity(self, collection: str, identity_id: str) -> tuple[Identity, list[Template]]:
        """One identity and its templates, oldest first."""

        def read(connection: sqlite3.Connection, stored: store.StoredCollection) -> tuple[Identity, list[Template]]:
            key, identity = store.identity_with_id(connection, stored, identity_id)
            return identity, store.templates_of(connection, key)

        return await self._read_in(collection, read)

    async def search(self, collection: str, probes: Embeddings, *, limit: int) -> list[list[Candidate]]:
        """For each probe the ``limit`` nearest people, best first, each once; ties by identity id.

        Exact, on vectors rounded to half floats; see ``CollectionIndex.search``.
        """
        check_count(limit, "limit", self._limits.candidates)

        def search(connection: sqlite3.Connection, index: CollectionIndex, _: store.StoredCollection) -> list[list[Candidate]]:
            found = index.search(probes.vectors, limit, self._scanners)
            ranked = _candidates(connection, found)
            return [best_first(some, limit) for some in ranked]

        return await self._workers.run(self._with_index, collection, probes, search)

    async def compare(self, collection: str, identity_id: str, probes: Embeddings) -> list[Candidate]:
        """For each probe how near it is to one identity. NotFound if it has no template."""

        def compare(connection: sqlite3.Connection, index: CollectionIndex, stored: store.StoredCollection) -> list[Candidate]:
            key, identity = store.identity_with_id(connection, stored, identity_id)
            if not identity.templates:
                raise no_template(identity_id)
            (candidates,) = _candidates(connection, [index.compare(key, probes.vectors)])
            return candidates

        return await self._workers.run(self._with_index, collection, probes, compare)

    async def records(self, collection: str, *, after: str = "", limit: int = 1000) -> list[TemplateRecord]:
        """Templates with embeddings and crops, template id > ``after``, in id order."""
        check_count(limit, "limit", self._limits.page)
        return await self._read_in(collection, store.records_after, after, limit)

    async def record(self, collection: str, template_id: str) -> TemplateRecord:
        """One template with embedding and crop."""
        return await self._read_in(collection, store.record_with_id, template_id)

    async def find_image(self, collection: str, image_digest: str) -> Template | None:
        """The oldest template that was made from the picture with this sha256, if any."""
        return await self._read_in(collection, store.template_from_image, image_digest)

    async def index_differences(self) -> int:
        """How many people and templates the indexes hold otherwise than the store: 0 when all is well."""
        return await asyncio.wrap_future(self._writer.exclusively(self._indexes.differences))

    async def close(self) -> None:
        """Finish what was begun and release. Idempotent."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        self._scanners.shutdown()
        self._readers.close()

    async def _write(self, work: Callable[[sqlite3.Connection, Effects], T]) -> T:
        return await asyncio.wrap_future(self._writer.write(work))

    async def _read(self, read: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        def borrow_and_read() -> T:
            with self._readers.borrow() as connection, snapshot(connection):
                return read(connection, *args, **kwargs)

        return await self._workers.run(borrow_and_read)

    async def _read_in(
        self,
        collection: str,
        read: Callable[Concatenate[sqlite3.Connection, store.StoredCollection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        def find_and_read(connection: sqlite3.Connection) -> T:
            return read(connection, store.collection_named(connection, collection), *args, **kwargs)

        return await self._read(find_and_read)

    def _with_index(
        self, collection: str, probes: Embeddings, work: Callable[[sqlite3.Connection, CollectionIndex, store.StoredCollection], T]
    ) -> T:
        """Run ``work`` while index and store show the same moment.

        The index stands still while its lock is held, the store while its snapshot is; they agree
        if their revisions do. If not, the writing thread is asked to let the index follow.
        """
        with self._readers.borrow() as connection:
            for _ in range(_ATTEMPTS):
                key = self._keys.get(collection)
                index = None if key is None else self._indexes.get(key)
                with index.lock.shared() if index else contextlib.nullcontext(), snapshot(connection):
                    stored = store.collection_named(connection, collection)
                    check_probes(probes, collection, stored.value.model, self._limits)
                    self._keys[collection] = stored.key
                    current = self._indexes.get(stored.key)
                    if index is not None and current is index and stored.revision == index.revision:
                        return work(connection, index, stored)
                if current is None or current.revision != stored.revision:
                    follow = functools.partial(self._indexes.follow, collection_key=stored.key)
                    self._writer.exclusively(follow).result(_FOLLOW_TIMEOUT_S)
        raise Overloaded(f"collection {collection!r} changes faster than it can be searched")


def _load(path: Path, options: SqliteOptions) -> tuple[sqlite3.Connection, Indexes]:
    prepare(path, GALLERY, busy_timeout_s=options.busy_timeout_s)
    indexes = Indexes()
    with storage_errors(path):
        connection = connect(path, busy_timeout_s=options.busy_timeout_s, writable=True, max_bytes=options.max_bytes)
        try:
            indexes.load(connection)
        except BaseException:
            connection.close()
            raise
    return connection, indexes


def _candidates(connection: sqlite3.Connection, found: Sequence[Sequence[Nearest]]) -> list[list[Candidate]]:
    """What an index found, with names and ids."""
    keys = {one.template_key for nearest in found for one in nearest}
    owners = store.owners_of(connection, sorted(keys))
    return [[candidate(one, *owners[one.template_key]) for one in nearest] for nearest in found]
