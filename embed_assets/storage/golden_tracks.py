"""The tracks of the library whose stored vectors are compared with new ones; reads the tables."""

from __future__ import annotations

from collections.abc import Collection

from embed_assets.identity import AudioHash, RecipeDigest
from embed_assets.storage.records import (
    EMBEDDING_SELECT,
    FOUND_IN_STORE,
    TRACK_COLUMNS,
    TRACK_SELECT,
    Embedding,
    Track,
)
from embed_assets.storage.tables import Tables


def golden_tracks(
    tables: Tables,
    recipe: RecipeDigest,
    limit: int,
    *,
    since: float = 0.0,
    also: Collection[AudioHash] = (),
) -> list[tuple[Track, Embedding]]:
    """The undamaged embedded tracks with the smallest audio hashes, each audio once.

    So the choice is stable while the library grows, and independent of names and folders. `since`:
    only audio that was embedded later, in seconds since 1970, and the audio in `also`.
    """
    marks = ", ".join("?" * len(also)) or "NULL"
    width = len(TRACK_COLUMNS)
    found: dict[str, tuple[Track, Embedding]] = {}
    # Chosen by the database: PostgreSQL would otherwise send the whole library.
    chosen = (
        "SELECT e.audio_hash FROM embeddings e WHERE e.recipe = ? AND e.reason IS NULL"
        f" AND e.note IN ('', ?) AND (e.at >= ? OR e.audio_hash IN ({marks}))"
        " AND EXISTS (SELECT 1 FROM tracks t WHERE t.audio_hash = e.audio_hash)"
        " ORDER BY e.audio_hash LIMIT ?"
    )
    with tables.connect() as db:
        rows = db.execute(
            f"SELECT {TRACK_SELECT}, {EMBEDDING_SELECT} FROM embeddings e JOIN tracks t"
            f" ON t.audio_hash = e.audio_hash WHERE e.recipe = ? AND e.audio_hash IN ({chosen})"
            " ORDER BY e.audio_hash, t.path",
            (recipe, recipe, FOUND_IN_STORE, since, *also, limit),
        )
        for row in rows:
            track = Track(*row[:width])
            found.setdefault(track.audio, (track, Embedding(*row[width:])))
    return list(found.values())
