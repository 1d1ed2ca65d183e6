"""The vectors of all windows in one file, which searches for parts read.

As in `track_vector_file.py`, there are two append-only files: `.f32` with the float32 vectors of
length 1, all windows of an audio together, and `.names` with one record per audio: its number of
windows and when it was embedded. They are a copy of the store and may be deleted at any time. A
search reads them in blocks, so its memory does not depend on the size of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from embed_assets.errors import TrackRejected
from embed_assets.identity import TRACKS, AudioHash, IndexSpec
from embed_assets.storage.pooling import pool
from embed_assets.storage.track_vector_file import LOCK_SECONDS, WINDOWS, base_of
from embed_assets.storage.vector_store import Store, Wanted, not_lost

BLOCK_BYTES = 16 << 20
"""Bytes per read."""

SYNC_BYTES = 64 << 20
"""Bytes of vectors that are written before their names; a killed writer loses at most these."""

_NAME = np.dtype([("audio", "S48"), ("at", "<f8"), ("count", "<u4")])


class SegmentVectorFile:
    """The window vectors of one index spec, each pooled like a track with one window.

    `rows`: audio hash -> (first row, number of rows, when it was embedded). A name is written only
    after its vectors are on the disk, so a power loss never leaves a name without vectors.
    """

    def __init__(self, store: Store, spec: IndexSpec) -> None:
        self.store, self.spec = store, replace(spec, rows=TRACKS, parts=False)
        base = f"{base_of(store, spec)}{WINDOWS}"
        self.vectors_file, self.names_file = Path(f"{base}.f32"), Path(f"{base}.names")
        self._forget(None)
        self.refresh()

    def _forget(self, inode: int | None) -> None:
        self._inode = inode
        self.rows: dict[AudioHash, tuple[int, int, float]] = {}
        self.counts = self.firsts = np.zeros(0, np.int64)
        self.total = 0

    def refresh(self) -> None:
        """Read the names that were appended since, or all if the files were replaced."""
        try:
            with open(self.names_file, "rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or stat.st_size < len(self.counts) * _NAME.itemsize:
                    self._forget(stat.st_ino)
                file.seek(len(self.counts) * _NAME.itemsize)
                names = np.fromfile(file, _NAME)
            there = os.path.getsize(self.vectors_file) // (4 * self.spec.dim)
        except OSError:
            self._forget(None)
            return
        counts = names["count"].astype(np.int64)
        ends = self.total + np.cumsum(counts)
        whole = int(np.searchsorted(ends, there, "right"))
        if not whole:
            return
        names, counts, ends = names[:whole], counts[:whole], ends[:whole]
        firsts = ends - counts
        audio = [a.decode("ascii", "replace") for a in names["audio"].tolist()]
        each = zip(firsts.tolist(), counts.tolist(), names["at"].tolist(), strict=True)
        self.rows.update(zip(audio, each, strict=True))
        self.counts = np.concatenate([self.counts, counts])
        self.firsts = np.concatenate([self.firsts, firsts])
        self.total = int(ends[-1])

    def missing(self, embedded: Mapping[AudioHash, float]) -> dict[AudioHash, float]:
        """The audio hashes (-> when each was embedded) that are not in the file."""
        rows = self.rows
        return {h: at for h, at in embedded.items() if h not in rows or rows[h][2] != at}

    def keep(self, embedded: Mapping[AudioHash, float]) -> None:
        """Append the vectors of these audio hashes (-> when each was embedded) from the store.

        Vectors that the store has lost are left out. Nothing is appended if the disk is full or
        read-only, or if another process holds the lock for long: `read` then reads them from the
        store.
        """
        from filelock import FileLock, Timeout

        if not self.missing(embedded):
            return
        lock = FileLock(f"{self.names_file}.lock")
        with suppress(OSError, Timeout):
            self.names_file.parent.mkdir(parents=True, exist_ok=True)
            with lock.acquire(timeout=LOCK_SECONDS, poll_interval=0.02):
                self.refresh()
                self._append(self.missing(embedded))
        self.refresh()

    def read(self, audio_hash: AudioHash) -> np.ndarray:
        """The window vectors of an audio from the store: float32 `[n, dim]`, of length 1.

        Raises:
            VectorsLost: the store no longer has them.
            TrackRejected: they cannot be pooled.
        """
        return self._each(self.store.read(self.spec.recipe.digest, audio_hash))

    def _each(self, windows: np.ndarray) -> np.ndarray:
        """Each window pooled like a track: float32 `[n, dim]`."""
        if self.spec.pooling == "mean":
            # The same as `pool` for each window, but for all of them at once.
            vectors = windows[:, 0].astype(np.float64)
            norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
            if norms.min() > 1e-12:
                return (vectors / norms[:, None]).astype(np.float32)
        return np.stack([pool(windows[i : i + 1], self.spec.pooling) for i in range(len(windows))])

    def best(
        self, query: np.ndarray, embedded: Mapping[AudioHash, float]
    ) -> tuple[np.ndarray, ...]:
        """For each of these audio hashes, the window nearest to a float32 `[dim]` unit vector.

        Returns cosines `[n]` (-2 if the vectors are lost) and the number of the window, int `[n]`.
        Exact. Memory: one block of the file, and one number per window.
        """
        self.refresh()
        self.keep(embedded)
        cosines = np.full(len(embedded), -2.0, np.float32)
        numbers = np.zeros(len(embedded), np.int64)
        lost = self.missing(embedded)
        here = [(i, self.rows[h][0]) for i, h in enumerate(embedded) if h not in lost]
        if here:
            scores = self._scores(query)
            tops = np.maximum.reduceat(scores, self.firsts)
            at, firsts = map(np.array, zip(*here, strict=True))
            index = np.searchsorted(self.firsts, firsts)
            reached = np.flatnonzero(scores == np.repeat(tops, self.counts))
            cosines[at] = tops[index]
            numbers[at] = reached[np.searchsorted(reached, firsts)] - firsts
        number = {audio: i for i, audio in enumerate(embedded)}
        for audio, _, vectors in self._read_all(lost):
            scores = vectors @ query
            cosines[number[audio]], numbers[number[audio]] = scores.max(), scores.argmax()
        return cosines, numbers

    def _scores(self, query: np.ndarray) -> np.ndarray:
        """Cosines of each row of the file; -2 if it cannot be read."""
        total, width = self.total, self.spec.dim
        scores = np.full(total, -2.0, np.float32)
        block = np.empty((max(1, BLOCK_BYTES // (4 * width)), width), np.float32)
        with suppress(OSError), open(self.vectors_file, "rb", buffering=0) as file:
            for begin in range(0, total, len(block)):
                part = block[: min(len(block), total - begin)]
                if file.readinto(memoryview(part).cast("B")) != part.nbytes:
                    break
                scores[begin : begin + len(part)] = part @ query
        return np.nan_to_num(scores, copy=False, nan=-2.0)

    def _append(self, embedded: Mapping[AudioHash, float]) -> None:
        with open(self.vectors_file, "ab") as vectors, open(self.names_file, "ab") as names:
            # A killed writer may have left vectors without a name, or half a name.
            names.truncate(len(self.counts) * _NAME.itemsize)
            vectors.truncate(self.total * 4 * self.spec.dim)
            records: list[tuple[bytes, float, int]] = []
            waiting = 0
            for audio, at, rows in self._read_all(embedded):
                vectors.write(rows)
                records.append((audio.encode(), at, len(rows)))
                waiting += rows.nbytes
                if waiting >= SYNC_BYTES:
                    _name(vectors, names, records)
                    records, waiting = [], 0
            _name(vectors, names, records)

    def _read_all(
        self, embedded: Mapping[AudioHash, float]
    ) -> Iterator[tuple[AudioHash, float, np.ndarray]]:
        wanted = (Wanted(audio, int(at)) for audio, at in embedded.items())
        found = self.store.read_many(self.spec.recipe.digest, wanted)
        for (audio, at), windows in not_lost(embedded.items(), found):
            with suppress(TrackRejected):
                yield audio, at, self._each(windows)


def _name(vectors: BinaryIO, names: BinaryIO, records: list[tuple[bytes, float, int]]) -> None:
    vectors.flush()
    os.fsync(vectors.fileno())
    names.write(np.array(records, _NAME))
    names.flush()
