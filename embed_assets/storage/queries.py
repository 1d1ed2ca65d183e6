"""Queries over the whole library: counts, problems, states of folders. Read the tables only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from embed_assets.identity import (
    AudioHash,
    CollectionKey,
    FolderId,
    IndexSpec,
    RecipeDigest,
    display_path,
)
from embed_assets.storage.database import IS_CURRENT
from embed_assets.storage.records import (
    CHANGED,
    EMBEDDING_SELECT,
    NOT_DONE,
    TRACK_SELECT,
    Embedding,
    Problem,
    Track,
)
from embed_assets.storage.tables import Tables

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Counts:
    """Tracks and folders of the library by state, under one recipe and one index spec."""

    folders: int
    folders_indexed: int
    tracks: int
    embedded: int
    rejected: int
    pending: int
    audio_seconds: float


def counts(tables: Tables, recipe: RecipeDigest, collection_key: CollectionKey) -> Counts:
    """Count folders and tracks by state."""
    with tables.connect() as db:
        folders = db.execute(
            "SELECT count(*),"
            f" count(CASE WHEN {IS_CURRENT} THEN 1 END) FROM folders f"
            " LEFT JOIN indexed i ON i.collection_key = ? AND i.folder_id = f.folder_id",
            (collection_key,),
        ).fetchone()
        tracks = db.execute(
            "SELECT count(*),"
            " count(CASE WHEN e.audio_hash IS NOT NULL AND e.reason IS NULL THEN 1 END),"
            " count(coalesce(t.reason, e.reason)),"
            " count(CASE WHEN t.reason IS NULL AND e.audio_hash IS NULL THEN 1 END),"
            " coalesce(sum(t.duration), 0.0) FROM tracks t"
            " LEFT JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash",
            (recipe,),
        ).fetchone()
    return Counts(*folders, *tracks)


DAMAGED = ("% could be decoded%", "% not finite%", "% damaged packet%", "% could not be read%")
"""What the note of an embedding says, in SQL patterns, if a part of the audio is missing."""


def damaged_tracks(tables: Tables, recipe: RecipeDigest) -> int:
    """How many tracks were embedded although a part of their audio could not be decoded."""
    with tables.connect() as db:
        return db.execute(
            "SELECT count(*) FROM tracks t JOIN embeddings e"
            " ON e.recipe = ? AND e.audio_hash = t.audio_hash WHERE e.reason IS NULL"
            f" AND ({' OR '.join(['e.note LIKE ?'] * len(DAMAGED))})",
            (recipe, *DAMAGED),
        ).fetchone()[0]


def current_folders(tables: Tables, collection_key: CollectionKey) -> set[bytes]:
    """Paths of the folders that a collection has as they were when they were scanned last."""
    with tables.connect() as db:
        rows = db.execute(
            "SELECT f.path FROM folders f JOIN indexed i"
            f" ON i.collection_key = ? AND i.folder_id = f.folder_id WHERE {IS_CURRENT}",
            (collection_key,),
        )
        return {path for (path,) in rows}


def tracks_frame(tables: Tables, recipe: RecipeDigest) -> pd.DataFrame:
    """The whole manifest as a data frame, one row per track, with its embedding or rejection."""
    import pandas as pd

    columns = TRACK_SELECT.replace(", t.run_id", "")
    sql = (
        f"SELECT {columns}, e.windows, e.decoded_seconds, e.note, e.engine, e.device, e.dtype,"
        " e.run_id, coalesce(t.reason, e.reason) AS rejected FROM tracks t"
        " LEFT JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash ORDER BY t.path"
    )
    with tables.connect() as db:
        rows = db.execute(sql, (recipe,))
        names = [column[0] for column in rows.description]
        frame = pd.DataFrame.from_records(rows.fetchall(), columns=names)
    return frame.assign(path=frame["path"].map(display_path))


def rejected_tracks(tables: Tables, recipe: RecipeDigest) -> Iterator[Problem]:
    """Stream every rejected track, ordered by path."""
    with tables.connect() as db:
        rows = db.stream(
            "SELECT t.path, f.path, coalesce(t.reason, e.reason), coalesce(t.message, e.message),"
            " coalesce(e.at, t.seen_at), coalesce(e.run_id, t.run_id, '') FROM tracks t"
            " JOIN folders f ON f.folder_id = t.folder_id"
            " LEFT JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash"
            " WHERE coalesce(t.reason, e.reason) IS NOT NULL ORDER BY t.path",
            (recipe,),
        )
        for row in rows:
            yield Problem(*row)


def rejects(tables: Tables, spec: IndexSpec) -> Iterator[Problem]:
    """Stream every rejected track, and after them those that only the encoder of words rejected."""
    yield from rejected_tracks(tables, spec.recipe.digest)
    if spec.words:
        yield from rejected_for_words(tables, spec.words.digest, spec.recipe.digest)


def rejected_for_words(
    tables: Tables, words: RecipeDigest, recipe: RecipeDigest
) -> Iterator[Problem]:
    """Stream every track that is rejected under the recipe of words only, ordered by path."""
    with tables.connect() as db:
        rows = db.stream(
            "SELECT t.path, f.path, w.reason, w.message, w.at, coalesce(w.run_id, '')"
            " FROM tracks t JOIN folders f ON f.folder_id = t.folder_id"
            " JOIN embeddings w ON w.recipe = ? AND w.audio_hash = t.audio_hash"
            " LEFT JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash"
            " WHERE w.reason IS NOT NULL AND coalesce(t.reason, e.reason) IS NULL ORDER BY t.path",
            (words, recipe),
        )
        for path, folder, reason, message, at, run_id in rows:
            yield Problem(path, folder, reason, f"only `find` lacks it: {message}", at, run_id)


def failed_folders(tables: Tables) -> list[Problem]:
    """Folders whose last attempt failed, or whose run ended early, ordered by path."""
    with tables.connect() as db:
        rows = db.execute(
            "SELECT path, path, CASE WHEN stage IN (?, ?) THEN stage ELSE stage || ' failed' END,"
            " message, at, run_id FROM failures ORDER BY path",
            (CHANGED, NOT_DONE),
        )
        return [Problem(*row) for row in rows]


def last_indexed_at(tables: Tables, collection_key: CollectionKey) -> float | None:
    """When a folder was last written to a collection, in seconds since 1970; None if never."""
    with tables.connect() as db:
        sql = "SELECT max(at) FROM indexed WHERE collection_key = ?"
        return db.execute(sql, (collection_key,)).fetchone()[0]


def indexed_at(tables: Tables, *keys: str) -> dict[bytes, float]:
    """Path of each folder -> when it was last written to these collections (s since 1970).

    If it was written to them at different times: the earliest. Folders that are missing in one of
    them are left out.
    """
    with tables.connect() as db:
        query = (
            "SELECT f.path, min(i.at) FROM indexed i JOIN folders f ON f.folder_id = i.folder_id"
            f" WHERE i.collection_key IN ({', '.join('?' * len(keys))})"
            " GROUP BY f.folder_id HAVING count(*) = ?"
        )
        return dict(db.execute(query, (*keys, len(keys))))


def failures(tables: Tables) -> dict[bytes, bool]:
    """Path of each failed folder -> True if the folder caused the failure.

    False if the cause is shared, e.g. Milvus is down. Folders that only changed while they were
    read, or whose run ended early, are left out.
    """
    with tables.connect() as db:
        rows = db.execute(
            "SELECT path, shared FROM failures WHERE stage NOT IN (?, ?)", (CHANGED, NOT_DONE)
        )
        return {path: not shared for path, shared in rows}


def embedded_tracks(tables: Tables, recipe: RecipeDigest) -> Iterator[Track]:
    """Stream every track that has vectors under the recipe, ordered by path."""
    with tables.connect() as db:
        rows = db.stream(
            f"SELECT {TRACK_SELECT} FROM tracks t JOIN embeddings e"
            " ON e.recipe = ? AND e.audio_hash = t.audio_hash WHERE e.reason IS NULL"
            " ORDER BY t.path",
            (recipe,),
        )
        for row in rows:
            yield Track(*row)


def embedded_since(
    tables: Tables, recipe: RecipeDigest, since: float
) -> tuple[int, float, list[str]]:
    """How many tracks were embedded since a time, when the last one was, and the ids of their runs.

    Times are in seconds since 1970.
    """
    with tables.connect() as db:
        rows = db.execute(
            "SELECT run_id, count(*), max(at) FROM embeddings"
            " WHERE recipe = ? AND at > ? AND reason IS NULL GROUP BY run_id",
            (recipe, since),
        ).fetchall()
    return sum(r[1] for r in rows), max((r[2] for r in rows), default=since), [r[0] for r in rows]


def embedding_rate(tables: Tables, recipe: RecipeDigest, since: float, now: float) -> float:
    """Tracks embedded per second since a time, or since the first one after it; 0 if too few.

    Times are in seconds since 1970.
    """
    with tables.connect() as db:
        n, first = db.execute(
            "SELECT count(*), min(at) FROM embeddings"
            " WHERE recipe = ? AND at > ? AND reason IS NULL",
            (recipe, since),
        ).fetchone()
    return (n - 1) / max(now - first, 1.0) if n > 1 else 0.0


def seconds_per_track(tables: Tables, recipe: RecipeDigest, tracks: int = 100) -> float | None:
    """Seconds per track over the last embedded tracks, without the pauses between runs.

    None if too few tracks were embedded.
    """
    with tables.connect() as db:
        n, seconds = db.execute(
            "SELECT sum(n), sum(seconds) FROM (SELECT count(*) - 1 AS n, max(at) - min(at) AS"
            " seconds FROM (SELECT run_id, at FROM embeddings WHERE recipe = ?"
            " ORDER BY at DESC LIMIT ?) lately GROUP BY run_id) runs",
            (recipe, tracks),
        ).fetchone()
    return max(seconds / n, 1e-3) if n else None


def last_engine(tables: Tables, recipe: RecipeDigest) -> str:
    """Engine, dtype and device that embedded the last track under a recipe; empty if none."""
    with tables.connect() as db:
        last = db.execute(
            "SELECT engine, dtype, device FROM embeddings WHERE recipe = ?"
            " AND engine <> '' ORDER BY at DESC LIMIT 1",
            (recipe,),
        ).fetchone()
    return "{} in {} on {}".format(*last) if last else ""


def every_track(tables: Tables) -> Iterator[Track]:
    """Stream every track of the manifest, rejected ones too."""
    with tables.connect() as db:
        for row in db.stream(f"SELECT {TRACK_SELECT} FROM tracks t"):
            yield Track(*row)


def manifest_state(tables: Tables) -> tuple[int, float, int]:
    """A value that differs once the manifest has changed; cheap."""
    with tables.connect() as db:
        sql = "SELECT count(*), sum(scanned_at), sum(revision) FROM folders"
        folders, scanned_at, revision = db.execute(sql).fetchone()
    return folders, scanned_at or 0.0, revision or 0


def any_track(tables: Tables) -> bool:
    """Whether any track was ever scanned."""
    with tables.connect() as db:
        return db.execute("SELECT 1 FROM tracks LIMIT 1").fetchone() is not None


def embeddings_of(
    tables: Tables, recipe: RecipeDigest, hashes: Iterable[AudioHash]
) -> dict[AudioHash, Embedding]:
    """The embeddings of these audio hashes under a recipe; rejected ones are left out."""
    with tables.connect() as db:
        query = (
            f"SELECT {EMBEDDING_SELECT} FROM embeddings e WHERE e.recipe = ? AND e.audio_hash = ?"
            " AND e.reason IS NULL"
        )
        rows = (db.execute(query, (recipe, h)).fetchone() for h in hashes)
        return {e.audio_hash: e for e in (Embedding(*row) for row in rows if row)}


def folder_rejects(
    tables: Tables, folder: FolderId, recipe: RecipeDigest | None = None
) -> list[tuple[bytes, str, str]]:
    """(path, reason, message) of at most 50 rejected tracks of a folder."""
    with tables.connect() as db:
        return db.execute(
            "SELECT t.path, coalesce(t.reason, e.reason), coalesce(t.message, e.message)"
            " FROM tracks t LEFT JOIN embeddings e"
            " ON e.recipe = ? AND e.audio_hash = t.audio_hash WHERE t.folder_id = ?"
            " AND coalesce(t.reason, e.reason) IS NOT NULL ORDER BY t.path LIMIT 50",
            (recipe, folder),
        ).fetchall()


@dataclass(frozen=True)
class FolderState:
    """The state of a folder in the manifest; `digest` is None while it is being scanned.

    `pending`: how many of its `tracks` still have to be embedded under a recipe.
    """

    digest: str | None = None
    revision: int = 0
    tracks: int = 0
    pending: int = 0

    @property
    def ready(self) -> bool:
        """Whether its rows can be indexed."""
        return self.digest is not None and not self.pending


def folder_states(
    tables: Tables, folders: Iterable[FolderId], recipe: RecipeDigest
) -> dict[FolderId, FolderState]:
    """The states of these folders, by id; folders that were never scanned are left out."""
    rest = iter(folders)
    found: dict[FolderId, FolderState] = {}
    with tables.connect() as db:
        while ids := list(islice(rest, 500)):
            rows = db.execute(
                "SELECT f.folder_id, f.digest, f.revision, count(t.track_id), count(CASE WHEN"
                " t.track_id IS NOT NULL AND t.reason IS NULL AND (e.audio_hash IS NULL OR"
                " t.retry <> 0) THEN 1 END)"
                " FROM folders f LEFT JOIN tracks t ON t.folder_id = f.folder_id"
                " LEFT JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash"
                f" WHERE f.folder_id IN ({', '.join('?' * len(ids))}) GROUP BY f.folder_id",
                (recipe, *ids),
            )
            found.update({folder: FolderState(*state) for folder, *state in rows})
    return found
