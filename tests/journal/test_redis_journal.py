"""What only the shared journal does; what every journal does is in the contract."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from face_server.clock import FakeClock
from face_server.domain.events import EventFilter, Lane, Picture, Who
from face_server.errors import ConfigurationError, FaceServerError, NotFound, Overloaded, Unavailable
from face_server.journal.redis import RedisJournal
from face_server.sinks.live import LiveEvents
from tests.journal.redis_parts import DOOR, GATE, PREFIX, Site, abandon, claims, event, names, put, site, spec
from tests.sinks.receivers import until


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Site]:
    """A Redis."""
    async with site(tmp_path) as opened:
        yield opened


def every_call(journal: RedisJournal) -> list[Callable[[], Awaitable[Any]]]:
    """One call of each method that needs Redis."""
    return [
        journal.streams,
        lambda: journal.add_stream(spec("attic")),
        lambda: journal.replace_stream(spec("door")),
        lambda: journal.remove_stream("attic"),
        lambda: journal.append([event("new")], [], {}),
        journal.events,
        lambda: journal.event("e1"),
        lambda: journal.picture("p1"),
        lambda: journal.name_stranger("s1", name="Bob"),
        journal.lanes,
        lambda: journal.claim(GATE),
        lambda: journal.release(GATE),
        lambda: journal.pending(DOOR),
        lambda: journal.delivered(1),
        lambda: journal.failed(1, "no"),
        lambda: journal.bury(1, "no"),
        journal.dead_letters,
        lambda: journal.replay([1]),
        lambda: journal.discard([1]),
        journal.prune,
    ]


pytestmark = pytest.mark.timeout(30)


class TestLanes:
    """One replica at a time."""

    async def test_a_lane_is_one_replicas(self, shared: Site) -> None:
        """Whoever claims it first has it, also for further deliveries, until it is empty; other lanes are free."""
        one, two = await shared.replica(), await shared.replica()
        await put(one, DOOR, "e1", "e2")
        await put(two, GATE, "g1")
        assert await one.claim(DOOR)
        assert not await two.claim(DOOR)
        assert await two.claim(GATE)
        assert (await one.lanes(free=True), await two.lanes(free=True)) == ([DOOR], [GATE])
        assert await one.lanes() == await two.lanes() == [DOOR, GATE]
        e1, e2 = await one.pending(DOOR)
        for deal in (two.delivered(e1.id), two.failed(e1.id, "no"), two.bury(e1.id, "no")):
            with pytest.raises(NotFound, match="another replica"):
                await deal
        await one.delivered(e1.id)
        assert not await one.release(DOOR)
        await one.delivered(e2.id)
        await put(two, DOOR, "e3")
        assert not await one.release(DOOR)
        await one.delivered((await one.pending(DOOR))[0].id)
        assert await one.release(DOOR)
        assert not await one.claim(DOOR)
        await put(one, DOOR, "e4")
        assert await two.claim(DOOR)
        assert not await one.claim(DOOR)

    async def test_the_lanes_of_a_lost_replica_are_taken_over(self, shared: Site) -> None:
        """Once its claim was not renewed for long enough; then it may not settle anything there any more."""
        clock = FakeClock()
        lost, other = await shared.replica(clock), await shared.replica()
        await put(lost, DOOR, "e1", "e2")
        assert await lost.claim(DOOR)
        (first, _) = await lost.pending(DOOR)
        abandon(shared, DOOR, 5_000)
        assert not await other.claim(DOOR)
        abandon(shared, DOOR, 7_000)
        assert await other.lanes(free=True) == [DOOR]
        assert await other.claim(DOOR)
        with pytest.raises(NotFound, match="another replica"):
            await lost.delivered(first.id)
        await clock.advance(3.1)
        assert not await lost.claim(DOOR)
        assert names(await other.pending(DOOR)) == ["e1", "e2"]

    async def test_a_claim_is_renewed(self, shared: Site) -> None:
        """For as long as its owner lives, however long a delivery takes."""
        clock = FakeClock()
        owner, other = await shared.replica(clock), await shared.replica()
        await put(owner, DOOR, "e1")
        assert await owner.claim(DOOR)
        await asyncio.sleep(0)
        for _ in range(3):
            abandon(shared, DOOR, 5_500)
            await clock.advance(1.5)
            await until(lambda: claims(shared)[0][2] < 3_000)
            assert not await other.claim(DOOR)

    async def test_closing_leaves_lanes_at_once(self, shared: Site) -> None:
        """Nobody waits for a lease of somebody who said goodbye; no consumer is left behind."""
        one, two = await shared.replica(), await shared.replica()
        await put(one, DOOR, "e1")
        assert await one.claim(DOOR)
        await one.close()
        assert await two.claim(DOOR)
        assert len(shared.command("XINFO", "CONSUMERS", f"{PREFIX}lanes", "senders")) == 1

    async def test_a_hundred_lanes(self, shared: Site) -> None:
        """Are claimed, renewed and left by two replicas who want them all; each has one owner."""
        one, two = await shared.replica(), await shared.replica()
        lanes = [Lane(f"s{number}", "hook") for number in range(100)]
        for lane in lanes:
            await put(one, lane, f"{lane.stream_id}-1")
        got = await asyncio.gather(*(journal.claim(lane) for lane in lanes for journal in (one, two)))
        assert [first + second for first, second in zip(got[::2], got[1::2], strict=True)] == [1] * 100
        assert set(await one.lanes(free=True)) | set(await two.lanes(free=True)) == set(lanes)
        await one.close()
        assert set(await two.lanes(free=True)) == set(lanes)


class TestFollowing:
    """What other replicas do is heard."""

    async def test_every_event_is_followed_in_order(self, shared: Site) -> None:
        """Whoever appended it, once, in order of cursors, also of many at once."""
        one, two = await shared.replica(), await shared.replica()
        (old,) = await one.append([event("old")], [], {})
        seen: list[int] = []

        async def follow() -> None:
            async for page in two.follow(after=old.cursor):
                seen.extend(found.cursor for found in page)

        following = asyncio.create_task(follow())
        both = [one, two]
        stored = await asyncio.gather(*(both[n % 2].append([event(f"{n}-{m}") for m in range(3)], [], {}) for n in range(100)))
        expected = sorted(found.cursor for some in stored for found in some)
        await until(lambda: len(seen) >= 300)
        assert seen == expected
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    async def test_nothing_is_missed_while_redis_restarts(self, shared: Site) -> None:
        """A follower goes on by itself where it stopped."""
        one, two = await shared.replica(), await shared.replica()
        seen: list[str] = []

        async def follow() -> None:
            async for page in two.follow(after=0):
                seen.extend(names(page))

        following = asyncio.create_task(follow())
        for number in range(3):
            await one.append([event(f"before-{number}")], [], {})
            await shared.server.leave()
            with pytest.raises(Unavailable):
                await one.append([event(f"away-{number}")], [], {})
            await shared.server.come_back()
            await one.append([event(f"after-{number}")], [], {})
        await until(lambda: "after-2" in seen)
        assert seen == [f"{when}-{number}" for number in range(3) for when in ("before", "after")]
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    async def test_live_listeners_hear_other_replicas(self, shared: Site) -> None:
        """Within 200 ms, without gaps and repetitions, whichever replica they listen to."""
        one, two = await shared.replica(), await shared.replica()
        live = LiveEvents(two)

        async def tell() -> None:
            async for page in two.follow():
                live.tell(page)

        telling = asyncio.create_task(tell())
        heard: list[str] = []
        late: list[float] = []
        async with live.subscribe(after=0) as listener:
            for number in range(50):
                at = time.monotonic()
                await (one, two)[number % 2].append([event(f"e{number}")], [], {})
                heard.append((await anext(listener)).id)
                late.append(time.monotonic() - at)
        assert heard == [f"e{number}" for number in range(50)]
        # The first may come before the follower has begun.
        assert sorted(late)[-2] < 0.2, late
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)

    async def test_changed_specs_are_noticed(self, shared: Site) -> None:
        """Added, replaced, removed and lost: the next read has it; between changes it is quiet."""
        one, two = await shared.replica(), await shared.replica()
        changes = two.spec_changes()
        await anext(changes)
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(1.5)
        assert not waiting.done()
        for step in (one.add_stream(spec("door")), one.replace_stream(spec("door", name="Front")), one.remove_stream("door")):
            began = time.monotonic()
            await step
            await waiting
            assert time.monotonic() - began < 0.5
            waiting = asyncio.ensure_future(anext(changes))
        await one.add_stream(spec("gate"))
        await waiting
        shared.command("FLUSHALL")
        await asyncio.wait_for(anext(changes), 5)
        assert await two.streams() == []
        await changes.aclose()


async def test_times_ahead_of_the_clock_are_found(shared: Site) -> None:
    """A camera's clock may be wrong by days, both ways; where to look for a time follows what was stored."""
    journal, now = await shared.replica(), time.time()
    stored = []
    for number, days in enumerate((0, 3, -2, 0, 1, -7)):
        stored += await journal.append([event(f"e{number}", at=now + days * 86_400 + number)], [], {})
    for low, high in itertools.product((None, *range(-8, 5)), repeat=2):
        since, until_ = (None if days is None else now + (days - 0.5) * 86_400 for days in (low, high))
        where = EventFilter(since=since, until=until_)
        assert await journal.events(where=where) == [one for one in stored if where.admits(one)]
        assert await journal.events(where=where, before=2**60) == [one for one in stored if where.admits(one)][::-1]


class TestLoss:
    """What Redis forgets is noticed, and nobody is confused by it."""

    async def test_flushall_is_noticed(self, shared: Site) -> None:
        """By the next call; the journal begins anew, with cursors and deliveries that go on rising."""
        one, two = await shared.replica(), await shared.replica()
        await one.add_stream(spec("door"))
        await put(one, DOOR, "e1")
        (waiting,) = await one.pending(DOOR)
        assert await one.claim(DOOR)
        cursor = (await one.event("e1")).cursor
        assert not one.problem
        shared.command("FLUSHALL")
        (again,) = await one.append([event("e2")], [], {"e2": ["hook"]})
        assert "emptied" in one.problem
        assert again.cursor > cursor
        assert names(await two.events()) == ["e2"]
        assert await two.lanes() == [DOOR]
        assert "emptied" in two.problem
        (after,) = await two.pending(DOOR)
        assert after.id > waiting.id
        assert await two.claim(DOOR)
        with pytest.raises(NotFound):
            await one.delivered(waiting.id)
        await two.delivered(after.id)

    async def test_an_older_state_is_noticed(self, shared: Site) -> None:
        """A snapshot put back, or a replica that missed the last writes: said, and cursors are not used twice."""
        one = await shared.replica()
        await one.append([event("e1")], [], {})
        saved = {key: shared.command("DUMP", key) for key in shared.command("KEYS", "*")}
        (lost,) = await one.append([event("e2")], [], {})
        shared.command("FLUSHALL")
        for key, value in saved.items():
            shared.command("RESTORE", key, 0, value)
        (again,) = await one.append([event("e3")], [], {})
        assert "older state" in one.problem
        assert again.cursor > lost.cursor
        assert names(await one.events()) == ["e1", "e3"]


class TestAway:
    """Redis is somewhere else, and may be away."""

    async def test_everything_says_so_quickly_and_heals(self, shared: Site) -> None:
        """Killed: Unavailable at once, with a time to come back; when Redis is back everything works with nothing lost."""
        journal = await shared.replica()
        await journal.add_stream(spec("door"))
        await put(journal, DOOR, "e1")
        await shared.server.leave()
        for call in every_call(journal):
            began = time.monotonic()
            with pytest.raises(Unavailable) as caught, blockbuster_ctx():
                await call()
            assert time.monotonic() - began < 1.0
            assert caught.value.retry_after_s > 0
        await shared.server.come_back()
        assert names(await journal.pending(DOOR)) == ["e1"]
        await put(journal, DOOR, "e2")
        assert names(await journal.events()) == ["e1", "e2"]

    async def test_a_frozen_redis_hangs_nobody(self, shared: Site) -> None:
        """Unavailable within the time limit; the call may be repeated and is done once."""
        journal = await shared.replica(timeout_s=0.5)
        await put(journal, DOOR, "e1")
        shared.server.freeze()
        try:
            began = time.monotonic()
            calls = [asyncio.ensure_future(call()) for call in every_call(journal)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - began < 2.5
            assert {type(one) for one in outcomes} == {Unavailable}
        finally:
            shared.server.thaw()
        await journal.append([event("new")], [], {})
        assert names(await journal.events()) == ["e1", "new"]

    async def test_a_read_only_replica_is_named(self, shared: Site, tmp_path: Path) -> None:
        """At start a mistake of the operator; later a matter of time."""
        folder = tmp_path / "second"
        folder.mkdir()
        journal = await shared.replica()
        async with site(folder, "--repl-diskless-sync-delay", "0") as master:
            shared.command("REPLICAOF", "127.0.0.1", master.server.port)
            await until(lambda: shared.command("INFO", "replication")["master_link_status"] == "up")
            with pytest.raises(Unavailable, match="read-only replica"):
                await journal.append([event("e1")], [], {})
            with pytest.raises(ConfigurationError, match="read-only replica"):
                await shared.replica()

    async def test_full_memory_changes_nothing(self, shared: Site) -> None:
        """Nothing is half stored; what is there can be delivered and erased, which makes room."""
        journal = await shared.replica()
        await journal.add_stream(spec("door"))
        for number in range(20):
            name = f"e{number}"
            await journal.append([event(name, picture=name)], [Picture(name, bytes(100_000))], {name: ["hook", "mqtt"]})
        keys = sorted(shared.command("KEYS", "*"))
        shared.command("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(Unavailable, match="maxmemory") as caught:
            await journal.append([event("more", picture="q")], [Picture("q", bytes(1000))], {"more": ["hook"]})
        assert caught.value.code == "storage_full"
        renamed = journal.replace_stream(spec("door", name="x"))
        for change in (journal.add_stream(spec("gate")), renamed, journal.name_stranger("s", name="B")):
            with pytest.raises(Unavailable, match="maxmemory"):
                await change
        first, second, *_ = await journal.pending(DOOR)
        with pytest.raises(Unavailable, match="maxmemory"):
            await journal.bury(second.id, "no")
        assert sorted(shared.command("KEYS", "*")) == keys
        assert len(await journal.events()) == 20
        await journal.delivered(first.id)
        assert len(await journal.pending(DOOR, limit=100)) == 19
        shared.command("CONFIG", "SET", "maxmemory", "0")
        await journal.bury(second.id, "no")
        assert names(await journal.dead_letters()) == ["e1"]
        await journal.append([event("more")], [], {"more": ["hook"]})

    async def test_writes_are_bounded(self, shared: Site) -> None:
        """Beyond so many at once they are refused, not queued without end."""
        journal = await shared.replica(bounds={"max_waiting_writes": 10})
        outcomes = await asyncio.gather(*(journal.append([event(f"e{n}")], [], {}) for n in range(50)), return_exceptions=True)
        assert any(isinstance(one, Overloaded) for one in outcomes)
        assert len(await journal.events()) == sum(isinstance(one, list) for one in outcomes) >= 10


class TestForeign:
    """Keys that are not as they should be: named, and never overwritten."""

    @pytest.mark.parametrize(
        "name", ["about", "counters", "streams", "events", "log", "times", "lanes", "lane_entries", "deliveries", "held", "dead", "renames"]
    )
    async def test_a_key_of_another_type_is_refused_at_start(self, shared: Site, name: str) -> None:
        """One sentence that names it; it stays as it is, and nothing else is made."""
        shared.command("RPUSH", PREFIX + name, "somebody's")
        with pytest.raises(FaceServerError, match=rf"{name}.*list.*nothing was changed"):
            await shared.replica()
        assert shared.command("LRANGE", PREFIX + name, 0, -1) == [b"somebody's"]
        assert {key for key in shared.command("KEYS", "*") if not key.endswith(b"layout")} == {(PREFIX + name).encode()}

    @pytest.mark.parametrize("name", ["index:stream:door", "picture:p1", "lane:door/hook", "log", "held", "event_news"])
    async def test_an_append_that_meets_one_changes_nothing(self, shared: Site, name: str) -> None:
        """Refused before anything is written."""
        journal = await shared.replica()
        await put(journal, GATE, "g1")
        shared.command("DEL", PREFIX + name)
        shared.command("SADD" if name != "index:stream:door" else "SET", PREFIX + name, "somebody's")
        before = {key: shared.command("DUMP", key) for key in shared.command("KEYS", "*")}
        with pytest.raises(Unavailable, match=name) as caught:
            await journal.append([event("g2", "gate"), event("e1", picture="p1")], [Picture("p1", b"jpeg")], {"e1": ["hook"]})
        assert caught.value.code == "redis_foreign_key"
        assert {key: shared.command("DUMP", key) for key in shared.command("KEYS", "*")} == before

    async def test_a_newer_layout_is_refused(self, shared: Site) -> None:
        """By a sentence that says what to do; nothing is changed."""
        await (await shared.replica()).close()
        shared.command("SET", "face_server:{main:journal}:layout", 2)
        before = {key: shared.command("DUMP", key) for key in shared.command("KEYS", "*")}
        with pytest.raises(ConfigurationError, match=r"version 2.*newer face_server"):
            await shared.replica()
        assert {key: shared.command("DUMP", key) for key in shared.command("KEYS", "*")} == before

    async def test_keys_that_belong_to_nothing_are_refused(self, shared: Site) -> None:
        """A journal without its first key is not taken for a new one."""
        await put(await shared.replica(), DOOR, "e1")
        shared.command("DEL", PREFIX + "about")
        with pytest.raises(Unavailable, match="does not say what it belongs to"):
            await shared.replica()
        assert shared.command("HLEN", PREFIX + "events") == 1

    async def test_another_sealing_key_is_refused(self, shared: Site) -> None:
        """Once there are streams; before, it is taken. Who holds the old one then may not store secrets that nobody can read."""
        early, late = await shared.replica(key=bytes(32)), await shared.replica(key=b"k" * 32)
        with pytest.raises(ConfigurationError, match=r"sealing key.*encrypted"):
            await early.add_stream(spec("door"))
        await late.add_stream(spec("door"))
        with pytest.raises(ConfigurationError, match=r"sealing key.*encrypted"):
            await shared.replica(key=bytes(32))
        assert await late.streams() == [spec("door")]

    async def test_secrets_are_sealed(self, shared: Site) -> None:
        """No address and no secret of a stream lies in Redis."""
        journal = await shared.replica()
        await journal.add_stream(spec("door"))
        stored = b"".join(shared.command("HVALS", PREFIX + "streams"))
        assert b"s1:" in stored
        for secret in (b"pa55", b"10.0.0.9", b"s3cret", b"hooks.example"):
            assert secret not in stored

    async def test_a_damaged_record_blocks_nothing(self, shared: Site, caplog: pytest.LogCaptureFixture) -> None:
        """Half an event, one that is gone, half a stream: told in the log with their key, and all others work."""
        journal = await shared.replica()
        for name in ("attic", "door", "gate"):
            await journal.add_stream(spec(name))
        who = Who("Stranger s1", 0.6, 0.5, stranger_id="s1")
        stored = await journal.append([event(f"e{n}", who=who) for n in range(5)], [], {f"e{n}": ["hook"] for n in range(5)})
        half = shared.command("HGET", PREFIX + "events", stored[1].cursor)[:-40]
        shared.command("HSET", PREFIX + "events", stored[1].cursor, half)
        shared.command("HDEL", PREFIX + "events", stored[3].cursor)
        shared.command("HSET", PREFIX + "streams", "door", '{"version":1,"id":"do')
        assert names(await journal.events()) == ["e0", "e2", "e4"]
        assert names(await journal.events(limit=3)) == ["e0", "e2", "e4"]
        assert names(await journal.events(before=stored[4].cursor, where=EventFilter(stranger_id="s1"))) == ["e2", "e0"]
        for number in (1, 3):
            with pytest.raises(Unavailable, match=rf"{PREFIX}events is damaged.*{stored[number].cursor}"):
                await journal.event(f"e{number}")
        assert [one.id for one in await journal.streams()] == ["attic", "gate"]
        assert await journal.name_stranger("s1", name="Bob") == 3
        assert names(await journal.pending(DOOR, limit=2)) == ["e0", "e2"]
        for one in await journal.pending(DOOR):
            await journal.delivered(one.id)
        assert await journal.lanes() == []
        assert await journal.dead_letters() == []
        assert sum(str(stored[1].cursor) in line for line in caplog.messages) == 1
        assert any("'door' holds no readable stream" in line for line in caplog.messages)
        assert shared.command("HGET", PREFIX + "events", stored[1].cursor) == half
        again = await shared.replica(bounds={"max_events": 1})
        # What died goes last.
        assert await again.prune() == 4
        assert shared.command("ZCARD", PREFIX + "log") == shared.command("ZCARD", PREFIX + "index:stream:door") == 1

    async def test_half_a_delivery_blocks_nothing(self, shared: Site) -> None:
        """An entry of a lane that nothing else knows of is passed over, and the lane ends."""
        journal = await shared.replica()
        await put(journal, DOOR, "e1")
        shared.command("XADD", PREFIX + "lane:door/hook", "*", "nonsense", "1")
        shared.command("XADD", PREFIX + "dead", "*", "nonsense", "1")
        (one,) = await journal.pending(DOOR)
        await journal.delivered(one.id)
        assert await journal.dead_letters() == []
        assert await journal.lanes() == []
        with contextlib.suppress(NotFound):
            await journal.delivered(one.id)
