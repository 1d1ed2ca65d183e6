"""The manifest and embeddings tables: what the library holds, what became of each track.

One SQLite file, `tables.sqlite` in EMBED_HOME, so that a folder's change is one transaction and a
question about the whole library (`status`, `errors`, words in a title) takes milliseconds. The
assets meet here and in `storage/vector_store.py` and nowhere else:

- `folders` and `tracks`: the manifest. A folder's `digest` is that of its scanned files, and NULL
  while they are being scanned: whoever reads NULL knows that the rows are not yet whole. `ctimes`
  is what the walk said when the rows were read, `useless_reads` how often a file was read for its
  ctime only and was as before. A track marked `retry` keeps its vectors until it is embedded.
- `gone_audio`: when audio was added of which no track is left, for when it comes back.
- `retry_requests`: folders that a person wants read and embedded again, until they are indexed.
- `embeddings`: per (recipe, audio hash), where a vector is to be found or why there is none.
- `indexed`: per (collection_key, folder), the version that was last written there; the key names a
  collection at a Milvus address. This is the record of what is done: a folder is up to date if its
  version is the wanted one and its revision the folder's. A folder's `revision` rises whenever its
  rows have to be written again though its files may be the same; a search finds what was written
  before.
- `collections` and `served`: what each collection holds, which was served when
  (`storage/collection_registry.py`).
- `failures`: the folders whose last try failed, until a try succeeds.
- `looks`: requests to scan the library now (`storage/looks.py`).

What belongs here: columns, transactions and queries. What the values mean is decided elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, fields, replace
from sqlite3 import Connection

from embed_assets.errors import FolderChanged
from embed_assets.identity import AudioHash, CollectionKey, FolderId, RecipeDigest, TrackId
from embed_assets.storage.database import IS_CURRENT, NEW_REVISION, Database
from embed_assets.storage.records import (
    PROBE_VERSION,
    Embedding,
    FileStat,
    FolderTotals,
    IndexedFolder,
    Track,
)

TRACK_COLUMNS = tuple(f.name for f in fields(Track))
EMBEDDING_COLUMNS = tuple(f.name for f in fields(Embedding))
_TRACK_SELECT = ", ".join(f"t.{c}" for c in TRACK_COLUMNS)
_EMBEDDING_SELECT = ", ".join(f"e.{c}" for c in EMBEDDING_COLUMNS)

ANOTHER_SCAN = "another run is scanning this folder; it will be retried"

_ADDED_AT = """SELECT min(added_at) FROM (
    SELECT added_at FROM tracks WHERE track_id = :track
    UNION ALL SELECT added_at FROM tracks WHERE audio_hash = :audio
    UNION ALL SELECT added_at FROM gone_audio WHERE audio_hash = :audio)"""

_REMEMBER_AUDIO = """INSERT INTO gone_audio
    SELECT t.audio_hash, min(t.added_at), :now FROM tracks t WHERE {t} AND t.audio_hash IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM tracks o WHERE o.audio_hash = t.audio_hash AND NOT ({o}))
    GROUP BY t.audio_hash ON CONFLICT (audio_hash) DO UPDATE
    SET added_at = min(added_at, excluded.added_at), gone_at = excluded.gone_at"""


class Tables(Database):
    """The tables of one EMBED_HOME; every method opens its own connection."""

    # The manifest

    def begin_scan(self, folder: FolderId, path: bytes, scan: str) -> None:
        """Mark the rows of a folder as incomplete until `finish_scan`."""
        with self.transaction() as db:
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
            FolderChanged: another scan of the same folder began, or a person wants it read anew.
        """
        marks = ", ".join("?" * (len(TRACK_COLUMNS) + 4))
        now = time.time()
        changed = set()
        with self.transaction() as db:
            for row in rows:
                _require_scan(db, row.folder_id, scan)
                names = {"track": row.track_id, "audio": row.audio_hash, "now": now}
                old = db.execute(
                    f"SELECT t.retry, {_TRACK_SELECT} FROM tracks t WHERE t.track_id = ?",
                    (row.track_id,),
                ).fetchone()
                retry = bool(old and old[0] and row.audio_hash)
                (added,) = db.execute(_ADDED_AT, names).fetchone()
                if old and not _same(row, Track(*old[1:])):
                    changed.add(row.track_id)
                    db.execute(f"{NEW_REVISION} = ?", (row.folder_id,))
                    # What the track had before may come back as another file.
                    _remember(db, "{}.track_id = :track AND {}.audio_hash IS NOT :audio", names)
                db.execute("DELETE FROM gone_audio WHERE audio_hash = :audio", names)
                db.execute(
                    f"INSERT OR REPLACE INTO tracks ({', '.join(TRACK_COLUMNS)}, scan, seen_at,"
                    f" probed, retry) VALUES ({marks})",
                    (
                        *astuple(replace(row, added_at=added or now)),
                        *(scan, now, PROBE_VERSION, retry),
                    ),
                )
        return changed

    def keep_tracks(self, track_ids: Iterable[TrackId], scan: str) -> None:
        """Keep the rows of unchanged tracks in a scan that has begun."""
        with self.transaction() as db:
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
        """Delete the rows that the scan did not see, and store the digest of the folder.

        `ctimes`: the sum of the ctimes of its files when they were listed; None if some files with
        a new ctime were not read. `useless_reads`: how many times in a row a new ctime turned out
        to mean nothing; None if this scan says nothing about it. Returns how many rows were
        deleted.

        Raises:
            FolderChanged: another scan of the same folder wrote between; neither is whole.
        """
        with self.transaction() as db:
            held = _require_scan(db, folder, scan)
            now = time.time()
            names = {"folder": folder, "scan": scan, "now": now}
            _remember(db, "{}.folder_id = :folder AND {}.scan != :scan", names)
            gone = db.execute(
                "DELETE FROM tracks WHERE folder_id = :folder AND scan != :scan", names
            ).rowcount
            (rows,) = db.execute(
                "SELECT count(*) FROM tracks WHERE folder_id = ?", (folder,)
            ).fetchone()
            if not held or rows != expected:
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

    def forget_folder(self, folder: FolderId) -> None:
        """Delete a removed folder from all tables except the embeddings, which stay."""
        with self.transaction() as db:
            names = {"folder": folder, "now": time.time()}
            _remember(db, "{}.folder_id = :folder", names)
            for table in ("tracks", "folders", "indexed", "failures", "retry_requests"):
                db.execute(f"DELETE FROM {table} WHERE folder_id = ?", (folder,))

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

    def folder_totals(self, folder: FolderId, recipe: RecipeDigest | None = None) -> FolderTotals:
        """Count the tracks of a folder by state."""
        with self.connect() as db:
            row = db.execute(
                "SELECT count(*), count(t.reason), count(CASE WHEN NOT t.retry THEN e.reason END),"
                " count(CASE WHEN e.audio_hash IS NOT NULL AND e.reason IS NULL AND NOT t.retry"
                " THEN 1 END),"
                " count(CASE WHEN t.reason IS NULL AND (e.audio_hash IS NULL OR t.retry) THEN 1"
                " END), total(t.duration) FROM tracks t"
                " LEFT JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash"
                " WHERE t.folder_id = ?",
                (recipe, folder),
            ).fetchone()
        return FolderTotals(*row)

    # Embeddings

    def put_embeddings(self, rows: Iterable[Embedding]) -> None:
        """Write the results of embedding, and clear the marks of `retry`.

        Not durable until a folder is indexed: a durable write per track would wait for the disk
        each time, and after a power loss the vectors are found in the store again.
        """
        marks = ", ".join("?" * len(EMBEDDING_COLUMNS))
        with self.transaction(durable=False) as db:
            for row in rows:
                before = db.execute(
                    "SELECT 1 FROM embeddings WHERE recipe = ? AND audio_hash = ?",
                    (row.recipe, row.audio_hash),
                ).fetchone()
                if before:
                    # Rows of the index may have these vectors; which collections use this recipe is
                    # not known here.
                    db.execute(
                        f"{NEW_REVISION} IN (SELECT folder_id FROM tracks WHERE audio_hash = ?)",
                        (row.audio_hash,),
                    )
                db.execute(
                    f"INSERT OR REPLACE INTO embeddings ({', '.join(EMBEDDING_COLUMNS)})"
                    f" VALUES ({marks})",
                    astuple(row),
                )
                db.execute(
                    "UPDATE tracks SET retry = 0 WHERE audio_hash = ? AND retry AND probed",
                    (row.audio_hash,),
                )

    def pending(
        self, folder: FolderId, recipe: RecipeDigest, *, force: bool = False
    ) -> list[Track]:
        """Readable tracks of a folder that have to be embedded under the recipe; all if `force`."""
        sql = (
            f"SELECT {_TRACK_SELECT} FROM tracks t LEFT JOIN embeddings e"
            " ON e.recipe = ? AND e.audio_hash = t.audio_hash"
            " WHERE t.folder_id = ? AND t.audio_hash IS NOT NULL"
        )
        if not force:
            sql += " AND (e.audio_hash IS NULL OR t.retry)"
        with self.connect() as db:
            return [Track(*row) for row in db.execute(sql + " ORDER BY t.path", (recipe, folder))]

    def asked_again(self, folder: FolderId) -> set[TrackId]:
        """Ids of a folder's tracks that `retry` has embedded again although they have vectors."""
        with self.connect() as db:
            sql = "SELECT track_id FROM tracks WHERE folder_id = ? AND retry"
            return {row[0] for row in db.execute(sql, (folder,))}

    def embeddable(self, folder: FolderId, recipe: RecipeDigest) -> Iterator[Track]:
        """Stream the tracks of a folder that have vectors under the recipe."""
        with self.connect() as db:
            rows = db.execute(
                f"SELECT {_TRACK_SELECT} FROM tracks t JOIN embeddings e"
                " ON e.recipe = ? AND e.audio_hash = t.audio_hash"
                " WHERE t.folder_id = ? AND e.reason IS NULL ORDER BY t.path",
                (recipe, folder),
            )
            for row in rows:
                yield Track(*row)

    def indexable(
        self, folder: FolderId, recipe: RecipeDigest
    ) -> Iterator[tuple[Track, Embedding]]:
        """Stream the tracks of a folder that have vectors, with their embeddings."""
        width = len(TRACK_COLUMNS)
        with self.connect() as db:
            rows = db.execute(
                f"SELECT {_TRACK_SELECT}, {_EMBEDDING_SELECT} FROM tracks t JOIN embeddings e"
                " ON e.recipe = ? AND e.audio_hash = t.audio_hash"
                " WHERE t.folder_id = ? AND e.reason IS NULL ORDER BY t.path",
                (recipe, folder),
            )
            for row in rows:
                yield Track(*row[:width]), Embedding(*row[width:])

    def embedded_at(
        self, folders: Iterable[FolderId], recipe: RecipeDigest
    ) -> dict[AudioHash, float]:
        """Audio hash -> when it was embedded, for the tracks of these folders that have vectors."""
        found: dict[AudioHash, float] = {}
        with self.connect() as db:
            for folder in folders:
                found.update(
                    db.execute(
                        "SELECT e.audio_hash, e.at FROM tracks t JOIN embeddings e"
                        " ON e.recipe = ? AND e.audio_hash = t.audio_hash"
                        " WHERE t.folder_id = ? AND e.reason IS NULL",
                        (recipe, folder),
                    )
                )
        return found

    def forget_unreadable(self, folder: FolderId) -> None:
        """Have the rejected files of a folder read again by the next scan."""
        with self.transaction() as db:
            db.execute(
                "UPDATE tracks SET probed = 0 WHERE folder_id = ? AND reason IS NOT NULL", (folder,)
            )

    def forget_rejected(self, folder: FolderId, recipe: RecipeDigest) -> None:
        """Have the rejected audio of a folder embedded again under the recipe."""
        with self.transaction() as db:
            db.execute(
                "DELETE FROM embeddings WHERE recipe = ? AND reason IS NOT NULL AND audio_hash IN"
                " (SELECT audio_hash FROM tracks WHERE folder_id = ?)",
                (recipe, folder),
            )

    # Index and failures

    def mark_dirty(self, folder: FolderId) -> None:
        """Mark the manifest of a folder as out of date."""
        with self.transaction() as db:
            db.execute("UPDATE folders SET digest = NULL WHERE folder_id = ?", (folder,))

    def forget_embedding(self, recipe: RecipeDigest, audio_hash: AudioHash) -> None:
        """Have an audio embedded again because its vectors are lost."""
        with self.transaction() as db:
            db.execute(
                "DELETE FROM embeddings WHERE recipe = ? AND audio_hash = ?", (recipe, audio_hash)
            )

    def folders(self) -> Iterator[tuple[FolderId, bytes, bool]]:
        """Stream (folder id, path, whether its rows are complete) of every folder."""
        with self.connect() as db:
            yield from db.execute("SELECT folder_id, path, digest IS NOT NULL FROM folders")

    def put_indexed(
        self,
        collection_key: CollectionKey,
        written: Iterable[IndexedFolder],
        *,
        finished: bool = True,
    ) -> None:
        """Record what was written to a collection.

        `finished`: the folders are up to date, so their failures and requests are deleted.
        """
        with self.transaction() as db:
            for folder, version, rows, revision in written:
                db.execute(
                    "INSERT OR REPLACE INTO indexed (collection_key, folder_id, version, rows, at,"
                    " revision) VALUES (?, ?, ?, ?, ?, ?)",
                    (collection_key, folder, version, rows, time.time(), revision),
                )
                if not finished:
                    continue
                db.execute("DELETE FROM failures WHERE folder_id = ?", (folder,))
                # What was asked for just now is not yet done.
                db.execute(
                    "DELETE FROM retry_requests WHERE folder_id = ?1 AND NOT EXISTS (SELECT 1 FROM"
                    " tracks WHERE folder_id = ?1 AND retry) AND EXISTS (SELECT 1 FROM folders"
                    " WHERE folder_id = ?1 AND digest IS NOT NULL)",
                    (folder,),
                )

    def indexed(self, collection_key: CollectionKey) -> dict[bytes, str]:
        """Path of each folder -> the version that was written to this collection.

        Left out are folders that have to be written again, as their rows or files changed, and
        those with an unfinished scan.
        """
        with self.connect() as db:
            return dict(
                db.execute(
                    "SELECT f.path, i.version FROM indexed i"
                    " JOIN folders f ON f.folder_id = i.folder_id"
                    f" WHERE i.collection_key = ? AND {IS_CURRENT}",
                    (collection_key,),
                )
            )

    def holds(self, collection_key: CollectionKey) -> bool:
        """Whether anything was ever written to this collection, even if it is out of date."""
        with self.connect() as db:
            row = db.execute(
                "SELECT 1 FROM indexed WHERE collection_key = ? LIMIT 1", (collection_key,)
            ).fetchone()
        return row is not None

    def put_failures(
        self,
        folders: Iterable[tuple[FolderId, bytes]],
        stage: str,
        message: str,
        run: str,
        *,
        shared: bool = False,
        unless_known: bool = False,
    ) -> None:
        """Record that the last attempt for these (folder id, path) failed, or why it is not done.

        `shared`: the cause is not in the folder, but something all folders need, e.g. Milvus.
        `unless_known`: do not replace a recorded reason.
        """
        how = "IGNORE" if unless_known else "REPLACE"
        with self.transaction() as db:
            db.executemany(
                f"INSERT OR {how} INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((f, path, stage, message, time.time(), run, shared) for f, path in folders),
            )


def _require_scan(db: Connection, folder: FolderId, scan: str) -> bool:
    """Whether the folder is known; raises FolderChanged if another scan of it has begun."""
    held = db.execute("SELECT scan FROM folders WHERE folder_id = ?", (folder,)).fetchone()
    if held is not None and held[0] != scan:
        raise FolderChanged(ANOTHER_SCAN)
    return held is not None


def _remember(db: Connection, going: str, names: Mapping[str, object]) -> None:
    """Note when the audio was added that no track will have without these rows."""
    told = {alias: going.replace("{}", alias) for alias in ("t", "o")}
    db.execute(_REMEMBER_AUDIO.format(**told), names)


def _same(one: Track, other: Track) -> bool:
    """Whether two rows of a file are equal, apart from when and how the file was read.

    The decoder is not compared: rows of older versions lack it, and no index contains it.
    """
    one, other = (replace(t, ctime_ns=0, run_id="", added_at=0.0, decoder="") for t in (one, other))
    return one == other
