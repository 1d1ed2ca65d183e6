"""Pooled vectors in one file, which exact search maps into memory.

A vector is a function of (audio, recipe, pooling), so the two files are append-only: `.f32` has the
float32 vectors of length 1, and `.names` one record per vector: the audio hash and when it was
embedded. They are a copy of the store and may be deleted at any time. A vector that was damaged by
a power loss does not have length 1, and is read from the store again.
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
from embed_assets.storage.vector_store import Store, Wanted, not_lost

FOLDER = "search"
"""Name of the folder of these files in EMBED_HOME."""

WINDOWS = "-windows"
"""Suffix in the names of the files with windows (`segment_vector_file.py`)."""

LOCK_SECONDS = 5.0
"""How long to wait for another process that is appending; then nothing is written."""

APPEND = 1_000
"""Vectors per write."""

_NAME = np.dtype([("audio", "S48"), ("at", "<f8")])
_NORM_TOLERANCE = 1e-3


def base_of(store: Store, spec: IndexSpec) -> Path:
    """Path and stem of the files of a spec."""
    name = f"{spec.recipe.digest[:16]}-{spec.pooling}-{spec.dim}"
    return store.home / FOLDER / name


def unused_files(store: Store, specs: Collection[IndexSpec]) -> list[Path]:
    """The files of specs other than these, including those of windows."""
    kept = {base_of(store, spec).name for spec in specs}
    files = (store.home / FOLDER).glob("*.*")
    return sorted(f for f in files if f.name.partition(".")[0].removesuffix(WINDOWS) not in kept)


def read_some(
    store: Store, spec: IndexSpec, embedded: Mapping[AudioHash, float]
) -> dict[AudioHash, np.ndarray]:
    """Those of these vectors that the files of a spec have: float32 `[dim]` of length 1.

    `embedded`: audio hash -> when it was embedded. Reads no other vectors, and not the store: for a
    process that asks once, where a `TrackVectorFile` would name each vector of the library first.
    """
    base, found = base_of(store, spec), dict[AudioHash, np.ndarray]()
    try:
        # A writer may be in the middle of the last one.
        whole = os.path.getsize(f"{base}.names") // _NAME.itemsize
        whole = min(whole, os.path.getsize(f"{base}.f32") // (4 * spec.dim))
        if not whole or not embedded:
            return found
        names = np.memmap(f"{base}.names", _NAME, "r", shape=(whole,))
        vectors = np.memmap(f"{base}.f32", np.float32, "r", shape=(whole, spec.dim))
    except OSError:
        return found
    # Comparing whole hashes is slow, and almost all differ in the first eight digits.
    digits = names.view(np.uint64).reshape(whole, -1)[:, 0]
    wanted = np.sort(np.frombuffer(b"".join(h[:8].encode() for h in embedded), np.uint64))
    at = np.searchsorted(wanted, digits).clip(max=len(wanted) - 1)
    for row in np.flatnonzero(wanted[at] == digits).tolist():
        audio = AudioHash(names["audio"][row].decode("ascii", "replace"))
        vector = np.array(vectors[row])
        unit = abs(float(vector @ vector) - 1) < _NORM_TOLERANCE
        if unit and audio in embedded and embedded[audio] == names["at"][row]:
            found[audio] = vector
    return found


class TrackVectorFile:
    """The pooled vectors of one index spec.

    `vectors`: float32 `[n, dim]`, read-only. `rows`: audio hash -> (row of `vectors`, when it was
    embedded). With `check` all vectors are read, and those that do not have length 1 are left out.
    """

    def __init__(self, store: Store, spec: IndexSpec, *, check: bool = True) -> None:
        base = base_of(store, spec)
        self.vectors_file, self.names_file = Path(f"{base}.f32"), Path(f"{base}.names")
        self.store, self.spec, self.check = store, spec, check
        self.vectors = np.zeros((0, spec.dim), np.float32)
        self.rows: dict[AudioHash, tuple[int, float]] = {}
        self._inode: int | None = None
        self._holds = False
        self._map()

    def keep(
        self,
        embedded: Mapping[AudioHash, float],
        at_hand: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> None:
        """Add the vectors of these audio hashes (-> when each was embedded), if they are missing.

        They are pooled from the store, unless the caller passes them in `at_hand`. Vectors that are
        lost or cannot be pooled are left out. If the disk is full or read-only, they are kept in
        memory only, and the next process reads the store again.
        """
        from filelock import FileLock, Timeout

        if not self._missing(embedded):
            return
        if self._holds:
            # Rows in memory are numbered after the mapped ones, so no more rows can be mapped.
            self._hold(self._missing(embedded))
            return
        lock = FileLock(f"{self.names_file}.lock")
        try:
            self.names_file.parent.mkdir(parents=True, exist_ok=True)
            with lock.acquire(timeout=LOCK_SECONDS, poll_interval=0.02):
                self._map()
                with open(self.vectors_file, "ab") as vectors, open(self.names_file, "ab") as names:
                    # A killed writer may have left vectors without a name, or half a name.
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
        """Yield names `[n]` and vectors `[n, dim]` from the store, in batches."""
        found = self._pool(embedded, at_hand)
        while batch := list(islice(found, APPEND)):
            names, vectors = zip(*batch, strict=True)
            yield np.array(list(names), _NAME), np.stack(vectors)

    def _pool(
        self, embedded: Mapping[AudioHash, float], at_hand: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[tuple[bytes, float], np.ndarray]]:
        rest = {}
        for audio, at in embedded.items():
            if audio in at_hand:
                yield (audio.encode(), at), at_hand[audio]
            else:
                rest[audio] = at
        wanted = (Wanted(audio, int(at)) for audio, at in rest.items())
        found = self.store.read_many(self.spec.recipe.digest, wanted)
        for (audio, at), windows in not_lost(rest.items(), found):
            with suppress(TrackRejected):
                yield (audio.encode(), at), pool(windows, self.spec.pooling)

    def _map(self) -> None:
        """Map the current contents of the files; known rows keep their numbers."""
        known, width = len(self.vectors), self.spec.dim
        try:
            with open(self.names_file, "rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if self._inode not in (None, inode):
                    # The files were deleted and made again, so they lack the known rows.
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
        """Read vectors into the memory of this process."""
        for names, vectors in self._read(embedded):
            self._holds = True
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
