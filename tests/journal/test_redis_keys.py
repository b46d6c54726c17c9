"""API keys in Redis; what every key ring does is in the contract."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from face_server.clock import FakeClock, SystemClock
from face_server.domain.access import Role
from face_server.errors import ConfigurationError, Unavailable
from face_server.journal.redis_keys import STALE_S, RedisKeyRing
from tests.journal.redis_parts import PREFIX, Site, site


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Site]:
    """A Redis."""
    async with site(tmp_path) as opened:
        yield opened


async def test_digests_only(shared: Site, tmp_path: Path) -> None:
    """Neither the memory of Redis nor its files hold anything of a secret."""
    ring = await RedisKeyRing.open(await shared.connection(), SystemClock())
    made = [await ring.create(Role.READ, f"key {number}") for number in range(20)]
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    kept += b"".join(shared.command("HVALS", PREFIX + "keys"))
    for key, secret in made:
        assert key.id.encode() in kept
        assert secret[-43:].encode() not in kept
        assert secret[-43:-23].encode() not in kept
    await ring.close()


async def test_a_revoked_key_opens_nowhere_after_a_second(shared: Site) -> None:
    """On three replicas that were asked a moment before."""
    rings = [await RedisKeyRing.open(await shared.connection(), SystemClock()) for _ in range(3)]
    key, secret = await rings[0].create(Role.OPERATE, "door")
    await asyncio.sleep(1.0)
    for _ in range(3):
        assert [await ring.authenticate(secret) for ring in rings] == [key] * 3
        await asyncio.sleep(0.2)
    await rings[1].revoke(key.id)
    revoked_at = time.monotonic()
    assert await rings[1].authenticate(secret) is None
    while time.monotonic() < revoked_at + 1.02:
        await asyncio.sleep(0.05)
        for ring in rings:
            await ring.authenticate(secret)
    assert [await ring.authenticate(secret) for ring in rings] == [None] * 3
    for ring in rings:
        await ring.close()


async def test_known_keys_open_while_redis_is_away(shared: Site) -> None:
    """From memory, without waiting, for an hour; none is made or revoked. Back again, changes are followed."""
    clock = FakeClock()
    ring = await RedisKeyRing.open(await shared.connection(), clock)
    key, secret = await ring.create(Role.READ, "door")
    await shared.server.leave()
    for _ in range(5):
        await clock.advance(2.0)
        with blockbuster_ctx():
            assert await ring.authenticate(secret) == key
    for change in (ring.create(Role.READ, "new"), ring.revoke(key.id), ring.list()):
        with pytest.raises(Unavailable):
            await change
    await clock.advance(STALE_S)
    with pytest.raises(Unavailable):
        await ring.authenticate(secret)
    await shared.server.come_back()
    elsewhere = await RedisKeyRing.open(await shared.connection(), clock)
    await elsewhere.revoke(key.id)
    await clock.advance(1.0)

    assert await ring.authenticate(secret) is None
    await ring.close()
    await elsewhere.close()


async def test_a_frozen_redis_holds_up_nobody(shared: Site) -> None:
    """The first request waits a quarter of a second, the others hardly at all."""
    ring = await RedisKeyRing.open(await shared.connection(timeout_s=2.0), SystemClock())
    key, secret = await ring.create(Role.READ, "door")
    await asyncio.sleep(1.1)
    shared.server.freeze()
    try:
        began = time.monotonic()
        assert await asyncio.gather(*(ring.authenticate(secret) for _ in range(100))) == [key] * 100
        assert time.monotonic() - began < 0.6
    finally:
        shared.server.thaw()
    await ring.close()


async def test_flushall_revokes_everything(shared: Site) -> None:
    """Keys that are nowhere any more open nothing."""
    clock = FakeClock()
    ring = await RedisKeyRing.open(await shared.connection(), clock)
    _, secret = await ring.create(Role.READ, "door")
    shared.command("FLUSHALL")
    await clock.advance(1.0)
    assert await ring.authenticate(secret) is None
    assert await ring.list() == []
    await ring.close()


async def test_full_memory_keeps_nobody_from_revoking(shared: Site) -> None:
    """Making a key needs room, taking one away does not; other replicas hear of it, each time."""
    clock = FakeClock()
    ring, elsewhere = [await RedisKeyRing.open(await shared.connection(), clock) for _ in range(2)]
    made = [await ring.create(Role.READ, str(number)) for number in range(3)]
    shared.command("CONFIG", "SET", "maxmemory", "1mb")
    for key, secret in made:
        await clock.advance(1.0)
        assert await elsewhere.authenticate(secret) == key
        await ring.revoke(key.id)
        await clock.advance(1.0)
        assert await elsewhere.authenticate(secret) is None
    with pytest.raises(Unavailable, match="maxmemory"):
        await ring.create(Role.READ, "one more")
    await ring.close()
    await elsewhere.close()


async def test_foreign_and_damaged_keys(shared: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A name of ours in use by somebody else is refused, a newer layout too; half a record opens nothing and blocks nobody."""
    clock = FakeClock()
    ring = await RedisKeyRing.open(await shared.connection(), clock)
    key, secret = await ring.create(Role.READ, "door")
    _, other = await ring.create(Role.READ, "gate")
    half = shared.command("HGET", PREFIX + "keys", key.id)[:-5]
    shared.command("HSET", PREFIX + "keys", key.id, half)
    again = await RedisKeyRing.open(await shared.connection(), clock)
    assert await again.authenticate(secret) is None
    assert await again.authenticate(other) is not None
    assert any("keys is damaged" in line and key.id in line for line in caplog.messages)
    shared.command("RENAME", PREFIX + "keys", "elsewhere")
    shared.command("SET", PREFIX + "keys", "somebody's")
    with pytest.raises(Unavailable, match=r"keys holds a string.*nothing was changed"):
        await RedisKeyRing.open(await shared.connection(), clock)
    with pytest.raises(Unavailable, match="keys holds a string"):
        await ring.create(Role.READ, "new")
    shared.command("SET", "face_server:{main:journal}:layout", 2)
    with pytest.raises(ConfigurationError, match="version 2"):
        await RedisKeyRing.open(await shared.connection(), clock)
    await ring.close()
    await again.close()
