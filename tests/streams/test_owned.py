"""Streams that several replicas share, as each of them answers for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from benchmarks.redis_server import RedisServer, missing
from face_server.clock import SystemClock
from face_server.domain.frame import SourceInfo
from face_server.domain.replicas import ReplicaNote, Standing
from face_server.domain.streams import StreamSpec, StreamState
from face_server.errors import Conflict, NotFound, Unavailable
from face_server.journal.options import JournalOptions
from face_server.journal.redis import RedisJournal
from face_server.journal.sealing import Sealer
from face_server.redis_connection import RedisOptions, open_redis
from face_server.streams.owned import OwnedStreams
from face_server.streams.ownership import SoleOwner
from face_server.streams.redis_ownership import RedisOwnership, RedisOwnershipOptions
from face_server.streams.registry import StreamChecks
from face_server.streams.shared import SharedStreams
from face_server.streams.spreading import SpreadOptions
from face_server.streams.supervisor import Supervisor
from face_server.streams.tenancy import TenancyOptions
from face_server.workers import Workers

URL = "rtsp://cam/1"
FAST = RedisOwnershipOptions(lease_s=0.8, presence_s=1.0, timeout_s=0.4)
SPREAD = SpreadOptions(grace_s=0.5, courtesy_s=0.2, settled_s=0.5, rebalance_s=0.1)


@dataclass
class Known:
    """The ids that whoever delivers events was told of."""

    ids: set[str] = field(default_factory=set)

    def set_specs(self, specs) -> None:
        """These are all."""
        self.ids = {spec.id for spec in specs}

    def put_spec(self, spec: StreamSpec) -> None:
        """One more."""
        self.ids.add(spec.id)

    def drop_spec(self, stream_id: str) -> None:
        """One less."""
        self.ids.discard(stream_id)


class Views:
    """Says where pictures would be fetched."""

    async def snapshot(self, owner: ReplicaNote, stream_id: str, *, annotated: bool) -> bytes:
        """See ``PeerViews.snapshot``."""
        return f"{owner.name} {stream_id} {annotated}".encode()

    @asynccontextmanager
    async def preview(self, owner: ReplicaNote, stream_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """See ``PeerViews.preview``."""

        async def pictures() -> AsyncIterator[bytes]:
            yield f"{owner.name} {stream_id}".encode()

        yield pictures()


@dataclass
class Replica:
    """One of several."""

    name: str
    streams: SharedStreams
    owned: OwnedStreams
    inner: Supervisor
    known: Known
    ownership: RedisOwnership
    beating: asyncio.Task[None]

    def own(self) -> set[str]:
        """What runs here."""
        return {status.id for status in self.inner.statuses() if status.state is StreamState.RUNNING}


Join = Callable[..., Awaitable[Replica]]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests of this file."""
    if missing():
        pytest.skip(missing())
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


async def probe(_spec: StreamSpec) -> SourceInfo:
    """Says nothing new."""
    return SourceInfo(64, 48, 10.0, "raw")


@pytest.fixture
async def join(make_world, workers: Workers, redis: RedisServer) -> AsyncIterator[Join]:
    """One more replica each time; all share a Redis without keys and have a camera at ``URL``."""
    redis.command("FLUSHALL")
    clock = SystemClock()
    async with AsyncExitStack() as stack:

        async def replica(name: str, *, room: int = 8, url: str = "", views: Views | None = None) -> Replica:
            world = make_world(workers, clock)
            world.camera(URL, own_thread=True)
            connection = await open_redis(RedisOptions(redis.url))
            stack.push_async_callback(connection.close)
            journal = await RedisJournal.open(connection, clock, Sealer.from_key(bytes(32)), JournalOptions(), workers)
            stack.push_async_callback(journal.close)
            ownership, inner, known = RedisOwnership(connection, clock, FAST), world.supervisor(), Known()
            options = TenancyOptions(name, url, room, beat_s=0.2, spread=SPREAD)
            owned = OwnedStreams(inner, ownership, clock, options, views=views)
            stack.push_async_callback(owned.close)
            checks = StreamChecks(lambda _: None, lambda _: None, lambda text: text, probe)
            streams = SharedStreams(journal, owned, known, clock, checks, announce=owned.announce)
            await streams.resume()
            beating = asyncio.create_task(owned.run(streams.refresh))
            stack.push_async_callback(ended, beating)
            return Replica(name, streams, owned, inner, known, ownership, beating)

        yield replica


async def ended(task: asyncio.Task[None]) -> None:
    """End a task."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], object], timeout_s: float = 8.0) -> None:
    """Wait until it holds."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def spec(stream_id: str = "door", **more: object) -> StreamSpec:
    """A stream of the camera."""
    return StreamSpec(stream_id, URL, **more)  # type: ignore[arg-type]


async def test_a_stream_of_one_is_seen_by_all(join: Join) -> None:
    """Registered through one, it runs on one; each shows its status and who runs it, and knows its spec."""
    a, b = await join("a"), await join("b")
    await a.streams.create(spec())
    await until(lambda: a.own() == {"door"} and "door" in b.known.ids)
    await until(lambda: b.streams.status("door").state is StreamState.RUNNING)
    status = b.streams.status("door")
    assert (status.replica, status.width, b.own()) == ("a", 320, set())
    assert a.streams.status("door").replica == "a"
    assert [each.id for each in b.owned.statuses()] == ["door"]
    assert b.streams.specs() == a.streams.specs()


async def test_changes_through_any_replica_reach_the_owner(join: Join) -> None:
    """Another spec, switching off and on, connecting anew, and removal."""
    a, b = await join("a"), await join("b", room=0)
    await b.streams.create(spec())
    await until(lambda: a.own() == {"door"})
    await b.streams.change("door", lambda old: replace(old, name="Front"))
    await until(lambda: a.inner._streams["door"].spec.name == "Front")
    connections = a.inner._streams["door"]._record.connections
    await b.streams.restart("door")
    await until(lambda: a.inner._streams["door"]._record.connections == connections + 1)
    await b.streams.set_enabled("door", enabled=False)
    await until(lambda: a.own() == set())
    await until(lambda: b.streams.status("door").state is StreamState.STOPPED)
    with pytest.raises(Conflict):
        await a.streams.restart("door")
    await b.streams.set_enabled("door", enabled=True)
    await until(lambda: a.own() == {"door"})
    await b.streams.remove("door")
    await until(lambda: not a.inner.statuses())
    with pytest.raises(NotFound):
        a.streams.status("door")
    await until(lambda: (a.known.ids, b.known.ids) == (set(), set()))


async def test_what_is_changed_elsewhere_is_known_before_a_change_here(join: Join) -> None:
    """So the members that another replica changed a moment ago stay, and a taken id is refused."""
    a, b = await join("a"), await join("b")
    for replica in (a, b):
        await ended(replica.beating)
    await a.streams.create(spec())
    with pytest.raises(Conflict):
        await b.streams.create(spec(name="another"))
    await a.streams.change("door", lambda old: replace(old, name="Front"))
    changed = await b.streams.change("door", lambda old: replace(old, collections=("staff",)))
    assert (changed.name, changed.collections) == ("Front", ("staff",))
    await b.streams.remove("door")
    with pytest.raises(NotFound):
        await a.streams.change("door", lambda old: old)


async def test_without_anybody_to_run_it_a_stream_says_so(join: Join) -> None:
    """A replica without room runs nothing; one that comes later does."""
    api = await join("api", room=0)
    await api.streams.create(spec())
    await asyncio.sleep(0.6)
    status = api.streams.status("door")
    assert (status.state, status.code, status.reason) == (StreamState.STARTING, "no_owner", "no replica runs it yet")
    with pytest.raises(Unavailable):
        await api.streams.snapshot("door")
    worker = await join("worker")
    await until(lambda: worker.own() == {"door"})
    await until(lambda: api.streams.status("door").replica == "worker")


async def test_pictures_come_from_the_owner(join: Join) -> None:
    """Where they can be fetched; else the error names it."""
    a = await join("a")
    await a.streams.create(spec())
    await until(lambda: a.own() == {"door"})
    b, c = await join("b", room=0, views=Views()), await join("c", room=0)
    await until(lambda: {b.streams.status("door").replica, c.streams.status("door").replica} == {"a"})
    assert await b.streams.snapshot("door", annotated=False) == b"a door False"
    async with b.streams.preview("door") as pictures:
        assert [jpeg async for jpeg in pictures] == [b"a door"]
    assert (await a.streams.snapshot("door"))[:2] == b"\xff\xd8"
    with pytest.raises(Unavailable, match="runs on the replica a"):
        await c.streams.snapshot("door")


async def test_a_vanished_owner_is_followed_and_stops_when_it_is_back(join: Join) -> None:
    """Its standing tells the journal first that it is not sure, then that it lost the stream."""
    a, b = await join("a"), await join("b", room=8)
    await a.streams.create(spec())
    await until(lambda: a.own() == {"door"})
    token = a.owned.standing("door").token
    assert a.owned.standing("door").sure
    await ended(a.beating)
    await until(lambda: b.own() == {"door"})
    assert not a.owned.standing("door").sure
    taken_at = await a.owned.superseded_at("door", token)
    assert taken_at is not None
    again = asyncio.create_task(a.owned.run(a.streams.refresh))
    await until(lambda: a.own() == set())
    standing = a.owned.standing("door")
    assert (standing.token, standing.sure) == (token, False)
    assert standing.lost_at is not None
    assert standing.lost_at > taken_at
    assert b.owned.standing("door").token > token
    await ended(again)


async def test_streams_move_to_a_new_replica_until_both_have_their_share(join: Join) -> None:
    """One that ends in good order lets the other have all at once."""
    a = await join("a")
    for number in range(4):
        await a.streams.create(spec(f"s{number}"))
    await until(lambda: len(a.own()) == 4)
    b = await join("b")
    await until(lambda: (len(a.own()), len(b.own())) == (2, 2), 15.0)
    await ended(a.beating)
    await a.owned.close()
    began = time.monotonic()
    await until(lambda: len(b.own()) == 4)
    assert time.monotonic() - began < 3.0


async def test_a_redis_that_is_away_stops_nothing(join: Join, redis: RedisServer) -> None:
    """What runs goes on, and the reason why others cannot be seen is told; a new stream is refused by the journal."""
    a, b = await join("a"), await join("b", room=0)
    await a.streams.create(spec())
    await until(lambda: a.own() == {"door"} and b.streams.status("door").replica == "a")
    redis.freeze()
    try:
        await until(lambda: a.owned.away and b.owned.away)
        await asyncio.sleep(1.5)
        assert a.own() == {"door"}
        assert "did not answer in time" in a.owned.away
    finally:
        redis.thaw()
    await until(lambda: not a.owned.away and not b.owned.away)
    await asyncio.sleep(1.0)
    assert (a.own(), a.owned.standing("door").sure) == ({"door"}, True)


async def test_a_sole_owner_passes_everything_on(make_world, workers: Workers, tmp_path: Path) -> None:
    """As if there were nothing in between."""
    world = make_world(workers)
    world.camera(URL)
    inner = world.supervisor()
    owned = OwnedStreams(inner, SoleOwner(), world.clock)
    await owned.run(owned.announce)
    await owned.start(spec())
    await world.pass_time(1)
    assert owned.status("door") == inner.status("door")
    assert owned.statuses() == inner.statuses()
    assert owned.status("door").state is StreamState.RUNNING
    assert owned.standing("door") == Standing()
    assert (await owned.snapshot("door"))[:2] == b"\xff\xd8"
    await owned.restart("door")
    await owned.stop("door")
    assert owned.status("door").state is StreamState.STOPPED
    await owned.forget("door")
    with pytest.raises(NotFound):
        owned.status("door")
    with pytest.raises(NotFound):
        await owned.forget("door")
    await owned.close()
    with pytest.raises(Unavailable):
        await inner.start(spec())
