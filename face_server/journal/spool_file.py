"""A queue on the local disk: records in order, sealed, within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from face_server.errors import ConfigurationError, Unavailable
from face_server.journal.connections import Writer
from face_server.journal.sealing import Sealer
from face_server.sqlite_file import Schema, connect, prepare, storage_errors, transaction

T = TypeVar("T")

_BUSY_TIMEOUT_S = 5.0
_MAX_WAITING = 1_000
_CONTEXT = "spool"

_log = logging.getLogger(__name__)

_VERSION_1 = (
    "CREATE TABLE seal (only INTEGER PRIMARY KEY CHECK (only = 1), fingerprint BLOB NOT NULL)",
    """
    CREATE TABLE entries (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        events INTEGER NOT NULL,
        size INTEGER NOT NULL,
        body BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE totals (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        entries INTEGER NOT NULL,
        events INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    )
    """,
    "INSERT INTO totals VALUES (1, 0, 0, 0)",
    """
    CREATE TRIGGER entry_added AFTER INSERT ON entries
    BEGIN UPDATE totals SET entries = entries + 1, events = events + NEW.events, bytes = bytes + NEW.size; END
    """,
    """
    CREATE TRIGGER entry_gone AFTER DELETE ON entries
    BEGIN UPDATE totals SET entries = entries - 1, events = events - OLD.events, bytes = bytes - OLD.size; END
    """,
)
SPOOL = Schema("a spool", 0x4653534C, (_VERSION_1,))


@dataclass(frozen=True, slots=True)
class SpoolBounds:
    """Beyond ``max_bytes`` of entries the oldest give way; what has waited for ``max_age_s`` is given up (0: never)."""

    max_bytes: int = 512 * 1024**2
    max_age_s: float = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class SpoolTotals:
    """What a spool holds: entries, the events in them, and their bytes."""

    entries: int = 0
    events: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """One record. ``at`` is when it was put, Unix seconds; ``body`` is None if it cannot be read any more."""

    key: int
    at: float
    events: int
    body: bytes | None


class SpoolFile:
    """A queue of sealed records in one SQLite file; what ``put`` has returned survives a kill and a power cut.

    One process at a time: it holds the lock beside the file until it ends, however it ends. Errors are
    those of ``sqlite_file``: Unavailable for a full disk.
    """

    def __init__(self, path: Path, lock: IO[bytes], sealer: Sealer, bounds: SpoolBounds, connection: sqlite3.Connection) -> None:
        self.path = path
        self.totals = _read_totals(connection)
        self.dropped = 0
        """Events that gave way or were given up since the file was opened."""
        self._lock = lock
        self._sealer = sealer
        self.bounds = bounds
        self._writer = Writer(path, connection, busy_timeout_s=_BUSY_TIMEOUT_S, max_waiting=_MAX_WAITING)

    @classmethod
    def open(cls, path: Path, sealer: Sealer, bounds: SpoolBounds) -> SpoolFile | None:
        """Open the file at ``path``, or make it; None while another process has it. Blocking.

        Raises ConfigurationError for a file of another kind or version, or one that holds entries sealed with another key.
        """
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_suffix(".lock").open("ab")
        with contextlib.ExitStack() as stack:
            stack.callback(lock.close)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            prepare(path, SPOOL, busy_timeout_s=_BUSY_TIMEOUT_S)
            with storage_errors(path):
                connection = connect(path, busy_timeout_s=_BUSY_TIMEOUT_S, writable=True)
                stack.callback(connection.close)
                _use_key(connection, sealer, path.name)
                opened = cls(path, lock, sealer, bounds, connection)
            stack.pop_all()
            return opened

    async def put(self, body: bytes, *, events: int, now: float) -> None:
        """Add a record of some events; the oldest give way if there is no room. Returns when it is on disk.

        Raises Unavailable when the disk is full, and for a record beyond all bounds.
        """
        if len(body) > self.bounds.max_bytes:
            raise Unavailable(f"{self.path.name} is smaller than one event with its pictures", code="storage_full", retry_after_s=60.0)

        def work(connection: sqlite3.Connection) -> int:
            lost = self._expire(connection, now)
            sealed = self._sealer.seal_bytes(body, _CONTEXT)
            while (total := _read_totals(connection)).entries and total.bytes + len(sealed) > self.bounds.max_bytes:
                lost += _drop_oldest(connection)
            connection.execute("INSERT INTO entries (at, events, size, body) VALUES (?, ?, ?, ?)", (now, events, len(sealed), sealed))
            return lost

        self._note_loss(await self._write(work))

    async def first(self, now: float) -> SpoolEntry | None:
        """The oldest entry, if there is one."""

        def work(connection: sqlite3.Connection) -> tuple[int, SpoolEntry | None]:
            lost = self._expire(connection, now)
            row = connection.execute("SELECT key, at, events, body FROM entries ORDER BY key LIMIT 1").fetchone()
            return lost, None if row is None else SpoolEntry(row[0], row[1], row[2], self._unsealed(row[3]))

        lost, entry = await self._write(work)
        self._note_loss(lost)
        return entry

    async def remove(self, key: int) -> None:
        """Take an entry out."""
        last = self.totals.entries <= 1
        await self._write(lambda connection: connection.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount, erases=last)

    def close(self) -> None:
        """Finish what is being written and give the file up. Blocking; idempotent."""
        self._writer.close()
        self._lock.close()

    def discard(self) -> None:
        """Close, and remove the file if nothing is in it. Blocking. For one that nobody puts anything into."""
        self._writer.close()
        with contextlib.suppress(OSError):
            if not self.totals.entries:
                for suffix in ("", "-wal", "-shm"):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._lock.close()

    async def _write(self, work: Callable[[sqlite3.Connection], T], *, erases: bool = False) -> T:
        def counted(connection: sqlite3.Connection) -> tuple[T, SpoolTotals]:
            result = work(connection)
            return result, _read_totals(connection)

        result, self.totals = await asyncio.wrap_future(self._writer.write(counted, erases=erases))
        return result

    def _expire(self, connection: sqlite3.Connection, now: float) -> int:
        """Give up what is too old. Returns how many events that were."""
        if self.bounds.max_age_s <= 0:
            return 0
        lost, before = 0, now - self.bounds.max_age_s
        while connection.execute("SELECT 1 FROM (SELECT at FROM entries ORDER BY key LIMIT 1) WHERE at < ?", (before,)).fetchone():
            lost += _drop_oldest(connection)
        return lost

    def _note_loss(self, events: int) -> None:
        if events:
            self.dropped += events
            _log.error(
                "%d event(s) were lost, the oldest in %s: the journal has been away for longer than its bounds allow (%d bytes, %g days)",
                events,
                self.path.name,
                self.bounds.max_bytes,
                self.bounds.max_age_s / 86400,
            )

    def _unsealed(self, body: bytes) -> bytes | None:
        try:
            return self._sealer.unseal_bytes(body, _CONTEXT)
        except ConfigurationError:
            return None


def _read_totals(connection: sqlite3.Connection) -> SpoolTotals:
    return SpoolTotals(*connection.execute("SELECT entries, events, bytes FROM totals").fetchone())


def _drop_oldest(connection: sqlite3.Connection) -> int:
    (events,) = connection.execute("DELETE FROM entries WHERE key = (SELECT MIN(key) FROM entries) RETURNING events").fetchone()
    return int(events)


def _use_key(connection: sqlite3.Connection, sealer: Sealer, file_name: str) -> None:
    with transaction(connection):
        row = connection.execute("SELECT fingerprint FROM seal").fetchone()
        if row is not None and row[0] != sealer.fingerprint and _read_totals(connection).entries:
            raise ConfigurationError(
                f"{sealer.origin} is not the one that the events in {file_name} were encrypted with: "
                "put that key back, or move the file away"
            )
        connection.execute("INSERT OR REPLACE INTO seal VALUES (1, ?)", (sealer.fingerprint,))


def spool_paths(folder: Path) -> Iterator[Path]:
    """The names of the spools of a folder, in order, without end."""
    number = 0
    while True:
        yield folder / f"spool-{number}.sqlite"
        number += 1
