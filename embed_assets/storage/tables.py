"""The manifest and embeddings tables: what the library holds, what became of each track.

One SQLite file, `tables.sqlite` in EMBED_HOME, so that a folder's change is one transaction and a
question about the whole library (`status`, `errors`, words in a title) takes milliseconds. The
assets meet here and in `storage/vector_store.py` and nowhere else:

- `folders` and `tracks`: the manifest. A folder's `digest` is that of its scanned files, and NULL
  while they are being scanned: whoever reads NULL knows that the rows are not yet whole. `ctimes`
  is what the walk said when the rows were read, `vain` how often a file was read for its ctime only
  and was as before. A track that is to be embedded `again` has its vectors until it is.
- `gone_audio`: when audio was added of which no track is left, for when it comes back.
- `asked`: folders that a person wants read and embedded again, until they are indexed.
- `embeddings`: per (recipe, audio hash), where a vector is to be found or why there is none.
- `indexed`: per (place, folder), the version that was last written there; a place is a collection
  at a Milvus address. This is the record of what is done: a folder is in step where its version is
  the wanted one and its revision the folder's. A folder's `revision` rises whenever its rows have
  to be written again though its files may be the same; a search finds what was written before.
- `collections` and `served`: what each collection holds, which was served when
  (`storage/collection_registry.py`).
- `failures`: the folders whose last try failed, until a try succeeds.

What belongs here: columns, transactions and queries. What the values mean is decided elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, fields, replace
from sqlite3 import Connection

from embed_assets.errors import FolderChanged
from embed_assets.storage.database import NEW_REVISION, Database
from embed_assets.storage.records import (
    PROBE_VERSION,
    Embedding,
    FolderTotals,
    IndexedFolder,
    Stamp,
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

    def put_tracks(self, rows: Iterable[Track], scan: str) -> set[str]:
        """Write rows of a scan that is going on; when they were added is known from before.

        Returns the ids of tracks of which something else was known before. Their folders are
        indexed again everywhere, though the folder's digest may stay, and are found until then.

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
                    f"SELECT t.again, {_TRACK_SELECT} FROM tracks t WHERE t.track_id = ?",
                    (row.track_id,),
                ).fetchone()
                again = bool(old and old[0] and row.audio_hash)
                (added,) = db.execute(_ADDED_AT, names).fetchone()
                if old and not _same(row, Track(*old[1:])):
                    changed.add(row.track_id)
                    db.execute(f"{NEW_REVISION} = ?", (row.folder_id,))
                    # What the track had before may come back as another file.
                    _remember(db, "{}.track_id = :track AND {}.audio_hash IS NOT :audio", names)
                db.execute("DELETE FROM gone_audio WHERE audio_hash = :audio", names)
                db.execute(
                    f"INSERT OR REPLACE INTO tracks ({', '.join(TRACK_COLUMNS)}, scan, seen_at,"
                    f" probed, again) VALUES ({marks})",
                    (
                        *astuple(replace(row, added_at=added or now)),
                        *(scan, now, PROBE_VERSION, again),
                    ),
                )
        return changed

    def keep_tracks(self, track_ids: Iterable[str], scan: str) -> None:
        """Take unchanged rows over into a scan that is going on."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE tracks SET scan = ? WHERE track_id = ?", ((scan, t) for t in track_ids)
            )

    def finish_scan(
        self,
        folder: str,
        scan: str,
        digest: str,
        expected: int,
        ctimes: int | None = None,
        vain: int | None = None,
    ) -> int:
        """Drop the rows that the scan did not see, and give the folder its digest.

        `ctimes`: what the files' ctimes were as they were listed; None if not all files of another
        ctime were read. `vain`: how often in a row a ctime that changed said nothing, by this scan;
        None if it tells nothing of that. Returns the number of rows dropped.

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
            if vain is not None:
                db.execute(
                    "UPDATE folders SET vain = ?, vain_at = ? WHERE folder_id = ?",
                    (vain, now, folder),
                )
        return gone

    def forget_folder(self, folder: str) -> None:
        """Remove a retired folder from every table but the embeddings, which outlive it."""
        with self.transaction() as db:
            names = {"folder": folder, "now": time.time()}
            _remember(db, "{}.folder_id = :folder", names)
            for table in ("tracks", "folders", "indexed", "failures", "asked"):
                db.execute(f"DELETE FROM {table} WHERE folder_id = ?", (folder,))

    def forget_gone_audio(self, before: float) -> None:
        """Forget when audio was added of which no track is left since before a time."""
        with self.transaction() as db:
            db.execute("DELETE FROM gone_audio WHERE gone_at < ?", (before,))

    def stamps(self, folder: str) -> dict[str, Stamp]:
        """The stamp of each track of a folder that need not be read anew, by track id."""
        with self.connect() as db:
            rows = db.execute(
                "SELECT track_id, size, mtime_ns, ctime_ns FROM tracks"
                " WHERE folder_id = ? AND probed = ?",
                (folder, PROBE_VERSION),
            )
            return {t: Stamp(*rest) for t, *rest in rows}

    def digest(self, folder: str) -> str | None:
        """Digest of a folder's manifest; None while it is being scanned or was never."""
        with self.connect() as db:
            row = db.execute("SELECT digest FROM folders WHERE folder_id = ?", (folder,)).fetchone()
        return row[0] if row else None

    def folder_totals(self, folder: str, recipe: str = "") -> FolderTotals:
        """Count a folder's tracks by what became of them."""
        with self.connect() as db:
            row = db.execute(
                "SELECT count(*), count(t.reason), count(CASE WHEN NOT t.again THEN e.reason END),"
                " count(CASE WHEN e.audio_hash IS NOT NULL AND e.reason IS NULL AND NOT t.again"
                " THEN 1 END),"
                " count(CASE WHEN t.reason IS NULL AND (e.audio_hash IS NULL OR t.again) THEN 1"
                " END), total(t.duration) FROM tracks t"
                " LEFT JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash"
                " WHERE t.folder_id = ?",
                (recipe, folder),
            ).fetchone()
        return FolderTotals(*row)

    # Embeddings

    def put_embeddings(self, rows: Iterable[Embedding]) -> None:
        """Write what became of some audio, and that it need not be embedded again.

        Not for good until a folder is indexed: a row a track would wait for the disk each time, and
        what a power loss takes is found again in the store.
        """
        marks = ", ".join("?" * len(EMBEDDING_COLUMNS))
        with self.transaction(durable=False) as db:
            for row in rows:
                before = db.execute(
                    "SELECT 1 FROM embeddings WHERE recipe = ? AND audio_hash = ?",
                    (row.recipe, row.audio_hash),
                ).fetchone()
                if before:
                    # Rows of the index were made of its vectors; of which recipe a place holds
                    # vectors is not known here.
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
                    "UPDATE tracks SET again = 0 WHERE audio_hash = ? AND again AND probed",
                    (row.audio_hash,),
                )

    def pending(self, folder: str, recipe: str, again: bool = False) -> list[Track]:
        """Readable tracks of a folder that are to be embedded under the recipe; all, if `again`."""
        sql = (
            f"SELECT {_TRACK_SELECT} FROM tracks t LEFT JOIN embeddings e"
            " ON e.recipe = ? AND e.audio_hash = t.audio_hash"
            " WHERE t.folder_id = ? AND t.audio_hash IS NOT NULL"
        )
        if not again:
            sql += " AND (e.audio_hash IS NULL OR t.again)"
        with self.connect() as db:
            return [Track(*row) for row in db.execute(sql + " ORDER BY t.path", (recipe, folder))]

    def asked_again(self, folder: str) -> set[str]:
        """Ids of a folder's tracks that are embedded again though they have vectors."""
        with self.connect() as db:
            sql = "SELECT track_id FROM tracks WHERE folder_id = ? AND again"
            return {row[0] for row in db.execute(sql, (folder,))}

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
                "UPDATE tracks SET probed = 0 WHERE folder_id = ? AND reason IS NOT NULL", (folder,)
            )

    def forget_rejected(self, folder: str, recipe: str) -> None:
        """Have the audio of a folder that was rejected under the recipe embedded again."""
        with self.transaction() as db:
            db.execute(
                "DELETE FROM embeddings WHERE recipe = ? AND reason IS NOT NULL AND audio_hash IN"
                " (SELECT audio_hash FROM tracks WHERE folder_id = ?)",
                (recipe, folder),
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

    def put_indexed(
        self, place: str, written: Iterable[IndexedFolder], finished: bool = True
    ) -> None:
        """Note what a place holds.

        `finished`: these folders are in step, so what failed before or was asked for is done.
        """
        with self.transaction() as db:
            for folder, version, rows, revision in written:
                db.execute(
                    "INSERT OR REPLACE INTO indexed (place, folder_id, version, rows, at, revision)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (place, folder, version, rows, time.time(), revision),
                )
                if not finished:
                    continue
                db.execute("DELETE FROM failures WHERE folder_id = ?", (folder,))
                # What was asked for just now is not yet done.
                db.execute(
                    "DELETE FROM asked WHERE folder_id = ?1 AND NOT EXISTS (SELECT 1 FROM tracks"
                    " WHERE folder_id = ?1 AND again) AND EXISTS (SELECT 1 FROM folders WHERE"
                    " folder_id = ?1 AND digest IS NOT NULL)",
                    (folder,),
                )

    def indexed(self, place: str) -> dict[bytes, str]:
        """Path of each folder -> the version that this place holds of it.

        Left out are folders that have to be written again, and those whose scan was begun and never
        ended, as by a kill: their rows may be others.
        """
        with self.connect() as db:
            return dict(
                db.execute(
                    "SELECT f.path, i.version FROM indexed i"
                    " JOIN folders f ON f.folder_id = i.folder_id"
                    " WHERE i.place = ? AND f.digest IS NOT NULL AND i.revision = f.revision",
                    (place,),
                )
            )

    def holds(self, place: str) -> bool:
        """Whether anything was ever written to this place, in step or not."""
        with self.connect() as db:
            row = db.execute("SELECT 1 FROM indexed WHERE place = ? LIMIT 1", (place,)).fetchone()
        return row is not None

    def put_failures(
        self,
        folders: Iterable[tuple[str, bytes]],
        stage: str,
        message: str,
        run: str,
        shared: bool = False,
        unless_known: bool = False,
    ) -> None:
        """Note that the last try of these (folder id, path) failed, or why it is not done.

        `shared`: not for anything in the folder, but for what all folders need, e.g. Milvus.
        `unless_known`: a reason that is there stays.
        """
        how = "IGNORE" if unless_known else "REPLACE"
        with self.transaction() as db:
            db.executemany(
                f"INSERT OR {how} INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((f, path, stage, message, time.time(), run, shared) for f, path in folders),
            )


def _require_scan(db: Connection, folder: str, scan: str) -> bool:
    """Whether the folder is known to be scanned; raises FolderChanged if by another scan."""
    held = db.execute("SELECT scan FROM folders WHERE folder_id = ?", (folder,)).fetchone()
    if held is not None and held[0] != scan:
        raise FolderChanged(ANOTHER_SCAN)
    return held is not None


def _remember(db: Connection, going: str, names: dict[str, object]) -> None:
    """Note when the audio was added that no track will have without these rows."""
    told = {alias: going.replace("{}", alias) for alias in ("t", "o")}
    db.execute(_REMEMBER_AUDIO.format(**told), names)


def _same(one: Track, other: Track) -> bool:
    """Whether two rows of a file say the same of it, and of when its content changed last.

    By which decoder it was read is not known in rows of older versions, and is in no index.
    """
    alike = {"ctime_ns": 0, "run_id": "", "added_at": 0.0, "decoder": ""}
    return replace(one, **alike) == replace(other, **alike)
