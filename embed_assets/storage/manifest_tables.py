"""The tables of the manifest: folders and their tracks, as scans write them.

A scan of a folder is `begin_scan`, `put_tracks` and `keep_tracks` for its files, and `finish_scan`.
If another scan of the same folder begins meanwhile, the earlier one raises FolderChanged.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import astuple, replace
from pathlib import Path

from embed_assets.errors import FolderChanged
from embed_assets.identity import FolderId, RecipeDigest, TrackId
from embed_assets.storage.database import NEW_REVISION, Connection, Database, replace_row
from embed_assets.storage.records import (
    PROBE_VERSION,
    TRACK_COLUMNS,
    TRACK_SELECT,
    FileStat,
    FolderTotals,
    Track,
)
from embed_assets.storage.sqlite_database import SqliteDatabase

ANOTHER_SCAN = "another run is scanning this folder; it will be retried"

_ADDED_AT = """SELECT min(added_at) FROM (
    SELECT added_at FROM tracks WHERE track_id = :track
    UNION ALL SELECT added_at FROM tracks WHERE audio_hash = :audio
    UNION ALL SELECT added_at FROM gone_audio WHERE audio_hash = :audio) known"""

_REMEMBER_AUDIO = """INSERT INTO gone_audio
    SELECT t.audio_hash, min(t.added_at), :now FROM tracks t WHERE {t} AND t.audio_hash IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM tracks o WHERE o.audio_hash = t.audio_hash AND NOT ({o}))
    GROUP BY t.audio_hash ON CONFLICT (audio_hash) DO UPDATE
    SET gone_at = excluded.gone_at, added_at = CASE WHEN excluded.added_at < gone_audio.added_at
    THEN excluded.added_at ELSE gone_audio.added_at END"""

_PUT_TRACK = replace_row(
    "tracks", (*TRACK_COLUMNS, "scan", "seen_at", "probed", "retry"), key=("track_id",)
)


class ManifestTables:
    """The tables `folders`, `tracks` and `gone_audio` of a database.

    A path is that of a SQLite file; without one, there is an empty database.
    """

    def __init__(self, database: Database | Path | None) -> None:
        if database is None or isinstance(database, Path):
            database = SqliteDatabase(database)
        self.database: Database = database

    def connect(self, *, durable: bool = True) -> AbstractContextManager[Connection]:
        """See `Database.connect`."""
        return self.database.connect(durable=durable)

    def transaction(self, *, durable: bool = True) -> AbstractContextManager[Connection]:
        """See `Database.transaction`."""
        return self.database.transaction(durable=durable)

    def begin_scan(self, folder: FolderId, path: bytes, scan: str) -> None:
        """Mark the rows of a folder as incomplete until `finish_scan`.

        Not durable until then: after a power loss before it the folder is as it was.
        """
        with self.transaction(durable=False) as db:
            db.execute(
                "INSERT INTO folders (folder_id, path, digest, scan) VALUES (?, ?, NULL, ?)"
                " ON CONFLICT (folder_id) DO UPDATE SET digest = NULL, scan = excluded.scan",
                (folder, path, scan),
            )

    def put_tracks(self, rows: Iterable[Track], scan: str) -> set[TrackId]:
        """Write rows of a scan that has begun; `added_at` is taken from earlier rows.

        Returns the ids of tracks whose rows changed. Their folders get a new revision and are
        indexed again in every collection, even if their digest is the same; searches return the old
        rows until then.

        Raises:
            FolderChanged: another scan of the same folder began, or `retry` was requested for it.
        """
        now = time.time()
        changed = set()
        checked: set[FolderId] = set()
        with self.transaction() as db:
            for row in rows:
                if row.folder_id not in checked:
                    _require_scan(db, row.folder_id, scan)
                    checked.add(row.folder_id)
                names = {"track": row.track_id, "audio": row.audio, "now": now}
                old = db.execute(
                    f"SELECT t.retry, {TRACK_SELECT} FROM tracks t WHERE t.track_id = ?",
                    (row.track_id,),
                ).fetchone()
                retry = bool(old and old[0] and row.audio_hash)
                (added,) = db.execute(_ADDED_AT, names).fetchone()
                if old and not _same(row, Track(*old[1:])):
                    changed.add(row.track_id)
                    db.execute(f"{NEW_REVISION} = ?", (row.folder_id,))
                    # The audio that the track had before may come back in another file.
                    _remember(db, "{}.track_id = :track AND {}.audio_hash <> :audio", names)
                db.execute("DELETE FROM gone_audio WHERE audio_hash = :audio", names)
                db.execute(
                    _PUT_TRACK,
                    (
                        *astuple(replace(row, added_at=added or now)),
                        *(scan, now, PROBE_VERSION, int(retry)),
                    ),
                )
        return changed

    def keep_tracks(self, folder: FolderId, track_ids: Iterable[TrackId], scan: str) -> None:
        """Keep the rows of unchanged tracks in a scan that has begun; as durable as its begin.

        Raises:
            FolderChanged: another scan of the folder began, or `retry` was requested for it.
        """
        with self.transaction(durable=False) as db:
            _require_scan(db, folder, scan)
            db.executemany(
                "UPDATE tracks SET scan = ? WHERE track_id = ?", ((scan, t) for t in track_ids)
            )

    def finish_scan(
        self,
        folder: FolderId,
        scan: str,
        digest: str,
        expected: int,
        ctimes: int | None = None,
        useless_reads: int | None = None,
    ) -> int:
        """Delete the rows of files that are gone, and store the digest of the folder.

        `ctimes`: the sum of the ctimes of its files when they were listed; None if some files with
        a new ctime were not read. `useless_reads`: how many times in a row files with a new ctime
        were unchanged; None: keep the recorded number. Returns how many rows were deleted.

        Raises:
            FolderChanged: another scan of the same folder wrote rows, so they are incomplete.
        """
        with self.transaction() as db:
            _require_scan(db, folder, scan)
            now = time.time()
            names = {"folder": folder, "scan": scan, "now": now}
            _remember(db, "{}.folder_id = :folder AND {}.scan != :scan", names)
            gone = db.execute(
                "DELETE FROM tracks WHERE folder_id = :folder AND scan != :scan", names
            ).rowcount
            (rows,) = db.execute(
                "SELECT count(*) FROM tracks WHERE folder_id = ?", (folder,)
            ).fetchone()
            if rows != expected:
                raise FolderChanged(ANOTHER_SCAN)
            db.execute(
                "UPDATE folders SET digest = ?, scanned_at = ?, ctimes = coalesce(?, ctimes)"
                " WHERE folder_id = ?",
                (digest, now, ctimes, folder),
            )
            if useless_reads is not None:
                db.execute(
                    "UPDATE folders SET useless_reads = ?, useless_read_at = ? WHERE folder_id = ?",
                    (useless_reads, now, folder),
                )
        return gone

    def mark_dirty(self, folder: FolderId) -> None:
        """Mark the manifest of a folder as out of date."""
        with self.transaction() as db:
            db.execute("UPDATE folders SET digest = NULL WHERE folder_id = ?", (folder,))

    def forget_unreadable(self, folder: FolderId) -> None:
        """Have the rejected files of a folder read again by the next scan."""
        with self.transaction() as db:
            db.execute(
                "UPDATE tracks SET probed = 0 WHERE folder_id = ? AND reason IS NOT NULL", (folder,)
            )

    def forget_folder(self, folder: FolderId) -> None:
        """Delete a removed folder from all tables except the embeddings, which stay."""
        with self.transaction() as db:
            names = {"folder": folder, "now": time.time()}
            _remember(db, "{}.folder_id = :folder", names)
            for table in ("tracks", "folders", "indexed", "failures", "retry_requests"):
                db.execute(f"DELETE FROM {table} WHERE folder_id = ?", (folder,))
            self.database.note_change(db)

    def forget_gone_audio(self, before: float) -> None:
        """Delete the remembered times of audio whose last track was deleted before a time."""
        with self.transaction() as db:
            db.execute("DELETE FROM gone_audio WHERE gone_at < ?", (before,))

    def file_stats(self, folder: FolderId) -> dict[TrackId, FileStat]:
        """Track id -> file stat, for the tracks of a folder that need not be read again."""
        with self.connect() as db:
            rows = db.execute(
                "SELECT track_id, size, mtime_ns, ctime_ns FROM tracks"
                " WHERE folder_id = ? AND probed = ?",
                (folder, PROBE_VERSION),
            )
            return {t: FileStat(*rest) for t, *rest in rows}

    def digest(self, folder: FolderId) -> str | None:
        """The digest of a folder's manifest; None if it is being scanned or was never scanned."""
        with self.connect() as db:
            row = db.execute("SELECT digest FROM folders WHERE folder_id = ?", (folder,)).fetchone()
        return row[0] if row else None

    def folders(self) -> Iterator[tuple[FolderId, bytes, bool]]:
        """Stream (folder id, path, whether its rows are complete) of every folder."""
        with self.connect() as db:
            yield from db.stream("SELECT folder_id, path, digest IS NOT NULL FROM folders")

    def folder_totals(self, folder: FolderId, recipe: RecipeDigest | None = None) -> FolderTotals:
        """Count the tracks of a folder by state."""
        with self.connect() as db:
            row = db.execute(
                "SELECT count(*), count(t.reason), count(CASE WHEN t.retry = 0 THEN e.reason END),"
                " count(CASE WHEN e.audio_hash IS NOT NULL AND e.reason IS NULL AND t.retry = 0"
                " THEN 1 END),"
                " count(CASE WHEN t.reason IS NULL AND (e.audio_hash IS NULL OR t.retry <> 0)"
                " THEN 1 END), coalesce(sum(t.duration), 0.0) FROM tracks t"
                " LEFT JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash"
                " WHERE t.folder_id = ?",
                (recipe, folder),
            ).fetchone()
        return FolderTotals(*row)


def _require_scan(db: Connection, folder: FolderId, scan: str) -> None:
    """Check that the folder is there, and that no other scan of it has begun.

    Raises:
        FolderChanged: one has: this process was slow, or stood still for a while.
    """
    mine = "SELECT 1 FROM folders WHERE folder_id = ? AND scan = ?"
    if db.execute(mine, (folder, scan)).fetchone() is None:
        raise FolderChanged(ANOTHER_SCAN)


def _remember(db: Connection, condition: str, names: Mapping[str, object]) -> None:
    """Record when audio was added that only the rows with this condition (on `{}`) have."""
    on = {alias: condition.replace("{}", alias) for alias in ("t", "o")}
    db.execute(_REMEMBER_AUDIO.format(**on), names)


def _same(one: Track, other: Track) -> bool:
    """Whether two rows of a file are equal, apart from when and how the file was read.

    The decoder is not compared: rows of older versions lack it, and no index contains it.
    """
    one, other = (replace(t, ctime_ns=0, run_id="", added_at=0.0, decoder="") for t in (one, other))
    return one == other
