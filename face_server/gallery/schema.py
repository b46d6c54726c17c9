"""The tables of a gallery file."""

from __future__ import annotations

from face_server.sqlite_file import Schema

# Keys of AUTOINCREMENT are never used twice: an index knows a template or person by key for good.
# ``templates`` holds vectors inline, so that loading an index is one pass over one table; crops,
# which are larger, lie apart. ``touched`` names the people that each revision of a collection
# changed, so that an index can follow without loading everything.
_VERSION_1 = (
    """
    CREATE TABLE collections (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        model TEXT NOT NULL,
        threshold REAL,
        margin REAL NOT NULL,
        target_fpir REAL NOT NULL,
        keep_crops INTEGER NOT NULL,
        created_at REAL NOT NULL,
        identities INTEGER NOT NULL DEFAULT 0,
        templates INTEGER NOT NULL DEFAULT 0,
        revision INTEGER NOT NULL DEFAULT 0
    )
    """,
    """
    CREATE TABLE identities (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        collection_key INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        metadata TEXT NOT NULL,
        created_at REAL NOT NULL,
        templates INTEGER NOT NULL DEFAULT 0,
        UNIQUE (collection_key, id)
    )
    """,
    "CREATE INDEX identities_by_name ON identities (collection_key, name, id)",
    """
    CREATE TABLE templates (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        collection_key INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
        identity_key INTEGER NOT NULL REFERENCES identities ON DELETE CASCADE,
        id TEXT NOT NULL,
        quality REAL NOT NULL,
        created_at REAL NOT NULL,
        source TEXT NOT NULL,
        image_digest TEXT NOT NULL,
        norm REAL NOT NULL,
        vector BLOB NOT NULL,
        has_crop INTEGER NOT NULL,
        UNIQUE (collection_key, id)
    )
    """,
    "CREATE INDEX templates_by_identity ON templates (identity_key)",
    "CREATE INDEX templates_by_image ON templates (collection_key, image_digest) WHERE image_digest <> ''",
    """
    CREATE TABLE crops (
        template_key INTEGER PRIMARY KEY REFERENCES templates ON DELETE CASCADE,
        jpeg BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE touched (
        collection_key INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
        revision INTEGER NOT NULL,
        identity_key INTEGER NOT NULL,
        PRIMARY KEY (collection_key, revision, identity_key)
    ) WITHOUT ROWID
    """,
)

GALLERY = Schema("a gallery", 0x46534741, (_VERSION_1,))
