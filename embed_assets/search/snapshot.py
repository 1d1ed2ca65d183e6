"""The indexed tracks at one moment, in memory: exact search, safe for threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, TypeVar

import numpy as np

from embed_assets.identity import IndexSpec, display_path
from embed_assets.index.nearest import ROW_FIELDS, Match
from embed_assets.index.track_rows import row_of
from embed_assets.neighbours.lists import Vectors
from embed_assets.search import cores
from embed_assets.search.order import Order, Ordered
from embed_assets.search.pca_prefilter import CANDIDATES, CANDIDATES_EACH, PcaPrefilter, highest
from embed_assets.storage.records import Track
from embed_assets.storage.tables import Tables

EXACT_ROWS = 20_000
"""Up to this many rows a full scan is fastest; above it, see `pca_prefilter.py`."""

ASKED_BEFORE = 4
"""Queries before the axes are computed, which takes a second for 100,000 rows."""

FEW = 8
"""Up to this many codes, comparing with each is faster than numpy's `isin`."""


Result = TypeVar("Result")

PROVENANCE = ("at", "engine", "device", "dtype", "run_id")


class Prefilter:
    """The PCA prefilter, computed after some queries; safe for threads, for one order only."""

    def __init__(self) -> None:
        self.axes: PcaPrefilter | None = None
        self._asked = 0
        self._lock = threading.Lock()

    def approximate_cosines(
        self, vectors: np.ndarray, query: np.ndarray, order: Ordered | None
    ) -> np.ndarray | None:
        """Approximate cosines of the rows of `vectors`; None if all must be scanned.

        `order`: in which the candidates must be enough; None: by cosine.
        """
        with self._lock:
            self._asked += 1
            if self._asked <= ASKED_BEFORE:
                return None
            if self.axes is None:
                self.axes = PcaPrefilter.of(vectors, order)
            self.axes.extend(vectors)
        return self.axes.approximate_cosines(query) if self.axes.is_exact_enough else None


@dataclass(frozen=True)
class State:
    """All that a query reads. Immutable, except the caches, the last six fields."""

    tracks: list[Track]
    provenance: list[tuple[Any, ...]]
    position: dict[str, int]
    vector_rows: np.ndarray
    live_mask: np.ndarray
    vectors: np.ndarray
    prefilter: Prefilter
    order: Order = field(default_factory=Order)
    columns: dict[str, tuple[np.ndarray, list[Any]]] = field(default_factory=dict)
    twins: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    results: dict[Any, Any] = field(default_factory=dict)


class Snapshot:
    """Every track that was indexed under a spec at one moment, with its vector.

    Immutable, so safe for any number of threads. A position (`int`) identifies a track.
    """

    def __init__(self, tables: Tables, spec: IndexSpec, state: State) -> None:
        """Made by `Searcher.snapshot`."""
        self.tables, self.spec = tables, spec
        self._state = state

    def __len__(self) -> int:
        return int(self._state.live_mask.sum())

    def snapshot(self) -> Snapshot:
        """The same snapshot; a `Searcher` returns its newest one."""
        return Snapshot(self.tables, self.spec, self._state)

    # Tracks and their fields

    def find(self, track_ids: Iterable[str]) -> list[int]:
        """Positions of those of these tracks that are indexed."""
        position = self._state.position
        return [position[t] for t in track_ids if t in position]

    def tracks(self) -> Iterator[tuple[int, Track]]:
        """Position and manifest row of every track."""
        state = self._state
        for i in np.flatnonzero(state.live_mask).tolist():
            yield i, state.tracks[i]

    def track(self, position: int) -> Track:
        """The manifest row at a position."""
        return self._state.tracks[position]

    def vectors(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 `[len(positions), dim]`, rows of length 1."""
        state = self._state
        return state.vectors[state.vector_rows[positions]]

    def stored(self, positions: np.ndarray) -> Vectors:
        """The same, to be read in blocks."""
        state = self._state
        return Vectors(state.vectors, state.vector_rows[positions])

    def match(self, position: int, score: float, copies: tuple[str, ...] = ()) -> Match:
        """The track at a position as a match, with its score."""
        row = row_of(self._state.tracks[position])
        values = {name: getattr(row, name) for name in ROW_FIELDS}
        return Match(score=round(min(max(score, -1.0), 1.0), 6), copies=copies, **values)

    def match_with_copies(self, position: int, score: float) -> Match:
        """The same, with the paths of the other tracks with this audio, which are not listed."""
        return self.match(position, score, self.copies(position))

    def column(self, field: str) -> tuple[np.ndarray, list[Any]]:
        """A field of all rows as (int `[positions]`, values): row i has `values[codes[i]]`."""
        state = self._state
        if field not in state.columns:
            codes: dict[Any, int] = {}
            recipe = self.spec.recipe
            same = {"encoder": recipe.encoder, "weights": recipe.weights[:16]}.get(field)
            values: Iterable[Any] = repeat(same, len(state.tracks))
            if same is None:
                values = map(_READ.get(field, _attribute(field)), state.tracks, state.provenance)
            found = [codes.setdefault(value, len(codes)) for value in values]
            state.columns[field] = np.array(found, np.intp), list(codes)
        return state.columns[field]

    def provenance(self, position: int) -> dict[str, Any]:
        """When and with what a track was embedded: at, engine, device, dtype, run_id."""
        return dict(zip(PROVENANCE, self._state.provenance[position], strict=True))

    @property
    def ranking(self) -> str:
        """What neighbours are ranked by: a method of `neighbours.ranking.METHODS`."""
        return self._state.order.method

    @property
    def live_mask(self) -> np.ndarray:
        """bool `[positions]`, read-only: which positions have a track."""
        return self._state.live_mask

    def of_same_audio(self, positions: Sequence[int]) -> np.ndarray:
        """bool `[positions]`: these tracks, and those with the same audio as one of them."""
        codes, _ = self.column("audio_hash")
        return _any_of(codes, codes[list(positions)].tolist())

    def of_audio(self, hashes: Collection[str]) -> np.ndarray:
        """bool `[positions]`: tracks with one of these audio hashes."""
        codes, values = self.column("audio_hash")
        return _any_of(codes, [i for i, value in enumerate(values) if value in hashes])

    def copies(self, position: int) -> tuple[str, ...]:
        """Paths of the other tracks with the same audio, in order."""
        positions, codes = self._copied()
        if not len(positions):
            return ()
        code = self.column("audio_hash")[0][position]
        begin, end = np.searchsorted(codes, [code, code + 1])
        same = (i for i in positions[begin:end].tolist() if i != position)
        return tuple(display_path(self._state.tracks[i].path) for i in same)

    def one_each(self, allowed: np.ndarray) -> np.ndarray:
        """bool `[positions]`: of the allowed tracks the first of each audio, by path."""
        positions, codes = self._copied()
        kept = allowed[positions]
        positions, codes = positions[kept], codes[kept]
        one = self._state.live_mask & allowed
        one[positions[1:][codes[1:] == codes[:-1]]] = False
        return one

    def _copied(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of tracks with copies, ordered by audio and path, and codes of their audio."""
        state = self._state
        if not state.twins:
            codes, _ = self.column("audio_hash")
            live = np.flatnonzero(state.live_mask)
            counts = np.bincount(codes[live]) if len(live) else codes
            twins = live[counts[codes[live]] > 1].tolist()
            twins.sort(key=lambda i: (codes[i], state.tracks[i].path))
            positions = np.array(twins, np.intp)
            state.twins.append((positions, codes[positions]))
        return state.twins[0]

    def once(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """What `compute` returns, computed once for this state of the index."""
        results = self._state.results
        if key not in results:
            results[key] = compute()
        found: Result = results[key]
        return found

    # Search

    def scores(self, query: np.ndarray) -> np.ndarray:
        """Cosines of all positions with a float32 `[dim]` vector of length 1; -2 where empty."""
        return _scores(self._state, query)

    def nearest(
        self, query: np.ndarray, n: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions and cosines of the `n` nearest to a float32 `[dim]` vector, best first.

        `allowed`: bool `[positions]`, which tracks may be returned. Ties are ordered by path. If
        another order was chosen for the collection, the cosines need not fall.
        """
        with cores.one():
            return self._nearest(query, n, allowed)

    def _nearest(
        self, query: np.ndarray, n: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        state = self._state
        query = (query / max(float(np.linalg.norm(query)), 1e-12)).astype(np.float32)
        allowed = state.live_mask if allowed is None else state.live_mask & allowed
        left = int(allowed.sum())
        n = min(n, left)
        if n <= 0:
            return np.zeros(0, np.intp), np.zeros(0, np.float32)
        found = _candidates(state, query, n, allowed) if left > EXACT_ROWS else None
        if found is None and 20 * left < len(allowed):
            positions = np.flatnonzero(allowed)
            found = positions, state.vectors[state.vector_rows[positions]] @ query
        if found is None:
            scores = _scores(state, query)
            scores[~allowed] = -2.0
            found = np.arange(len(scores)), scores
        positions, cosines = found
        ranks = cosines
        if (order := _order(state)) is not None:
            rows = state.vector_rows[positions]
            ranks = np.where(cosines >= -1.5, order.scores(query, cosines, rows), -np.inf)
        return _best(state, positions, cosines, ranks, n)


def _scores(state: State, query: np.ndarray) -> np.ndarray:
    scores = (state.vectors @ query)[state.vector_rows]
    scores[~state.live_mask] = -2.0
    return scores


def _order(state: State) -> Ordered | None:
    return None if state.order.by_cosine else state.order.of(state.vectors)


def _best(
    state: State, positions: np.ndarray, cosines: np.ndarray, ranks: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    if n < len(ranks):
        least = np.partition(ranks, -n)[-n]
        # Ties for the last place are ordered by path, so all of them are kept.
        near = np.flatnonzero(ranks >= least - 1e-6)
        positions, cosines, ranks = positions[near], cosines[near], ranks[near]
    cosines = np.clip(cosines, -1.0, 1.0)
    rounded = np.round((cosines if ranks is cosines else ranks).astype(np.float64), 6).tolist()
    paths = [state.tracks[i].path for i in positions.tolist()]
    ranked = sorted(range(len(paths)), key=lambda i: (-rounded[i], paths[i]))[:n]
    return positions[ranked], cosines[ranked].astype(np.float32)


def _candidates(
    state: State, query: np.ndarray, n: int, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions of the candidates and their cosines; None if all must be scanned."""
    order = _order(state)
    along = state.prefilter.approximate_cosines(state.vectors, query, order)
    if along is None:
        return None
    ranks = along[state.vector_rows]
    if order is not None:
        ranks = order.scores(query, ranks, state.vector_rows)
    ranks[~allowed] = -np.inf
    count = min(CANDIDATES + CANDIDATES_EACH * n, len(ranks))
    positions = highest(ranks, count)
    positions = positions[allowed[positions]]
    return positions, state.vectors[state.vector_rows[positions]] @ query


def _any_of(codes: np.ndarray, wanted: Sequence[int]) -> np.ndarray:
    """bool: which codes are among those wanted."""
    if len(wanted) > FEW:
        return np.isin(codes, wanted)
    found = np.zeros(len(codes), bool)
    for code in wanted:
        found |= codes == code
    return found


def _attribute(field: str) -> Callable[[Track, tuple[Any, ...]], Any]:
    if field in PROVENANCE:
        return lambda _, provenance: provenance[PROVENANCE.index(field)]
    return lambda track, _: getattr(track, field)


_READ: dict[str, Callable[[Track, tuple[Any, ...]], Any]] = {
    "folder": lambda track, _: row_of(track).folder,
    "path": lambda track, _: display_path(track.path),
    "title": lambda track, _: row_of(track).title,
    "artist": lambda track, _: track.artist or track.album_artist,
    "added_at": lambda track, _: int(track.added_at),
    "changed_at": lambda track, _: track.mtime_ns // 10**9,
    "embedded_at": lambda _, provenance: int(provenance[0]),
}
"""Fields of a row that differ from the columns of the tables."""
