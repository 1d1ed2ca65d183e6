"""The SQLite file in EMBED_HOME: schema, connections, transactions, and errors.

The modules beside it read and write the tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from embed_assets.errors import ConfigurationError, TransientError

SCHEMA_VERSION = 10

_SCHEMA = """
CREATE TABLE IF NOT EXISTS folders (
    folder_id TEXT PRIMARY KEY, path BLOB NOT NULL, digest TEXT, scan TEXT, scanned_at REAL,
    ctimes INTEGER, useless_reads INTEGER NOT NULL DEFAULT 0,
    useless_read_at REAL NOT NULL DEFAULT 0,
    revision INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tracks (
    track_id TEXT PRIMARY KEY, folder_id TEXT NOT NULL, path BLOB NOT NULL,
    size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER NOT NULL DEFAULT -1,
    audio_hash TEXT, reason TEXT, message TEXT, duration REAL, container TEXT, codec TEXT,
    sample_rate INTEGER, channels INTEGER, bit_rate INTEGER, title TEXT, artist TEXT, album TEXT,
    album_artist TEXT, genre TEXT, year INTEGER, track_number INTEGER, disc_number INTEGER,
    recording_id TEXT, scan TEXT NOT NULL, seen_at REAL, release_id TEXT NOT NULL DEFAULT '',
    artist_id TEXT NOT NULL DEFAULT '', added_at REAL NOT NULL DEFAULT 0,
    probed INTEGER NOT NULL DEFAULT 1, run_id TEXT NOT NULL DEFAULT '',
    retry INTEGER NOT NULL DEFAULT 0, decoder TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tracks_by_folder ON tracks (folder_id);
CREATE INDEX IF NOT EXISTS tracks_by_audio ON tracks (audio_hash);
CREATE INDEX IF NOT EXISTS tracks_by_path ON tracks (path);
CREATE TABLE IF NOT EXISTS embeddings (
    recipe TEXT, audio_hash TEXT, windows INTEGER, decoded_seconds REAL, note TEXT,
    reason TEXT, message TEXT, engine TEXT, device TEXT, dtype TEXT, run_id TEXT, at REAL,
    PRIMARY KEY (recipe, audio_hash)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS embeddings_by_time ON embeddings (recipe, at);
CREATE TABLE IF NOT EXISTS indexed (
    collection_key TEXT, folder_id TEXT, version TEXT, rows INTEGER, at REAL,
    revision INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (collection_key, folder_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS indexed_by_folder ON indexed (folder_id);
CREATE TABLE IF NOT EXISTS failures (
    folder_id TEXT PRIMARY KEY, path BLOB NOT NULL, stage TEXT, message TEXT, at REAL, run_id TEXT,
    shared INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retry_requests (
    folder_id TEXT PRIMARY KEY, path BLOB NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gone_audio (
    audio_hash TEXT PRIMARY KEY, added_at REAL NOT NULL, gone_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS collections (
    uri TEXT, name TEXT, spec TEXT, made_at REAL, gates TEXT, gates_at REAL, fingerprint TEXT,
    PRIMARY KEY (uri, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rankings (
    collection_key TEXT PRIMARY KEY, method TEXT NOT NULL, at REAL NOT NULL, why TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS served (
    id INTEGER PRIMARY KEY, uri TEXT, at REAL, name TEXT, before TEXT, reason TEXT,
    wanted TEXT
);
CREATE TABLE IF NOT EXISTS looks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, requested_at REAL NOT NULL, begun_at REAL, done_at REAL
);
"""

_ADDED = {
    "tracks": {
        "release_id": "TEXT NOT NULL DEFAULT ''",
        "artist_id": "TEXT NOT NULL DEFAULT ''",
        "added_at": "REAL NOT NULL DEFAULT 0",
        "probed": "INTEGER NOT NULL DEFAULT 1",
        "run_id": "TEXT NOT NULL DEFAULT ''",
        "ctime_ns": "INTEGER NOT NULL DEFAULT -1",
        "retry": "INTEGER NOT NULL DEFAULT 0",
        "decoder": "TEXT NOT NULL DEFAULT ''",
    },
    "folders": {
        "ctimes": "INTEGER",
        "useless_reads": "INTEGER NOT NULL DEFAULT 0",
        "useless_read_at": "REAL NOT NULL DEFAULT 0",
        "revision": "INTEGER NOT NULL DEFAULT 0",
    },
    "indexed": {"revision": "INTEGER NOT NULL DEFAULT 0"},
}
"""Columns that files of older versions may lack."""

_RENAMED: tuple[tuple[str, dict[str, str], str], ...] = (
    ("asked", {}, "retry_requests"),
    ("folders", {"vain": "useless_reads", "vain_at": "useless_read_at"}, "folders"),
    ("tracks", {"again": "retry"}, "tracks"),
    ("indexed", {"place": "collection_key"}, "indexed"),
    ("collections", {"address": "uri", "stamp": "fingerprint"}, "collections"),
    ("served", {"address": "uri"}, "served"),
)
"""(table in schema 7, old name -> new name of its columns, new name of the table)."""

NEW_REVISION = "UPDATE folders SET revision = revision + 1 WHERE folder_id"
"""Raise the revision of folders, so that they are indexed again in every collection.

Searches return the old rows until then.
"""


IS_CURRENT = (
    "coalesce(i.revision = f.revision AND f.digest IS NOT NULL"
    " AND (substr(i.version, 1, length(f.digest) + 1) = f.digest || '.' OR (i.version = 'empty'"
    " AND NOT EXISTS (SELECT 1 FROM tracks own WHERE own.folder_id = f.folder_id))), 0)"
)
"""Condition on folders f and indexed i: the folder is indexed with its current files and rows."""


class Database:
    """One SQLite file; every method opens its own connection. Without a path: an empty database."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    @contextmanager
    def connect(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A connection in autocommit mode; creates or upgrades the schema if necessary.

        With `durable=False`, what is written survives the death of this process, but survives a
        power loss only after a later durable write. Transactions stay atomic.

        Raises:
            TransientError: the file cannot be opened or written (disk full, locked, I/O error).
            ConfigurationError: the file was written by a newer version.
        """
        try:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            path = self.path or ":memory:"
            with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
                # Dagster reports a committed folder as done, so it must survive a power loss.
                db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version < SCHEMA_VERSION:
                    _upgrade(db, version)
                elif version != SCHEMA_VERSION:
                    raise ConfigurationError(
                        f"{self.path} has schema {version}, but this version of embed_assets needs"
                        f" {SCHEMA_VERSION}: use the version that wrote it, or another EMBED_HOME"
                    )
                yield db
        except (sqlite3.OperationalError, OSError) as e:
            raise TransientError(
                f"the tables in {self.path} cannot be used: {e}; is the disk full, or read-only?"
            ) from e
        except sqlite3.DatabaseError as e:
            raise ConfigurationError(
                f"{self.path} is damaged ({e}): move it away and run `embed-assets sync`;"
                " stored vectors are found again, and nothing is embedded twice"
            ) from e

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A connection inside a write transaction; it is rolled back on an exception."""
        with self.connect(durable=durable) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _upgrade(db: sqlite3.Connection, version: int) -> None:
    """Create the schema, or upgrade that of an older version, without losing data."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("BEGIN IMMEDIATE")
    try:
        for table, columns, new_name in _RENAMED:
            there = _columns(db, table)
            for old in there & columns.keys():
                db.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {columns[old]}")
            if there and new_name != table:
                db.execute(f"ALTER TABLE {table} RENAME TO {new_name}")
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        for table, columns in _ADDED.items():
            there = _columns(db, table)
            for name, kind in columns.items():
                if name not in there:
                    db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
        if version < 7:
            _upgrade_data(db)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _upgrade_data(db: sqlite3.Connection) -> None:
    """Convert the data of versions before 7."""
    db.execute("UPDATE tracks SET added_at = coalesce(seen_at, 0) WHERE added_at = 0")
    # The probe reads more tags now (records.PROBE_VERSION), so these files are read once more.
    db.execute(f"{NEW_REVISION} IN (SELECT folder_id FROM tracks WHERE probed < 3)")
    # In schema 6 a request alone made its folder due.
    db.execute(f"{NEW_REVISION} IN (SELECT folder_id FROM retry_requests)")
    db.execute(f"{NEW_REVISION} IN (SELECT folder_id FROM tracks WHERE retry)")
    # Schema 6 marked folders to be indexed again with the prefix `stale.`.
    old = "FROM indexed WHERE version LIKE 'stale.%'"
    db.execute(f"{NEW_REVISION} IN (SELECT folder_id {old})")
    db.execute("UPDATE indexed SET version = substr(version, 7) WHERE version LIKE 'stale.%'")


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
