"""Events and their pictures: storing, reading, and letting them follow a stranger who got a name."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from face_server.domain.events import Event, EventFilter, Lane
from face_server.errors import NotFound
from face_server.journal import outbox
from face_server.journal.options import JournalOptions
from face_server.journal.records import read_event, write_event
from face_server.journal.references import Rename, pictures_of, strangers_of

_EVERYTHING = EventFilter()
_RENAMED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """An event with its record, made before a transaction begins."""

    event: Event
    body: str


def append(
    connection: sqlite3.Connection,
    entries: Iterable[Entry],
    pictures: Mapping[str, bytes],
    sinks: Mapping[str, Sequence[str]],
    now: float,
    options: JournalOptions,
) -> list[Event]:
    """Store events, the pictures that they refer to, and their deliveries. Those that are stored already stay as they are."""
    stored: list[Event] = []
    lanes: dict[Lane, list[int]] = {}
    for entry in entries:
        event = entry.event
        known = connection.execute("SELECT body, cursor FROM events WHERE id = ?", (event.id,)).fetchone()
        if known is not None:
            stored.append(read_event(*known))
            continue
        cursor = _insert(connection, entry)
        stored.append(replace(event, cursor=cursor))
        for picture_id in pictures_of(event):
            connection.execute("INSERT INTO picture_uses VALUES (?, ?)", (picture_id, cursor))
            if picture_id in pictures:
                jpeg = pictures[picture_id]
                connection.execute("INSERT OR IGNORE INTO pictures (id, size, jpeg) VALUES (?, ?, ?)", (picture_id, len(jpeg), jpeg))
        for sink_key in dict.fromkeys(sinks.get(event.id, ())):
            lanes.setdefault(Lane(event.stream_id, sink_key), []).append(cursor)
    for lane, cursors in lanes.items():
        outbox.queue(connection, lane, cursors, now, options)
    return stored


def _insert(connection: sqlite3.Connection, entry: Entry) -> int:
    event, who = entry.event, entry.event.who
    (cursor,) = connection.execute(
        "INSERT INTO events (id, stream_id, kind, at, identity_id, stranger_id, body) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING cursor",
        (event.id, event.stream_id, event.kind, event.at, who.identity_id if who else "", who.stranger_id if who else "", entry.body),
    ).fetchone()
    _mention(connection, event, cursor)
    return int(cursor)


def _mention(connection: sqlite3.Connection, event: Event, cursor: int) -> None:
    mentions = [(stranger_id, cursor) for stranger_id in sorted(strangers_of(event))]
    connection.executemany("INSERT OR IGNORE INTO mentions VALUES (?, ?)", mentions)


def page(connection: sqlite3.Connection, after: int, before: int | None, limit: int, where: EventFilter | None) -> list[Event]:
    """Events that pass a filter, oldest first; with ``before`` those below it, newest first."""
    conditions, values = _conditions(where or _EVERYTHING)
    conditions.append("cursor > ?")
    values.append(after)
    if before is not None:
        conditions.append("cursor < ?")
        values.append(before)
    order = "ASC" if before is None else "DESC"
    rows = connection.execute(
        f"SELECT body, cursor FROM events WHERE {' AND '.join(conditions)} ORDER BY cursor {order} LIMIT ?",  # noqa: S608 - texts of this file
        (*values, limit),
    )
    return [read_event(*row) for row in rows]


def _conditions(where: EventFilter) -> tuple[list[str], list[object]]:
    """The filter in SQL. The index of the most telling field is used; a plus sign keeps others from being tried in its place."""
    conditions: list[str] = []
    values: list[object] = []

    def add(condition: str, *more: object) -> None:
        conditions.append(condition)
        values.extend(more)

    if where.identity_id:
        add("identity_id = ? AND identity_id <> ''", where.identity_id)
    if where.stranger_id:
        add(f"{'+' if conditions else ''}stranger_id = ? AND stranger_id <> ''", where.stranger_id)
    for column, wanted in (("stream_id", where.streams), ("kind", where.kinds)):
        if len(wanted) == 1:
            # An index gives rows of one value in order of cursor; those of several would have to be sorted.
            add(f"{'+' if conditions else ''}{column} = ?", wanted[0])
        elif wanted:
            add(f"+{column} IN (SELECT value FROM json_each(?))", json.dumps(wanted))  # noqa: S608 - texts of this file
    # Events come in nearly, not exactly, in order of time: where to begin is read from the small index of times.
    by_time = "FROM events INDEXED BY events_by_time WHERE at"
    if where.since is not None:
        add(f"cursor >= (SELECT MIN(+cursor) {by_time} >= ?) AND +at >= ?", where.since, where.since)
    if where.until is not None:
        add(f"cursor <= (SELECT MAX(+cursor) {by_time} < ?) AND +at < ?", where.until, where.until)
    return conditions, values


def one(connection: sqlite3.Connection, event_id: str) -> Event:
    """An event. Raises NotFound."""
    row = connection.execute("SELECT body, cursor FROM events WHERE id = ?", (event_id,)).fetchone()
    if row is None:
        raise NotFound(f"no event has the id {event_id[:80]!r}", field="event_id")
    return read_event(*row)


def picture(connection: sqlite3.Connection, picture_id: str) -> bytes:
    """The bytes of a picture. Raises NotFound."""
    row = connection.execute("SELECT jpeg FROM pictures WHERE id = ?", (picture_id,)).fetchone()
    if row is None:
        raise NotFound(f"no picture has the id {picture_id[:80]!r}, or its events were erased", field="picture_id")
    return bytes(row[0])


def begin_rename(connection: sqlite3.Connection, rename: Rename) -> int:
    """Note what to rename among the events until now; ``go_on_renaming`` does it. Returns the key of the note."""
    (key,) = connection.execute(
        """
        INSERT INTO renames (stranger_id, name, collection, identity_id, into_id, done, last)
        VALUES (?, ?, ?, ?, ?, 0, (SELECT IFNULL(MAX(cursor), 0) FROM events)) RETURNING key
        """,
        (rename.stranger_id, rename.name, rename.collection, rename.identity_id, rename.into),
    ).fetchone()
    return int(key)


def unfinished_renames(connection: sqlite3.Connection) -> list[int]:
    """The keys of notes that a process which ended early has left."""
    return [key for (key,) in connection.execute("SELECT key FROM renames ORDER BY key")]


def go_on_renaming(connection: sqlite3.Connection, key: int) -> tuple[int, bool]:
    """Rename in the next hundred events. Returns in how many, and whether that was all."""
    note = connection.execute(
        "SELECT stranger_id, name, collection, identity_id, into_id, done, last FROM renames WHERE key = ?", (key,)
    ).fetchone()
    if note is None:
        return 0, True
    rename, done, last = Rename(*note[:5]), note[5], note[6]
    rows = connection.execute(
        """
        SELECT e.body, e.cursor FROM mentions m JOIN events e ON e.cursor = m.cursor
        WHERE m.stranger_id = ? AND m.cursor > ? AND m.cursor <= ? ORDER BY m.cursor LIMIT ?
        """,
        (rename.stranger_id, done, last, _RENAMED_AT_ONCE),
    ).fetchall()
    for body, cursor in rows:
        _rewrite(connection, read_event(body, cursor), rename)
    if len(rows) < _RENAMED_AT_ONCE:
        connection.execute("DELETE FROM renames WHERE key = ?", (key,))
        return len(rows), True
    connection.execute("UPDATE renames SET done = ? WHERE key = ?", (rows[-1][1], key))
    return len(rows), False


def _rewrite(connection: sqlite3.Connection, event: Event, rename: Rename) -> None:
    event = rename.in_event(event)
    who = event.who
    connection.execute(
        "UPDATE events SET body = ?, identity_id = ?, stranger_id = ? WHERE cursor = ?",
        (write_event(event), who.identity_id if who else "", who.stranger_id if who else "", event.cursor),
    )
    connection.execute("DELETE FROM mentions WHERE stranger_id = ? AND cursor = ?", (rename.stranger_id, event.cursor))
    _mention(connection, event, event.cursor)
