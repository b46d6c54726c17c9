"""API keys in one SQLite file."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from face_server.domain.access import ApiKey, Role
from face_server.domain.ports import Clock
from face_server.errors import Unavailable
from face_server.journal.key_ring import MAX_KEYS, StoredKey, StoredKeyRing, too_many
from face_server.sqlite_file import Schema, connect, forget_erased, prepare, storage_errors, transaction

T = TypeVar("T")

_BUSY_TIMEOUT_S = 5.0

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


class SqliteKeyRing(StoredKeyRing):
    """``domain.access.KeyRing`` in one file, which several processes may share."""

    def __init__(self, path: Path, connection: sqlite3.Connection, thread: ThreadPoolExecutor, clock: Clock) -> None:
        super().__init__(clock)
        self._path = path
        self._connection = connection
        self._thread = thread
        self._version = -1

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

    async def _insert(self, stored: StoredKey) -> None:
        key = stored.key

        def insert() -> None:
            with transaction(self._connection):
                (count,) = self._connection.execute("SELECT COUNT(*) FROM keys").fetchone()
                if count >= MAX_KEYS:
                    raise too_many()
                values = (key.id, stored.digest, key.role.value, key.label, key.created_at, key.expires_at)
                self._connection.execute(
                    "INSERT INTO keys (id, digest, role, label, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)", values
                )

        await self._in_thread(insert)

    async def _delete(self, key_id: str) -> bool:
        def delete() -> bool:
            with transaction(self._connection):
                deleted = self._connection.execute("DELETE FROM keys WHERE id = ?", (key_id,)).rowcount
            forget_erased(self._connection)
            return bool(deleted)

        return await self._in_thread(delete)

    async def _read(self, used: Mapping[str, float], *, anew: bool) -> Mapping[str, StoredKey]:
        def read() -> tuple[Mapping[str, StoredKey], int]:
            self._save_use(used)
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if version == self._version and not anew:
                return self._stored, version
            rows = self._connection.execute("SELECT id, digest, role, label, created_at, expires_at, last_used_at FROM keys")
            return {row[0]: StoredKey(ApiKey(row[0], row[3], Role(row[2]), *row[4:]), row[1]) for row in rows}, version

        stored, self._version = await self._in_thread(read)
        return stored

    async def _release(self, used: Mapping[str, float]) -> None:
        await self._in_thread(lambda: self._save_use(used))
        await self._in_thread(self._connection.close)
        self._thread.shutdown(wait=False)

    def _save_use(self, used: Mapping[str, float]) -> None:
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
