"""Stored vectors go when nothing needs them, and not a moment sooner."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

import pytest

from embed_assets.identity import digest
from embed_assets.storage import embedded_tracks
from embed_assets.storage.garbage import collect_garbage
from embed_assets.storage.records import FOUND_IN_STORE, Embedding
from embed_assets.storage.segment_vector_file import SegmentVectorFile
from embed_assets.storage.track_vector_file import TrackVectorFile, unused_files
from embed_assets_tests.made_library import ENRICHED, MEAN, OTHER, shelf_of, windows_of

DAY = 86_400.0


@pytest.fixture
def shelf(each_database, tmp_path):
    """Three albums, embedded under two recipes, two days ago."""
    made = shelf_of(tmp_path, "nowhere.db", 3, MEAN, OTHER)
    for path in made.store.root.glob("*/*/*.npy"):
        os.utime(path, (time.time() - 2 * DAY,) * 2)
    return made


def run(shelf, *specs, older_than=DAY, dry_run=False):
    recipes = {s.recipe.digest for s in specs}
    return collect_garbage(
        shelf.tables, shelf.store, recipes, older_than=older_than, dry_run=dry_run
    )


def entries(shelf, spec):
    return {e.audio_hash for e in shelf.store.entries(spec.recipe.digest)}


def test_nothing_that_a_track_has_under_a_recipe_in_use_is_touched(shelf):
    swept = run(shelf, MEAN, OTHER)
    assert (swept.entries, swept.removed, swept.removed_bytes) == (18, 0, 0)


def test_vectors_of_a_recipe_that_was_given_up_go_with_what_the_tables_say_of_them(shelf):
    dry = run(shelf, MEAN, dry_run=True)
    assert len(entries(shelf, OTHER)) == 9
    swept = run(shelf, MEAN)
    assert swept.removed == dry.removed == 9
    assert swept.removed_bytes == dry.removed_bytes == swept.bytes // 2
    assert (len(entries(shelf, MEAN)), entries(shelf, OTHER)) == (9, set())
    folder = shelf.albums[b"Artist/Album 00"][0].folder_id
    assert shelf.tables.folder_totals(folder, OTHER.recipe.digest).pending == 3
    assert shelf.tables.folder_totals(folder, MEAN.recipe.digest).embedded == 3


def test_vectors_of_music_that_is_gone_go_unless_a_copy_is_there(shelf):
    gone = shelf.albums[b"Artist/Album 00"]
    copy = shelf.albums[b"Artist/Album 01"]
    same = replace(copy[2], audio_hash=gone[0].audio_hash)
    shelf.put(b"Artist/Album 01", tracks=[*copy[:2], same])
    shelf.put(b"Artist/Album 00", tracks=[])
    swept = run(shelf, MEAN, OTHER)
    assert (swept.removed, swept.too_young) == (0, 6), "it may be moving"
    with shelf.tables.connect() as db:
        db.execute("UPDATE gone_audio SET gone_at = gone_at - ?", (2 * DAY,))
    swept = run(shelf, MEAN, OTHER)
    assert swept.removed == 6
    left = entries(shelf, MEAN)
    assert gone[0].audio_hash in left
    assert left.isdisjoint({gone[1].audio_hash, gone[2].audio_hash, copy[2].audio_hash})


def test_what_is_embedded_meanwhile_stays_though_no_table_names_it_yet(shelf):
    ended = threading.Event()
    written = []

    def writer():
        while not ended.is_set():
            audio = digest("fresh", str(len(written)))
            shelf.store.write(MEAN.recipe.digest, audio, windows_of(audio))
            written.append(audio)

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        for _ in range(5):
            swept = run(shelf, MEAN, OTHER, older_than=3600)
            assert swept.removed == 0
    finally:
        ended.set()
        thread.join()
    assert written
    assert set(written) <= entries(shelf, MEAN)


def test_audio_that_comes_back_before_its_vectors_go_keeps_them(shelf):
    track = shelf.albums[b"Artist/Album 00"][0]
    recipe = MEAN.recipe.digest
    assert (
        embedded_tracks.forget_embeddings(
            shelf.tables, recipe, [track.audio_hash], unless_named=True
        )
        == []
    )
    assert shelf.tables.folder_totals(track.folder_id, recipe).embedded == 3


class Interrupted:
    """The store of a shelf, with something that happens just before entries are deleted."""

    def __init__(self, store, happens):
        self.store, self.happens = store, happens

    def __getattr__(self, name):
        return getattr(self.store, name)

    def delete(self, recipe, hashes):
        self.happens()
        self.store.delete(recipe, hashes)


def test_audio_that_a_run_found_just_before_its_vectors_went_is_embedded_again(shelf):
    path, recipes = b"Artist/Album 00", [s.recipe.digest for s in (MEAN, OTHER)]
    tracks = shelf.albums[path]
    folder = tracks[0].folder_id
    shelf.put(path, tracks=[])

    def comes_back():
        shelf.put(path, tracks=tracks)
        for recipe in recipes:
            rows = [Embedding(recipe, t.audio, 3, note=FOUND_IN_STORE) for t in tracks]
            shelf.tables.put_embeddings(rows)

    store = Interrupted(shelf.store, comes_back)
    swept = collect_garbage(shelf.tables, store, recipes, older_than=-1.0, dry_run=False)
    assert swept.removed == 3, "of one recipe: then the tracks are there again"
    pending = [len(shelf.tables.pending(folder, recipe)) for recipe in recipes]
    assert sorted(pending) == [0, 3]
    for recipe, n in zip(recipes, pending, strict=True):
        assert len(shelf.store.known_lost(recipe, [t.audio for t in tracks])) == n


def test_a_writer_at_work_keeps_its_temporary_file(shelf):
    folder = next(shelf.store.root.glob("*/*"))
    (folder / ".abc.123.tmp").write_bytes(b"half")
    assert run(shelf, MEAN, OTHER, older_than=0.0).leftovers == 0


def test_what_a_killed_writer_left_is_swept_too(shelf):
    folder = next(shelf.store.root.glob("*/*"))
    left = folder / ".abc.123.tmp"
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 2 * DAY,) * 2)
    assert run(shelf, MEAN, OTHER).leftovers == 1
    assert not left.exists()


def test_the_files_that_searches_read_are_told_by_what_they_hold(shelf):
    embedded = {t.audio_hash: 1.0 for tracks in shelf.albums.values() for t in tracks}
    for spec in (MEAN, OTHER):
        TrackVectorFile(shelf.store, spec).keep(embedded)
        SegmentVectorFile(shelf.store, spec).keep(embedded)
    files = set(TrackVectorFile(shelf.store, MEAN).vectors_file.parent.iterdir())
    assert unused_files(shelf.store, [MEAN, OTHER]) == []
    of_other = set(unused_files(shelf.store, [MEAN]))
    assert {p.suffix for p in of_other} >= {".f32", ".names"}
    assert len(of_other) * 2 == len(files)
    assert set(unused_files(shelf.store, [ENRICHED])) == files
