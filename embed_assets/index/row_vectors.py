"""The vectors of rows, from the store: for the index, and for the files that searches read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embed_assets.errors import TransientError
from embed_assets.identity import AudioHash, IndexSpec
from embed_assets.storage.pooling import pool
from embed_assets.storage.segment_vector_file import SegmentVectorFile
from embed_assets.storage.tables import Tables
from embed_assets.storage.track_vector_file import TrackVectorFile
from embed_assets.storage.vector_store import Store, VectorsLost

if TYPE_CHECKING:
    import numpy as np

RECENT = 6_144
"""Track vectors that stay in memory: those of 512 albums with twelve tracks, 25 MB."""


class Windows:
    """Reads stored windows.

    `forget_lost`: the embedding of lost vectors is deleted, so that the next attempt embeds them
    again.
    """

    def __init__(self, tables: Tables, store: Store, *, forget_lost: bool) -> None:
        self.tables, self.store, self.forget_lost = tables, store, forget_lost

    def read(self, spec: IndexSpec, audio_hash: AudioHash) -> np.ndarray:
        """Float32 `[n_windows, S, dim]`.

        Raises:
            VectorsLost: the store has lost them.
            TransientError: the same, and their embedding was deleted.
        """
        recipe = spec.recipe.digest
        try:
            return self.store.read(recipe, audio_hash)
        except VectorsLost as e:
            if not self.forget_lost:
                raise
            self.store.delete(recipe, audio_hash)
            self.tables.forget_embedding(recipe, audio_hash)
            raise TransientError(f"{e}; it is embedded again at the next attempt") from e


class TrackVectors:
    """The pooled vectors of tracks; their `vector_key` is the audio hash."""

    def __init__(self, spec: IndexSpec, windows: Windows) -> None:
        self.spec, self.windows = spec, windows
        self._recent: dict[str, np.ndarray] = {}
        self._file: TrackVectorFile | None = None

    def __call__(self, vector_key: Any) -> np.ndarray:
        """Float32 `[spec.dim]`; raises what `Windows.read` does, and TrackRejected."""
        vector = pool(self.windows.read(self.spec, vector_key), self.spec.pooling)
        self._recent[vector_key] = vector
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        return vector

    def keep(self, embedded: Mapping[AudioHash, float]) -> None:
        """Add the vectors of these audio hashes (-> when embedded) to the file of searches."""
        self._file = self._file or TrackVectorFile(self.windows.store, self.spec, check=False)
        self._file.keep(embedded, self._recent)


class SegmentVectors:
    """The vectors of windows; their `vector_key` is (audio hash, number of the window)."""

    def __init__(self, spec: IndexSpec, windows: Windows) -> None:
        self.spec, self.windows = spec, windows
        self._last: tuple[AudioHash, np.ndarray] | None = None
        self._file: SegmentVectorFile | None = None

    def __call__(self, vector_key: Any) -> np.ndarray:
        """Float32 `[spec.dim]`; raises what `Windows.read` does, and TrackRejected."""
        audio_hash, number = vector_key
        if self._last is None or self._last[0] != audio_hash:
            self._last = audio_hash, self.windows.read(self.spec, audio_hash)
        return pool(self._last[1][number : number + 1], self.spec.pooling)

    def keep(self, embedded: Mapping[AudioHash, float]) -> None:
        """Add the vectors of these audio hashes (-> when embedded) to the file of searches."""
        self._file = self._file or SegmentVectorFile(self.windows.store, self.spec)
        self._file.keep(embedded)
