"""The manifest and embeddings tables: what the library holds, what became of each track.

One SQLite file, `tables.sqlite` in EMBED_HOME, so that a folder's change is one transaction and a
question about the whole library (`status`, `errors`, words in a title) takes milliseconds. The
assets meet here and in `vectors/store.py` and nowhere else:

- `folders` and `tracks`: the manifest. A folder's `digest` is that of its scanned files, and NULL
  while they are being scanned: whoever reads NULL knows that the rows are not yet whole.
- `embeddings`: per (recipe, audio hash), where a vector is to be found or why there is none.
- `indexed`: per (place, folder), the version that was last written there; a place is a collection
  at a Milvus address.
- `collections` and `served`: what each collection holds, which was served when (`catalogue.py`).
- `failures`: the folders whose last try failed, until a try succeeds.

What belongs here: columns, transactions and queries. What the values mean is decided elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, fields, replace

from embed_assets.database import Database
from embed_assets.errors import FolderChanged
from embed_assets.rows import PROBE_VERSION, Embedding, FolderTotals, Track

TRACK_COLUMNS = tuple(f.name for f in fields(Track))
EMBEDDING_COLUMNS = tuple(f.name for f in fields(Embedding))
_TRACK_SELECT = ", ".join(f"t.{c}" for c in TRACK_COLUMNS)
_EMBEDDING_SELECT = ", ".join(f"e.{c}" for c in EMBEDDING_COLUMNS)


class Tables(Database):
    """The tables of one EMBED_HOME; every method opens its own connection or takes part in one."""

    # The manifest

    def begin_scan(self, folder: str, path: bytes, scan: str) -> None:
        """Mark a folder's rows as not whole until `finish_scan`."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO folders (folder_id, path, digest, scan) VALUES (?, ?, NULL, ?)"
                " ON CONFLICT (folder_id) DO UPDATE SET digest = NULL, scan = excluded.scan",
                (folder, path, scan),
            )

    def put_tracks(self, rows: Iterable[Track], scan: str) -> None:
        """Write rows of a scan that is going on; when they were added is known from before."""
        marks = ", ".join("?" * (len(TRACK_COLUMNS) + 3))
        now = time.time()
        with self.transaction() as db:
            for row in rows:
                (before,) = db.execute(
                    "SELECT min(added_at) FROM tracks WHERE track_id = ? OR audio_hash = ?",
                    (row.track_id, row.audio_hash),
                ).fetchone()
                known = replace(row, added_at=before or now)
                db.execute(
                    f"INSERT OR REPLACE INTO tracks ({', '.join(TRACK_COLUMNS)}, scan, seen_at,"
                    f" probed) VALUES ({marks})",
                    (*astuple(known), scan, now, PROBE_VERSION),
                )

    def keep_tracks(self, track_ids: Iterable[str], scan: str) -> None:
        """Take unchanged rows over into a scan that is going on."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE tracks SET scan = ? WHERE track_id = ?", ((scan, t) for t in track_ids)
            )

    def finish_scan(self, folder: str, scan: str, digest: str, expected: int) -> int:
        """Drop the rows that the scan did not see, and give the folder its digest.

        Returns the number of rows dropped.

        Raises:
            FolderChanged: another scan of the same folder wrote between; neither is whole.
        """
        with self.transaction() as db:
            held = db.execute("SELECT scan FROM folders WHERE folder_id = ?", (folder,)).fetchone()
            gone = db.execute(
                "DELETE FROM tracks WHERE folder_id = ? AND scan != ?", (folder, scan)
            ).rowcount
            (rows,) = db.execute(
                "SELECT count(*) FROM tracks WHERE folder_id = ?", (folder,)
            ).fetchone()
            if held is None or held[0] != scan or rows != expected:
                raise FolderChanged("another run is scanning this folder; it is tried again")
            db.execute(
                "UPDATE folders SET digest = ?, scanned_at = ? WHERE folder_id = ?",
                (digest, time.time(), folder),
            )
        return gone

    def forget_folder(self, folder: str) -> None:
        """Remove a retired folder from every table but the embeddings, which outlive it."""
        with self.transaction() as db:
            for table in ("tracks", "folders", "indexed", "failures"):
                db.execute(f"DELETE FROM {table} WHERE folder_id = ?", (folder,))

    def stamps(self, folder: str) -> dict[str, tuple[int, int, int]]:
        """(inode, size, mtime_ns) of each track of a folder that this version read, by track id."""
        with self.connect() as db:
            rows = db.execute(
                "SELECT track_id, inode, size, mtime_ns FROM tracks"
                " WHERE folder_id = ? AND probed = ?",
                (folder, PROBE_VERSION),
            )
            return {t: (i, s, m) for t, i, s, m in rows}

    def digest(self, folder: str) -> str | None:
        """Digest of a folder's manifest; None while it is being scanned or was never."""
        with self.connect() as db:
            row = db.execute("SELECT digest FROM folders WHERE folder_id = ?", (folder,)).fetchone()
        return row[0] if row else None

    def folder_totals(self, folder: str, recipe: str = "") -> FolderTotals:
        """Count a folder's tracks by what became of them."""
        with self.connect() as db:
            row = db.execute(
                "SELECT count(*), count(t.reason), count(e.reason),"
                " count(CASE WHEN e.audio_hash IS NOT NULL AND e.reason IS NULL THEN 1 END),"
                " count(CASE WHEN t.reason IS NULL AND e.audio_hash IS NULL THEN 1 END),"
                " total(t.duration) FROM tracks t"
                " LEFT JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash"
                " WHERE t.folder_id = ?",
                (recipe, folder),
            ).fetchone()
        return FolderTotals(*row)

    # Embeddings

    def put_embeddings(self, rows: Iterable[Embedding]) -> None:
        """Write what became of some audio.

        Not for good until a folder is indexed: a row a track would wait for the disk each time, and
        what a power loss takes is found again in the store.
        """
        marks = ", ".join("?" * len(EMBEDDING_COLUMNS))
        with self.transaction(durable=False) as db:
            db.executemany(
                f"INSERT OR REPLACE INTO embeddings ({', '.join(EMBEDDING_COLUMNS)})"
                f" VALUES ({marks})",
                (astuple(row) for row in rows),
            )

    def pending(self, folder: str, recipe: str, again: bool = False) -> list[Track]:
        """Readable tracks of a folder with no embedding under the recipe; all, if `again`."""
        sql = (
            f"SELECT {_TRACK_SELECT} FROM tracks t LEFT JOIN embeddings e"
            " ON e.recipe = ? AND e.audio_hash = t.audio_hash"
            " WHERE t.folder_id = ? AND t.audio_hash IS NOT NULL"
        )
        if not again:
            sql += " AND e.audio_hash IS NULL"
        with self.connect() as db:
            return [Track(*row) for row in db.execute(sql + " ORDER BY t.path", (recipe, folder))]

    def embeddable(self, folder: str, recipe: str) -> Iterator[Track]:
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

    def indexable(self, folder: str, recipe: str) -> Iterator[tuple[Track, Embedding]]:
        """Stream the tracks of a folder that have vectors, with what is known of the vectors."""
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

    def embedded_at(self, folders: Iterable[str], recipe: str) -> dict[str, float]:
        """Audio hash -> when it was embedded, of the tracks of these folders that have vectors."""
        found: dict[str, float] = {}
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

    def forget_unreadable(self, folder: str) -> None:
        """Have the files of a folder that were rejected by the scan read again by the next one."""
        with self.transaction() as db:
            db.execute(
                "UPDATE tracks SET size = -1 WHERE folder_id = ? AND reason IS NOT NULL", (folder,)
            )

    def forget_rejected(self, folder: str, recipe: str) -> None:
        """Have the audio of a folder that was rejected under the recipe embedded again."""
        with self.transaction() as db:
            db.execute(
                "DELETE FROM embeddings WHERE recipe = ? AND reason IS NOT NULL AND audio_hash IN"
                " (SELECT audio_hash FROM tracks WHERE folder_id = ?)",
                (recipe, folder),
            )

    def forget_track(self, track: str, recipe: str, audio_hash: str | None) -> None:
        """Have a track read again if it was rejected, and embedded again if its audio was."""
        with self.transaction() as db:
            db.execute(
                "UPDATE tracks SET size = -1 WHERE track_id = ? AND reason IS NOT NULL", (track,)
            )
            db.execute(
                "DELETE FROM embeddings WHERE recipe = ? AND audio_hash = ? AND reason IS NOT NULL",
                (recipe, audio_hash),
            )

    # Index and failures

    def mark_dirty(self, folder: str) -> None:
        """Say that a folder's manifest is no longer what its files are."""
        with self.transaction() as db:
            db.execute("UPDATE folders SET digest = NULL WHERE folder_id = ?", (folder,))

    def forget_embedding(self, recipe: str, audio_hash: str) -> None:
        """Have an audio embedded again: its vectors are lost."""
        with self.transaction() as db:
            db.execute(
                "DELETE FROM embeddings WHERE recipe = ? AND audio_hash = ?", (recipe, audio_hash)
            )

    def folders(self) -> Iterator[tuple[str, bytes, bool]]:
        """Stream (folder id, path, whether its rows are whole) of every folder of the manifest."""
        with self.connect() as db:
            yield from db.execute("SELECT folder_id, path, digest IS NOT NULL FROM folders")

    def put_indexed(self, place: str, written: Iterable[tuple[str, str, int]]) -> None:
        """Note (folder id, version, rows) of what a place holds: these folders went through."""
        with self.transaction() as db:
            for folder, version, rows in written:
                db.execute(
                    "INSERT OR REPLACE INTO indexed VALUES (?, ?, ?, ?, ?)",
                    (place, folder, version, rows, time.time()),
                )
                db.execute("DELETE FROM failures WHERE folder_id = ?", (folder,))

    def indexed(self, place: str) -> dict[bytes, str]:
        """Path of each folder -> the version that was last written to this place.

        Not of folders whose scan was begun and never ended, as by a kill: their rows may be others.
        """
        with self.connect() as db:
            return dict(
                db.execute(
                    "SELECT f.path, i.version FROM indexed i"
                    " JOIN folders f ON f.folder_id = i.folder_id"
                    " WHERE i.place = ? AND f.digest IS NOT NULL",
                    (place,),
                )
            )

    def put_failures(
        self,
        folders: Iterable[tuple[str, bytes]],
        stage: str,
        message: str,
        run: str,
        shared: bool = False,
    ) -> None:
        """Note that the last try of these (folder id, path) failed.

        `shared`: not for anything in the folder, but for what all folders need, e.g. Milvus.
        """
        with self.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((f, path, stage, message, time.time(), run, shared) for f, path in folders),
            )

    def clear_failure(self, folder: str) -> None:
        """Forget that the last try of a folder failed."""
        with self.transaction() as db:
            db.execute("DELETE FROM failures WHERE folder_id = ?", (folder,))
