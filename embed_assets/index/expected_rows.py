"""The rows that the index should have according to the tables, and their vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from embed_assets.audio.decode import heard_seconds
from embed_assets.audio.windows import WindowPolicy, placed
from embed_assets.errors import TransientError
from embed_assets.identity import PARTS, AudioHash, FolderId, IndexSpec, Recipe, display_path
from embed_assets.index.row import PartRow, Row, TrackRow
from embed_assets.storage.pooling import pool
from embed_assets.storage.records import Embedding, Track
from embed_assets.storage.tables import Tables
from embed_assets.storage.vector_store import Store, VectorsLost

if TYPE_CHECKING:
    import numpy as np

RECENT = 6_144
"""Track vectors that stay in memory: those of 512 albums with twelve tracks, 25 MB."""


def index_rows(tables: Tables, folder: FolderId, spec: IndexSpec) -> Iterator[Row]:
    """The rows that the collection of `spec` should have for a folder, without vectors."""
    for track, embedding in tables.indexable(folder, spec.recipe.digest):
        yield from rows_of_track(track, embedding, spec)


def rows_of_track(track: Track, embedding: Embedding, spec: IndexSpec) -> Iterator[Row]:
    """The rows that the collection of `spec` should have for an embedded track."""
    row = row_of(track, embedding, spec.recipe)
    if spec.rows != PARTS:
        yield row
        return
    for number, (start, length) in enumerate(windows_of(track, embedding, spec.recipe)):
        yield PartRow(row, number, start, round(start + length, 2))


def windows_of(track: Track, embedding: Embedding, recipe: Recipe) -> list[tuple[float, float]]:
    """(start, length) in seconds of the embedded windows of a track, in order."""
    policy = WindowPolicy(recipe.window_seconds, recipe.windows)
    # Windows that tile a track say by themselves how much of it was heard.
    tiled = policy.covers(track.duration)
    heard = embedding.decoded_seconds if tiled else heard_seconds(embedding.note)
    return placed(track.duration, policy, embedding.windows, heard)


def vocabulary(tables: Tables, spec: IndexSpec) -> Callable[[str], set[str]]:
    """Field -> its distinct values in the rows of a spec, for `filters.expression`."""

    def values(field: str) -> set[str]:
        folders = [folder for folder, _, _ in tables.folders()]
        return {getattr(row, field) for f in folders for row in index_rows(tables, f, spec)}

    return values


def row_of(
    track: Track, embedding: Embedding | None = None, recipe: Recipe | None = None
) -> TrackRow:
    """The row of a track of the manifest; with an embedding, also how its vector was made."""
    folder, _, name = track.path.rpartition(b"/")
    return TrackRow(
        track_id=track.track_id,
        audio_hash=track.audio,
        folder_id=track.folder_id,
        folder=display_path(folder),
        path=display_path(track.path),
        # Half of real libraries have untagged files: people then know a track by its file's name.
        title=track.title or display_path(name.rpartition(b".")[0]),
        artist=track.artist or track.album_artist,
        album=track.album,
        album_artist=track.album_artist,
        genre=track.genre,
        year=track.year,
        duration=track.duration,
        track_number=track.track_number,
        disc_number=track.disc_number,
        container=track.container,
        codec=track.codec,
        sample_rate=track.sample_rate,
        channels=track.channels,
        bit_rate=track.bit_rate,
        recording_id=track.recording_id,
        release_id=track.release_id,
        artist_id=track.artist_id,
        added_at=int(track.added_at),
        changed_at=track.mtime_ns // 10**9,
        encoder=recipe.encoder if recipe else "",
        weights=recipe.weights[:16] if recipe else "",
        engine=embedding.engine if embedding else "",
        device=embedding.device if embedding else "",
        dtype=embedding.dtype if embedding else "",
        embedded_at=int(embedding.at) if embedding else 0,
        run_id=embedding.run_id if embedding else "",
    )


class Vectors:
    """Reads the vector of a row's `sound` from the store: float32 `[spec.dim]`.

    `mend`: the embedding of lost vectors is deleted, so that the next attempt embeds them again.
    `recent`: audio hash -> vector, for the last tracks that were read.
    """

    def __init__(self, spec: IndexSpec, tables: Tables, store: Store, *, mend: bool = True) -> None:
        self.spec, self.tables, self.store, self.mend = spec, tables, store, mend
        self.recent: dict[str, np.ndarray] = {}
        self._windows: tuple[str, np.ndarray] | None = None

    def __call__(self, sound: Any) -> np.ndarray:
        """The vector; raises TransientError or VectorsLost if the store has lost it."""
        if self.spec.rows == PARTS:
            return self._of_part(*sound)
        vector = pool(self._read(sound), self.spec.pooling)
        self.recent[sound] = vector
        if len(self.recent) > RECENT:
            del self.recent[next(iter(self.recent))]
        return vector

    def _of_part(self, audio_hash: AudioHash, number: int) -> np.ndarray:
        if self._windows is None or self._windows[0] != audio_hash:
            self._windows = audio_hash, self._read(audio_hash)
        return pool(self._windows[1][number : number + 1], self.spec.pooling)

    def _read(self, audio_hash: AudioHash) -> np.ndarray:
        recipe = self.spec.recipe.digest
        try:
            return self.store.read(recipe, audio_hash)
        except VectorsLost as e:
            if not self.mend:
                raise
            self.store.delete(recipe, audio_hash)
            self.tables.forget_embedding(recipe, audio_hash)
            raise TransientError(f"{e}; it is embedded again at the next attempt") from e
