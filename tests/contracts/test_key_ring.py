"""What every key ring does, whatever it keeps keys in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from face_server.clock import FakeClock
from face_server.domain.access import KeyRing, Role
from face_server.errors import InputTooLarge, InvalidInput, NotFound, Unavailable
from face_server.journal.keys import SqliteKeyRing
from face_server.journal.redis_keys import RedisKeyRing
from face_server.redis_connection import RedisOptions, open_redis
from tests.sinks.receivers import redis_server

HOUR_S = 3_600.0

Open = Callable[[], Awaitable[KeyRing]]


@pytest.fixture
def clock() -> FakeClock:
    """Time that the test moves."""
    return FakeClock()


@pytest.fixture(params=["sqlite", "redis"])
async def open_ring(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Open]:
    """Opens the same keys each time, of each kind."""
    if request.param == "sqlite":
        yield lambda: SqliteKeyRing.open(tmp_path / "data" / "keys.sqlite3", clock)
        return
    async with redis_server(tmp_path) as server, contextlib.AsyncExitStack() as stack:

        async def redis() -> KeyRing:
            connection = await open_redis(RedisOptions(f"redis://127.0.0.1:{server.port}/0"))
            stack.push_async_callback(connection.close)
            return await RedisKeyRing.open(connection, clock)

        yield redis


@pytest.fixture
async def ring(open_ring: Open) -> AsyncIterator[KeyRing]:
    """An empty key ring."""
    opened = await open_ring()
    yield opened
    await opened.close()


@pytest.fixture
async def elsewhere(ring: KeyRing, open_ring: Open) -> AsyncIterator[KeyRing]:
    """The same keys, as another process sees them."""
    opened = await open_ring()
    yield opened
    await opened.close()


async def test_a_key_opens_until_it_is_revoked(ring: KeyRing, clock: FakeClock) -> None:
    """Create, authenticate, list, revoke."""
    key, secret = await ring.create(Role.OPERATE, "大门")
    assert (key.role, key.label, key.created_at, key.expires_at) == (Role.OPERATE, "大门", clock.now(), None)
    assert await ring.authenticate(secret) == key
    assert [one.id for one in await ring.list()] == [key.id]
    await ring.revoke(key.id)
    assert await ring.authenticate(secret) is None
    assert await ring.list() == []
    for unknown in (key.id, "nonsense", "\ud800"):
        with pytest.raises(NotFound):
            await ring.revoke(unknown)


async def test_nothing_but_the_whole_secret_opens(ring: KeyRing) -> None:
    """One character wrong, a prefix, more, the id alone, another key's id, garbage."""
    key, secret = await ring.create(Role.ADMIN, "root")
    other, _ = await ring.create(Role.READ, "other")
    swapped = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    stolen_id = secret.replace(key.id, other.id)
    for wrong in (swapped, secret[:-1], secret + "A", secret + "\n", key.id, f"fsk_{key.id}_", stolen_id, "", "é", "\ud800", "x" * 100_000):
        assert await ring.authenticate(wrong) is None
    assert await ring.authenticate(secret) == key


async def test_keys_expire(ring: KeyRing, clock: FakeClock) -> None:
    """A key opens until the moment it expires; it stays listed."""
    key, secret = await ring.create(Role.READ, "visitor", expires_at=clock.now() + 60)
    await clock.advance(59.9)
    assert await ring.authenticate(secret) == key
    await clock.advance(0.1)
    assert await ring.authenticate(secret) is None
    assert [one.id for one in await ring.list()] == [key.id]
    for past in (clock.now(), float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match="future"):
            await ring.create(Role.READ, "late", expires_at=past)


async def test_another_process_is_followed_within_a_second(ring: KeyRing, elsewhere: KeyRing, clock: FakeClock) -> None:
    """A key made or revoked elsewhere works or fails here once a second has passed, without a restart."""
    assert await ring.authenticate("fsk_000000000000_" + "A" * 43) is None
    key, secret = await elsewhere.create(Role.READ, "camera")
    await clock.advance(1.0)
    assert await ring.authenticate(secret) == key
    await elsewhere.revoke(key.id)
    await clock.advance(1.0)
    assert await ring.authenticate(secret) is None


async def test_use_is_noted_once_an_hour(ring: KeyRing, elsewhere: KeyRing, clock: FakeClock) -> None:
    """last_used_at is coarse, and survives in the file."""
    key, secret = await ring.create(Role.READ, "door")
    first = clock.now()
    for _ in range(3):
        await ring.authenticate(secret)
        await clock.advance(HOUR_S / 4)
    assert [one.last_used_at for one in await ring.list()] == [first]
    assert [one.last_used_at for one in await elsewhere.list()] == [first]
    await clock.advance(HOUR_S)
    await ring.authenticate(secret)
    await ring.close()
    await clock.advance(1.0)
    assert [one.last_used_at for one in await elsewhere.list()] == [first + 1.75 * HOUR_S]
    assert key.last_used_at is None


async def test_many_at_once_are_served_by_one_look(ring: KeyRing, clock: FakeClock) -> None:
    """Requests that come together after a pause all get their answer, while keys are made and revoked."""
    made = [await ring.create(Role.READ, str(number)) for number in range(10)]
    await clock.advance(5)
    answers = await asyncio.gather(
        *(ring.authenticate(secret) for _, secret in made * 10), ring.revoke(made[0][0].id), ring.create(Role.READ, "new")
    )
    assert list(answers[1:10]) == [key for key, _ in made[1:]]
    assert await ring.authenticate(made[0][1]) is None
    assert len(await ring.list()) == 10


async def test_labels_and_numbers_are_bounded(ring: KeyRing) -> None:
    """Labels of 200 printable characters, a thousand keys."""
    for wrong in ("x" * 201, "two\nlines", "\x00", "\ud800"):
        with pytest.raises(InvalidInput, match="label"):
            await ring.create(Role.READ, wrong)
    for number in range(1_000):
        await ring.create(Role.READ, str(number))
    with pytest.raises(InputTooLarge, match="1000"):
        await ring.create(Role.READ, "one more")


async def test_keys_survive_a_restart(ring: KeyRing, open_ring: Open, clock: FakeClock) -> None:
    """Closing twice is fine; a closed ring says so; a new one knows the keys."""
    key, secret = await ring.create(Role.ADMIN, "root")
    await ring.close()
    await ring.close()
    with pytest.raises(Unavailable, match="closed"):
        await ring.authenticate(secret)
    again = await open_ring()
    assert await again.authenticate(secret) == key
    await again.close()


@pytest.mark.parametrize(("held", "allowed"), [(Role.READ, 1), (Role.OPERATE, 2), (Role.ADMIN, 3)])
def test_roles_include_the_ones_before(held: Role, allowed: int) -> None:
    """Of read, operate and admin, each may do what those before it may."""
    assert [held.allows(wanted) for wanted in Role] == [number < allowed for number in range(3)]
