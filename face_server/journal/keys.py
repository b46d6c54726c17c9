"""API keys in a SQLite file: digests only, revoked at once, cheap to check at every request."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from face_server.domain.access import ApiKey, Role
from face_server.domain.ports import Clock
from face_server.errors import InvalidInput, NotFound
from face_server.sqlite_file import Schema, connect, prepare, storage_errors, transaction

T = TypeVar("T")

_PREFIX = "fsk_"
_SECRET_BYTES = 32
_LABEL_LENGTH = 200
_BUSY_TIMEOUT_S = 5.0
_REFRESH_S = 1.0
_USE_RESOLUTION_S = 60.0

_CREATE = """
CREATE TABLE keys (
  id TEXT PRIMARY KEY, label TEXT NOT NULL, role TEXT NOT NULL, digest BLOB NOT NULL,
  created_at REAL NOT NULL, expires_at REAL, last_used_at REAL
) STRICT, WITHOUT ROWID
"""
_SCHEMA = Schema("the API keys", 0x46534B31, ((_CREATE,),))
_COLUMNS = "id, label, role, created_at, expires_at, last_used_at"


class SqliteKeyRing:
    """API keys at rest. Implements ``domain.access.KeyRing``.

    A secret is ``fsk_<id>_<32 random bytes>``. Its sha256 is stored: a secret of 256 random bits
    cannot be guessed, so the slow hashes that protect passwords would only slow every request.
    Keys are checked in memory; a change by another process (``face-server keys revoke``) is seen
    within a second. ``last_used_at`` is kept to the minute.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._connection: sqlite3.Connection | None = None
        self._known: dict[str, tuple[ApiKey, bytes]] = {}
        self._data_version = -1
        self._checked_at = float("-inf")

    @classmethod
    async def open(cls, path: Path, clock: Clock) -> Self:
        """Open the file, creating it where it is missing. Raises ConfigurationError or Unavailable."""
        ring = cls(path, clock)
        try:
            await ring._run(ring._open)
        except BaseException:
            await ring.close()
            raise
        return ring

    async def create(self, role: Role, label: str, *, expires_at: float | None = None) -> tuple[ApiKey, str]:
        """A new key and its secret, which is shown this once. Raises InvalidInput for a long label."""
        if len(label) > _LABEL_LENGTH:
            raise InvalidInput(f"a label has at most {_LABEL_LENGTH} characters, got {len(label)}", field="label")
        key = ApiKey(secrets.token_hex(4), label, role, self._clock.now(), expires_at)
        secret = f"{_PREFIX}{key.id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        await self._run(lambda: self._insert(key, _digest(secret)))
        return key, secret

    async def list(self) -> list[ApiKey]:
        """All keys, oldest first."""
        await self._run(self._reload)
        return sorted((key for key, _ in self._known.values()), key=lambda key: (key.created_at, key.id))

    async def revoke(self, key_id: str) -> None:
        """Forget a key. Raises NotFound."""
        await self._run(lambda: self._delete(key_id))

    async def authenticate(self, secret: str) -> ApiKey | None:
        """The key that ``secret`` belongs to, or None if it is unknown, revoked or expired."""
        if self._clock.monotonic() - self._checked_at >= _REFRESH_S:
            await self._run(self._refresh)
        key_id = secret.removeprefix(_PREFIX).partition("_")[0]
        key, digest = self._known.get(key_id, (None, b""))
        if key is None or not hmac.compare_digest(digest, _digest(secret)):
            return None
        now = self._clock.now()
        if key.expires_at is not None and now >= key.expires_at:
            return None
        if key.last_used_at is None or now - key.last_used_at >= _USE_RESOLUTION_S:
            await self._run(lambda: self._touch(key.id, now))
        return key

    async def close(self) -> None:
        """Release the file. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, connection.close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        def translated() -> T:
            with storage_errors(self._path):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, translated)

    def _open(self) -> None:
        prepare(self._path, _SCHEMA, busy_timeout_s=_BUSY_TIMEOUT_S)
        self._connection = connect(self._path, busy_timeout_s=_BUSY_TIMEOUT_S, writable=True)
        self._reload()

    def _refresh(self) -> None:
        version = int(self._opened.execute("PRAGMA data_version").fetchone()[0])
        if version != self._data_version:
            self._reload()
            self._data_version = version
        self._checked_at = self._clock.monotonic()

    def _reload(self) -> None:
        rows = self._opened.execute(f"SELECT {_COLUMNS}, digest FROM keys").fetchall()  # noqa: S608 - a constant
        self._known = {
            row[0]: (ApiKey(row[0], row[1], Role(row[2]), row[3], expires_at=row[4], last_used_at=row[5]), row[6]) for row in rows
        }

    def _insert(self, key: ApiKey, digest: bytes) -> None:
        values = (key.id, key.label, key.role.value, digest, key.created_at, key.expires_at)
        with transaction(self._opened):
            self._opened.execute("INSERT INTO keys (id, label, role, digest, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)", values)
        self._reload()

    def _delete(self, key_id: str) -> None:
        with transaction(self._opened):
            erased = self._opened.execute("DELETE FROM keys WHERE id = ?", (key_id,)).rowcount
        self._reload()
        if not erased:
            raise NotFound(f"there is no API key {key_id}")

    def _touch(self, key_id: str, now: float) -> None:
        # A missed note of use must not refuse a good key: the disk may be full.
        with contextlib.suppress(sqlite3.Error), transaction(self._opened):
            self._opened.execute("UPDATE keys SET last_used_at = ? WHERE id = ?", (now, key_id))
        self._reload()

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the key ring is closed")
        return self._connection


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
