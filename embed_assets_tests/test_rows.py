"""Rows, tables, pooled vectors: what a retag touches, what an older version or a kill has left."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock

from embed_assets.index.collection import load
from embed_assets.index.connection import connect
from embed_assets.search import searcher
from embed_assets.storage import queries, track_vector_file
from embed_assets.storage.records import Embedding
from embed_assets.storage.track_vector_file import TrackVectorFile
from embed_assets_tests.shelf import SPEC, Shelf, random_vectors

FIELDS = ["title", "genre", "year", "bit_rate", "release_id", "added_at", "changed_at", "engine"]

ON_SQLITE = pytest.mark.parametrize("each_database", ["sqlite"], indirect=True)


@pytest.fixture
def shelf(each_database, tmp_path):
    return Shelf(tmp_path)


def row_and_vector(shelf, track):
    with connect(shelf.uri) as client:
        load(client, SPEC.collection)
        (row,) = client.get(SPEC.collection, [track.track_id], [*FIELDS, "vector"])
    return {f: row[f] for f in FIELDS}, np.asarray(row["vector"], np.float32).tobytes()


def test_a_retag_updates_the_row_and_touches_neither_vector_nor_store(shelf):
    track = shelf.track("a/1.mp3", genre="Jaz", bit_rate=256_000)
    shelf.put([track], random_vectors(1), index=True)
    entry = shelf.store.path(SPEC.recipe.digest, track.audio_hash)
    before, vector = row_and_vector(shelf, track)
    was = entry.stat(), entry.read_bytes()
    release = "11111111-2222-3333-4444-555555555555"
    retagged = replace(track, genre="Jazz", year=1959, release_id=release, mtime_ns=2 * 10**9)
    shelf.put([retagged], random_vectors(1), index=True)
    after, same = row_and_vector(shelf, track)
    assert after == before | {
        "genre": "Jazz",
        "year": 1959,
        "release_id": release,
        "changed_at": 2,
    }
    assert before["added_at"] > 1_700_000_000
    assert before["engine"] == "torch"
    assert same == vector
    assert (entry.stat(), entry.read_bytes()) == was


def test_a_moved_track_was_added_when_its_audio_was(shelf):
    shelf.put([shelf.track("a/1.mp3")], random_vectors(1))
    with shelf.tables.transaction() as db:
        db.execute("UPDATE tracks SET added_at = 1234")
    shelf.put([shelf.track("b/2.mp3", audio="a/1.mp3")], random_vectors(1))
    shelf.remove(b"a")
    (moved,) = [t for _, t in shelf.searcher().tracks()]
    assert (moved.path, moved.added_at) == (b"b/2.mp3", 1234)


@ON_SQLITE
def test_tables_of_the_first_version_keep_their_embeddings_and_have_their_tags_read_again(shelf):
    old = sqlite3.connect(shelf.tables.database.path)
    old.executescript(
        "CREATE TABLE tracks (track_id TEXT PRIMARY KEY, folder_id TEXT NOT NULL, path BLOB NOT"
        " NULL, inode INTEGER, size INTEGER, mtime_ns INTEGER, audio_hash TEXT, reason TEXT,"
        " message TEXT, duration REAL, container TEXT, codec TEXT, sample_rate INTEGER, channels"
        " INTEGER, bit_rate INTEGER, title TEXT, artist TEXT, album TEXT, album_artist TEXT, genre"
        " TEXT, year INTEGER, track_number INTEGER, disc_number INTEGER, recording_id TEXT, scan"
        " TEXT NOT NULL, seen_at REAL) WITHOUT ROWID;"
        "CREATE TABLE embeddings (recipe TEXT, audio_hash TEXT, windows INTEGER, decoded_seconds"
        " REAL, note TEXT, reason TEXT, message TEXT, engine TEXT, device TEXT, dtype TEXT, run_id"
        " TEXT, at REAL, PRIMARY KEY (recipe, audio_hash)) WITHOUT ROWID;"
        "INSERT INTO tracks VALUES ('t', 'f', x'612f31', 1, 2, 3, 'hash', NULL, NULL, 4.5, 'ogg',"
        " 'opus', 48000, 2, 96000, 'T', 'A', 'B', '', 'G', 1999, 1, 1, '', 's', 1700000000.5);"
        f"INSERT INTO embeddings VALUES ('{SPEC.recipe.digest}', 'hash', 3, 30, '', NULL, NULL,"
        " 'torch', 'cpu', 'float32', 'run', 5.0);"
        "PRAGMA user_version = 1;"
    )
    old.close()
    (both,) = shelf.tables.indexable("f", SPEC.recipe.digest)
    track, embedding = both
    assert (track.title, track.year, track.added_at) == ("T", 1999, 1700000000.5)
    assert (embedding.windows, embedding.run_id) == (3, "run")
    assert shelf.tables.file_stats("f") == {}, (
        "the file is read again, for what is read of it since"
    )
    shelf.tables.begin_scan("f", b"a", "read again")
    shelf.tables.put_tracks([replace(track, release_id="x")], "read again")
    assert shelf.tables.file_stats("f") == {"t": (2, 3, -1)}
    assert shelf.tables.pending("f", SPEC.recipe.digest) == []


def hashes_of(shelf, n):
    rows = [shelf.track(f"a/{i}") for i in range(n)]
    shelf.put(rows, random_vectors(n))
    return {r.audio_hash: shelf.at for r in rows}


def assert_right(pooled, embedded):
    assert embedded.keys() <= pooled.rows.keys()
    for i, audio in enumerate(embedded):
        row, at = pooled.rows[audio]
        assert at == embedded[audio]
        assert pooled.vectors[row] @ random_vectors(len(embedded))[i] > 0.9999


def test_pooled_vectors_survive_torn_files_and_lost_pages(shelf):
    embedded = hashes_of(shelf, 30)
    pooled = TrackVectorFile(shelf.store, SPEC)
    pooled.keep(embedded)
    assert_right(pooled, embedded)
    vectors, names = pooled.vectors_file.read_bytes(), pooled.names_file.read_bytes()
    page = len(vectors) // 30 * 7
    for damage, torn in (
        (vectors + b"x" * 7, names + b"x" * 5),
        (vectors[: len(vectors) // 2], names),
        (vectors, names[: len(names) // 2 + 3]),
        (b"", b""),
        (b"\0" * page + vectors[page:], names),
        (vectors[:-8] + b"\xff" * 8, names),
    ):
        pooled.vectors_file.write_bytes(damage)
        pooled.names_file.write_bytes(torn)
        again = TrackVectorFile(shelf.store, SPEC)
        again.keep(embedded)
        assert_right(again, embedded)
        assert_right(TrackVectorFile(shelf.store, SPEC), embedded)


def test_audio_that_was_embedded_again_has_its_new_vector(shelf):
    embedded = hashes_of(shelf, 3)
    pooled = TrackVectorFile(shelf.store, SPEC)
    pooled.keep(embedded)
    audio = next(iter(embedded))
    new = random_vectors(1, seed=9)[0]
    shelf.store.write(SPEC.recipe.digest, audio, new[None, None], replace=True)
    shelf.tables.put_embeddings([Embedding(SPEC.recipe.digest, audio, 1, at=5e9)])
    for one in (pooled, TrackVectorFile(shelf.store, SPEC)):
        one.keep(embedded | {audio: 5e9})
        assert one.vectors[one.rows[audio][0]] @ new > 0.9999


def test_a_home_that_cannot_be_written_is_searched_all_the_same(shelf):
    embedded = hashes_of(shelf, 5)
    (shelf.root / "search").write_bytes(b"a file where the folder should be")
    pooled = TrackVectorFile(shelf.store, SPEC)
    pooled.keep(embedded)
    assert_right(pooled, embedded)


def test_a_searcher_outlives_that_somebody_deletes_its_copy(shelf, monkeypatch):
    monkeypatch.setattr(searcher, "FRESH_SECONDS", 0.0)
    hashes_of(shelf, 40)
    ready = shelf.searcher()
    shutil.rmtree(shelf.root / "search")
    shelf.put([shelf.track("z/new")], random_vectors(1, seed=8))
    shelf.searcher()
    assert ready.refresh()
    want = [*random_vectors(40), random_vectors(1, seed=8)[0]]
    assert len(ready) == 41
    for i, track in ready.tracks():
        name = track.path.rpartition(b"/")[2]
        assert ready.vectors([i])[0] @ want[40 if name == b"new" else int(name)] > 0.9999


def test_the_time_a_track_takes_is_that_of_the_last_ones_and_not_of_what_lay_between_runs(shelf):
    recipe = SPEC.recipe.digest
    assert queries.seconds_per_track(shelf.tables, "another recipe") is None
    shelf.tables.put_embeddings(
        [
            Embedding(recipe, f"{run}{i}", 1, run_id=run, at=start + 4.0 * i)
            for run, start in (("a", 6e9), ("b", 7e9))
            for i in range(60)
        ]
    )
    assert queries.seconds_per_track(shelf.tables, recipe) == pytest.approx(4.0)


def test_vectors_held_in_memory_stay_with_their_audio_when_others_write_the_file(shelf):
    embedded = hashes_of(shelf, 6)
    early = dict(list(embedded.items())[:2])
    ready = TrackVectorFile(shelf.store, SPEC)
    ready.keep(early)
    names = ready.names_file.read_bytes()
    later = dict(list(embedded.items())[2:4])
    with FileLock(f"{ready.names_file}.lock"), pytest.MonkeyPatch.context() as patched:
        patched.setattr(track_vector_file, "LOCK_SECONDS", 0.0)
        ready.keep(later)
    assert ready.names_file.read_bytes() == names, "somebody else was writing"
    TrackVectorFile(shelf.store, SPEC).keep(dict(reversed(embedded.items())))
    ready.keep(embedded)
    assert_right(ready, embedded)
    assert_right(TrackVectorFile(shelf.store, SPEC), embedded)
