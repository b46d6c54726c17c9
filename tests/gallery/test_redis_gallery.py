"""What is special about a gallery in Redis: other replicas, a store that may be somebody else's, and ways to reach it."""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
import trustme
from blockbuster import blockbuster_ctx

from benchmarks.redis_server import ClusterSite, RedisServer, missing
from face_server.clock import SystemClock
from face_server.domain.embedding import Embedding, ModelId
from face_server.domain.identity import (
    AddTemplate,
    Collection,
    Identity,
    MergeIdentities,
    PutIdentity,
    RemoveIdentity,
    Template,
    TemplateRecord,
)
from face_server.errors import ConfigurationError, FaceServerError, NotFound, Overloaded, Unavailable
from face_server.gallery.redis import RedisGallery, RedisGalleryOptions
from face_server.gallery.sqlite import SqliteGallery
from face_server.redis_connection import RedisOptions, open_redis, parse_address
from face_server.workers import Workers
from tests.gallery.redis_parts import MODEL, named, person, probe, replica, until, vector

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
PREFIX = "face_server:{main:gallery}:v1:"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> Iterator[RedisServer]:
    """A Redis that is empty."""
    running.command("FLUSHALL")
    yield running
    running.command("CONFIG", "SET", "maxmemory", "0")


@pytest.fixture
def store(server: RedisServer) -> Iterator[redis.Redis]:
    """Somebody else at the same Redis."""
    with redis.Redis(port=server.port) as client:
        yield client


@pytest.fixture
async def two(server: RedisServer, workers: Workers) -> AsyncIterator[tuple[RedisGallery, RedisGallery]]:
    """Two replicas."""
    async with replica(server.url, workers) as first, replica(server.url, workers) as second:
        yield first, second


def contents(store: redis.Redis) -> dict[bytes, bytes]:
    """Everything in the store."""
    return {key: store.dump(key) for key in store.keys("*")}


def bring_back(store: redis.Redis, kept: dict[bytes, bytes]) -> None:
    """Put an older state in place of what is there."""
    with store.pipeline() as change:
        change.flushall()
        for key, value in kept.items():
            change.restore(key, 0, value)
        change.execute()


class TestReplicas:
    async def test_a_deleted_person_is_named_nowhere_200_ms_later(self, two: tuple[RedisGallery, RedisGallery]) -> None:
        """Thirty people come and go; the other replica names none of them 200 ms after the reply."""
        first, second = two
        for seed in range(30):
            await first.apply("all", person(f"p{seed}", seed))
            await until(lambda seed=seed: named(second, seed), 0.2)
            await first.apply("all", [RemoveIdentity(f"p{seed}")])
            assert await named(first, seed) == ""
            await asyncio.sleep(0.2 if seed < 3 else 0.05)
            assert await named(second, seed) == ""

    async def test_an_emptied_store_is_noticed(self, two: tuple[RedisGallery, RedisGallery], store: redis.Redis) -> None:
        """After FLUSHALL nobody is named, soon everything says NotFound, and both can be written to again."""
        first, second = two
        await first.apply("all", person("ada", 1))
        store.flushall()
        await asyncio.sleep(0.2)
        for gallery in two:
            with pytest.raises((NotFound, Unavailable)):
                await named(gallery, 1)
        await until(lambda: first.freshness.current and second.freshness.current)
        assert await first.collections() == await second.collections() == []
        await first.create_collection(Collection("all", MODEL))
        await first.apply("all", person("bob", 2))
        await until(lambda: named(second, 2), 0.5)
        assert await second.index_differences() == 0

    async def test_an_older_state_with_as_many_changes_is_noticed(self, two: tuple[RedisGallery, RedisGallery], store: redis.Redis) -> None:
        """Revisions that come out equal, or go beyond, do not hide that their history is another one."""
        first, second = two
        await first.apply("all", person("old", 1))
        for more in ((), ("eve",)):
            kept = contents(store)
            await first.apply("all", person("ada", 2))
            await second._follower.catch_up()
            assert await named(second, 2) == "ada"
            async with second._follower._lock:
                bring_back(store, kept)
                await first._follower.catch_up()
                await first.apply("all", person(f"bob{len(more)}", 3 + 10 * len(more)))
                for name in more:
                    await first.apply("all", person(name, 4))
            await asyncio.sleep(0.2)
            await until(lambda: second.freshness.current)
            assert await named(second, 2) == ""
            assert await second.index_differences() == 0

    async def test_nobody_is_named_while_it_is_not_known_who_is_gone(
        self, two: tuple[RedisGallery, RedisGallery], store: redis.Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A replica that was away when the log was cut names only who is there; the log says what happened."""
        first, second = two
        await first.apply("all", [*person("ada", 1), *person("bob", 2)])
        await second._follower.catch_up()
        async with second._follower._lock:
            await first.apply("all", [RemoveIdentity("ada"), *person("cy", 3)])
            await first.apply("all", person("dan", 4))
            store.xtrim(PREFIX + "log", maxlen=0)
        with caplog.at_level(logging.WARNING, "face_server"):
            # What it answers in these 200 ms may be from before.
            await asyncio.sleep(0.2)
            assert await named(second, 1) == ""
            assert await named(second, 2) == "bob"
            await until(lambda: second.freshness.current)
        assert any("made anew" in one.message for one in caplog.records)
        assert await named(second, 3) == "cy"
        assert await second.index_differences() == 0

    async def test_a_copy_that_breaks_is_made_anew(self, two: tuple[RedisGallery, RedisGallery]) -> None:
        """Whatever is wrong in memory, the store is the truth."""
        first, second = two
        await first.apply("all", person("ada", 1, 2))
        await second._follower.catch_up()
        second._follower.copy("all").template_ids.clear()
        await first.apply("all", [*person("bob", 3), MergeIdentities("ada", "bob")])
        await asyncio.sleep(0.3)
        await until(lambda: named(second, 3))
        assert await second.index_differences() == 0

    async def test_a_move_is_followed_without_the_vector(self, two: tuple[RedisGallery, RedisGallery]) -> None:
        """Names, settings and crops follow too."""
        first, second = two
        record = TemplateRecord(Template("t", "ada", 0.5, 1.0), Embedding(vector(9), 1.0, MODEL), b"jpeg")
        await first.apply("all", [*person("ada", 1), AddTemplate(record), PutIdentity(Identity("ada", "Ada L.", {"部门": "研发"}))])
        await first.update_collection(Collection("all", MODEL, threshold=0.7, keep_crops=False))
        await second._follower.catch_up()
        ((candidate,),) = await second.search("all", probe(1), limit=1)
        assert (candidate.identity.name, candidate.identity.metadata) == ("Ada L.", {"部门": "研发"})
        assert (await second.collection("all")).threshold == 0.7
        assert (await second.record("all", "t")).crop is None
        await first.update_collection(Collection("all", MODEL, keep_crops=True))
        assert not (await second.record("all", "t")).template.has_crop

    async def test_exports_are_those_of_sqlite(self, two: tuple[RedisGallery, RedisGallery], tmp_path: Path, workers: Workers) -> None:
        """The same changes leave the same identities and records in either store."""
        sqlite = await SqliteGallery.open(tmp_path / "gallery.sqlite3", workers, SystemClock())
        await sqlite.create_collection(Collection("all", MODEL, created_at=5.0))
        changes = [change for n in range(40) for change in person(f"p{n}", n, 100 + n)]
        for gallery in (sqlite, two[0]):
            await gallery.apply("all", changes)
            await gallery.apply("all", [RemoveIdentity("p7")])
        listed = [
            (await one.identities("all", limit=100), [_told(record) for record in await one.records("all")]) for one in (sqlite, two[1])
        ]
        assert listed[0] == listed[1]
        await sqlite.close()

    async def test_ids_stay_in_order_however_they_come_and_go(self, server: RedisServer, store: redis.Redis, workers: Workers) -> None:
        """Thousands of ids of several kinds, put and erased at random: pages list who is there, in order; nothing is left behind."""
        random, alive = np.random.default_rng(4), {}
        pool = [*(f"p{n}" for n in range(900)), *(f"{n:05}" for n in range(900)), *(f"{n * 2_654_435_761 % 2**32:x}" for n in range(900))]
        async with replica(server.url, workers) as gallery:
            for _ in range(12):
                changes = []
                for one in random.choice(pool, 900).tolist():
                    if one in alive and random.random() < 0.7:
                        del alive[one]
                        changes.append(RemoveIdentity(one))
                    else:
                        alive[one] = f"name {random.integers(3)}"
                        changes.append(PutIdentity(Identity(one, alive[one])))
                await gallery.apply("all", changes)
            for name, limit in ((None, 97), (None, 10_000), ("name 0", 41), ("name 2", 10_000), ("name 9", 5)):
                listed, page = [], await gallery.identities("all", name=name, limit=limit)
                while page:
                    listed += [one.id for one in page]
                    page = await gallery.identities("all", name=name, after=listed[-1], limit=limit)
                assert listed == sorted(one for one in alive if name in (None, alive[one]))
            await gallery.apply("all", [RemoveIdentity(one) for one in alive])
            assert await gallery.identities("all") == await gallery.identities("all", name="name 1") == []
            await gallery.drop_collection("all")
        assert not [key for key in store.keys("*") if b":c:" in key]

    async def test_the_event_loop_never_waits(self, server: RedisServer, workers: Workers) -> None:
        """Opening, writing much, searching and reading do not block it."""
        with blockbuster_ctx():
            async with replica(server.url, workers) as gallery:
                await gallery.apply("all", [change for n in range(300) for change in person(f"p{n}", n)])
                await gallery.apply("all", person("ada", 1_000))
                assert await named(gallery, 5) == "p5"
                assert len(await gallery.records("all")) == 301

    async def test_waiting_writes_are_bounded(self, server: RedisServer, workers: Workers) -> None:
        """More than may wait are refused at once."""
        async with replica(server.url, workers, RedisGalleryOptions(max_pending_writes=3)) as gallery:
            outcomes = await asyncio.gather(*(gallery.apply("all", person(f"p{n}", n)) for n in range(8)), return_exceptions=True)
            assert sum(isinstance(one, Overloaded) for one in outcomes) == 5
            assert outcomes.count(None) == 3


def _told(record: TemplateRecord) -> tuple[object, ...]:
    return (record.template, record.embedding.vector.tobytes(), record.embedding.norm, record.crop)


class TestLoading:
    async def test_progress_is_shown_and_nothing_is_guessed_meanwhile(self, server: RedisServer, workers: Workers) -> None:
        """Opened without waiting, searches raise Unavailable until all is there."""
        async with replica(server.url, workers) as gallery:
            for first in range(0, 3_000, 1_000):
                await gallery.apply("all", [change for n in range(first, first + 1_000) for change in person(f"p{n}", n)])
        connection = await open_redis(RedisOptions(server.url))
        gallery = await RedisGallery.open(connection, workers, SystemClock(), wait=False)
        assert not gallery.freshness.current
        assert gallery.freshness.stale_since is None
        assert "loaded" in gallery.freshness.reason
        with pytest.raises(Unavailable, match="0 of"):
            await named(gallery, 5)
        await until(lambda: gallery.freshness.current)
        assert (gallery.freshness.loaded, gallery.freshness.total) == (3_000, 3_000)
        assert await named(gallery, 5) == "p5"
        assert await gallery.index_differences() == 0
        await gallery.close()
        await connection.close()

    async def test_a_load_ends_when_it_is_closed(self, server: RedisServer, workers: Workers) -> None:
        """At once, though it had only begun."""
        async with replica(server.url, workers) as gallery:
            await gallery.apply("all", [change for n in range(3_000) for change in person(f"p{n}", n)])
        connection = await open_redis(RedisOptions(server.url))
        gallery = await RedisGallery.open(connection, workers, SystemClock(), wait=False)
        await asyncio.sleep(0.01)
        begun = time.monotonic()
        await gallery.close()
        assert time.monotonic() - begun < 1.0
        await connection.close()


class TestBadStores:
    @pytest.mark.parametrize("name", ["layout", "v1:state", "v1:log", "v1:collections"])
    async def test_keys_that_are_not_ours_are_left_alone(
        self, server: RedisServer, store: redis.Redis, workers: Workers, name: str
    ) -> None:
        """A list under one of our names: one sentence that names the key, and the list is as it was."""
        key = "face_server:{main:gallery}:" + name
        store.rpush(key, "theirs")
        with pytest.raises(FaceServerError) as refused:
            async with replica(server.url, workers):
                pass
        assert key in refused.value.message
        assert store.lrange(key, 0, -1) == [b"theirs"]

    @pytest.mark.parametrize("name", ["people", "templates", "ids", "names", "template-ids", "images", "crops"])
    async def test_keys_of_a_collection_that_are_not_ours_are_left_alone(
        self, two: tuple[RedisGallery, RedisGallery], store: redis.Redis, name: str
    ) -> None:
        """A write that would meet a foreign value changes nothing at all."""
        (number,) = store.hgetall(PREFIX + "collections").values()
        key = f"{PREFIX}c:{number.decode()}:{name}"
        store.set(key, "theirs")
        before = contents(store)
        with pytest.raises(Unavailable, match="not from face_server") as refused:
            await two[0].apply("all", person("ada", 1))
        assert key in refused.value.message
        assert contents(store) == before

    async def test_a_newer_layout_is_refused(self, server: RedisServer, store: redis.Redis, workers: Workers) -> None:
        """With both versions in one sentence."""
        store.set("face_server:{main:gallery}:layout", "2")
        with pytest.raises(ConfigurationError, match=r"layout version 2, but .* up to 1"):
            async with replica(server.url, workers):
                pass
        store.set("face_server:{main:gallery}:layout", "something")
        with pytest.raises(ConfigurationError, match="not from face_server"):
            async with replica(server.url, workers):
                pass

    @pytest.mark.parametrize(
        ("damage", "sentence"),
        [
            (lambda record: record[:-7], "half-written"),
            (lambda record: record[:20], "half-written"),
            (lambda record: record[:40] + b"????" + record[44:], "another model"),
            (lambda record: record[: -4 * MODEL.dimension] + struct.pack(f"<{MODEL.dimension}f", *([2.0] * MODEL.dimension)), "no unit"),
            (lambda record: record[: -4 * MODEL.dimension] + bytes(4 * MODEL.dimension)[:-4] + b"\0\0\xc0\x7f", "no unit"),
        ],
    )
    async def test_a_damaged_template_is_named(
        self, server: RedisServer, store: redis.Redis, workers: Workers, damage: object, sentence: str
    ) -> None:
        """Opening says which key holds what; nothing is overwritten, and no search gives an answer that leaves it out."""
        async with replica(server.url, workers) as gallery:
            await gallery.apply("all", [*person("ada", 1), *person("bob", 2)])
        (number,) = store.hgetall(PREFIX + "collections").values()
        key = f"{PREFIX}c:{number.decode()}:templates"
        field, record = next(iter(store.hgetall(key).items()))
        store.hset(key, field, damage(record))
        before = contents(store)
        with pytest.raises(Unavailable, match=sentence) as refused:
            async with replica(server.url, workers):
                pass
        assert key in refused.value.message
        assert contents(store) == before

    async def test_a_damaged_person_or_collection_is_named(self, server: RedisServer, store: redis.Redis, workers: Workers) -> None:
        """Likewise; a write that meets it changes nothing."""
        async with replica(server.url, workers) as gallery:
            await gallery.apply("all", person("ada", 1))
            (number,) = store.hgetall(PREFIX + "collections").values()
            key = f"{PREFIX}c:{number.decode()}"
            (field, value), *_ = store.hgetall(f"{key}:people").items()
            store.hset(f"{key}:people", field, value[:22])
            before = contents(store)
            with pytest.raises(Unavailable, match="half-written"):
                await gallery.apply("all", [*person("bob", 2), RemoveIdentity("ada")])
            assert contents(store) == before
        with pytest.raises(Unavailable, match=f"{key}:people"):
            async with replica(server.url, workers):
                pass
        store.hset(f"{key}:people", field, value)
        store.hset(key, "margin", "wide")
        with pytest.raises(Unavailable, match=key):
            async with replica(server.url, workers):
                pass

    async def test_another_model_under_the_same_name(self, two: tuple[RedisGallery, RedisGallery]) -> None:
        """A replica that has not heard yet that the collection was made anew for another model does not write into it."""
        first, second = two
        other = ModelId("other", "11", 1, MODEL.dimension)
        async with second._follower._lock:
            await first.drop_collection("all")
            await first.create_collection(Collection("all", other))
            writing = asyncio.create_task(second.apply("all", person("ada", 1)))
            await asyncio.sleep(0.05)
        with pytest.raises(FaceServerError, match="other"):
            await writing
        assert (await first.collection("all")).templates == 0

    async def test_a_full_store_refuses_writes(self, two: tuple[RedisGallery, RedisGallery], server: RedisServer) -> None:
        """The OOM reply is one sentence; searches go on, and so do writes when there is room."""
        first, second = two
        await first.apply("all", person("ada", 1))
        server.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(Unavailable, match="maxmemory") as refused:
            await first.apply("all", person("bob", 2))
        assert refused.value.code == "storage_full"
        assert await named(first, 1) == await named(second, 1) == "ada"
        server.command("CONFIG", "SET", "maxmemory", "0")
        await first.apply("all", person("bob", 2))

    async def test_a_replica_of_redis_is_refused(self, server: RedisServer, workers: Workers) -> None:
        """At the start: it cannot be written."""
        server.command("REPLICAOF", "127.0.0.1", "1")
        try:
            with pytest.raises(ConfigurationError, match="read-only replica"):
                async with replica(server.url, workers):
                    pass
        finally:
            server.command("REPLICAOF", "NO", "ONE")


class TestWays:
    async def test_a_unix_socket(self, server: RedisServer, workers: Workers) -> None:
        """Like any other address; databases and namespaces are apart."""
        async with replica(f"unix://{server.socket}?db=3", workers) as gallery, replica(server.url, workers, namespace="b") as other:
            await gallery.apply("all", person("ada", 1))
            assert await named(gallery, 1) == "ada"
            assert await named(other, 1) == ""

    async def test_a_user_with_the_rights_of_the_documentation(self, server: RedisServer, workers: Workers) -> None:
        """ACL: our keys only, and no dangerous command; without them a sentence."""
        rights = ["~face_server:{main:*", "+@all", "-@dangerous", "-@admin"]
        server.command("ACL", "SETUSER", "faces", "on", ">s:cr@t", *rights)
        async with replica(server.url.replace("redis://", "redis://faces:s%3Acr%40t@"), workers) as gallery:
            await gallery.apply("all", person("ada", 1))
            assert await named(gallery, 1) == "ada"
        server.command("ACL", "SETUSER", "faces", "-eval", "-evalsha")
        with pytest.raises(FaceServerError, match="does not permit"):
            async with replica(server.url.replace("redis://", "redis://faces:s%3Acr%40t@"), workers):
                pass
        server.command("ACL", "DELUSER", "faces")

    async def test_tls(self, tmp_path: Path, workers: Workers) -> None:
        """With a certificate of our own; without trust in it, a sentence."""
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        issued.private_key_pem.write_to_path(tmp_path / "key.pem")
        issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        files = [
            "--tls-cert-file",
            tmp_path / "cert.pem",
            "--tls-key-file",
            tmp_path / "key.pem",
            "--tls-ca-cert-file",
            tmp_path / "ca.pem",
        ]
        with RedisServer(tmp_path, "--tls-port", "0", "--tls-auth-clients", "no", *map(str, files)) as server:
            port = server.port + 1 if server.port < 65_000 else server.port - 1
            server.command("CONFIG", "SET", "tls-port", port)
            url = f"rediss://127.0.0.1:{port}/0"
            async with replica(url, workers, ca_file=tmp_path / "ca.pem") as gallery:
                await gallery.apply("all", person("ada", 1))
                assert await named(gallery, 1) == "ada"
            with pytest.raises(Unavailable, match="cannot be reached"):
                async with replica(url, workers):
                    pass

    async def test_a_cluster(self, tmp_path: Path, workers: Workers) -> None:
        """Three masters: two replicas write, read and follow, large changes and loading included."""
        with ClusterSite(tmp_path) as site:
            async with replica(site.url, workers) as first, replica(site.url, workers) as second:
                await first.apply("all", [change for n in range(100) for change in person(f"p{n}", n)])
                await second.apply("all", [*person("ada", 500), RemoveIdentity("p3")])
                await until(lambda: named(first, 500), 0.5)
                assert await named(first, 3) == ""
                assert len(await first.records("all")) == 100
                assert await first.index_differences() == await second.index_differences() == 0
            async with replica(site.url, workers) as third:
                assert await named(third, 500) == "ada"

    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            ("http://localhost", "begin with redis://"),
            ("redis://", "host:port"),
            ("redis://localhost:port", "host:port"),
            ("redis://localhost:99999", "host:port"),
            ("redis://a:1,b:2", "several hosts"),
            ("redis://localhost/x", "number"),
            ("redis://localhost/0?timeout=3", "'timeout'"),
            ("unix://redis.sock", "unix:///path"),
            ("redis+sentinel://a:1,b:2", "/service"),
            ("redis+cluster://a:1/2", "one database"),
            ("redis://user:s3cret@localhost:x", "host:port"),
        ],
    )
    def test_wrong_addresses_are_explained(self, url: str, sentence: str) -> None:
        """In one sentence without the password."""
        with pytest.raises(ConfigurationError, match=sentence) as refused:
            parse_address(url)
        assert "s3cret" not in refused.value.message

    def test_an_address_is_read_whole(self) -> None:
        """User, password, hosts, service and database; none of the secrets is shown."""
        found = parse_address("rediss+sentinel://us%40er:p%2Fw@a:1,[::1]:2,c/faces/4?sentinel_password=x")
        assert (found.hosts, found.path, found.database, found.tls) == ((("a", 1), ("::1", 2), ("c", 26379)), "faces", 4, True)
        assert (found.user, found.password, found.sentinel_access) == ("us@er", "p/w", {"password": "x"})
        assert "p/w" not in f"{found} {found!r} {RedisOptions('redis://:p/w@h')!r}"

    async def test_a_wrong_password_is_a_sentence(self, tmp_path: Path, workers: Workers) -> None:
        """That does not hold it."""
        with RedisServer(tmp_path, password="right") as server:
            with pytest.raises(ConfigurationError, match="refuses the user name or the password") as refused:
                async with replica(server.url.replace("right", "wr0ng"), workers):
                    pass
            assert "wr0ng" not in refused.value.message
            async with replica(server.url, workers) as gallery:
                await gallery.apply("all", person("ada", 1))
                assert np.isfinite((await gallery.collection("all")).created_at)

    async def test_a_cancellation_is_never_lost(self, server: RedisServer) -> None:
        """Whatever the library is doing when it comes: a task that only asks Redis, for ever, ends when it is told to."""
        connection = await open_redis(RedisOptions(server.url))

        async def ask() -> None:
            while True:
                async with connection.errors("a key"):
                    await connection.client.get("a")

        for steps in range(400):
            asking = asyncio.create_task(ask())
            for _ in range(3 + steps % 29):
                await asyncio.sleep(0)
            asking.cancel()
            _, left = await asyncio.wait([asking], timeout=2)
            assert not left
        await connection.close()
