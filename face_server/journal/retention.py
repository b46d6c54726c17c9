"""Erasing what a journal need not keep."""

from __future__ import annotations

import logging
import sqlite3

from face_server.journal.options import JournalOptions

_DAY_S = 86_400.0
AT_ONCE = 32

_WAITS = "EXISTS (SELECT 1 FROM deliveries d WHERE d.cursor = e.cursor)"
_DIED = "EXISTS (SELECT 1 FROM dead_letters l WHERE l.cursor = e.cursor)"
_PICTURED = "EXISTS (SELECT 1 FROM picture_uses u JOIN pictures p ON p.id = u.picture_id WHERE u.cursor = e.cursor)"
# What to erase first where room is needed: what nobody waits for, then dead letters, then what still waits.
_IN_TURN = (f"NOT {_WAITS} AND NOT {_DIED}", f"NOT {_WAITS}", "TRUE")

_log = logging.getLogger(__name__)


def erase_some(connection: sqlite3.Connection, now: float, options: JournalOptions) -> int:
    """Erase a few of the events beyond the bounds, the oldest first. Returns how many; less than ``AT_ONCE`` when all is within them now.

    What is too old goes in any case; beyond number and bytes events that wait for delivery go last.
    """
    erased = undelivered = 0
    if options.retention_days > 0:
        oldest = now - options.retention_days * _DAY_S
        rows = connection.execute("SELECT cursor FROM events WHERE at < ? ORDER BY at LIMIT ?", (oldest, AT_ONCE)).fetchall()
        undelivered += sum(_erase(connection, cursor) for (cursor,) in rows)
        erased += len(rows)
    for turn in _IN_TURN:
        while erased < AT_ONCE and (useful := _what_makes_room(connection, options)):
            # Texts of this file only.
            query = f"SELECT cursor FROM events e WHERE {turn} AND {useful} ORDER BY cursor LIMIT ?"  # noqa: S608
            rows = connection.execute(query, (AT_ONCE - erased,)).fetchall()
            if not rows:
                break
            for (cursor,) in rows:
                if _what_makes_room(connection, options) == useful:
                    undelivered += _erase(connection, cursor)
                    erased += 1
    if undelivered:
        _log.warning("%d deliveries were erased with their events: the journal is beyond its bounds", undelivered)
    return erased


def is_far_beyond(connection: sqlite3.Connection, options: JournalOptions) -> bool:
    """Whether number or bytes are beyond their bounds by more than a twentieth."""
    events, picture_bytes = _totals(connection)
    return events > options.max_events * 1.05 or picture_bytes > options.max_picture_bytes * 1.05


def forget_empty_lanes(connection: sqlite3.Connection) -> None:
    """Forget lanes in which nothing waits; they begin anew when something does."""
    connection.execute("DELETE FROM lanes WHERE pending = 0")


def _what_makes_room(connection: sqlite3.Connection, options: JournalOptions) -> str:
    """Which events to erase for number or bytes to be within their bounds, as a condition; empty if they are."""
    events, picture_bytes = _totals(connection)
    if events > options.max_events:
        return "TRUE"
    return _PICTURED if picture_bytes > options.max_picture_bytes else ""


def _totals(connection: sqlite3.Connection) -> tuple[int, int]:
    events, picture_bytes = connection.execute("SELECT events, picture_bytes FROM totals").fetchone()
    return events, picture_bytes


def _erase(connection: sqlite3.Connection, cursor: int) -> int:
    """Erase an event and the pictures that no other refers to. Returns how many deliveries waited for it."""
    (waiting,) = connection.execute("SELECT COUNT(*) FROM deliveries WHERE cursor = ?", (cursor,)).fetchone()
    used = connection.execute("SELECT picture_id FROM picture_uses WHERE cursor = ?", (cursor,)).fetchall()
    connection.execute("DELETE FROM events WHERE cursor = ?", (cursor,))
    unused = "DELETE FROM pictures WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM picture_uses WHERE picture_id = ?1)"
    connection.executemany(unused, used)
    return int(waiting)
