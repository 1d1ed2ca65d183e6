"""A library in memory for processes that keep running: exact search in milliseconds.

The tables list the indexed tracks, and the file of pooled vectors has their vectors. Both are read
again when they change, so an answer is at most a second out of date. Milvus is not used: a run may
have the Lite index open, and opening it takes 250 ms, while a query here takes 10 ms.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from embed_assets.identity import CollectionKey, IndexSpec
from embed_assets.neighbours.ranking import COSINE
from embed_assets.search.order import Order, chosen_method, sample_of
from embed_assets.search.snapshot import PROVENANCE, Prefilter, Snapshot, State
from embed_assets.storage.records import TRACK_COLUMNS, TRACK_SELECT, Track
from embed_assets.storage.tables import Tables
from embed_assets.storage.track_vector_file import TrackVectorFile
from embed_assets.storage.vector_store import Store

FRESH_SECONDS = 1.0
"""The tables are read at most this often; every query checks whether they changed."""

SPARE_POSITIONS = 10_000
"""Positions of removed tracks stay empty up to this number, or the number of tracks.

Beyond that all tracks get new positions.
"""

_ROW = ", ".join([TRACK_SELECT, *(f"e.{c}" for c in PROVENANCE)])
_FROM = (
    f"SELECT {_ROW} FROM indexed i JOIN tracks t ON t.folder_id = i.folder_id"
    " JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash"
    " WHERE i.collection_key = ? AND e.reason IS NULL"
)
_IDS_PER_CALL = 500


class Searcher(Snapshot):
    """The newest snapshot of what is indexed under a spec at an address; `refresh` updates it.

    Each call sees one state, so it is safe for threads. If a query takes several calls, e.g. `find`
    and then `exact.similar`, make them on one `snapshot()`: another thread may refresh in between.
    """

    def __init__(
        self, tables: Tables, store: Store, spec: IndexSpec, collection_key: CollectionKey
    ) -> None:
        """`collection_key`: `spec.collection_key(uri)` of the collection whose tracks are found."""
        self.collection_key = collection_key
        self._pooled = TrackVectorFile(store, spec)
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}
        self._folders: dict[str, list[int]] = {}
        self._tables_state: object = None
        self._looked = -FRESH_SECONDS
        super().__init__(tables, spec, self._empty())
        self.refresh()

    def refresh(self, *, at_once: bool = False) -> bool:
        """Read what was indexed, changed or removed; returns whether anything was. Cheap if not.

        `at_once`: read the tables even if they were read within the last second.
        """
        with self._lock:
            now = time.monotonic()
            tables_state = self.tables.database.revision()
            lately = now - self._looked < FRESH_SECONDS
            if tables_state == self._tables_state or (lately and not at_once):
                return False
            self._looked = now
            with self.tables.connect() as db:
                query = "SELECT folder_id, at FROM indexed WHERE collection_key = ?"
                there = dict(db.execute(query, (self.collection_key,)))
                changed = [f for f, at in there.items() if self._seen.get(f) != at]
                gone = self._seen.keys() - there.keys()
                method = chosen_method(self.tables, self.collection_key)
                if not changed and not gone and method == self._state.order.method:
                    self._tables_state = tables_state
                    return False
                folders = dict(self._folders)
                state = _without(self._state, folders, gone.union(changed))
                if np.sum(~state.live_mask) > max(SPARE_POSITIONS, np.sum(state.live_mask)):
                    state, folders, changed = self._empty(), {}, list(there)
                if 3 * (len(changed) + len(gone)) > len(self._seen):
                    # The known axes were computed from what is now the smaller part.
                    state = replace(state, prefilter=Prefilter())
                state = self._with(state, self._rows_of(db, changed, len(there)), folders)
                if method != state.order.method or state.prefilter is not self._state.prefilter:
                    order = Order(method, () if method == COSINE else _sample(state))
                    state = replace(state, prefilter=Prefilter(), order=order)
            self._seen, self._folders, self._tables_state = there, folders, tables_state
            self._state = state
            return True

    def _empty(self) -> State:
        none, nothing = np.zeros(0, np.intp), np.zeros(0, bool)
        return State([], [], {}, none, nothing, self._pooled.vectors, Prefilter())

    def _with(
        self, state: State, rows: list[tuple[Any, ...]], folders: dict[str, list[int]]
    ) -> State:
        """A state with these rows added; their positions are added to `folders`."""
        if not rows:
            return state
        width = len(TRACK_COLUMNS)
        tracks = [Track(*row[:width]) for row in rows]
        provenance = [row[width:] for row in rows]
        self._pooled.keep({t.audio: x[0] for t, x in zip(tracks, provenance, strict=True)})
        at = self._pooled.rows
        kept = [i for i, t in enumerate(tracks) if t.audio_hash in at]
        position = dict(state.position)
        added: dict[str, list[int]] = {}
        for new, i in enumerate(kept, len(state.tracks)):
            position[tracks[i].track_id] = new
            added.setdefault(tracks[i].folder_id, []).append(new)
        folders.update(added)
        vector_rows = np.array([at[tracks[i].audio][0] for i in kept], np.intp)
        return replace(
            state,
            tracks=state.tracks + [tracks[i] for i in kept],
            provenance=state.provenance + [provenance[i] for i in kept],
            position=position,
            vector_rows=np.concatenate([state.vector_rows, vector_rows]),
            live_mask=_read_only(np.concatenate([state.live_mask, np.ones(len(kept), bool)])),
            vectors=self._pooled.vectors,
            columns={},
            twins=[],
            results={},
        )

    def _rows_of(self, db: Any, folders: list[str], total: int) -> list[tuple[Any, ...]]:
        """The rows of these folders, of `total` indexed ones."""
        mine = (self.spec.recipe.digest, self.collection_key)
        if len(folders) == total:
            return db.execute(f"{_FROM} ORDER BY t.path", mine).fetchall()
        rows = []
        for i in range(0, len(folders), _IDS_PER_CALL):
            ids = folders[i : i + _IDS_PER_CALL]
            query = f"{_FROM} AND i.folder_id IN ({', '.join('?' * len(ids))}) ORDER BY t.path"
            rows += db.execute(query, (*mine, *ids)).fetchall()
        return rows


def _without(state: State, folders: dict[str, list[int]], gone: Iterable[str]) -> State:
    """A state without the tracks of these folders, which are removed from `folders`."""
    live_mask, position = state.live_mask.copy(), dict(state.position)
    for i in [i for folder in gone for i in folders.pop(folder, ())]:
        live_mask[i] = False
        position.pop(state.tracks[i].track_id, None)
    live_mask = _read_only(live_mask)
    return replace(state, live_mask=live_mask, position=position, twins=[], results={})


def _sample(state: State) -> list[int]:
    live = np.flatnonzero(state.live_mask).tolist()
    return sample_of((state.tracks[i].audio, int(state.vector_rows[i])) for i in live)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
