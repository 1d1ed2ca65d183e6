"""Pooled vectors in one file, in front of the store: what an exact search reads, mapped at once.

A vector is a function of (audio, recipe, pooling), so two files are only ever appended to: `.f32`
with the float32 vectors of length 1, then `.names` with a record for each: the audio, and when it
was embedded. They are a copy and may be deleted at any time; a vector that a power loss took away
has not length 1, and is made again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np

from embed_assets.errors import TrackRejected
from embed_assets.identity import AudioHash, IndexSpec
from embed_assets.storage.pooling import pool
from embed_assets.storage.vector_store import Store, VectorsLost

FOLDER = "search"
"""Beside the store."""

WINDOWS = "-windows"
"""What the names for parts have more (`windowed.py`)."""

LOCK_SECONDS = 5.0
"""How long to wait for another process that appends, before going on without keeping anything."""

APPEND = 1_000
"""Vectors a write."""

_NAME = np.dtype([("audio", "S48"), ("at", "<f8")])
_NORM_TOLERANCE = 1e-3


def base_of(store: Store, spec: IndexSpec) -> Path:
    """What the names of a spec's files begin with."""
    name = f"{spec.recipe.digest[:16]}-{spec.pooling}-{spec.dim}"
    return store.root.with_name(FOLDER) / name


def unused_files(store: Store, specs: Collection[IndexSpec]) -> list[Path]:
    """The files of other specs than these, those for parts among them."""
    kept = {base_of(store, spec).name for spec in specs}
    files = store.root.with_name(FOLDER).glob("*.*")
    return sorted(f for f in files if f.name.partition(".")[0].removesuffix(WINDOWS) not in kept)


class TrackVectorFile:
    """The pooled vectors of one index spec.

    `vectors`: float32 `[n, dim]`, read-only. `rows`: audio hash -> (row of `vectors`, when it was
    embedded); only rows of length 1 are named, if `check`, which reads them all.
    """

    def __init__(self, store: Store, spec: IndexSpec, *, check: bool = True) -> None:
        base = base_of(store, spec)
        self.vectors_file, self.names_file = Path(f"{base}.f32"), Path(f"{base}.names")
        self.store, self.spec, self.check = store, spec, check
        self.vectors = np.zeros((0, spec.dim), np.float32)
        self.rows: dict[AudioHash, tuple[int, float]] = {}
        self._inode: int | None = None
        self._map()

    def keep(
        self,
        embedded: Mapping[AudioHash, float],
        at_hand: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> None:
        """Have a vector of each audio hash -> moment of its embedding, from the store if need be.

        `at_hand`: vectors of some of them that the caller has just read. What the store has lost,
        or cannot be pooled, is left out. A disk that is full or read-only costs only that the next
        process reads the store again.
        """
        from filelock import FileLock, Timeout

        if not self._missing(embedded):
            return
        lock = FileLock(f"{self.names_file}.lock")
        try:
            self.names_file.parent.mkdir(parents=True, exist_ok=True)
            with lock.acquire(timeout=LOCK_SECONDS, poll_interval=0.02):
                self._map()
                with open(self.vectors_file, "ab") as vectors, open(self.names_file, "ab") as names:
                    # What a killed writer left without a name, or with half of one.
                    whole = os.path.getsize(self.names_file) // _NAME.itemsize
                    names.truncate(whole * _NAME.itemsize)
                    vectors.truncate(whole * 4 * self.spec.dim)
                    for some, rows in self._read(self._missing(embedded), at_hand):
                        vectors.write(rows)
                        vectors.flush()
                        names.write(some)
                        names.flush()
                self._map()
        except (OSError, Timeout):
            pass
        self._hold(self._missing(embedded))

    def _missing(self, embedded: Mapping[AudioHash, float]) -> dict[AudioHash, float]:
        rows = self.rows
        return {h: at for h, at in embedded.items() if h not in rows or rows[h][1] != at}

    def _read(
        self,
        embedded: Mapping[AudioHash, float],
        at_hand: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Names `[n]` and vectors `[n, dim]` of what the store has, some at a time."""
        found = self._pool(embedded, at_hand)
        while batch := list(islice(found, APPEND)):
            names, vectors = zip(*batch, strict=True)
            yield np.array(list(names), _NAME), np.stack(vectors)

    def _pool(
        self, embedded: Mapping[AudioHash, float], at_hand: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[tuple[bytes, float], np.ndarray]]:
        for audio, at in embedded.items():
            if audio in at_hand:
                yield (audio.encode(), at), at_hand[audio]
                continue
            with suppress(VectorsLost, TrackRejected):
                windows = self.store.read(self.spec.recipe.digest, audio)
                yield (audio.encode(), at), pool(windows, self.spec.pooling)

    def _map(self) -> None:
        """Look at what the files have now; rows that were there keep their places."""
        known, width = len(self.vectors), self.spec.dim
        try:
            with open(self.names_file, "rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if self._inode not in (None, inode):
                    # Somebody deleted the files, and others have made new ones: not these rows.
                    return
                names = np.fromfile(file, _NAME)
            whole = min(len(names), os.path.getsize(self.vectors_file) // (4 * width))
            if whole <= known:
                return
            mapped = np.memmap(self.vectors_file, np.float32, "r", shape=(whole, width))
        except OSError:
            return
        self._inode = inode
        self.vectors = mapped.view(np.ndarray)
        self._name(names[known:whole], known)

    def _hold(self, embedded: Mapping[AudioHash, float]) -> None:
        """Keep vectors in this process only."""
        for names, vectors in self._read(embedded):
            begin = len(self.vectors)
            self.vectors = np.concatenate([self.vectors, vectors])
            self._name(names, begin)

    def _name(self, names: np.ndarray, begin: int) -> None:
        good = np.ones(len(names), bool)
        if self.check:
            new = self.vectors[begin : begin + len(names)]
            with np.errstate(invalid="ignore", over="ignore"):
                good = np.abs(np.einsum("ij,ij->i", new, new) - 1) < _NORM_TOLERANCE
        audio, at = names["audio"].tolist(), names["at"].tolist()
        for i in np.flatnonzero(good).tolist():
            self.rows[audio[i].decode("ascii", "replace")] = begin + i, at[i]
