"""The shared gallery: templates in Redis, and an index in the memory of each replica."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from face_server.domain.embedding import Embeddings, ModelId
from face_server.domain.identity import (
    AddTemplate,
    Candidate,
    Change,
    Collection,
    Identity,
    MergeIdentities,
    MoveTemplate,
    PutIdentity,
    RemoveIdentity,
    RemoveTemplate,
    Template,
    TemplateRecord,
)
from face_server.domain.ports import Clock, Freshness
from face_server.errors import Overloaded
from face_server.gallery import redis_layout as layout
from face_server.gallery.limits import GalleryLimits, check_changes, check_collection, check_count, check_probes
from face_server.gallery.redis_following import Follower, FollowOptions
from face_server.gallery.redis_scripts import Argument, OtherModel, Scripts
from face_server.gallery.refusals import closed
from face_server.redis_connection import Connection
from face_server.workers import Workers

_FEW_CHANGES = 16
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class RedisGalleryOptions:
    """How the gallery uses Redis.

    The log keeps about the last ``log_length`` changes for replicas to follow. ``writes_at_once`` go to Redis together,
    ``max_pending_writes`` may wait; more are refused.
    """

    log_length: int = 65_536
    writes_at_once: int = 16
    max_pending_writes: int = 1_024
    follow: FollowOptions = field(default_factory=FollowOptions)
    limits: GalleryLimits = field(default_factory=GalleryLimits)


class RedisGallery:
    """``domain.ports.Gallery`` for several replicas of one service.

    Searches, comparisons and collections are answered from this replica's copy and never ask Redis. A change is
    acknowledged when Redis and this replica's index have it; other replicas follow within a fraction of a second, and
    ``freshness`` says when one could not.
    """

    def __init__(self, scripts: Scripts, follower: Follower, workers: Workers, clock: Clock, options: RedisGalleryOptions) -> None:
        self._scripts = scripts
        self._follower = follower
        self._workers = workers
        self._clock = clock
        self._options = options
        self._limits = options.limits
        self._slots = asyncio.Semaphore(options.writes_at_once)
        self._pending = 0
        self._blocking: Any = None
        self._closed = False
        self._scanners = ThreadPoolExecutor(workers.threads, thread_name_prefix="gallery-scan")

    @classmethod
    async def open(
        cls, connection: Connection, workers: Workers, clock: Clock, options: RedisGalleryOptions | None = None, *, wait: bool = True
    ) -> RedisGallery:
        """Open the gallery of the connection's namespace, or make it, and load its vectors.

        With ``wait`` this returns when everything is loaded; without, searches raise Unavailable until then and
        ``freshness`` shows the progress. Raises ConfigurationError for a newer layout or keys that are not ours,
        Unavailable when Redis is away or holds something damaged. The connection stays the caller's.
        """
        options = options or RedisGalleryOptions()
        scripts = Scripts(connection)
        follower = Follower(scripts, clock, options.follow)
        gallery = cls(scripts, follower, workers, clock, options)
        try:
            await follower.claim()
            await follower.start(wait=wait)
        except BaseException:
            await gallery.close()
            raise
        return gallery

    @property
    def freshness(self) -> Freshness:
        """Whether this replica's index was equal to the store a moment ago."""
        return self._follower.freshness

    @property
    def index_bytes(self) -> int:
        """Memory that the indexes hold, without names."""
        return sum(copy.index.nbytes for copy in self._follower.copies())

    async def collections(self) -> list[Collection]:
        """All collections with their counts, by name; of this replica's copy."""
        self._require_open()
        return sorted((copy.value for copy in self._follower.copies()), key=lambda one: one.name)

    async def collection(self, name: str) -> Collection:
        """One collection with its counts; of this replica's copy."""
        self._require_open()
        return self._follower.copy(name).value

    async def create_collection(self, collection: Collection) -> Collection:
        """Store a new, empty collection; Conflict if the name is taken."""
        check_collection(collection)
        created_at = float(collection.created_at or self._clock.now())
        await self._write("collections", "create", collection.name, self._limits.collections, *layout.pack_settings(collection, created_at))
        return dataclasses.replace(collection, created_at=created_at, identities=0, templates=0)

    async def update_collection(self, collection: Collection) -> Collection:
        """Replace the settings of the collection of that name; its model cannot change.

        Crops that are kept no longer are erased.
        """
        check_collection(collection)
        known = await self._known(collection.name)
        known.model.require(collection.model, f"collection {collection.name!r}")
        await self._write("collections", "update", collection.name, str(collection.model), *layout.pack_choices(collection))
        return await self.collection(collection.name)

    async def drop_collection(self, name: str) -> None:
        """Erase a collection and everything in it."""
        await self._write("collections", "drop", name)

    async def apply(self, collection: str, changes: Sequence[Change]) -> None:
        """Apply all ``changes`` in order, or none. Returns when Redis and this replica's index have them.

        Times of 0 become now; crops are dropped where the collection keeps none.
        """
        for _ in range(_ATTEMPTS):
            model = (await self._known(collection)).model
            if len(changes) <= _FEW_CHANGES:
                arguments = self._packed(collection, changes, model)
            else:
                arguments = await self._workers.run(self._packed, collection, changes, model)
            try:
                await self._write("apply", "", *arguments, large=len(changes) > _FEW_CHANGES)
            except OtherModel:
                # Somebody made another collection of this name since this replica looked.
                await self._follower.catch_up()
            else:
                return
        raise Overloaded(f"collection {collection!r} changes faster than it can be written to")

    async def identities(self, collection: str, *, name: str | None = None, after: str = "", limit: int = 100) -> list[Identity]:
        """Identities with id > ``after`` in id order; ``name`` keeps those of exactly that name."""
        check_count(limit, "limit", self._limits.page)
        digest = b"" if name is None else layout.name_digest(name)
        _, _, rows = await self._read("identities", collection, layout.sought(after), limit, digest)
        found = await self._workers.run(lambda: [layout.unpack_person(person) for _, person in rows])
        return [one for one in found if name is None or one.name == name]

    async def identity(self, collection: str, identity_id: str) -> tuple[Identity, list[Template]]:
        """One identity and its templates, oldest first."""
        _, crops_after, rows = await self._read("identity", collection, layout.sought(identity_id))
        templates = [self._template(row, crops_after) for row in rows[1:]]
        return layout.unpack_person(rows[0][1]), sorted(templates, key=lambda one: (one.created_at, one.id))

    async def search(self, collection: str, probes: Embeddings, *, limit: int) -> list[list[Candidate]]:
        """For each probe the ``limit`` nearest people, best first, each once; ties by identity id.

        Exact, on vectors rounded to half floats; see ``CollectionIndex.search``. Asks this replica's copy only.
        """
        self._require_open()
        check_count(limit, "limit", self._limits.candidates)
        copy = self._follower.copy(collection)
        check_probes(probes, collection, copy.value.model, self._limits)
        return await self._workers.run(copy.search, probes, limit, self._scanners)

    async def compare(self, collection: str, identity_id: str, probes: Embeddings) -> list[Candidate]:
        """For each probe how near it is to one identity. NotFound if it has no template. Asks this replica's copy only."""
        self._require_open()
        copy = self._follower.copy(collection)
        check_probes(probes, collection, copy.value.model, self._limits)
        return await self._workers.run(copy.compare, identity_id, probes)

    async def records(self, collection: str, *, after: str = "", limit: int = 1000) -> list[TemplateRecord]:
        """Templates with embeddings and crops, template id > ``after``, in id order."""
        check_count(limit, "limit", self._limits.page)
        model, crops_after, rows = await self._read("records", collection, layout.sought(after), limit)
        return await self._workers.run(lambda: [self._record(row, model, crops_after) for row in rows])

    async def record(self, collection: str, template_id: str) -> TemplateRecord:
        """One template with embedding and crop."""
        model, crops_after, rows = await self._read("record", collection, layout.sought(template_id))
        return self._record(rows[0], model, crops_after)

    async def find_image(self, collection: str, image_digest: str) -> Template | None:
        """The oldest template that was made from the picture with this sha256, if any."""
        _, crops_after, rows = await self._read("image", collection, layout.image_mark(image_digest))
        found = [one for one in (self._template(row, crops_after) for row in rows) if one.image_digest == image_digest]
        return min(found, key=lambda one: (one.created_at, one.id), default=None)

    async def index_differences(self) -> int:
        """How many people and templates the indexes hold otherwise than the store: 0 when all is well."""
        return await self._follower.differences()

    async def close(self) -> None:
        """Finish what was begun and release. Idempotent."""
        self._closed = True
        await self._follower.close()
        blocking, self._blocking = self._blocking, None
        if blocking is not None:
            await asyncio.to_thread(blocking.close)
        await asyncio.to_thread(self._scanners.shutdown)

    def _require_open(self) -> None:
        if self._closed:
            raise closed()

    async def _known(self, collection: str) -> Collection:
        """A collection for a change to it, though another replica made it just now."""
        self._require_open()
        self._follower.require_store()
        if all(copy.value.name != collection for copy in self._follower.copies()):
            await self._follower.catch_up()
        return self._follower.copy(collection).value

    async def _read(self, what: str, collection: str, *arguments: Argument) -> tuple[ModelId, int, list[Any]]:
        """The model, the key after which templates have crops, and rows of the store."""
        self._require_open()
        self._follower.require_store()
        _, model, crops_after, rows = await self._scripts.call("read", what, layout.sought(collection), *arguments)
        return layout.parse_model(model.decode()), int(crops_after), rows

    async def _write(self, script: str, what: str, *arguments: Argument, large: bool = False) -> None:
        """Run a script that writes, and let the copies follow."""
        self._require_open()
        self._follower.require_store()
        if self._pending >= self._options.max_pending_writes:
            raise Overloaded("too many changes to the gallery are waiting", retry_after_s=1.0)
        head: list[Argument] = [*([what] if what else []), secrets.token_hex(8), self._options.log_length]
        self._pending += 1
        try:
            async with self._slots:
                if large and not self._scripts.connection.options.wait_replicas:
                    await asyncio.to_thread(self._write_here, script, *head, *arguments)
                else:
                    await self._scripts.write(script, *head, *arguments)
            await self._follower.catch_up()
        finally:
            self._pending -= 1

    def _write_here(self, script: str, *arguments: Argument) -> None:
        if self._blocking is None:
            self._blocking = self._scripts.connection.open_blocking()
        self._scripts.write_here(self._blocking, script, *arguments)

    def _packed(self, collection: str, changes: Sequence[Change], model: ModelId) -> list[Argument]:
        """What the script of changes takes. Refuses what cannot be stored."""
        check_changes(changes, model, self._limits)
        now = self._clock.now()
        packed: list[Argument] = [collection, str(model), self._limits.templates_per_identity]
        for change in changes:
            packed += _packed_change(change, now)
        return packed

    def _template(self, row: Sequence[Any], crops_after: int) -> Template:
        key, record, owner = row[:3]
        return layout.unpack_template(layout.key_of(key), record, owner, crops_after)

    def _record(self, row: Sequence[Any], model: ModelId, crops_after: int) -> TemplateRecord:
        return layout.unpack_record(row, model, crops_after, self._scripts.key("…", "templates"))


def _packed_change(change: Change, now: float) -> list[Argument]:
    match change:
        case PutIdentity(identity):
            created_at = layout.pack_time(float(identity.created_at or now))
            return ["put", identity.id, layout.name_digest(identity.name), created_at, layout.pack_person(identity)]
        case AddTemplate(record):
            template = record.template
            packed = layout.pack_template(record, float(template.created_at or now))
            digest = layout.image_mark(template.image_digest)
            return ["add", template.id, layout.sought(template.identity_id), digest, packed, record.crop or b""]
        case RemoveIdentity(identity_id):
            return ["erase", layout.sought(identity_id)]
        case RemoveTemplate(template_id):
            return ["remove", layout.sought(template_id)]
        case MoveTemplate(template_id, identity_id):
            return ["move", layout.sought(template_id), layout.sought(identity_id)]
        case MergeIdentities(source_id, target_id):
            return ["merge", layout.sought(source_id), layout.sought(target_id)]
