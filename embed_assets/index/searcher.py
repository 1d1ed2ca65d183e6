"""A library held ready for questions: exact search in milliseconds, for processes that stay up.

What is indexed is known from the tables, the vectors come from the file of pooled ones; both are
looked at again when they change, so that an answer is at most a second old. Milvus is not asked:
a Lite index may be held by a writer meanwhile, and takes 250 ms where this takes ten.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from embed_assets.identity import IndexSpec, display_path
from embed_assets.index.axes import CANDIDATES, CANDIDATES_EACH, Axes
from embed_assets.index.search import Match
from embed_assets.index.wanted import row_of
from embed_assets.rows import Track
from embed_assets.tables import TRACK_COLUMNS, Tables
from embed_assets.vectors.pooled import Pooled
from embed_assets.vectors.store import Store

EXACT_ROWS = 20_000
"""From here on candidates are looked for first, see `axes.py`; below, all is scanned sooner."""

ASKED_BEFORE = 4
"""Finding the axes takes a second at 100,000 rows: a process that asks once has no use for it."""

FRESH_SECONDS = 1.0
"""The tables are read at most so often; whether they changed is looked at with every question."""

LINEAGE = ("at", "engine", "device", "dtype", "run_id")
_ROW = ", ".join([*(f"t.{c}" for c in TRACK_COLUMNS), *(f"e.{c}" for c in LINEAGE)])
_FROM = (
    f"SELECT {_ROW} FROM indexed i JOIN tracks t ON t.folder_id = i.folder_id"
    " JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash"
    " WHERE i.place = ? AND e.reason IS NULL"
)
_IDS_PER_CALL = 500


class Searcher:
    """Every track that is indexed under a spec at an address, with its vector.

    Safe for threads. Positions (`int`) name tracks between two calls of `refresh` only.
    """

    def __init__(self, tables: Tables, store: Store, spec: IndexSpec, place: str) -> None:
        """`place` is `spec.place(address)`: only what was indexed there is found."""
        self.tables, self.spec, self.place = tables, spec, place
        self._pooled = Pooled(store, spec)
        self._lock = threading.RLock()
        self._seen: dict[str, float] = {}
        self._stamp: object = None
        self._looked = -FRESH_SECONDS
        self._asked = 0
        self._load([])
        self.refresh()

    def __len__(self) -> int:
        return int(self._alive.sum())

    def refresh(self) -> bool:
        """See what was indexed, changed or removed since; True if anything was. Cheap if not."""
        with self._lock:
            now = time.monotonic()
            stamp = _stamp(self.tables.path)
            if stamp == self._stamp or now - self._looked < FRESH_SECONDS:
                return False
            self._stamp, self._looked = stamp, now
            with self.tables.connect() as db:
                query = "SELECT folder_id, at FROM indexed WHERE place = ?"
                there = dict(db.execute(query, (self.place,)))
                changed = [f for f, at in there.items() if self._seen.get(f) != at]
                gone = self._seen.keys() - there.keys()
                if not changed and not gone:
                    return False
                if 3 * (len(changed) + len(gone)) > len(self._seen):
                    mine = (self.spec.recipe.digest, self.place)
                    self._load(list(db.execute(_FROM + " ORDER BY t.path", mine)))
                else:
                    self._drop(gone.union(changed))
                    self._append(self._rows_of(db, changed))
            self._seen = there
            return True

    # What is there

    def find(self, track_ids: Iterable[str]) -> list[int]:
        """Positions of those of these tracks that are indexed."""
        return [self._position[t] for t in track_ids if t in self._position]

    def tracks(self) -> Iterator[tuple[int, Track]]:
        """Position and manifest row of every track."""
        for i in np.flatnonzero(self._alive).tolist():
            yield i, self._tracks[i]

    def track(self, position: int) -> Track:
        """The manifest row at a position."""
        return self._tracks[position]

    def vectors(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 `[len(positions), dim]`, rows of length 1."""
        return self._pooled.vectors[self._slots[positions]]

    def match(self, position: int, score: float) -> Match:
        """The track at a position as an answer, with its cosine."""
        row = row_of(self._tracks[position])
        names = [n for n in Match.__dataclass_fields__ if n != "score"]
        values = {name: getattr(row, name) for name in names}
        return Match(score=round(float(np.clip(score, -1, 1)), 6), **values)

    def column(self, field: str) -> tuple[np.ndarray, list[Any]]:
        """A field of the rows as (int `[positions]`, values): row i has `values[codes[i]]`."""
        with self._lock:
            if field not in self._columns:
                codes: dict[Any, int] = {}
                recipe = self.spec.recipe
                same = {"encoder": recipe.encoder, "weights": recipe.weights[:16]}.get(field)
                values: Iterable[Any] = repeat(same, len(self._tracks))
                if same is None:
                    values = map(_READ.get(field, _attribute(field)), self._tracks, self._lineage)
                found = [codes.setdefault(value, len(codes)) for value in values]
                self._columns[field] = np.array(found, np.intp), list(codes)
            return self._columns[field]

    def lineage(self, position: int) -> dict[str, Any]:
        """When and with what a track was embedded: at, engine, device, dtype, run_id."""
        return dict(zip(LINEAGE, self._lineage[position], strict=True))

    @property
    def alive(self) -> np.ndarray:
        """bool `[positions]`: which positions hold a track."""
        return self._alive

    def of_same_audio(self, positions: Sequence[int]) -> np.ndarray:
        """bool `[positions]`: which hold the audio of one of these; they are among them."""
        return np.isin(self._slots, self._slots[list(positions)])

    def one_each(self, allowed: np.ndarray) -> np.ndarray:
        """bool `[positions]`: of those that are allowed, one for each audio."""
        there = np.flatnonzero(allowed)
        first = np.zeros(len(allowed), bool)
        first[there[np.unique(self._slots[there], return_index=True)[1]]] = True
        return first

    # Search

    def scores(self, query: np.ndarray) -> np.ndarray:
        """Cosines of every position with a float32 `[dim]` vector of length 1; -2 if empty."""
        scores = (self._pooled.vectors @ query)[self._slots]
        scores[~self._alive] = -2.0
        return scores

    def nearest(
        self, query: np.ndarray, n: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions and cosines of the `n` best for a float32 `[dim]` vector, best first.

        `allowed`: bool `[positions]`, which may be answers. Ties are in order of the path.
        """
        with self._lock:
            query = (query / max(float(np.linalg.norm(query)), 1e-12)).astype(np.float32)
            allowed = self._alive if allowed is None else self._alive & allowed
            left = int(allowed.sum())
            n = min(n, left)
            if n <= 0:
                return np.zeros(0, np.intp), np.zeros(0, np.float32)
            found = self._candidates(query, n, allowed) if left > EXACT_ROWS else None
            if found is None and 20 * left < len(allowed):
                positions = np.flatnonzero(allowed)
                found = positions, self._pooled.vectors[self._slots[positions]] @ query
            if found is None:
                scores = self.scores(query)
                scores[~allowed] = -2.0
                found = np.arange(len(scores)), scores
            return self._best(*found, n)

    def _best(
        self, positions: np.ndarray, scores: np.ndarray, n: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if n < len(scores):
            least = np.partition(scores, -n)[-n]
            # Twins at the end are told apart by path, not by chance: all of them take part.
            near = np.flatnonzero(scores >= least - 1e-6)
            positions, scores = positions[near], scores[near]
        scores = np.clip(scores, -1.0, 1.0)
        rounded = np.round(scores.astype(np.float64), 6).tolist()
        paths = [self._tracks[i].path for i in positions.tolist()]
        ranked = sorted(range(len(paths)), key=lambda i: (-rounded[i], paths[i]))[:n]
        return positions[ranked], scores[ranked].astype(np.float32)

    def _candidates(
        self, query: np.ndarray, n: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Positions of the candidates, with their cosines; None if all must be scanned."""
        self._asked += 1
        if self._asked <= ASKED_BEFORE:
            return None
        vectors = self._pooled.vectors
        if self._axes is None:
            self._axes = Axes.of(vectors)
        self._axes.extend(vectors)
        if not self._axes.sufficient:
            return None
        coarse = self._axes.coarse(query)[self._slots]
        coarse[~allowed] = -2.0
        many = min(CANDIDATES + CANDIDATES_EACH * n, len(coarse) - 1)
        positions = np.argpartition(coarse, -many)[-many:]
        positions = positions[allowed[positions]]
        return positions, vectors[self._slots[positions]] @ query

    # Loading

    def _load(self, rows: list[tuple[Any, ...]]) -> None:
        self._tracks: list[Track] = []
        self._lineage: list[tuple[Any, ...]] = []
        self._position: dict[str, int] = {}
        self._folders: dict[str, list[int]] = {}
        self._slots = np.zeros(0, np.intp)
        self._alive = np.zeros(0, bool)
        self._axes: Axes | None = None
        self._append(rows)

    def _append(self, rows: list[tuple[Any, ...]]) -> None:
        width = len(TRACK_COLUMNS)
        tracks = [Track(*row[:width]) for row in rows]
        lineage = [row[width:] for row in rows]
        self._pooled.keep({t.audio_hash or "": x[0] for t, x in zip(tracks, lineage, strict=True)})
        kept = [i for i, t in enumerate(tracks) if t.audio_hash in self._pooled.rows]
        begin = len(self._tracks)
        self._tracks += [tracks[i] for i in kept]
        self._lineage += [lineage[i] for i in kept]
        for position, track in enumerate(self._tracks[begin:], begin):
            self._position[track.track_id] = position
            self._folders.setdefault(track.folder_id, []).append(position)
        slots = [self._pooled.rows[tracks[i].audio_hash or ""][0] for i in kept]
        self._slots = np.concatenate([self._slots, np.array(slots, np.intp)])
        self._alive = np.concatenate([self._alive, np.ones(len(kept), bool)])
        self._columns: dict[str, tuple[np.ndarray, list[Any]]] = {}

    def _drop(self, folders: Iterable[str]) -> None:
        for i in [i for folder in folders for i in self._folders.pop(folder, ())]:
            self._alive[i] = False
            self._position.pop(self._tracks[i].track_id, None)

    def _rows_of(self, db: Any, folders: list[str]) -> list[tuple[Any, ...]]:
        rows = []
        for i in range(0, len(folders), _IDS_PER_CALL):
            ids = folders[i : i + _IDS_PER_CALL]
            query = f"{_FROM} AND i.folder_id IN ({', '.join('?' * len(ids))}) ORDER BY t.path"
            rows += db.execute(query, (self.spec.recipe.digest, self.place, *ids)).fetchall()
        return rows


def _attribute(field: str) -> Callable[[Track, tuple[Any, ...]], Any]:
    if field in LINEAGE:
        return lambda track, lineage: lineage[LINEAGE.index(field)]
    return lambda track, lineage: getattr(track, field)


_READ: dict[str, Callable[[Track, tuple[Any, ...]], Any]] = {
    "folder": lambda track, _: row_of(track).folder,
    "path": lambda track, _: display_path(track.path),
    "title": lambda track, _: row_of(track).title,
    "artist": lambda track, _: track.artist or track.album_artist,
    "added_at": lambda track, _: int(track.added_at),
    "changed_at": lambda track, _: track.mtime_ns // 10**9,
    "embedded_at": lambda _, lineage: int(lineage[0]),
}
"""Fields of a row that are not a column of the tables as it is."""


def _stamp(path: Path) -> object:
    """Changes with each transaction that anybody commits to the tables."""
    found = []
    for name in (f"{path}", f"{path}-wal"):
        try:
            told = os.stat(name)
            found.append((told.st_size, told.st_mtime_ns))
        except OSError:
            found.append(None)
    return found
