"""What tests of the gallery in Redis share: small people, and replicas of one store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np

from face_server.clock import SystemClock
from face_server.domain.embedding import Embedding, Embeddings, ModelId
from face_server.domain.identity import AddTemplate, Change, Collection, Identity, PutIdentity, Template, TemplateRecord
from face_server.errors import Conflict, Unavailable
from face_server.gallery.redis import RedisGallery, RedisGalleryOptions
from face_server.redis_connection import RedisOptions, open_redis
from face_server.workers import Workers

MODEL = ModelId("toy", "00", 1, 32)


def vector(seed: int) -> np.ndarray:
    """A unit vector."""
    raw = np.random.default_rng(seed).standard_normal(MODEL.dimension).astype(np.float32)
    return raw / np.linalg.norm(raw)


def person(identity_id: str, *seeds: int) -> list[Change]:
    """The changes that enrol somebody with templates ``<id>-<seed>``."""
    records = [
        TemplateRecord(Template(f"{identity_id}-{seed}", identity_id, 0.5, 1.0), Embedding(vector(seed), 1.0, MODEL)) for seed in seeds
    ]
    return [PutIdentity(Identity(identity_id, identity_id.upper(), created_at=1.0)), *map(AddTemplate, records)]


def probe(seed: int) -> Embeddings:
    """One probe."""
    return Embeddings(vector(seed)[None], np.ones(1, np.float32), MODEL)


async def named(gallery: RedisGallery, seed: int) -> str:
    """Who is nearest to a probe; "" for nobody."""
    ((*some,),) = await gallery.search("all", probe(seed), limit=1)
    return some[0].identity.id if some and some[0].template_similarity > 0.99 else ""


@asynccontextmanager
async def replica(url: str, workers: Workers, options: RedisGalleryOptions | None = None, **more: Any) -> AsyncIterator[RedisGallery]:
    """A replica with the collection "all"."""
    connection = await open_redis(RedisOptions(url, **more))
    try:
        gallery = await RedisGallery.open(connection, workers, SystemClock(), options)
        try:
            if not await gallery.collections():
                with suppress(Conflict):
                    await gallery.create_collection(Collection("all", MODEL))
            yield gallery
        finally:
            await gallery.close()
    finally:
        await connection.close()


async def until(holds: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Wait until something holds; while the store is away nothing does."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            found = holds()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
        except Unavailable:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
