"""The vectors of rows, from the store: for the index, and for the files that searches read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Protocol

import numpy as np

from embed_assets.errors import TrackRejected, TransientError
from embed_assets.identity import AudioHash, IndexSpec, RecipeDigest
from embed_assets.index.row import VectorKey
from embed_assets.storage.pooling import pool
from embed_assets.storage.segment_vector_file import SegmentVectorFile
from embed_assets.storage.tables import Tables
from embed_assets.storage.track_vector_file import TrackVectorFile
from embed_assets.storage.vector_store import Store, VectorsLost, Wanted

RECENT = 6_144
"""Track vectors that stay in memory: those of 512 albums with twelve tracks, 25 MB."""


class VectorSource(Protocol):
    """Where the vectors of rows come from."""

    def of(self, keys: Sequence[VectorKey]) -> Iterator[np.ndarray | Exception]:
        """A float32 `[spec.dim]` vector of any length but 0 for each key, in order.

        An error in place of one fails the folder of its row.
        """


class NoVectors:
    """For folders that should have no rows."""

    def of(self, keys: Sequence[VectorKey]) -> Iterator[np.ndarray | Exception]:
        """See `VectorSource`."""
        return iter([LookupError(f"no vector of {key.audio_hash}") for key in keys])


class Windows:
    """Reads stored windows.

    `forget_lost`: vectors that are still lost when they are read once more are deleted with their
    embedding, so that the next attempt embeds them again.
    """

    def __init__(self, tables: Tables, store: Store, *, forget_lost: bool) -> None:
        self.tables, self.store, self.forget_lost = tables, store, forget_lost

    def read(
        self, spec: IndexSpec, keys: Sequence[VectorKey]
    ) -> Iterator[np.ndarray | TransientError]:
        """Float32 `[n_windows, S, dim]` for each key, in order, or what is the matter with it.

        That is VectorsLost if the store has lost them; if their embedding was deleted, another
        TransientError. Raises what `Store.read_many` does.
        """
        recipe = spec.recipe.digest
        wanted = (Wanted(key.audio_hash, key.embedded_at) for key in keys)
        found = self.store.read_many(recipe, wanted, keep=True)
        for key, windows in zip(keys, found, strict=True):
            if isinstance(windows, VectorsLost) and self.forget_lost:
                yield self._forget(recipe, key.audio_hash, windows)
            else:
                yield windows

    def _forget(
        self, recipe: RecipeDigest, audio_hash: AudioHash, lost: VectorsLost
    ) -> np.ndarray | TransientError:
        try:
            # What a disk or a server spoilt on the way once is intact in the store.
            return self.store.read(recipe, audio_hash)
        except VectorsLost:
            pass
        except TransientError as error:
            return error
        try:
            self.store.delete(recipe, [audio_hash])
            self.tables.forget_embedding(recipe, audio_hash)
        except TransientError as error:
            return error
        return TransientError(f"{lost}; it is embedded again at the next attempt")


class TrackVectors:
    """The pooled vectors of tracks."""

    def __init__(self, spec: IndexSpec, windows: Windows) -> None:
        self.spec, self.windows = spec, windows
        self._recent: dict[str, np.ndarray] = {}
        self._file: TrackVectorFile | None = None

    def of(self, keys: Sequence[VectorKey]) -> Iterator[np.ndarray | Exception]:
        """Float32 `[spec.dim]` for each key, in order, or what is the matter with it.

        Raises what `Windows.read` does.
        """
        for key, windows in zip(keys, self.windows.read(self.spec, keys), strict=True):
            vector = _pooled(windows, self.spec)
            if isinstance(vector, np.ndarray):
                self._recent[key.audio_hash] = vector
                if len(self._recent) > RECENT:
                    del self._recent[next(iter(self._recent))]
            yield vector

    def keep(self, embedded: Mapping[AudioHash, float]) -> None:
        """Add the vectors of these audio hashes (-> when embedded) to the file of searches."""
        self._file = self._file or TrackVectorFile(self.windows.store, self.spec, check=False)
        self._file.keep(embedded, self._recent)


class SegmentVectors:
    """The vectors of windows."""

    def __init__(self, spec: IndexSpec, windows: Windows) -> None:
        self.spec, self.windows = spec, windows
        self._file: SegmentVectorFile | None = None

    def of(self, keys: Sequence[VectorKey]) -> Iterator[np.ndarray | Exception]:
        """Float32 `[spec.dim]` for each key, in order, or what is the matter with it.

        Keys of one audio that follow each other cost one read. Raises what `Windows.read` does.
        """
        groups = [list(same) for _, same in groupby(keys, lambda key: key.audio_hash)]
        found = self.windows.read(self.spec, [same[0] for same in groups])
        for same, windows in zip(groups, found, strict=True):
            for key in same:
                yield _pooled(windows, self.spec, key.number)

    def keep(self, embedded: Mapping[AudioHash, float]) -> None:
        """Add the vectors of these audio hashes (-> when embedded) to the file of searches."""
        self._file = self._file or SegmentVectorFile(self.windows.store, self.spec)
        self._file.keep(embedded)


def _pooled(
    windows: np.ndarray | TransientError, spec: IndexSpec, number: int | None = None
) -> np.ndarray | Exception:
    """The vector of all windows, or of one; the error if there is none."""
    if isinstance(windows, TransientError):
        return windows
    try:
        chosen = windows if number is None else windows[number : number + 1]
        return pool(chosen, spec.pooling)
    except (TrackRejected, ValueError) as error:
        return error
