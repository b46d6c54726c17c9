"""SQLite files as this project keeps them: durable, upgraded in place, and forgetting what is erased.

Write-ahead logging with full synchronisation: a commit that returned survives a power cut.
``secure_delete`` overwrites erased rows with zeros; ``forget_erased`` empties the log that still
holds their old pages.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from face_server.errors import ConfigurationError, FaceServerError, Unavailable

_PAGE_BYTES = 4096
_WAL_LIMIT_BYTES = 64 * 1024 * 1024

_MESSAGES = {
    sqlite3.SQLITE_FULL: ("storage_full", "cannot grow: the disk or the configured size limit is full; nothing was changed", 60.0),
    sqlite3.SQLITE_READONLY: ("storage_read_only", "cannot be written: the file or its folder is read-only", 60.0),
    sqlite3.SQLITE_PERM: ("storage_read_only", "cannot be opened: permission denied", 60.0),
    sqlite3.SQLITE_CANTOPEN: ("storage_unavailable", "cannot be opened: check that its folder exists and may be written", 60.0),
    sqlite3.SQLITE_BUSY: ("storage_busy", "is locked by another process", 1.0),
    sqlite3.SQLITE_LOCKED: ("storage_busy", "is locked by another process", 1.0),
    sqlite3.SQLITE_CORRUPT: ("storage_corrupt", "is damaged; restore it from a backup or an export", 60.0),
    sqlite3.SQLITE_NOTADB: ("storage_corrupt", "is damaged or no database; restore it from a backup or an export", 60.0),
    sqlite3.SQLITE_IOERR: ("storage_unavailable", "cannot be read or written: the disk reports an error", 60.0),
}


@dataclass(frozen=True, slots=True)
class Schema:
    """What a file holds: a mark that tells our files apart and the statements of each version.

    ``migrations[n]`` brings version n to n + 1; published entries never change.
    """

    title: str
    application_id: int
    migrations: tuple[tuple[str, ...], ...]


def translate(error: sqlite3.Error, file_name: str) -> FaceServerError:
    """The error of our tree for an error of SQLite; ``file_name`` is for people."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    code, sentence, retry_after_s = _MESSAGES.get(primary, ("storage_unavailable", f"failed: {error}", 60.0))
    return Unavailable(f"{file_name} {sentence}", code=code, retry_after_s=retry_after_s)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate errors of SQLite and the file system in the block."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path.name) from error
    except OSError as error:
        raise Unavailable(f"{path.name} cannot be used: {error.strerror}", code="storage_unavailable") from error


def connect(path: Path, *, busy_timeout_s: float, writable: bool, max_bytes: int = 0) -> sqlite3.Connection:
    """Open one connection, in autocommit mode; one thread at a time may use it.

    ``max_bytes`` above 0 bounds the size of the file; beyond it writes fail as on a full disk.
    """
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        pragmas = ["synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", "temp_store=MEMORY", "trusted_schema=OFF"]
        pragmas += [f"journal_size_limit={_WAL_LIMIT_BYTES}"]
        pragmas += ["journal_mode=WAL"] if writable else ["query_only=ON"]
        if max_bytes > 0:
            pragmas.append(f"max_page_count={max(1, max_bytes // _PAGE_BYTES)}")
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(path: Path, schema: Schema, *, busy_timeout_s: float) -> None:
    """Create the file for its owner's eyes only, or bring it to the newest version of ``schema``.

    Raises ConfigurationError for a file of another kind or of a newer version, Unavailable when
    it cannot be used or is damaged.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with contextlib.closing(connect(path, busy_timeout_s=busy_timeout_s, writable=True)) as connection:
            _migrate(connection, schema, path.name)
            forget_erased(connection)


def _migrate(connection: sqlite3.Connection, schema: Schema, file_name: str) -> None:
    with transaction(connection):
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        mark = int(connection.execute("PRAGMA application_id").fetchone()[0])
        empty = connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is None
        if not empty and mark != schema.application_id:
            raise ConfigurationError(f"{file_name} is not {schema.title} of face_server; move it away or name another data folder")
        newest = len(schema.migrations)
        if version > newest:
            raise ConfigurationError(
                f"{file_name} has version {version}, but this face_server knows versions up to {newest}; run a newer face_server"
            )
        for statements in schema.migrations[version:]:
            for statement in statements:
                connection.execute(statement)
        if version < newest:
            connection.execute(f"PRAGMA application_id={schema.application_id}")
            connection.execute(f"PRAGMA user_version={newest}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A write transaction: committed at the end of the block, rolled back when it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """A read transaction: everything read in the block is of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def forget_erased(connection: sqlite3.Connection) -> bool:
    """Copy the log into the file and cut it to nothing, so that erased rows are gone from disk.

    False when another connection is still reading an older state: call again later.
    """
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy
