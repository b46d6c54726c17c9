"""Random histories of three replicas of one Redis: whatever is written, missed, cut, emptied or restored, they end equal."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from benchmarks.redis_server import RedisServer, missing
from face_server.clock import SystemClock
from face_server.domain.embedding import Embeddings
from face_server.domain.identity import Change, Collection, Identity, PutIdentity
from face_server.errors import FaceServerError, NotFound, Unavailable
from face_server.gallery.redis import RedisGallery, RedisGalleryOptions
from face_server.gallery.redis_following import FollowOptions, _Position
from face_server.redis_connection import Connection, RedisOptions, open_redis
from face_server.workers import Workers
from tests.gallery.test_sqlite_machine import IDENTITY_IDS, MODEL, RARELY, TEMPLATE_NAMES, VECTORS, GalleryMachine, Model, Refused, added

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

REPLICAS = st.integers(0, 2)
OPTIONS = RedisGalleryOptions(follow=FollowOptions(check_s=0.02, stale_after_s=0.2))


class ReplicaMachine(RuleBasedStateMachine):
    """Does the same to a model and, through any replica, to the store; a replica that is held back follows later."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.server = self.stack.enter_context(RedisServer(folder, "--appendfsync", "no"))
        self.store = self.stack.enter_context(redis.Redis(port=self.server.port))
        self.workers = self.stack.enter_context(Workers(2))
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.run = self.runner.run
        self.model: Model | None = None
        self.kept: tuple[dict[bytes, bytes], Model | None] = ({}, None)
        self.connections: list[Connection] = []
        self.replicas: list[RedisGallery] = []
        self.held: set[int] = set()
        for _ in range(3):
            self.connections.append(self.run(open_redis(RedisOptions(self.server.url))))
            self.replicas.append(self.run(self.opened(len(self.replicas))))

    async def opened(self, number: int) -> RedisGallery:
        """A replica."""
        return await RedisGallery.open(self.connections[number], self.workers, SystemClock(), OPTIONS)

    @initialize()
    def begin(self) -> None:
        """Every history begins with a collection."""
        self.create(0)

    def writer(self, number: int) -> RedisGallery:
        """A replica that is not held back."""
        if len(self.held) == 3:
            self.release(number)
        return self.replicas[next(one for one in itertools.chain(range(number, 3), range(number)) if one not in self.held)]

    async def _insist(self, gallery: RedisGallery, write) -> None:
        """Write; a replica that finds out that the store is another one says so once."""
        try:
            await write()
        except Unavailable:
            await gallery._follower.catch_up()
            await write()

    @precondition(lambda self: self.model is None)
    @rule(number=REPLICAS)
    def create(self, number: int) -> None:
        """Make the collection."""
        gallery = self.writer(number)
        self.run(self._insist(gallery, lambda: gallery.create_collection(Collection("all", MODEL))))
        self.model = Model()

    @precondition(lambda self: self.model is not None)
    @rule(number=REPLICAS, who=IDENTITY_IDS, vectors=st.lists(st.sampled_from(VECTORS), max_size=4))
    def enrol(self, number: int, who: str, vectors: list[np.ndarray]) -> None:
        """Put somebody with new templates."""
        fresh = sorted(TEMPLATE_NAMES.difference(self.model.templates))
        self.apply_both(number, [PutIdentity(Identity(who, "Ann")), *(added(*one) for one in zip(fresh, [who] * 4, vectors, strict=False))])

    @precondition(lambda self: self.model is not None)
    @rule(number=REPLICAS, data=st.data())
    def apply(self, number: int, data: st.DataObject) -> None:
        """Both make a sequence of changes, most of which make sense, or both refuse it."""
        scratch, changes = self.model.copy(), []
        for _ in range(data.draw(st.integers(1, 6))):
            change = GalleryMachine.change(data.draw, scratch)
            try:
                scratch.apply([change])
            except Refused:
                if not data.draw(RARELY):
                    continue
            changes.append(change)
        self.apply_both(number, changes)

    def apply_both(self, number: int, changes: list[Change]) -> None:
        """Apply to the store, through a replica, and to the model."""
        gallery = self.writer(number)
        try:
            self.model.apply(changes)
            refused = False
        except Refused:
            refused = True
        try:
            self.run(self._insist(gallery, lambda: gallery.apply("all", changes)))
        except FaceServerError:
            assert refused
        else:
            assert not refused
            self.run(self.same_names(gallery))

    @rule(number=REPLICAS)
    def hold(self, number: int) -> None:
        """A replica does not get to follow for a while."""
        if number not in self.held:
            self.held.add(number)
            self.run(self.replicas[number]._follower._lock.acquire())

    @rule(number=REPLICAS)
    def release(self, number: int) -> None:
        """It does again."""
        if number in self.held:
            self.held.discard(number)
            self.replicas[number]._follower._lock.release()

    @rule(left=st.integers(0, 2))
    def trim(self, left: int) -> None:
        """The log is cut: who is behind misses entries."""
        self.store.xtrim(self.replicas[0]._scripts.key("log"), maxlen=left, approximate=False)

    @rule(really=st.booleans())
    def keep(self, really: bool) -> None:
        """Somebody backs the store up."""
        if really:
            self.kept = ({key: self.store.dump(key) for key in self.store.keys("*")}, self.model and self.model.copy())

    @rule(really=st.integers(0, 3).map(lambda drawn: drawn == 0), restore=st.booleans())
    def replace(self, really: bool, restore: bool) -> None:
        """Somebody empties the store, or brings the older state back."""
        if not really:
            return
        contents, model = self.kept if restore else ({}, None)
        with self.store.pipeline() as change:
            change.flushall()
            for key, value in contents.items():
                change.restore(key, 0, value)
            change.execute()
        self.model = model and model.copy()

    @rule(number=REPLICAS, really=RARELY)
    def rebuild(self, number: int, really: bool) -> None:
        """A replica loses its place in the log."""
        if really:
            self.replicas[number]._follower._position = _Position()

    @rule(number=REPLICAS, really=RARELY)
    def restart(self, number: int, really: bool) -> None:
        """A replica is started again."""
        if really:
            self.release(number)
            self.run(self.replicas[number].close())
            self.replicas[number] = self.run(self.opened(number))

    @precondition(lambda self: self.model is not None)
    @rule(number=REPLICAS, really=RARELY)
    def drop(self, number: int, really: bool) -> None:
        """Erase the collection."""
        if really:
            gallery = self.writer(number)
            self.run(self._insist(gallery, lambda: gallery.drop_collection("all")))
            self.model = None

    @rule(really=RARELY)
    def agree(self, really: bool) -> None:
        """All follow, and are equal to the store and the model."""
        if not really:
            return
        for number in range(3):
            self.release(number)
        for gallery in self.replicas:
            self.run(gallery._follower.catch_up())
            assert self.run(gallery.index_differences()) == 0
            self.run(self.same_names(gallery))
            self.run(self.same_records(gallery))

    async def same_names(self, gallery: RedisGallery) -> None:
        """A replica that has followed names nobody but those who are there, and each of them."""
        if self.model is None:
            with pytest.raises(NotFound):
                await gallery.collection("all")
            return
        probes = Embeddings(np.stack(VECTORS[:3]).astype(np.float32), np.ones(3, np.float32), MODEL)
        for some in await gallery.search("all", probes, limit=20):
            assert {one.identity.id: one.identity.name for one in some} == {
                owner: self.model.names[owner] for owner, _ in self.model.templates.values()
            }
            assert all(self.model.templates[one.template_id][0] == one.identity.id for one in some)

    async def same_records(self, gallery: RedisGallery) -> None:
        """What is listed is what the model holds."""
        if self.model is not None:
            records = await gallery.records("all")
            assert {one.template.id: (one.template.identity_id, one.embedding.vector.tobytes()) for one in records} == {
                key: (owner, vector.tobytes()) for key, (owner, vector) in self.model.templates.items()
            }
            stored = await gallery.collection("all")
            assert (stored.identities, stored.templates) == (len(self.model.names), len(self.model.templates))

    def teardown(self) -> None:
        """In the end all are equal."""
        try:
            self.agree(True)
        finally:
            for number, gallery in enumerate(self.replicas):
                self.release(number)
                self.run(gallery.close())
                self.run(self.connections[number].close())
            self.stack.close()


class TestReplicaMachine(ReplicaMachine.TestCase):
    """At random, but the same each run."""

    settings = settings(
        max_examples=100,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
