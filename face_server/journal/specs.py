"""Stream specs in the journal file, and the key that their secrets are sealed with."""

from __future__ import annotations

import sqlite3

from face_server.domain.streams import StreamSpec
from face_server.errors import ConfigurationError, Conflict, NotFound, Overloaded
from face_server.journal import outbox
from face_server.journal.options import JournalOptions
from face_server.journal.records import read_spec
from face_server.journal.sealing import Sealer


def use_key(connection: sqlite3.Connection, sealer: Sealer, file_name: str) -> None:
    """Make sure that the file is sealed with this key, or take it for a file that seals nothing yet.

    Raises ConfigurationError for another key; nothing is changed then.
    """
    row = connection.execute("SELECT fingerprint FROM seal").fetchone()
    if row is not None and row[0] == sealer.fingerprint:
        return
    if connection.execute("SELECT 1 FROM streams LIMIT 1").fetchone() is not None:
        raise _another_key(sealer, file_name)
    connection.execute("INSERT OR REPLACE INTO seal VALUES (1, ?)", (sealer.fingerprint,))


def load(connection: sqlite3.Connection, sealer: Sealer) -> list[StreamSpec]:
    """All specs, in the order in which they were added."""
    return [read_spec(record, sealer) for (record,) in connection.execute("SELECT spec FROM streams ORDER BY key")]


def add(connection: sqlite3.Connection, stream_id: str, record: str, options: JournalOptions) -> None:
    """Store a new spec. Raises Conflict for an id that is taken, Overloaded beyond the limit."""
    if connection.execute("SELECT 1 FROM streams WHERE id = ?", (stream_id,)).fetchone() is not None:
        raise Conflict(f"there is a stream {stream_id!r} already", code="stream_exists", field="id")
    (count,) = connection.execute("SELECT COUNT(*) FROM streams").fetchone()
    if count >= options.max_streams:
        raise Overloaded(f"there may be {options.max_streams} streams; remove one first", code="too_many_streams", retry_after_s=60.0)
    connection.execute("INSERT INTO streams (id, spec) VALUES (?, ?)", (stream_id, record))


def replace(connection: sqlite3.Connection, stream_id: str, record: str) -> None:
    """Store a spec in place of the one with its id. Raises NotFound."""
    if not connection.execute("UPDATE streams SET spec = ? WHERE id = ?", (record, stream_id)).rowcount:
        raise unknown(stream_id)


def remove(connection: sqlite3.Connection, stream_id: str, now: float, options: JournalOptions) -> None:
    """Forget a spec and give up what waits to be delivered. Raises NotFound."""
    if not connection.execute("DELETE FROM streams WHERE id = ?", (stream_id,)).rowcount:
        raise unknown(stream_id)
    outbox.bury_stream(connection, stream_id, "the stream was removed", now, options)


def check_key(connection: sqlite3.Connection, sealer: Sealer, file_name: str) -> None:
    """Raise ConfigurationError if another process has taken another key for the file meanwhile."""
    if connection.execute("SELECT 1 FROM seal WHERE fingerprint = ?", (sealer.fingerprint,)).fetchone() is None:
        raise _another_key(sealer, file_name)


def unknown(stream_id: str) -> NotFound:
    """The error for an id that no spec has."""
    return NotFound(f"no stream has the id {stream_id[:80]!r}", field="stream_id")


def _another_key(sealer: Sealer, file_name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{sealer.origin} is not the one that the camera addresses in {file_name} were encrypted with: "
        f"put that key back, or move {file_name} away to begin without streams and events"
    )
