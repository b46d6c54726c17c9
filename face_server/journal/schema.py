"""The tables of a journal file."""

from __future__ import annotations

from face_server.sqlite_file import Schema

# Keys of AUTOINCREMENT are never used twice, so a cursor that somebody remembers stays right.
# The body of an event is one record; its columns are what events are looked up by. ``mentions``
# names every stranger of an event, bystanders too: they follow when somebody gets a name.
# Deliveries and dead letters refer to events, so what they carry follows as well. ``pending`` of
# a lane and ``totals`` are kept by triggers: bounds are checked without counting.
_VERSION_1 = (
    """
    CREATE TABLE seal (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        fingerprint BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE streams (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        spec TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE events (
        cursor INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        stream_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        at REAL NOT NULL,
        identity_id TEXT NOT NULL,
        stranger_id TEXT NOT NULL,
        body TEXT NOT NULL
    )
    """,
    "CREATE INDEX events_by_stream ON events (stream_id)",
    "CREATE INDEX events_by_kind ON events (kind)",
    "CREATE INDEX events_by_time ON events (at)",
    "CREATE INDEX events_by_identity ON events (identity_id) WHERE identity_id <> ''",
    "CREATE INDEX events_by_stranger ON events (stranger_id) WHERE stranger_id <> ''",
    """
    CREATE TABLE mentions (
        stranger_id TEXT NOT NULL,
        cursor INTEGER NOT NULL REFERENCES events ON DELETE CASCADE,
        PRIMARY KEY (stranger_id, cursor)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX mentions_by_event ON mentions (cursor)",
    """
    CREATE TABLE pictures (
        id TEXT PRIMARY KEY,
        size INTEGER NOT NULL,
        jpeg BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE picture_uses (
        picture_id TEXT NOT NULL,
        cursor INTEGER NOT NULL REFERENCES events ON DELETE CASCADE,
        PRIMARY KEY (picture_id, cursor)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX picture_uses_by_event ON picture_uses (cursor)",
    """
    CREATE TABLE lanes (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        stream_id TEXT NOT NULL,
        sink_key TEXT NOT NULL,
        pending INTEGER NOT NULL DEFAULT 0,
        UNIQUE (stream_id, sink_key)
    )
    """,
    """
    CREATE TABLE deliveries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        lane_key INTEGER NOT NULL REFERENCES lanes,
        cursor INTEGER NOT NULL REFERENCES events ON DELETE CASCADE,
        attempts INTEGER NOT NULL DEFAULT 0,
        queued_at REAL NOT NULL,
        last_error TEXT NOT NULL DEFAULT ''
    )
    """,
    "CREATE INDEX deliveries_by_lane ON deliveries (lane_key)",
    "CREATE INDEX deliveries_by_event ON deliveries (cursor)",
    """
    CREATE TABLE dead_letters (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        stream_id TEXT NOT NULL,
        sink_key TEXT NOT NULL,
        cursor INTEGER NOT NULL REFERENCES events ON DELETE CASCADE,
        attempts INTEGER NOT NULL,
        error TEXT NOT NULL,
        died_at REAL NOT NULL
    )
    """,
    "CREATE INDEX dead_letters_by_event ON dead_letters (cursor)",
    """
    CREATE TABLE renames (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        stranger_id TEXT NOT NULL,
        name TEXT NOT NULL,
        collection TEXT NOT NULL,
        identity_id TEXT NOT NULL,
        into_id TEXT NOT NULL,
        done INTEGER NOT NULL,
        last INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE totals (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        events INTEGER NOT NULL,
        picture_bytes INTEGER NOT NULL
    )
    """,
    "INSERT INTO totals VALUES (1, 0, 0)",
    "CREATE TRIGGER event_added AFTER INSERT ON events BEGIN UPDATE totals SET events = events + 1; END",
    "CREATE TRIGGER event_erased AFTER DELETE ON events BEGIN UPDATE totals SET events = events - 1; END",
    "CREATE TRIGGER picture_added AFTER INSERT ON pictures BEGIN UPDATE totals SET picture_bytes = picture_bytes + NEW.size; END",
    "CREATE TRIGGER picture_erased AFTER DELETE ON pictures BEGIN UPDATE totals SET picture_bytes = picture_bytes - OLD.size; END",
    """
    CREATE TRIGGER delivery_added AFTER INSERT ON deliveries
    BEGIN UPDATE lanes SET pending = pending + 1 WHERE key = NEW.lane_key; END
    """,
    """
    CREATE TRIGGER delivery_gone AFTER DELETE ON deliveries
    BEGIN UPDATE lanes SET pending = pending - 1 WHERE key = OLD.lane_key; END
    """,
)

JOURNAL = Schema("a journal", 0x46534A4C, (_VERSION_1,))
