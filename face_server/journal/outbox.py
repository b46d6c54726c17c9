"""Deliveries that wait, lane by lane, and those that were given up."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Sequence

from face_server.domain.events import DeadLetter, Delivery, Lane
from face_server.errors import Conflict, NotFound
from face_server.journal.options import MAX_ERROR, JournalOptions
from face_server.journal.records import read_event

_log = logging.getLogger(__name__)


def lanes(connection: sqlite3.Connection) -> list[Lane]:
    """Every lane with something to deliver, in the order in which they were first used."""
    return [Lane(*row) for row in connection.execute("SELECT stream_id, sink_key FROM lanes WHERE pending > 0 ORDER BY key")]


def pending(connection: sqlite3.Connection, lane: Lane, after: int, limit: int) -> list[Delivery]:
    """The oldest deliveries of a lane with id > ``after``, in order."""
    rows = connection.execute(
        """
        SELECT d.id, d.attempts, d.queued_at, d.last_error, e.body, e.cursor
        FROM deliveries d JOIN events e ON e.cursor = d.cursor
        WHERE d.lane_key = (SELECT key FROM lanes WHERE stream_id = ? AND sink_key = ?) AND d.id > ?
        ORDER BY d.id LIMIT ?
        """,
        (lane.stream_id, lane.sink_key, after, limit),
    )
    return [Delivery(row[0], lane, read_event(row[4], row[5]), *row[1:4]) for row in rows]


def queue(connection: sqlite3.Connection, lane: Lane, cursors: Sequence[int], now: float, options: JournalOptions) -> None:
    """Put events at the end of a lane; beyond its bound the oldest become dead letters."""
    key, waiting = connection.execute(
        """
        INSERT INTO lanes (stream_id, sink_key) VALUES (?, ?)
        ON CONFLICT DO UPDATE SET pending = pending RETURNING key, pending
        """,
        (lane.stream_id, lane.sink_key),
    ).fetchone()
    connection.executemany(
        "INSERT INTO deliveries (lane_key, cursor, queued_at) VALUES (?, ?, ?)", [(key, cursor, now) for cursor in cursors]
    )
    excess = waiting + len(cursors) - options.max_pending_per_lane
    if excess > 0:
        rows = connection.execute("SELECT id FROM deliveries WHERE lane_key = ? ORDER BY id LIMIT ?", (key, excess))
        reason = f"more than {options.max_pending_per_lane} events were waiting for this sink"
        bury(connection, [row[0] for row in rows], reason, now, options)


def take(connection: sqlite3.Connection, delivery_id: int) -> None:
    """Take a delivery out. Raises NotFound."""
    if not connection.execute("DELETE FROM deliveries WHERE id = ?", (delivery_id,)).rowcount:
        raise _unknown(delivery_id)


def note_failure(connection: sqlite3.Connection, delivery_id: int, error: str) -> None:
    """Count a failed attempt. Raises NotFound."""
    values = (error[:MAX_ERROR], delivery_id)
    if not connection.execute("UPDATE deliveries SET attempts = attempts + 1, last_error = ? WHERE id = ?", values).rowcount:
        raise _unknown(delivery_id)


def bury(connection: sqlite3.Connection, delivery_ids: Sequence[int], error: str, now: float, options: JournalOptions) -> int:
    """Turn deliveries into dead letters, in order; those beyond their bound are erased. Returns how many deliveries there were."""
    ids = json.dumps(list(delivery_ids))
    connection.execute(
        """
        INSERT INTO dead_letters (stream_id, sink_key, cursor, attempts, error, died_at)
        SELECT l.stream_id, l.sink_key, d.cursor, d.attempts, ?, ? FROM deliveries d JOIN lanes l ON l.key = d.lane_key
        WHERE d.id IN (SELECT value FROM json_each(?)) ORDER BY d.id
        """,
        (error[:MAX_ERROR], now, ids),
    )
    buried = connection.execute("DELETE FROM deliveries WHERE id IN (SELECT value FROM json_each(?))", (ids,)).rowcount
    erased = connection.execute(
        "DELETE FROM dead_letters WHERE id <= (SELECT id FROM dead_letters ORDER BY id DESC LIMIT 1 OFFSET ?)", (options.max_dead_letters,)
    ).rowcount
    if erased:
        _log.warning("%d dead letters were erased: at most %d are kept", erased, options.max_dead_letters)
    return buried


def bury_one(connection: sqlite3.Connection, delivery_id: int, error: str, now: float, options: JournalOptions) -> None:
    """Give a delivery up. Raises NotFound."""
    if not bury(connection, [delivery_id], error, now, options):
        raise _unknown(delivery_id)


def bury_stream(connection: sqlite3.Connection, stream_id: str, error: str, now: float, options: JournalOptions) -> None:
    """Give up every delivery of a stream, in order of its events."""
    rows = connection.execute(
        "SELECT id FROM deliveries WHERE lane_key IN (SELECT key FROM lanes WHERE stream_id = ?) ORDER BY id", (stream_id,)
    )
    bury(connection, [row[0] for row in rows], error, now, options)
    connection.execute("DELETE FROM lanes WHERE stream_id = ?", (stream_id,))


def dead_letters(connection: sqlite3.Connection, after: int, limit: int) -> list[DeadLetter]:
    """Deliveries that were given up, by id."""
    rows = connection.execute(
        """
        SELECT d.id, d.stream_id, d.sink_key, d.attempts, d.error, d.died_at, e.body, e.cursor
        FROM dead_letters d JOIN events e ON e.cursor = d.cursor WHERE d.id > ? ORDER BY d.id LIMIT ?
        """,
        (after, limit),
    )
    return [DeadLetter(row[0], Lane(row[1], row[2]), read_event(row[6], row[7]), *row[3:6]) for row in rows]


def replay(connection: sqlite3.Connection, letter_ids: Sequence[int], now: float, options: JournalOptions) -> int:
    """Queue dead letters again, in order of their events. Raises Conflict if one is of a removed stream."""
    ids = json.dumps(sorted(set(letter_ids)))
    rows = connection.execute(
        """
        SELECT d.stream_id, d.sink_key, d.cursor, s.key IS NULL FROM dead_letters d LEFT JOIN streams s ON s.id = d.stream_id
        WHERE d.id IN (SELECT value FROM json_each(?)) ORDER BY d.cursor, d.id
        """,
        (ids,),
    ).fetchall()
    for stream_id, _, _, removed in rows:
        if removed:
            raise Conflict(f"stream {stream_id!r} was removed: its dead letters have nowhere to go", code="stream_removed")
    connection.execute("DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(?))", (ids,))
    cursors: dict[Lane, list[int]] = {}
    for stream_id, sink_key, cursor, _ in rows:
        cursors.setdefault(Lane(stream_id, sink_key), []).append(cursor)
    for lane, waiting in cursors.items():
        queue(connection, lane, waiting, now, options)
    return len(rows)


def discard(connection: sqlite3.Connection, letter_ids: Sequence[int]) -> int:
    """Erase dead letters. Returns how many there were."""
    ids = json.dumps(list(letter_ids))
    return connection.execute("DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(?))", (ids,)).rowcount


def _unknown(delivery_id: int) -> NotFound:
    return NotFound(f"no delivery {delivery_id} is waiting")
