"""API keys in one SQLite file.

A secret is ``fsk_<id>_<256 random bits>``. Its sha256 is stored and the id finds it. A slow
password hash would add nothing: nobody can guess 256 bits, however fast the hash, and each
request pays for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import re
import secrets
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from face_server.domain.access import ApiKey, Role
from face_server.domain.ports import Clock
from face_server.errors import InputTooLarge, InvalidInput, NotFound, Unavailable
from face_server.sqlite_file import Schema, connect, forget_erased, prepare, storage_errors, transaction

T = TypeVar("T")

_PREFIX = "fsk_"
_ID_BYTES = 6
_SECRET_BYTES = 32
_ID = re.compile(r"[0-9a-f]{12}")
_SECRET = re.compile(r"fsk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_MAX_KEYS = 1_000
_MAX_LABEL = 200
_BUSY_TIMEOUT_S = 5.0
_FRESH_S = 1.0
_USE_NOTED_EVERY_S = 3_600.0

_SCHEMA = Schema(
    "a key ring",
    0x46534B59,
    (
        (
            """
            CREATE TABLE keys (
                id TEXT PRIMARY KEY,
                digest BLOB NOT NULL,
                role TEXT NOT NULL,
                label TEXT NOT NULL,
                created_at REAL NOT NULL,
                expires_at REAL,
                last_used_at REAL
            )
            """,
        ),
    ),
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stored:
    key: ApiKey
    digest: bytes


class SqliteKeyRing:
    """``domain.access.KeyRing`` in one file, which several processes may share.

    ``authenticate`` answers from memory; at most once a second it asks the file whether another
    process changed it, so that a revoked key stops working within a second everywhere.
    ``last_used_at`` is noted once an hour.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, thread: ThreadPoolExecutor, clock: Clock) -> None:
        self._path = path
        self._connection = connection
        self._thread = thread
        self._clock = clock
        self._stored: dict[str, _Stored] = {}
        self._version = -1
        self._checked_at = -math.inf
        self._used: dict[str, float] = {}
        self._unsaved: dict[str, float] = {}
        self._refreshing = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(cls, path: Path, clock: Clock) -> SqliteKeyRing:
        """Open the file at ``path``, or make it.

        Raises ConfigurationError for a file of another kind or a newer version, Unavailable when
        it is damaged or cannot be used.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="keys")

        def connected() -> sqlite3.Connection:
            prepare(path, _SCHEMA, busy_timeout_s=_BUSY_TIMEOUT_S)
            with storage_errors(path):
                return connect(path, busy_timeout_s=_BUSY_TIMEOUT_S, writable=True)

        try:
            connection = await asyncio.get_running_loop().run_in_executor(thread, connected)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(path, connection, thread, clock)

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

        def insert() -> None:
            with transaction(self._connection):
                (count,) = self._connection.execute("SELECT COUNT(*) FROM keys").fetchone()
                if count >= _MAX_KEYS:
                    raise InputTooLarge(f"there may be {_MAX_KEYS} keys; revoke some", field="label")
                values = (key.id, _digest(secret), key.role.value, key.label, key.created_at, key.expires_at)
                self._connection.execute(
                    "INSERT INTO keys (id, digest, role, label, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)", values
                )

        await self._change(insert)
        return key, secret

    async def list(self) -> list[ApiKey]:
        """All keys, oldest first."""
        await self._refresh()
        keys = [replace(one.key, last_used_at=self._used.get(one.key.id, one.key.last_used_at)) for one in self._stored.values()]
        return sorted(keys, key=lambda key: (key.created_at, key.id))

    async def revoke(self, key_id: str) -> None:
        """Forget a key. Raises NotFound."""

        def delete() -> None:
            with transaction(self._connection):
                if not self._connection.execute("DELETE FROM keys WHERE id = ?", (key_id,)).rowcount:
                    raise NotFound(f"no API key has the id {key_id[:80]!r}", field="key_id")
            forget_erased(self._connection)

        if _ID.fullmatch(key_id) is None:
            raise NotFound(f"no API key has the id {key_id[:80]!r}", field="key_id")
        await self._change(delete)

    async def authenticate(self, secret: str) -> ApiKey | None:
        """The key that ``secret`` belongs to, or None if it is unknown, revoked or expired."""
        if self._closed:
            raise Unavailable("the key ring is closed", code="closed")
        if self._clock.monotonic() - self._checked_at >= _FRESH_S:
            await self._refresh()
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
        """Note what was used and release the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._in_thread(lambda: self._save_use(self._unsaved))
        await self._in_thread(self._connection.close)
        self._thread.shutdown(wait=False)

    async def _change(self, change: Callable[[], None]) -> None:
        async with self._refreshing:
            await self._in_thread(change)
            self._version = -1
            await self._look()

    async def _refresh(self) -> None:
        """Load the keys if the file changed since the last look; one look serves all who wait for it."""
        asked_at = self._clock.monotonic()
        async with self._refreshing:
            if self._checked_at <= asked_at:
                await self._look()

    async def _look(self) -> None:
        unsaved, self._unsaved = self._unsaved, {}
        looked_at = self._clock.monotonic()
        self._stored, self._version = await self._in_thread(lambda: self._read(unsaved))
        self._used = {key: at for key, at in self._used.items() if key in self._stored}
        self._checked_at = looked_at

    def _read(self, unsaved: dict[str, float]) -> tuple[dict[str, _Stored], int]:
        self._save_use(unsaved)
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return self._stored, version
        rows = self._connection.execute("SELECT id, digest, role, label, created_at, expires_at, last_used_at FROM keys")
        return {row[0]: _Stored(ApiKey(row[0], row[3], Role(row[2]), *row[4:]), row[1]) for row in rows}, version

    def _save_use(self, used: dict[str, float]) -> None:
        if not used:
            return
        try:
            with storage_errors(self._path), transaction(self._connection):
                self._connection.executemany("UPDATE keys SET last_used_at = ? WHERE id = ?", [(at, key) for key, at in used.items()])
        except Unavailable as error:
            # Who may call must not depend on room for a note.
            _log.warning("the last use of API keys cannot be noted: %s", error)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def translated() -> T:
            with storage_errors(self._path):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, translated)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
