"""The part of the composition root that decides where state is kept: in the data folder, or in a Redis that replicas share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from face_server.domain.access import KeyRing
from face_server.domain.ports import Clock, Gallery
from face_server.gallery.redis import RedisGallery
from face_server.gallery.sqlite import SqliteGallery, SqliteOptions
from face_server.journal.keys import SqliteKeyRing
from face_server.journal.redis_keys import RedisKeyRing
from face_server.redis_connection import Connection, RedisOptions, open_redis
from face_server.settings import Settings
from face_server.workers import Workers


@dataclass(frozen=True, slots=True)
class Replica:
    """What this process is among others: its name, where they reach it (empty: nowhere), and whether it runs streams."""

    name: str = ""
    url: str = ""
    runs_streams: bool = True


ALONE = Replica()


@dataclass(frozen=True, slots=True)
class State:
    """Galleries and keys. ``redis`` is where everything shared is, None where nothing is."""

    gallery: Gallery
    keys: KeyRing
    redis: Connection | None = None


@asynccontextmanager
async def open_state(settings: Settings, workers: Workers, clock: Clock, *, wait: bool = True) -> AsyncIterator[State]:
    """Everything that outlives the process, apart from the journal, until the block ends.

    Without ``wait`` a gallery in Redis is loaded while the block runs already; its ``freshness`` says how far it is.
    Raises ConfigurationError for what cannot be used, Unavailable when Redis is away.
    """
    async with AsyncExitStack() as stack:
        gallery: Gallery
        redis: Connection | None = None
        if settings.state.shared:
            redis = await open_redis(redis_options(settings))
            stack.push_async_callback(redis.close)
            gallery = await RedisGallery.open(redis, workers, clock, wait=wait)
        else:
            gallery = await SqliteGallery.open(settings.gallery_file, workers, clock, SqliteOptions())
        stack.push_async_callback(gallery.close)
        keys = await _keys(settings, redis, clock)
        stack.push_async_callback(keys.close)
        yield State(gallery, keys, redis)


@asynccontextmanager
async def open_keys(settings: Settings, clock: Clock) -> AsyncIterator[KeyRing]:
    """The API keys alone, without loading any gallery. Raises as ``open_state``."""
    async with AsyncExitStack() as stack:
        redis = None
        if settings.state.shared:
            redis = await open_redis(redis_options(settings))
            stack.push_async_callback(redis.close)
        keys = await _keys(settings, redis, clock)
        stack.push_async_callback(keys.close)
        yield keys


async def _keys(settings: Settings, redis: Connection | None, clock: Clock) -> KeyRing:
    if redis is not None:
        return await RedisKeyRing.open(redis, clock)
    return await SqliteKeyRing.open(settings.keys_file, clock)


def redis_options(settings: Settings) -> RedisOptions:
    """Which Redis the settings name."""
    chosen = settings.state
    return RedisOptions(
        chosen.redis_url.get_secret_value(),
        chosen.namespace,
        ca_file=chosen.ca_file,
        wait_replicas=chosen.wait_replicas,
    )
