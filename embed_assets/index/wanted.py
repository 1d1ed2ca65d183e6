"""What rows the tables call for, of tracks and of their parts, and the vectors of these rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from embed_assets.audio.decode import heard_seconds
from embed_assets.audio.windows import WindowPolicy, placed
from embed_assets.errors import TransientError
from embed_assets.identity import PARTS, IndexSpec, Recipe, display_path
from embed_assets.index.row import PartRow, Row, TrackRow
from embed_assets.rows import Embedding, Track
from embed_assets.tables import Tables
from embed_assets.vectors.pooling import pool
from embed_assets.vectors.store import Store, VectorsLost

if TYPE_CHECKING:
    import numpy as np


def index_rows(tables: Tables, folder: str, spec: IndexSpec) -> Iterator[Row]:
    """The rows that the collection of `spec` should have of a folder, without their vectors."""
    for track, embedding in tables.indexable(folder, spec.recipe.digest):
        yield from rows_of_track(track, embedding, spec)


def rows_of_track(track: Track, embedding: Embedding, spec: IndexSpec) -> Iterator[Row]:
    """The rows that the collection of `spec` should have of an embedded track."""
    row = row_of(track, embedding, spec.recipe)
    if spec.rows != PARTS:
        yield row
        return
    for number, (start, length) in enumerate(windows_of(track, embedding, spec.recipe)):
        yield PartRow(row, number, start, round(start + length, 2))


def windows_of(track: Track, embedding: Embedding, recipe: Recipe) -> list[tuple[float, float]]:
    """(start, length) in seconds of the windows that were embedded of a track, in their order."""
    policy = WindowPolicy(recipe.window_seconds, recipe.windows)
    # Windows that tile a track say by themselves how much of it was heard.
    tiled = policy.covers(track.duration)
    heard = embedding.decoded_seconds if tiled else heard_seconds(embedding.note)
    return placed(track.duration, policy, embedding.windows, heard)


def vocabulary(tables: Tables, spec: IndexSpec) -> Callable[[str], set[str]]:
    """Field -> its different values in the rows of a spec, for `filters.expression`."""

    def values(field: str) -> set[str]:
        folders = [folder for folder, _, _ in tables.folders()]
        return {getattr(row, field) for f in folders for row in index_rows(tables, f, spec)}

    return values


def row_of(
    track: Track, embedding: Embedding | None = None, recipe: Recipe | None = None
) -> TrackRow:
    """What the index says of a track of the manifest, and of how its vector was made if given."""
    folder, _, name = track.path.rpartition(b"/")
    return TrackRow(
        track_id=track.track_id,
        audio_hash=track.audio_hash or "",
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


def vectors(
    spec: IndexSpec, tables: Tables, store: Store, *, mend: bool = True
) -> Callable[[Any], np.ndarray]:
    """What gives the vector of a row's `sound`, from the store; the last track's stay in memory.

    `mend`: what the store has lost is forgotten, so that the next try embeds it again.
    """
    last: tuple[str, np.ndarray] | None = None

    def windows(audio_hash: str) -> np.ndarray:
        nonlocal last
        if last is None or last[0] != audio_hash:
            last = audio_hash, _read(spec, tables, store, audio_hash, mend)
        return last[1]

    def of_part(sound: tuple[str, int]) -> np.ndarray:
        audio_hash, number = sound
        return pool(windows(audio_hash)[number : number + 1], spec.pooling)

    def of_track(sound: str) -> np.ndarray:
        return pool(_read(spec, tables, store, sound, mend), spec.pooling)

    return of_part if spec.rows == PARTS else of_track


def _read(spec: IndexSpec, tables: Tables, store: Store, audio_hash: str, mend: bool) -> np.ndarray:
    try:
        return store.read(spec.recipe.digest, audio_hash)
    except VectorsLost as e:
        if not mend:
            raise
        store.delete(spec.recipe.digest, audio_hash)
        tables.forget_embedding(spec.recipe.digest, audio_hash)
        raise TransientError(f"{e}; it is embedded again at the next try") from e
