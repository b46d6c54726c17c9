"""API keys in Redis, for many replicas."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Awaitable, Mapping
from dataclasses import asdict
from typing import Any

import orjson

from face_server.domain.access import ApiKey, Role
from face_server.domain.ports import Clock
from face_server.errors import FaceServerError, Unavailable
from face_server.journal.key_ring import FRESH_S, MAX_KEYS, StoredKey, StoredKeyRing, too_many
from face_server.journal.redis_scripts import AREA, LAYOUT, Refused, Scripts
from face_server.redis_connection import Connection

STALE_S = 3_600.0
"""For so long keys go on opening what they opened while Redis is away: nobody can revoke one there meanwhile."""
_PATIENCE_S = 0.25
_MAX_WAITING = 64

_log = logging.getLogger(__name__)


class RedisKeyRing(StoredKeyRing):
    """``domain.access.KeyRing`` in Redis.

    While Redis is away, known keys go on opening for an hour, without a request waiting for Redis longer
    than a quarter of a second; keys are neither made nor revoked then (Unavailable).
    """

    def __init__(self, connection: Connection, clock: Clock) -> None:
        super().__init__(clock)
        self._scripts = Scripts(connection, max_waiting=_MAX_WAITING, title="the key ring")
        self._revision = b""
        self._looking: asyncio.Task[None] | None = None
        self._tried_at = -math.inf
        self._failure: FaceServerError | None = None
        self._told: set[str] = set()

    @classmethod
    async def open(cls, connection: Connection, clock: Clock) -> RedisKeyRing:
        """Open the keys at ``connection``; closing them leaves that open.

        Raises ConfigurationError for a newer layout, Unavailable for keys of other types and while Redis is away.
        """
        await connection.claim_layout(AREA, LAYOUT)
        ring = cls(connection, clock)
        await ring._refresh()
        return ring

    @property
    def damage(self) -> list[str]:
        """What was passed over because it cannot be read, a sentence each."""
        return [self._damaged(name) for name in sorted(self._told)]

    async def _insert(self, stored: StoredKey) -> None:
        key = asdict(stored.key)
        del key["last_used_at"]
        record = orjson.dumps({**key, "sha256": stored.digest.hex()})
        if not await self._write("insert", stored.key.id, record, MAX_KEYS):
            raise too_many()

    async def _delete(self, key_id: str) -> bool:
        return bool(await self._write("delete", key_id))

    async def _write(self, verb: str, *arguments: str | bytes | int) -> Any:
        """Change the keys. A new revision is a random text: no two states share one, also after Redis lost its memory."""
        return await self._told_of(self._scripts.write("keys", verb, secrets.token_hex(8), *arguments))

    async def _read(self, used: Mapping[str, float], *, anew: bool) -> Mapping[str, StoredKey]:
        words = [word for key_id, at in used.items() for word in (key_id, repr(at))]
        reply = await self._told_of(self._scripts.read("keys", "read", b"" if anew else self._revision, *words))
        self._failure = None
        revision, *rows = reply
        if revision == self._revision and not rows and not anew:
            return self._stored
        self._revision = revision
        found = (self._one(*rows[place : place + 3]) for place in range(0, len(rows), 3))
        return {one.key.id: one for one in found if one is not None}

    async def _release(self, used: Mapping[str, float]) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if used:
            try:
                await self._read(used, anew=False)
            except FaceServerError as error:
                _log.warning("the last use of API keys cannot be noted: %s", error.message)
        self._scripts.close()

    async def _catch_up(self) -> None:
        """Wait for Redis a moment only where keys are known; a look that failed is not repeated within a second."""
        now = self._clock.monotonic()
        if self._looking is None and now - self._tried_at >= FRESH_S:
            self._tried_at = now
            self._looking = asyncio.create_task(self._look_once(), name="look at API keys")
        stale = now - self._checked_at >= STALE_S
        if self._looking is not None and (stale or self._failure is None):
            await asyncio.wait({self._looking}, timeout=None if stale else _PATIENCE_S)
        if self._failure is not None and stale:
            raise self._failure

    async def _look_once(self) -> None:
        try:
            await self._refresh()
        except FaceServerError as error:
            if self._failure is None:
                _log.warning("API keys are taken from memory: %s", error.message)
            self._failure = error
        finally:
            self._looking = None

    async def _told_of(self, running: Awaitable[Any]) -> Any:
        try:
            return await running
        except Refused as refusal:
            raise Unavailable(f"the key {refusal.detail}; nothing was changed", code="redis_foreign_key", retry_after_s=60.0) from refusal

    def _one(self, key_id: bytes, record: bytes, used_at: bytes) -> StoredKey | None:
        """The key of a record; None, told in the log, for one that cannot be read: it opens nothing."""
        try:
            raw = orjson.loads(record)
            key = ApiKey(
                key_id.decode(), raw["label"], Role(raw["role"]), raw["created_at"], raw["expires_at"], float(used_at) if used_at else None
            )
            return StoredKey(key, bytes.fromhex(raw["sha256"]))
        except (ValueError, KeyError, TypeError):
            name = key_id.decode("utf-8", "replace")
            if name not in self._told:
                self._told.add(name)
                _log.error("%s", self._damaged(name))
            return None

    def _damaged(self, name: str) -> str:
        return f"the key {self._scripts.key('keys')} is damaged: its field {name!r} holds no readable API key"
