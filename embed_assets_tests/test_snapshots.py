"""Questions beside a refresh: each sees one state of the library from its beginning to its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest

from embed_assets.search import exact, searcher, snapshot
from embed_assets.search.duplicates import duplicates
from embed_assets.search.filters import condition
from embed_assets_tests.shelf import Shelf, random_vectors

THREADS = 8
FOLDERS = 6
EACH = 10
CHANGES = 10


@pytest.fixture
def shelf(each_database, tmp_path, monkeypatch):
    monkeypatch.setattr(searcher, "FRESH_SECONDS", 0.0)
    there = Shelf(tmp_path)
    for folder in range(FOLDERS):
        fill(there, folder)
    return there


def fill(shelf: Shelf, folder: int, more: int = 0) -> None:
    rows = [
        shelf.track(f"{folder}/{i:02d}.ogg", artist=f"Artist {i % 3}", duration=60 + i)
        for i in range(EACH + more)
    ]
    shelf.put(rows, random_vectors(len(rows), seed=folder))


def ask(library: snapshot.Snapshot, seed: str) -> None:
    """Each question once; what it gives must be whole."""
    here = library.find([seed])
    where = [condition("artist", "Artist 0")]
    found = exact.similar(library, here, 5, where=where, per_artist=3)
    assert {m.artist for m in found} <= {"Artist 0"}
    assert len(list(islice(exact.radio(library, here, random=1), 12))) == 12
    other = next(i for i, _ in library.tracks() if i not in here)
    way = exact.path(library, here[0], other, 6)
    assert len({m.track_id for m in way}) == 6
    duplicates(library, where=where)


@pytest.mark.parametrize("pinned", [True, False], ids=["a snapshot", "the searcher itself"])
def test_eight_threads_ask_while_the_library_changes(shelf, pinned):
    ready = shelf.searcher()
    seed = next(t.track_id for _, t in ready.tracks() if t.path.startswith(b"0/"))
    stop = threading.Event()

    def asking() -> int:
        asked = 0
        while not stop.is_set() or not asked:
            ask(ready.snapshot() if pinned else ready, seed)
            asked += 1
            stop.wait(0.002)
        return asked

    with ThreadPoolExecutor(THREADS) as pool:
        threads = [pool.submit(asking) for _ in range(THREADS)]
        try:
            changes = _change(shelf, ready.refresh)
        finally:
            stop.set()
        assert all(t.result() for t in threads)
    assert changes == CHANGES
    assert len(ready) == len(shelf.searcher())


def _change(shelf: Shelf, refresh: Callable[[], bool]) -> int:
    """Albums grow, shrink, leave and come back, some at once; how often a refresh saw it."""
    seen = 0
    for turn in range(CHANGES):
        many = turn % 5 == 4
        for folder in range(1, FOLDERS) if many else [1 + turn % (FOLDERS - 1)]:
            if turn % 3 == 1 and not many:
                shelf.remove(str(folder).encode())
            else:
                fill(shelf, folder, more=turn % 4)
        seen += refresh()
    return seen


def test_a_snapshot_stays_as_it_was(shelf):
    ready = shelf.searcher()
    before = ready.snapshot()
    tracks = [(i, t.path) for i, t in before.tracks()]
    query = random_vectors(1, seed=99)[0]
    nearest = [a.tolist() for a in before.nearest(query, 10)]
    shelf.remove(b"0")
    fill(shelf, 1, more=5)
    assert ready.refresh()
    assert len(ready) == len(before) - EACH + 5
    assert [(i, t.path) for i, t in before.tracks()] == tracks
    assert [a.tolist() for a in before.nearest(query, 10)] == nearest
    assert len(before.find(t.track_id for _, t in before.tracks())) == FOLDERS * EACH
    with pytest.raises(ValueError, match="read-only"):
        before.live_mask[0] = False


def test_positions_outlive_a_refresh(shelf):
    ready = shelf.searcher()
    there = {t.path: i for i, t in ready.tracks()}
    for folder in range(1, FOLDERS):
        fill(shelf, folder, more=3)
    assert ready.refresh()
    assert all(ready.track(i).path == path for path, i in there.items())


def test_tracks_that_left_do_not_take_memory_for_good(shelf, monkeypatch):
    monkeypatch.setattr(searcher, "SPARE_POSITIONS", 100)
    ready = shelf.searcher()
    for turn in range(12):
        for folder in range(FOLDERS):
            fill(shelf, folder, more=turn % 2)
        assert ready.refresh()
        assert len(ready.live_mask) <= len(ready) + 2 * 100
    paths = sorted(t.path for _, t in ready.tracks())
    assert paths == sorted(t.path for _, t in shelf.searcher().tracks())
    again = [a.tolist() for a in ready.nearest(random_vectors(1)[0], 5)][1]
    assert np.allclose(again, shelf.searcher().nearest(random_vectors(1)[0], 5)[1])
