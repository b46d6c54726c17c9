"""What every key ring does, whatever it keeps its keys in.

A secret is ``fsk_<id>_<256 random bits>``. Its sha256 is stored and the id finds it. A slow
password hash would add nothing: nobody can guess 256 bits, however fast the hash, and each
request pays for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

from face_server.domain.access import ApiKey, Role
from face_server.domain.ports import Clock
from face_server.errors import Conflict, InputTooLarge, InvalidInput, NotFound, Unavailable

MAX_KEYS = 1_000

_PREFIX = "fsk_"
_ID_BYTES = 6
_SECRET_BYTES = 32
_ID = re.compile(r"[0-9a-f]{12}")
_SECRET = re.compile(r"fsk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_MAX_LABEL = 200
_USE_NOTED_EVERY_S = 3_600.0

FRESH_S = 1.0
"""For so long the answers come from memory."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key and the sha256 of its secret."""

    key: ApiKey
    digest: bytes


class StoredKeyRing(ABC):
    """``domain.access.KeyRing`` that answers from memory.

    At most once a second it asks the store whether another process changed it, so that a revoked key
    stops working within a second everywhere. ``last_used_at`` is noted once an hour.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stored: Mapping[str, StoredKey] = {}
        self._checked_at = -math.inf
        self._used: dict[str, float] = {}
        self._unsaved: dict[str, float] = {}
        self._refreshing = asyncio.Lock()
        self._closed = False

    @property
    def damage(self) -> list[str]:
        """What was passed over because it cannot be read, a sentence each."""
        return []

    async def stored(self) -> list[StoredKey]:
        """All keys with the digests of their secrets, by id; for another ring to adopt."""
        await self._refresh()
        return [self._stored[key_id] for key_id in sorted(self._stored)]

    async def adopt(self, one: StoredKey) -> None:
        """Keep a key of another ring, with its digest and last use. One that is here already stays as it is.

        Raises Conflict where its id is another key's, InputTooLarge beyond 1,000 keys.
        """
        await self._refresh()
        known = self._stored.get(one.key.id)
        if known is not None and known.digest != one.digest:
            raise Conflict(f"there is another API key with the id {one.key.id}", field="key_id")
        async with self._refreshing:
            if known is None:
                await self._insert(one)
            if one.key.last_used_at is not None:
                self._unsaved[one.key.id] = one.key.last_used_at
            await self._look(anew=True)

    @abstractmethod
    async def _insert(self, stored: StoredKey) -> None:
        """Keep a key; InputTooLarge where there are 1,000."""

    @abstractmethod
    async def _delete(self, key_id: str) -> bool:
        """Forget a key; False if there is none."""

    @abstractmethod
    async def _read(self, used: Mapping[str, float], *, anew: bool) -> Mapping[str, StoredKey]:
        """Note when keys were last used, and give all keys by id: those given last, unless they changed meanwhile or ``anew``."""

    @abstractmethod
    async def _release(self, used: Mapping[str, float]) -> None:
        """Note when keys were last used, and let go of the store."""

    async def create(self, role: Role, label: str, *, expires_at: float | None = None) -> tuple[ApiKey, str]:
        """A new key and its secret, which is shown this once.

        Raises InvalidInput for a label over 200 characters or with control characters, or an
        ``expires_at`` that has passed; InputTooLarge beyond 1,000 keys.
        """
        now = self._clock.now()
        if len(label) > _MAX_LABEL or not (label.isprintable() or not label):
            raise InvalidInput(f"label may have {_MAX_LABEL} printable characters", field="label")
        if expires_at is not None and not now < expires_at < math.inf:
            raise InvalidInput("expires_at must lie in the future", field="expires_at")
        key = ApiKey(secrets.token_hex(_ID_BYTES), label, role, now, expires_at)
        secret = f"{_PREFIX}{key.id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        async with self._refreshing:
            await self._insert(StoredKey(key, _digest(secret)))
            await self._look(anew=True)
        return key, secret

    async def list(self) -> list[ApiKey]:
        """All keys, oldest first."""
        await self._refresh()
        keys = [replace(one.key, last_used_at=self._used.get(one.key.id, one.key.last_used_at)) for one in self._stored.values()]
        return sorted(keys, key=lambda key: (key.created_at, key.id))

    async def revoke(self, key_id: str) -> None:
        """Forget a key. Raises NotFound."""
        unknown = NotFound(f"no API key has the id {key_id[:80]!r}", field="key_id")
        if _ID.fullmatch(key_id) is None:
            raise unknown
        async with self._refreshing:
            if not await self._delete(key_id):
                raise unknown
            await self._look(anew=True)

    async def authenticate(self, secret: str) -> ApiKey | None:
        """The key that ``secret`` belongs to, or None if it is unknown, revoked or expired."""
        if self._closed:
            raise Unavailable("the key ring is closed", code="closed")
        if self._clock.monotonic() - self._checked_at >= FRESH_S:
            await self._catch_up()
        match = _SECRET.fullmatch(secret)
        stored = self._stored.get(match.group(1)) if match is not None else None
        if stored is None or not hmac.compare_digest(stored.digest, _digest(secret)):
            return None
        now = self._clock.now()
        if stored.key.expires_at is not None and stored.key.expires_at <= now:
            return None
        last = self._used.get(stored.key.id, stored.key.last_used_at)
        if last is None or now - last >= _USE_NOTED_EVERY_S:
            self._used[stored.key.id] = self._unsaved[stored.key.id] = now
        return stored.key

    async def close(self) -> None:
        """Note what was used and release the store. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._release(self._unsaved)

    async def _catch_up(self) -> None:
        """What a request that authenticates waits for."""
        await self._refresh()

    async def _refresh(self) -> None:
        """Load the keys if they changed since the last look; one look serves all who wait for it."""
        asked_at = self._clock.monotonic()
        async with self._refreshing:
            if self._checked_at <= asked_at:
                await self._look(anew=False)

    async def _look(self, *, anew: bool) -> None:
        unsaved, self._unsaved = self._unsaved, {}
        looked_at = self._clock.monotonic()
        try:
            self._stored = await self._read(unsaved, anew=anew)
        except BaseException:
            self._unsaved = unsaved | self._unsaved
            raise
        self._used = {key: at for key, at in self._used.items() if key in self._stored}
        self._checked_at = looked_at


def too_many() -> InputTooLarge:
    """The error for one key too many."""
    return InputTooLarge(f"there may be {MAX_KEYS} keys; revoke some", field="label")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
