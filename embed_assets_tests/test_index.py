"""The index holds exactly what the library has, whatever happens on the way.

On real Milvus Lite, and what is not about Lite's files on a real server as well where there is one.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from embed_assets.errors import ConfigurationError, TrackRejected
from embed_assets.index.collection import count, drop, ensure, served
from embed_assets.index.connection import connect
from embed_assets.index.nearest import similar, vectors_of
from embed_assets.index.row import fit
from embed_assets.index.writer import FolderFailed, FolderRows, FolderWritten
from embed_assets_tests.indexing import (
    DIM,
    SPEC,
    album,
    assert_holds,
    by_brute_force,
    index_folders,
    serve,
    spec_of,
    track,
    vector_of,
    write,
)
from embed_assets_tests.patience import PATIENCE


def test_new_changed_retagged_and_removed_tracks_reach_the_index(uri):
    first = [album("a", 3), album("b", 2), album("c", 2)]
    assert [(w.rows, w.written, w.deleted) for w in write(uri, first)] == [
        (3, 3, 0),
        (2, 2, 0),
        (2, 2, 0),
    ]
    assert_holds(uri, first)
    a = list(first[0].rows())
    second = [
        album("a", [replace(a[0], title="new tag"), track("a", "1.mp3", take="remaster"), a[2]]),
        album("b", 3),
        album("c", 0),
    ]
    told = [(w.rows, w.written, w.deleted, w.unchanged) for w in write(uri, second)]
    assert told == [(3, 2, 0, 1), (3, 1, 0, 2), (0, 0, 2, 0)]
    assert_holds(uri, second)


def test_unchanged_folders_ask_for_no_vector_and_a_rewrite_asks_for_all(uri):
    write(uri, [album("a", 5)])
    asked = []

    def watched(audio_hash):
        asked.append(audio_hash)
        return vector_of(audio_hash)

    with connect(uri) as client:
        assert [w.unchanged for w in index_folders(client, SPEC, [album("a", 5)], watched)] == [5]
        assert asked == []
        again = list(index_folders(client, SPEC, [album("a", 5)], watched, rewrite=True))
    assert (again[0].written, len(asked)) == (5, 5)
    assert_holds(uri, [album("a", 5)])


def test_a_moved_track_is_found_only_where_it_is_now(uri):
    write(uri, [album("a", 2), album("b", 1)])
    now = [album("a", 1), album("b", [*album("b", 1).rows(), track("b", "1.mp3")])]
    write(uri, now)
    assert_holds(uri, now)


def test_a_flat_folder_of_3000_tracks_holds_one_batch_of_vectors_at_a_time(uri):
    asked, batches = 0, []

    def counted(audio_hash):
        nonlocal asked
        asked += 1
        return vector_of(audio_hash)

    folder = album("flat", 3000)
    with connect(uri) as client:
        really = client.upsert

        def watched(name, rows):
            nonlocal asked
            batches.append((len(rows), asked))
            asked = 0
            return really(name, rows)

        client.upsert = watched
        (told,) = index_folders(client, SPEC, [folder], counted)
    assert (told.rows, told.written) == (3000, 3000)
    assert batches == [(500, 500)] * 6
    assert_holds(uri, [folder])


def test_names_with_quotes_newlines_emojis_and_very_long_paths_survive(uri):
    names = [
        "He said \"no\" and 'yes'.mp3",
        "line\nbreak\ttab\0nul.mp3",
        "back\\slash %s {x} $.mp3",
        "\U0001f3b5 \u65e5\u672c\u8a9e \u0416.mp3",
        "/".join(["\u00e9" * 100] * 20) + ".mp3",
    ]
    assert len(names[-1].encode()) > 4000
    folder = album('o\'dd "[]"', [track('o\'dd "[]"', n, artist=n) for n in names])
    write(uri, [folder])
    assert_holds(uri, [folder])
    with connect(uri) as client:
        serve(client, SPEC)
        found = {m.path for m in similar(client, vector_of("1" * 32), 10)}
    assert found == {r.path for r in folder.rows()}


def test_tags_are_cut_to_what_a_server_takes():
    assert fit("\u00e9" * 10, 5) == "\u00e9\u00e9"
    assert fit("bad \udcff", 100) == "bad \\udcff"
    row = track("a", "x" * 20_000, title="\U0001f3b5" * 1000)
    assert len(row.path.encode()) == 16_384
    assert len(row.title.encode()) == 2048
    assert row.stored()["title"] == row.title
    absurd = track("a", "b", year=10**30, track_number=-1, duration=math.nan)
    assert (absurd.year, absurd.track_number, absurd.duration) == (2**31 - 1, 0, 0.0)


def test_a_vector_of_the_wrong_width_stops_before_anything_is_written(uri):
    with connect(uri) as client:
        with pytest.raises(ConfigurationError, match=r"has width 64.*EMBED_ENCODER"):
            list(index_folders(client, SPEC, [album("a", 1)], lambda h: vector_of(h, 32)))
        assert count(client, SPEC.collection) == 0


@pytest.mark.parametrize("poison", [math.nan, math.inf, 0.0])
def test_a_bad_vector_fails_its_folder_and_no_other(uri, poison):
    bad = track("bad", "1.mp3")

    def vectors(audio_hash):
        return (
            np.full(DIM, poison, np.float32)
            if audio_hash == bad.audio_hash
            else vector_of(audio_hash)
        )

    with connect(uri) as client:
        told = list(index_folders(client, SPEC, [album("bad", [bad]), album("good", 2)], vectors))
    assert isinstance(told[0], FolderFailed)
    assert isinstance(told[0].error, TrackRejected)
    assert "bad/1.mp3" in str(told[0].error)
    assert isinstance(told[1], FolderWritten)
    assert_holds(uri, [album("good", 2)])


def test_a_folder_whose_tables_cannot_be_read_keeps_its_rows(uri):
    write(uri, [album("a", 3)])

    def broken():
        yield next(album("a", 1).rows())
        raise OSError("input/output error")

    told = write(uri, [FolderRows(album("a", 0).folder_id, broken)])
    assert isinstance(told[0], FolderFailed)
    assert_holds(uri, [album("a", 3)])


def test_a_collection_made_otherwise_is_refused_with_what_to_do(uri):
    with connect(uri) as client:
        client.create_collection(SPEC.collection, dimension=32)
        with pytest.raises(
            ConfigurationError, match=r"EMBED_ENCODER.*vector is FLOAT_VECTOR\(32\)"
        ):
            ensure(client, SPEC)


def test_searching_before_anything_is_indexed_says_what_to_run(uri):
    with connect(uri) as client, pytest.raises(ConfigurationError, match="embed-assets sync"):
        similar(client, np.ones(DIM, np.float32))


def test_search_gives_cosines_best_first_and_leaves_out_what_it_is_told_to(uri):
    folder = album("a", 40)
    rows = list(folder.rows())
    write(uri, [folder])
    with connect(uri) as client:
        serve(client, SPEC)
        query = vectors_of(client, [rows[7].track_id])[rows[7].track_id]
        found = similar(client, query * 5, 10)
        others = similar(client, query, 10, [rows[7].track_id])
        with pytest.raises(ConfigurationError, match="width 64"):
            similar(client, np.ones(32, np.float32))
    assert found[0].path == rows[7].path
    assert found[0].score == pytest.approx(1.0, abs=1e-5)
    assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)
    assert [m.path for m in others[:9]] == [m.path for m in found[1:]]
    stack = np.stack([vector_of(r.audio_hash) for r in rows])
    order, scores = by_brute_force(query, stack, 10)
    assert [rows[i].path for i in order] == [m.path for m in found]
    assert scores == pytest.approx([m.score for m in found], abs=1e-4)


def test_identical_tracks_are_one_answer_the_first_by_path_each_time(uri):
    twins = [replace(track("a", f"{i}.mp3"), audio_hash="ab" * 16) for i in (3, 1, 2)]
    write(uri, [album("a", twins)])
    with connect(uri) as client:
        serve(client, SPEC)
        found = [similar(client, vector_of("ab" * 16), 2) for _ in range(3)]
    assert [[(m.path, m.copies) for m in one] for one in found] == [
        [("a/1.mp3", ("a/2.mp3", "a/3.mp3"))]
    ] * 3


def test_the_alias_moves_under_a_searcher_that_never_fails(uri):
    other = spec_of(weights="other")
    with connect(uri) as client:
        for spec in (SPEC, other):
            list(index_folders(client, spec, [album("a", 20)], vector_of))
        serve(client, SPEC)
        failures, searches, done = [], 0, threading.Event()

        def search():
            nonlocal searches
            while not done.is_set():
                try:
                    assert len(similar(client, vector_of("ab"), 5)) == 5
                    searches += 1
                except Exception as e:
                    failures.append(e)

        searcher = threading.Thread(target=search)
        searcher.start()
        deadline = time.monotonic() + PATIENCE
        while searches <= 10 and not failures and time.monotonic() < deadline:
            for spec in (other, SPEC):
                serve(client, spec)
                time.sleep(0.01)
        done.set()
        searcher.join()
        assert failures == []
        assert searches > 10
        assert served(client) == SPEC.collection
        with pytest.raises(ConfigurationError, match="serve another"):
            drop(client, SPEC.collection)
        drop(client, other.collection)
        assert not client.has_collection(other.collection)
