"""`servers.sqlite` in EMBED_HOME: the items of music servers, and which track each one is.

It is made of what the servers and the tables say, and may be deleted at any time.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from embed_assets.errors import TransientError
from embed_assets.identity import TrackId
from embed_assets.servers.base import Item
from embed_assets.servers.matching import HOW, Ours, Prefix
from embed_assets.words import name_key

FILE = "servers.sqlite"
VERSION = 1

MATCHED_AT_ONCE = 1_000
"""Items that are matched between two writes."""

READ_SECONDS, WRITE_SECONDS = 2.0, 30.0
"""How long to wait for another process that holds the file; a query waits for the first."""

ITEM_COLUMNS = tuple(f.name for f in fields(Item) if f.name != "artists")
_ITEM = ", ".join(ITEM_COLUMNS)
_MATCHED = "server, artists, track_id, how"
_ALL = f"{_ITEM}, {_MATCHED}"

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS items (
    {_ITEM}, {_MATCHED}, PRIMARY KEY (server, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_by_track ON items (track_id);
CREATE TABLE IF NOT EXISTS artists (
    server TEXT, id TEXT, name TEXT, key TEXT, PRIMARY KEY (server, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS artists_by_key ON artists (key);
CREATE TABLE IF NOT EXISTS servers (
    name TEXT PRIMARY KEY, listed_at REAL, scan_state TEXT, prefixes TEXT, problem TEXT
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Listing:
    """What is known of a server.

    `items`: its tracks; `mapped`: those of them that are tracks of ours. `listed_at`: when all were
    listed last, in seconds since 1970. `problem`: why the last attempt failed, or its result was
    not taken; empty if it was.
    """

    items: int = 0
    mapped: int = 0
    listed_at: float | None = None
    scan_state: str = ""
    prefixes: tuple[Prefix, ...] = ()
    problem: str = ""

    @property
    def unmatched(self) -> int:
        """Tracks of the server that are none of ours, or fit several."""
        return self.items - self.mapped


class SideTable:
    """The ids of music servers in one EMBED_HOME; every method opens its own connection."""

    def __init__(self, home: Path) -> None:
        self.path = home / FILE

    def replace(self, server: str, items: Iterable[Item], ours: Ours, scan_state: str) -> Listing:
        """Take over all items of a server, and match each.

        If less than half of the tracks that were mapped and still exist would be mapped, nothing is
        taken over, since the server may have lost a disk; `problem` says so.
        """
        with self._connect(WRITE_SECONDS) as db:
            # Others may read and write meanwhile: a temporary table is this connection's own.
            db.execute(f"CREATE TEMP TABLE new ({_ITEM}, {_MATCHED}, PRIMARY KEY (server, id))")
            marks = ", ".join("?" * (len(ITEM_COLUMNS) + 4))
            db.execute("BEGIN")
            db.executemany(
                f"INSERT OR REPLACE INTO new ({_ALL}) VALUES ({marks})",
                (_item_row(server, item) for item in items if item.id),
            )
            db.execute("COMMIT")
            prefixes = ours.prefixes(_items(db, "SELECT {} FROM new"))
            _match(db, "new", server, ours, prefixes)
            mapped = "SELECT DISTINCT track_id FROM {} WHERE server = ? AND track_id != ''"
            before = sum(ours.has(t) for (t,) in db.execute(mapped.format("items"), (server,)))
            there = len(db.execute(mapped.format("new"), (server,)).fetchall())
            if 2 * there >= before:
                db.execute("BEGIN IMMEDIATE")
                db.execute("DELETE FROM items WHERE server = ?", (server,))
                db.execute("DELETE FROM artists WHERE server = ?", (server,))
                db.execute(f"INSERT INTO items ({_ALL}) SELECT {_ALL} FROM new")
                every = "SELECT DISTINCT artists FROM items WHERE server = ?"
                _put_artists(db, server, [a for (a,) in db.execute(every, (server,))])
                db.execute(
                    "INSERT OR REPLACE INTO servers VALUES (?, ?, ?, ?, '')",
                    (server, time.time(), scan_state, json.dumps(prefixes)),
                )
                db.execute("COMMIT")
        if 2 * there < before:
            self.note(
                server,
                f"its list has {there} of our tracks instead of {before}, so the ids of before are"
                f" kept: is its disk mounted? If the list is right, delete {self.path}",
            )
        return self.listing(server)

    def match_again(self, server: str, ours: Ours) -> None:
        """Match what is not mapped, or is mapped to tracks that the library no longer has."""
        listing = self.listing(server)
        with self._connect(WRITE_SECONDS) as db:
            _match(db, "items", server, ours, listing.prefixes, only_open=True)

    def put(self, server: str, item: Item, ours: Ours) -> TrackId | None:
        """Take over one item that was not known; returns the track that it is."""
        found = ours.find(item, self.listing(server).prefixes)
        track, how = (found[0], HOW.index(found[1])) if found else (TrackId(""), None)
        row = (*_item_row(server, item)[:-2], track, how)
        marks = ", ".join("?" * len(row))
        with self._connect(WRITE_SECONDS) as db:
            db.execute(f"INSERT OR REPLACE INTO items ({_ALL}) VALUES ({marks})", row)
            _put_artists(db, server, [json.dumps(item.artists)])
        return track or None

    def note(self, server: str, problem: str) -> None:
        """Remember why a server could not be listed, or that it can be."""
        with self._connect(WRITE_SECONDS) as db:
            db.execute(
                "INSERT INTO servers (name, problem) VALUES (?, ?) ON CONFLICT (name)"
                " DO UPDATE SET problem = excluded.problem",
                (server, problem),
            )

    def track_of(self, server: str, item_id: str) -> TrackId | None:
        """The track that an item is: empty if it is none of ours, None for an unknown item."""
        with self._connect() as db:
            sql = "SELECT track_id FROM items WHERE server = ? AND id = ?"
            row = db.execute(sql, (server, item_id)).fetchone()
        return TrackId(row[0]) if row else None

    def ids_of(self, track_ids: Iterable[str]) -> dict[str, dict[str, str]]:
        """Track id -> name of a server -> its id; of several ids the one with the best match."""
        found: dict[str, dict[str, str]] = {}
        with self._connect() as db:
            for track in track_ids:
                rows = db.execute(
                    "SELECT server, id FROM items WHERE track_id = ? ORDER BY how DESC, id DESC",
                    (track,),
                )
                if ids := dict(rows):
                    found[track] = ids
        return found

    def artist_name(self, server: str, artist_id: str) -> str | None:
        """The name of a server's artist."""
        with self._connect() as db:
            sql = "SELECT name FROM artists WHERE server = ? AND id = ?"
            row = db.execute(sql, (server, artist_id)).fetchone()
        return row[0] if row else None

    def artist_id(self, server: str, name: str) -> str:
        """The server's id of an artist; empty if it has none of this name."""
        with self._connect() as db:
            sql = "SELECT id FROM artists WHERE key = ? AND server = ? ORDER BY id LIMIT 1"
            row = db.execute(sql, (name_key(name), server)).fetchone()
        return row[0] if row else ""

    def listing(self, server: str) -> Listing:
        """What is known of a server."""
        with self._connect() as db:
            items, mapped = db.execute(
                "SELECT count(*), count(CASE WHEN track_id != '' THEN 1 END) FROM items"
                " WHERE server = ?",
                (server,),
            ).fetchone()
            sql = "SELECT listed_at, scan_state, prefixes, problem FROM servers WHERE name = ?"
            row = db.execute(sql, (server,)).fetchone() or (None, "", None, "")
        listed_at, scan_state, prefixes, problem = row
        known = tuple(Prefix(*pair) for pair in json.loads(prefixes or "[]"))
        return Listing(items, mapped, listed_at, scan_state or "", known, problem or "")

    def unmatched(self, server: str, n: int) -> list[Item]:
        """Some of the items that are none of our tracks, by path and title."""
        sql = "SELECT {} FROM items WHERE server = ? AND track_id = '' ORDER BY path, title LIMIT ?"
        with self._connect() as db:
            return list(_items(db, sql, (server, n)))

    @contextmanager
    def _connect(self, seconds: float = READ_SECONDS) -> Iterator[sqlite3.Connection]:
        try:
            with closing(_open(self.path, seconds)) as db:
                yield db
        except sqlite3.OperationalError as e:
            raise TransientError(f"{self.path} cannot be used: {e}") from e
        except sqlite3.DatabaseError as e:
            for end in ("", "-wal", "-shm"):
                Path(f"{self.path}{end}").unlink(missing_ok=True)
            raise TransientError(
                f"{self.path} was damaged ({e}) and is deleted; it is made anew of what the music"
                " servers say"
            ) from e
        except OSError as e:
            raise TransientError(f"{self.path} cannot be used: {e}") from e


def _open(path: Path, seconds: float) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=seconds, isolation_level=None)
    try:
        if _version(db) != VERSION:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN IMMEDIATE")
            # Another process may have made it meanwhile.
            if _version(db) != VERSION:
                for table in ("items", "artists", "servers"):
                    db.execute(f"DROP TABLE IF EXISTS {table}")
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
            db.execute("COMMIT")
        db.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


def _item_row(server: str, item: Item) -> tuple[object, ...]:
    *values, artists = astuple(item)
    return (*values, server, json.dumps(artists), "", None)


def _items(db: sqlite3.Connection, sql: str, values: Sequence[object] = ()) -> Iterator[Item]:
    return (Item(*row) for row in db.execute(sql.format(_ITEM), values))


def _match(
    db: sqlite3.Connection,
    table: str,
    server: str,
    ours: Ours,
    prefixes: Sequence[Prefix],
    *,
    only_open: bool = False,
) -> None:
    """Match each row of a table, in pages; `only_open`: those without a track of the library."""
    page = f"SELECT {_ITEM}, track_id FROM {table} WHERE server = ? AND id > ? ORDER BY id LIMIT ?"
    last = ""
    while rows := db.execute(page, (server, last, MATCHED_AT_ONCE)).fetchall():
        last = rows[-1][0]
        changed = []
        for *values, known in rows:
            if only_open and known and ours.has(known):
                continue
            track, how = ours.find(Item(*values), prefixes) or ("", None)
            changed.append((track, HOW.index(how) if how else None, server, values[0]))
        db.execute("BEGIN")
        db.executemany(
            f"UPDATE {table} SET track_id = ?, how = ? WHERE server = ? AND id = ?", changed
        )
        db.execute("COMMIT")


def _put_artists(db: sqlite3.Connection, server: str, lists: Iterable[str]) -> None:
    pairs = {i: name for text in lists for i, name in json.loads(text)}
    db.executemany(
        "INSERT OR REPLACE INTO artists VALUES (?, ?, ?, ?)",
        ((server, i, name, name_key(name)) for i, name in pairs.items()),
    )
