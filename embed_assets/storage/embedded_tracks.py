"""Tracks with their embeddings: all, a sample, by audio; and deleting embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from embed_assets.identity import AudioHash, FolderId, IndexSpec, RecipeDigest, TrackId
from embed_assets.storage.database import HASHES_PER_CALL, Connection
from embed_assets.storage.records import (
    EMBEDDING_COLUMNS,
    EMBEDDING_SELECT,
    TRACK_SELECT,
    Embedding,
    Track,
)
from embed_assets.storage.tables import Tables


def embeddable_tracks(
    tables: Tables, recipe: RecipeDigest, folders: Sequence[FolderId] | None = None
) -> Iterator[tuple[Track, Embedding | None]]:
    """Stream each track that is not rejected with its embedding, ordered by folder id.

    The embedding is None if there is none yet. `folders`: only tracks of these, some hundreds.
    """
    some, values = "", tuple(folders or ())
    if folders is not None:
        some = f" AND t.folder_id IN ({', '.join('?' * len(values))})"
    with tables.connect() as db:
        rows = db.stream(
            f"SELECT {EMBEDDING_SELECT}, {TRACK_SELECT} FROM tracks t LEFT JOIN embeddings e"
            " ON e.recipe = ? AND e.audio_hash = t.audio_hash"
            f" WHERE t.reason IS NULL AND e.reason IS NULL{some} ORDER BY t.folder_id",
            (recipe, *values),
        )
        n = len(EMBEDDING_COLUMNS)
        for row in rows:
            yield Track(*row[n:]), None if row[0] is None else Embedding(*row[:n])


def sample_tracks(
    tables: Tables, recipe: RecipeDigest, start: str, n: int
) -> list[tuple[TrackId, AudioHash, int]]:
    """(track id, audio hash, windows) of at most `n` embedded tracks, from the id `start` on.

    After the last id it continues with the first. Ids are hashes, so this is a random sample.
    """
    sql = (
        "SELECT t.track_id, t.audio_hash, e.windows FROM tracks t JOIN embeddings e"
        " ON e.recipe = ? AND e.audio_hash = t.audio_hash"
        " WHERE e.reason IS NULL AND t.track_id {} ? ORDER BY t.track_id LIMIT ?"
    )
    with tables.connect() as db:
        rows = db.execute(sql.format(">="), (recipe, start, n)).fetchall()
        return rows + db.execute(sql.format("<"), (recipe, start, n - len(rows))).fetchall()


def embedded_audio(
    tables: Tables, recipe: RecipeDigest, hashes: Sequence[AudioHash]
) -> dict[AudioHash, float]:
    """When each of these, any number, was embedded; without those that have no vectors."""
    found: dict[AudioHash, float] = {}
    with tables.connect() as db:
        for i in range(0, len(hashes), HASHES_PER_CALL):
            some = hashes[i : i + HASHES_PER_CALL]
            found |= dict(
                db.execute(
                    "SELECT audio_hash, at FROM embeddings WHERE recipe = ? AND reason IS NULL"
                    f" AND audio_hash IN ({', '.join('?' * len(some))})",
                    (recipe, *some),
                ).fetchall()
            )
    return found


def lowest_audio(tables: Tables, uri: str, spec: IndexSpec, n: int) -> list[TrackId]:
    """The ids of `n` tracks of a collection, one for each of the lowest audio hashes."""
    with tables.connect() as db:
        rows = db.execute(
            "SELECT min(t.track_id) FROM tracks t"
            " JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash"
            " JOIN indexed i ON i.collection_key = ? AND i.folder_id = t.folder_id"
            " WHERE e.reason IS NULL GROUP BY t.audio_hash ORDER BY t.audio_hash LIMIT ?",
            (spec.recipe.digest, spec.collection_key(uri), n),
        )
        return [row[0] for row in rows]


def named_audio(tables: Tables, hashes: Iterable[AudioHash]) -> set[AudioHash]:
    """Which of these audio hashes a track of the manifest has; pass a few hundred per call."""
    with tables.connect() as db:
        return _named(db, list(hashes))


def audio_gone_since(tables: Tables, hashes: Sequence[AudioHash], at: float) -> set[AudioHash]:
    """Which of these lost their last track after a time; pass a few hundred per call."""
    if not hashes:
        return set()
    marks = ", ".join("?" * len(hashes))
    sql = f"SELECT audio_hash FROM gone_audio WHERE gone_at > ? AND audio_hash IN ({marks})"
    with tables.connect() as db:
        return {row[0] for row in db.execute(sql, (at, *hashes))}


def forget_embeddings(
    tables: Tables, recipe: RecipeDigest, hashes: list[AudioHash], *, unless_named: bool
) -> list[AudioHash]:
    """Delete embeddings, and return the hashes whose embeddings were deleted.

    `unless_named`: keep the embeddings of audio that a track has by now.
    """
    with tables.transaction() as db:
        named = _named(db, hashes) if unless_named else set()
        gone = [h for h in hashes if h not in named]
        db.executemany(
            "DELETE FROM embeddings WHERE recipe = ? AND audio_hash = ?",
            ((recipe, h) for h in gone),
        )
    return gone


def _named(db: Connection, hashes: list[AudioHash]) -> set[AudioHash]:
    if not hashes:
        return set()
    marks = ", ".join("?" * len(hashes))
    sql = f"SELECT DISTINCT audio_hash FROM tracks WHERE audio_hash IN ({marks})"
    return {row[0] for row in db.execute(sql, hashes)}
