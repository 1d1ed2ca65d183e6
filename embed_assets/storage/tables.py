"""The tables: what the library contains, and which of it is embedded and indexed.

They are one database, SQLite or PostgreSQL, so that a folder changes in one transaction and a query
over the whole library (`status`, `errors`, words in a title) takes milliseconds. The assets
exchange data only through these tables and `storage/vector_store.py`.

- `folders` and `tracks`: the manifest (`storage/manifest_tables.py`). The `digest` of a folder is
  computed from its scanned files; it is NULL during a scan, while the rows are incomplete. `ctimes`
  is the sum of the ctimes of its files at the last scan. `useless_reads` counts the scans that read
  a file for its new ctime and found it unchanged. A track marked `retry` keeps its vectors until it
  is embedded again.
- `gone_audio`: when audio was added whose last track was deleted, in case it comes back.
- `retry_requests`: folders to be read and embedded again, until they are indexed.
- `embeddings`: per (recipe, audio hash), that its vectors are stored, or why there are none.
- `indexed`: per (collection_key, folder), the version that was last written; the key identifies a
  collection at a Milvus address. This is the record of finished work: a folder is up to date if the
  version is the wanted one and the revision is that of the folder. The `revision` of a folder is
  raised whenever its rows must be written again, even if its files are unchanged. Searches return
  the previous rows until then.
- `collections` and `served`: the spec and gates of each collection, and when it was served
  (`storage/collection_registry.py`).
- `rankings`: what neighbours in a collection are ranked by (`storage/ranking_choice.py`).
- `failures`: folders whose last attempt failed, until an attempt succeeds.
- `looks`: requests to scan the library now (`storage/looks.py`).
- `library_id`: one row, which names the library in the mark of its vectors (`storage/owner.py`).

This module has the rows of embeddings, of indexed folders and of failures.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple

from embed_assets.identity import AudioHash, CollectionKey, FolderId, RecipeDigest, TrackId
from embed_assets.storage.database import IS_CURRENT, NEW_REVISION, insert, replace_row
from embed_assets.storage.manifest_tables import ManifestTables
from embed_assets.storage.records import (
    EMBEDDING_COLUMNS,
    EMBEDDING_SELECT,
    TRACK_COLUMNS,
    TRACK_SELECT,
    Embedding,
    IndexedFolder,
    Track,
)

_FAILURE = ("folder_id", "path", "stage", "message", "at", "run_id", "shared")
_INDEXED = ("collection_key", "folder_id", "version", "rows", "at", "revision")


class Tables(ManifestTables):
    """All tables of a database; every method has a connection of its own."""

    # Embeddings

    def put_embeddings(
        self, rows: Iterable[Embedding], *, finished: bool = True, keep: bool = False
    ) -> None:
        """Write the results of embedding, and clear the marks of `retry` if that is `finished`.

        Otherwise the audio is to be embedded under another recipe, too. `keep`: the row of audio
        that has vectors by now stays, as they do: another worker, or a shard, was faster.

        Not durable until a folder is indexed: a durable write per track would wait for the disk
        each time, and after a power loss the vectors are found in the store again.
        """
        put = replace_row("embeddings", EMBEDDING_COLUMNS, key=("recipe", "audio_hash"))
        with self.transaction(durable=False) as db:
            for row in rows:
                before = db.execute(
                    "SELECT reason FROM embeddings WHERE recipe = ? AND audio_hash = ?",
                    (row.recipe, row.audio_hash),
                ).fetchone()
                kept = before is not None and keep and (before[0] is None or row.reason is not None)
                if before and not kept:
                    # Rows with the old vectors may be in any collection: which ones use this recipe
                    # is not known here.
                    db.execute(
                        f"{NEW_REVISION} IN (SELECT folder_id FROM tracks WHERE audio_hash = ?)",
                        (row.audio_hash,),
                    )
                if not kept:
                    db.execute(put, astuple(row))
                if not finished:
                    continue
                db.execute(
                    "UPDATE tracks SET retry = 0 WHERE audio_hash = ? AND retry <> 0"
                    " AND probed <> 0",
                    (row.audio_hash,),
                )

    def pending(
        self, folder: FolderId, recipe: RecipeDigest, *, force: bool = False
    ) -> list[Track]:
        """Readable tracks of a folder that have to be embedded under the recipe; all if `force`."""
        sql = (
            f"SELECT {TRACK_SELECT} FROM tracks t LEFT JOIN embeddings e"
            " ON e.recipe = ? AND e.audio_hash = t.audio_hash"
            " WHERE t.folder_id = ? AND t.audio_hash IS NOT NULL"
        )
        if not force:
            sql += " AND (e.audio_hash IS NULL OR t.retry <> 0)"
        with self.connect() as db:
            return [Track(*row) for row in db.execute(sql + " ORDER BY t.path", (recipe, folder))]

    def asked_again(self, folder: FolderId) -> set[TrackId]:
        """Ids of a folder's tracks that are marked `retry`: to be embedded even with vectors."""
        with self.connect() as db:
            sql = "SELECT track_id FROM tracks WHERE folder_id = ? AND retry <> 0"
            return {row[0] for row in db.execute(sql, (folder,))}

    def indexable(
        self, folder: FolderId, recipe: RecipeDigest
    ) -> Iterator[tuple[Track, Embedding]]:
        """Stream the tracks of a folder that have vectors, with their embeddings."""
        width = len(TRACK_COLUMNS)
        with self.connect() as db:
            rows = db.stream(
                f"SELECT {TRACK_SELECT}, {EMBEDDING_SELECT} FROM tracks t JOIN embeddings e"
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

    def forget_rejected(self, folder: FolderId, recipe: RecipeDigest) -> None:
        """Have the rejected audio of a folder embedded again under the recipe."""
        with self.transaction() as db:
            db.execute(
                "DELETE FROM embeddings WHERE recipe = ? AND reason IS NOT NULL AND audio_hash IN"
                " (SELECT audio_hash FROM tracks WHERE folder_id = ?)",
                (recipe, folder),
            )

    def forget_embedding(self, recipe: RecipeDigest, audio_hash: AudioHash) -> None:
        """Have an audio embedded again because its vectors are lost."""
        with self.transaction() as db:
            db.execute(
                "DELETE FROM embeddings WHERE recipe = ? AND audio_hash = ?", (recipe, audio_hash)
            )

    def index_again(self, hashes: Iterable[AudioHash]) -> None:
        """Have the folders with these audio hashes embedded, where that is missing, and indexed."""
        with self.transaction() as db:
            db.executemany(
                f"{NEW_REVISION} IN (SELECT folder_id FROM tracks WHERE audio_hash = ?)",
                ((audio_hash,) for audio_hash in hashes),
            )

    # Index and failures

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
        put = replace_row("indexed", _INDEXED, key=("collection_key", "folder_id"))
        with self.transaction() as db:
            for folder, version, rows, revision in written:
                db.execute(put, (collection_key, folder, version, rows, time.time(), revision))
                if not finished:
                    continue
                db.execute("DELETE FROM failures WHERE folder_id = ?", (folder,))
                # A request that was made during the run is not finished.
                db.execute(
                    "DELETE FROM retry_requests WHERE folder_id = :folder AND NOT EXISTS (SELECT 1"
                    " FROM tracks WHERE folder_id = :folder AND retry <> 0) AND EXISTS (SELECT 1"
                    " FROM folders WHERE folder_id = :folder AND digest IS NOT NULL)",
                    {"folder": folder},
                )
            self.database.note_change(db)

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
        """Record why the last attempt for these (folder id, path) failed or ended early.

        `shared`: the cause is not in the folder, but in something all folders need, e.g. Milvus.
        `unless_known`: do not replace a recorded reason.
        """
        key = ("folder_id",)
        put = insert("failures", _FAILURE, keep=key) if unless_known else None
        with self.transaction() as db:
            db.executemany(
                put or replace_row("failures", _FAILURE, key),
                ((f, path, stage, message, time.time(), run, int(shared)) for f, path in folders),
            )
