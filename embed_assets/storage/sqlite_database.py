"""The tables in a SQLite file: connections, transactions, upgrades from older versions."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.storage import schema
from embed_assets.storage.database import NEW_REVISION, Connection

WAIT_SECONDS = 60.0
"""How long to wait while another process writes."""

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


class _Connection(sqlite3.Connection):
    # A cursor of SQLite reads a row when it is asked for one.
    stream = sqlite3.Connection.execute


class SqliteDatabase:
    """A SQLite file; each connection is a new one. Without a path: an empty database in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    @property
    def place(self) -> str:
        """See `Database.place`."""
        return str(self.path and self.path.resolve())

    @contextmanager
    def connect(self, *, durable: bool = True) -> Iterator[Connection]:
        """See `Database.connect`."""
        try:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(_open(self.path)) as db:
                # Dagster reports a committed folder as done, so it must survive a power loss.
                db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version < schema.VERSION:
                    _upgrade(db)
                elif version != schema.VERSION:
                    raise ConfigurationError(
                        f"{self.path} has schema {version}, but this version of embed_assets needs"
                        f" {schema.VERSION}: use the version that wrote it, or another EMBED_HOME"
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
    def transaction(self, *, durable: bool = True) -> Iterator[Connection]:
        """See `Database.transaction`."""
        with self.connect(durable=durable) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def snapshot(self) -> AbstractContextManager[Connection]:
        """See `Database.snapshot`; nobody writes meanwhile."""
        return self.transaction()

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """See `Database.lock`: a file beside the tables."""
        if self.path is None:
            yield
            return
        from filelock import FileLock

        held = FileLock(self.path.with_name(f"{self.path.name}.{name}.lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            held.acquire()
        except OSError as e:
            raise TransientError(
                f"the lock {held.lock_file} cannot be taken: {e}; is the disk full, or read-only?"
            ) from e
        try:
            yield
        finally:
            held.release()

    def exists(self) -> bool:
        """See `Database.exists`. Raises OSError if the folder cannot be read."""
        return self.path is not None and self.path.exists()

    def revision(self) -> object:
        """See `Database.revision`: sizes and times of the files, which each commit changes."""
        found: list[tuple[int, int] | None] = []
        for name in (f"{self.path}", f"{self.path}-wal"):
            try:
                stat = os.stat(name)
                found.append((stat.st_size, stat.st_mtime_ns))
            except OSError:
                found.append(None)
        return found

    def note_change(self, db: Connection) -> None:
        """See `Database.note_change`: committing suffices."""

    def continue_numbers(self, db: Connection) -> None:
        """See `Database.continue_numbers`: SQLite does so by itself."""


def _open(path: Path | None) -> _Connection:
    """The file, for reading only if its disk is full or read-only, so that queries are answered."""
    db = sqlite3.connect(
        path or ":memory:", timeout=WAIT_SECONDS, isolation_level=None, factory=_Connection
    )
    try:
        db.execute("PRAGMA user_version")
    except sqlite3.OperationalError:
        db.close()
        if path is None or not path.exists() or _has_log(path):
            raise
        # SQLite has to write its lock file. Without a log, nobody writes to the database.
        address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        db = sqlite3.connect(address, uri=True, isolation_level=None, factory=_Connection)
    return db


def _has_log(path: Path) -> bool:
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


def _upgrade(db: sqlite3.Connection) -> None:
    """Create the schema, or upgrade that of an older version, without losing data."""
    _switch_to_log(db)
    db.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have done it meanwhile.
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version < schema.VERSION:
            _upgrade_tables(db)
            if version < 7:
                _upgrade_data(db)
            db.execute(f"PRAGMA user_version = {schema.VERSION}")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _switch_to_log(db: sqlite3.Connection) -> None:
    """Have the file keep a write-ahead log; SQLite itself does not wait for others to do this."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as e:
            if e.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _upgrade_tables(db: sqlite3.Connection) -> None:
    """Make the tables, or change those of an older version."""
    for table, columns, new_name in _RENAMED:
        there = _columns(db, table)
        for old in there & columns.keys():
            db.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {columns[old]}")
        if there and new_name != table:
            db.execute(f"ALTER TABLE {table} RENAME TO {new_name}")
    for statement in schema.sqlite_tables():
        db.execute(statement)
    for table, columns in _ADDED.items():
        there = _columns(db, table)
        for name, kind in columns.items():
            if name not in there:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")


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
