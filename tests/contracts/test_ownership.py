"""What everybody who keeps the owners of streams does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from benchmarks.redis_server import ClusterSite, RedisServer, missing
from face_server.clock import SystemClock
from face_server.domain.replicas import ReplicaNote
from face_server.domain.stream_ports import Ownership
from face_server.domain.streams import StreamState, StreamStatus
from face_server.errors import Unavailable
from face_server.redis_connection import RedisOptions, open_redis
from face_server.streams.ownership import SoleOwner
from face_server.streams.redis_ownership import RedisOwnership, RedisOwnershipOptions

FAST = RedisOwnershipOptions(lease_s=0.4, presence_s=0.5)
ROOT = "face_server:{test:journal}:v1:"

Join = Callable[[], Awaitable[Ownership]]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests of this file."""
    if missing():
        pytest.skip(missing())
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSite]:
    """Three masters for all tests of this file."""
    if missing():
        pytest.skip(missing())
    with ClusterSite(tmp_path_factory.mktemp("cluster")) as site:
        yield site


@pytest.fixture(params=["sole", "redis", "cluster"])
async def join(request: pytest.FixtureRequest) -> AsyncIterator[Join]:
    """One more replica each time, of each kind; all keys are new."""
    if request.param == "sole":

        async def sole() -> Ownership:
            return SoleOwner()

        yield sole
        return
    site = request.getfixturevalue(request.param)
    for server in getattr(site, "servers", [site]):
        server.command("FLUSHALL")
    async with AsyncExitStack() as stack:

        async def replica() -> Ownership:
            connection = await open_redis(RedisOptions(site.url, namespace="test"))
            stack.push_async_callback(connection.close)
            ownership = RedisOwnership(connection, SystemClock(), FAST)
            stack.push_async_callback(ownership.close)
            return ownership

        yield replica


@pytest.fixture
async def alone(join: Join) -> Ownership:
    """A replica, whoever keeps the owners."""
    return await join()


def note(of: Ownership, *statuses: StreamStatus, room: int = 8) -> ReplicaNote:
    """What a replica says of itself."""
    return ReplicaNote(of.replica, f"replica {of.replica[:4]}", "http://10.0.0.1:18081", room, statuses)


class TestAnyOwnership:
    """One replica, alone or not."""

    async def test_what_is_claimed_is_kept_while_it_is_renewed(self, alone: Ownership) -> None:
        """It is held by this replica; a renewal loses nothing."""
        claim = await alone.claim("door")
        assert claim is not None
        assert (claim.stream_id, claim.token > 0) == ("door", True)
        assert (await alone.holders(["door"]))["door"].replica == alone.replica
        meeting = await alone.meet(note(alone), [claim])
        assert (meeting.lost, meeting.others) == (frozenset(), ())
        assert await alone.superseded_at("door", claim.token) is None

    async def test_what_was_let_go_can_be_claimed_again(self, alone: Ownership) -> None:
        """At once."""
        first = await alone.claim("door")
        assert first is not None
        await alone.release(first)
        again = await alone.claim("door")
        assert again is not None
        await alone.release(again)

    async def test_names_may_be_anything(self, alone: Ownership) -> None:
        """Blanks, braces, colons, other scripts."""
        for name in ("后门 {a}:b", "a:b:c", "}"):
            claim = await alone.claim(name)
            assert claim is not None
            assert (await alone.meet(note(alone), [claim])).lost == frozenset()

    async def test_commands_go_anywhere(self, alone: Ownership) -> None:
        """Nobody needs to hear them; closing twice is once."""
        await alone.announce()
        await alone.ask_restart("door")
        await alone.close()
        await alone.close()


@pytest.mark.parametrize("join", ["redis", "cluster"], indirect=True)
class TestSharedOwnership:
    """Several replicas with one Redis."""

    async def test_a_stream_has_one_owner(self, join: Join) -> None:
        """Of ten who want it at once."""
        replicas = [await join() for _ in range(10)]
        claims = await asyncio.gather(*(replica.claim("door") for replica in replicas))
        winners = [replica for replica, claim in zip(replicas, claims, strict=True) if claim is not None]
        assert len(winners) == 1
        assert (await replicas[0].holders(["door", "gate"]))["door"].replica == winners[0].replica

    async def test_a_stream_that_was_let_go_goes_to_another_with_a_larger_token(self, join: Join) -> None:
        """At once; when that began is known to whoever had it, by their own clock."""
        one, other = await join(), await join()
        first = await one.claim("door")
        assert first is not None
        await one.release(first)
        assert (await other.holders(["door"]))["door"].free
        before = time.time()
        second = await other.claim("door")
        assert second is not None
        assert second.token > first.token
        taken_at = await one.superseded_at("door", first.token)
        assert taken_at == pytest.approx(before, abs=0.5)
        assert await one.superseded_at("door", second.token) is None

    async def test_a_vanished_owner_is_waited_for(self, join: Join) -> None:
        """Its lock runs out, but only whoever is patient gets the stream; then the owner learns at once that it lost it."""
        one, other = await join(), await join()
        first = await one.claim("door")
        assert first is not None
        await asyncio.sleep(FAST.lease_s + 0.1)
        hold = (await other.holders(["door"]))["door"]
        assert (hold.replica, hold.free, hold.fresh) == ("", False, False)
        assert await other.claim("door") is None
        second = await other.claim("door", patient=True)
        assert second is not None
        assert (await one.meet(note(one), [first])).lost == {"door"}
        await one.release(first)
        assert (await other.meet(note(other), [second])).lost == frozenset()

    async def test_an_owner_that_comes_back_in_time_goes_on(self, join: Join) -> None:
        """With the same claim: nobody has run the stream meanwhile."""
        one, other = await join(), await join()
        claim = await one.claim("door")
        assert claim is not None
        await asyncio.sleep(FAST.lease_s + 0.1)
        assert (await one.meet(note(one), [claim])).lost == frozenset()
        assert await other.claim("door", patient=True) is None

    async def test_owners_outlive_the_loss_of_all_keys(self, join: Join, request: pytest.FixtureRequest) -> None:
        """And tokens go on growing."""
        one, other = await join(), await join()
        claim = await one.claim("door")
        assert claim is not None
        site = request.getfixturevalue(request.node.callspec.params["join"])
        for server in getattr(site, "servers", [site]):
            server.command("FLUSHALL")
            server.command("SCRIPT", "FLUSH")
        assert (await other.holders(["door"]))["door"].fresh
        assert (await one.meet(note(one), [claim])).lost == frozenset()
        assert await other.claim("door", patient=True) is None
        await one.release(claim)
        later = await other.claim("door")
        assert later is not None
        assert later.token > claim.token

    async def test_replicas_see_each_other(self, join: Join) -> None:
        """Names, addresses, room and statuses, until they leave or are silent for too long."""
        one, other = await join(), await join()
        status = StreamStatus("door", StreamState.RUNNING, 12.5, "所有", decoded=7, last_frame_age_s=0.25, latency_s=None)
        assert (await one.meet(note(one, status), [])).others == ()
        seen = (await other.meet(note(other, room=0), [])).others
        assert [(each.id, each.name, each.url, each.room) for each in seen] == [(one.replica, note(one).name, note(one).url, 8)]
        assert seen[0].statuses == (
            StreamStatus("door", StreamState.RUNNING, 12.5, "所有", decoded=7, last_frame_age_s=0.25, replica=seen[0].name),
        )
        assert [each.room for each in (await one.meet(note(one), [])).others] == [0]
        await asyncio.sleep(FAST.presence_s + 0.1)
        assert (await one.meet(note(one), [])).others == ()
        await one.close()
        assert (await other.meet(note(other), [])).others == ()

    async def test_changes_and_restarts_reach_the_others(self, join: Join) -> None:
        """Whoever looks late still sees that there was one."""
        one, other = await join(), await join()
        claim = await one.claim("door")
        assert claim is not None
        before = await one.meet(note(one), [claim])
        await other.announce()
        await other.ask_restart("door")
        await other.ask_restart("gate")
        after = await one.meet(note(one), [claim])
        assert after.revision != before.revision
        assert (before.restarts, after.restarts) == ({"door": 0}, {"door": 1})


class TestTroubles:
    """A Redis that does not do its part."""

    async def test_a_key_of_another_type_is_named(self, redis: RedisServer) -> None:
        """Nothing is overwritten."""
        connection = await open_redis(RedisOptions(redis.url, namespace="test"))
        ownership = RedisOwnership(connection, SystemClock(), FAST)
        redis.command("DEL", f"{ROOT}fence:door")
        redis.command("LPUSH", f"{ROOT}fence:door", "mine")
        with pytest.raises(Unavailable, match=r"v1:…:door\).*another type") as refused:
            await ownership.claim("door")
        assert refused.value.code == "redis_foreign_key"
        assert redis.command("LRANGE", f"{ROOT}fence:door", 0, -1) == [b"mine"]
        await ownership.close()
        await connection.close()

    async def test_a_frozen_redis_is_given_up_soon(self, redis: RedisServer) -> None:
        """Owners must be back before others are patient enough; afterwards all is well again."""
        connection = await open_redis(RedisOptions(redis.url, namespace="test"))
        ownership = RedisOwnership(connection, SystemClock(), RedisOwnershipOptions(timeout_s=0.3))
        redis.freeze()
        began = time.monotonic()
        try:
            with pytest.raises(Unavailable):
                await ownership.meet(note(ownership), [])
        finally:
            redis.thaw()
        assert time.monotonic() - began < 1.0
        assert (await ownership.meet(note(ownership), [])).lost == frozenset()
        await ownership.close()
        await connection.close()
