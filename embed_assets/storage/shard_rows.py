"""What portable shards need of the tables: which audio is known, and which of it is in the library.

Pass `HASHES_PER_CALL` hashes at most, unless a function says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embed_assets.identity import AudioHash, RecipeDigest
from embed_assets.storage.database import HASHES_PER_CALL
from embed_assets.storage.records import (
    EMBEDDING_COLUMNS,
    TRACK_COLUMNS,
    TRACK_SELECT,
    Embedding,
    Track,
)
from embed_assets.storage.tables import Tables


def reasons(
    tables: Tables, recipe: RecipeDigest, hashes: Sequence[AudioHash]
) -> dict[AudioHash, str | None]:
    """Those of these audios that were embedded or rejected: hash -> why rejected, or None."""
    with tables.connect() as db:
        return dict(
            db.execute(
                "SELECT audio_hash, reason FROM embeddings WHERE recipe = ? AND audio_hash IN"
                f" ({_marks(hashes)})",
                (recipe, *hashes),
            )
        )


def tracks_with(tables: Tables, hashes: Sequence[AudioHash]) -> dict[AudioHash, Track]:
    """A track of the library for each of these audios that it has; the first one by path."""
    with tables.connect() as db:
        rows = db.execute(
            f"SELECT {TRACK_SELECT} FROM tracks t WHERE t.audio_hash IN ({_marks(hashes)})"
            " ORDER BY t.path DESC",
            tuple(hashes),
        )
        found = [Track(*row[: len(TRACK_COLUMNS)]) for row in rows]
    return {track.audio: track for track in found}


def durations(tables: Tables, hashes: Sequence[AudioHash]) -> dict[AudioHash, float]:
    """The duration of each of these audios, in seconds; takes any number of hashes."""
    found: dict[AudioHash, float] = {}
    with tables.connect() as db:
        for start in range(0, len(hashes), HASHES_PER_CALL):
            some = hashes[start : start + HASHES_PER_CALL]
            found.update(
                db.execute(
                    "SELECT audio_hash, max(duration) FROM tracks WHERE audio_hash IN"
                    f" ({_marks(some)}) GROUP BY audio_hash",
                    tuple(some),
                )
            )
    return found


def embeddings(tables: Tables, recipe: RecipeDigest) -> Iterator[Embedding]:
    """Stream every audio that was embedded or rejected under a recipe."""
    columns = ", ".join(EMBEDDING_COLUMNS)
    with tables.connect() as db:
        for row in db.stream(f"SELECT {columns} FROM embeddings WHERE recipe = ?", (recipe,)):
            yield Embedding(*row)


def _marks(hashes: Sequence[AudioHash]) -> str:
    return ", ".join("?" * len(hashes)) or "NULL"
