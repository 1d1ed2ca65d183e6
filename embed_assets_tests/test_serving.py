"""Which collection searches see: it moves when the next one is proven, and nobody stumbles."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from embed_assets.errors import ConfigurationError, NotFound
from embed_assets.index import promotion, promotion_by_hand
from embed_assets.index.collection import served
from embed_assets.index.connection import connect
from embed_assets.index.folders import index_library
from embed_assets.index.gates import validate
from embed_assets.index.nearest import similar, vectors_of
from embed_assets.index.reconcile import compare, reconcile
from embed_assets.storage import collection_registry
from embed_assets_tests.made_library import ENRICHED, MEAN, OTHER, Shelf, shelf_of
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.searcher import searching

SEARCHER = """
import sys
from embed_assets.index.address import is_server
from embed_assets.index.connection import connect
from embed_assets.index.nearest import served_collection, similar, vectors_of

uri, track = sys.argv[1:]

def ask(client):
    name = served_collection(client)
    vector = vectors_of(client, [track], name)[track]
    assert len(similar(client, vector, 5, [track], name)) == 5
    # As a person's own program does: one question to the alias.
    assert client.query("tracks", f'track_id == "{track}"', ["path"]), "not found"
    print(len(vector), flush=True)

while is_server(uri):
    with connect(uri) as client:
        while True:
            ask(client)
while True:
    with connect(uri, wait_seconds=900) as client:
        ask(client)
"""


def test_a_searcher_never_fails_while_the_next_collection_is_filled_and_served(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 6, MEAN)
    with connect(uri) as client:
        assert shelf.index(client, MEAN).served == MEAN.collection
    track = shelf.albums[b"Artist/Album 00"][0].track_id
    with searching([sys.executable, "-c", SEARCHER, uri, track], tmp_path) as widths:
        for spec in (ENRICHED, MEAN):
            for path in shelf.albums:
                with connect(uri) as client:
                    status = shelf.index(client, spec, [path])
            assert status.served == spec.collection
            widths.wait_for(str(spec.dim))
    print(len(widths.lines()), "searches")
    assert set(widths.lines()) == {"16", "48"}


def test_a_collection_is_served_only_when_it_has_every_folder(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 3, MEAN)
    *some, last = shelf.albums
    with connect(uri) as client:
        first = shelf.index(client, MEAN, some)
        assert (first.served, first.moved) == (MEAN.collection, True), "an import is found early"
        shelf.index(client, MEAN, [last])
        partial = shelf.index(client, ENRICHED, some)
        assert (partial.served, partial.moved) == (MEAN.collection, False)
        assert "1 folders are missing" in partial.why
        whole = shelf.index(client, ENRICHED, [last])
        assert (whole.served, whole.moved) == (ENRICHED.collection, True)
        assert whole.report.passed
        names = {g.name for g in whole.report.gates}
        assert {"neighbours_kept", "self_recall_at_1", "cosine_to_store", "norm_error"} <= names
        back = shelf.index(client, MEAN, some)
        assert (back.served, back.moved) == (MEAN.collection, True), "it still had every folder"


def test_rows_that_are_not_those_of_the_tables_keep_a_collection_from_being_served(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 3, MEAN)
    album = b"Artist/Album 01"
    with connect(uri) as client:
        shelf.index(client, MEAN)
        shelf.index(client, ENRICHED, [b"Artist/Album 00", album])
        client.delete(ENRICHED.collection, ids=[shelf.albums[album][1].track_id])
        stopped = shelf.index(client, ENRICHED, [b"Artist/Album 02"])
        assert stopped.served == MEAN.collection
        assert "folders_that_differ is 1" in stopped.why
        known = collection_registry.known(shelf.tables, uri)[ENRICHED.collection]
        assert known.gates["passed"] is False
        there = shelf.tables.indexed(ENRICHED.collection_key(uri))
        assert album not in there, "the next look has it written again"
        mended = shelf.index(client, ENRICHED, [album])
        assert (mended.served, mended.moved) == (ENRICHED.collection, True)


@pytest.mark.parametrize(
    ("spoil", "gate"),
    [
        (lambda v: v[::-1].copy(), "cosine_to_store"),
        (lambda v: v * 1.5, "norm_error"),
    ],
)
def test_vectors_that_are_not_those_of_their_audio_keep_it_back_too(uri, tmp_path, spoil, gate):
    shelf = shelf_of(tmp_path, uri, 3, MEAN, OTHER)
    with connect(uri) as client:
        shelf.index(client, MEAN)
        shelf.index(client, OTHER, [b"Artist/Album 00"])
        one = shelf.albums[b"Artist/Album 00"][0].track_id
        (row,) = client.get(OTHER.collection, [one], ["*"], consistency_level="Strong")
        vector = vectors_of(client, [one], OTHER.collection)[one]
        client.upsert(OTHER.collection, [dict(row) | {"vector": spoil(vector)}])
        stopped = shelf.index(client, OTHER)
        assert stopped.served == MEAN.collection
        assert gate in stopped.why
        with pytest.raises(ConfigurationError, match=gate):
            promote(shelf, client, OTHER, OTHER)
        forced = promote(shelf, client, OTHER, OTHER, anyway=True)
        assert forced.moved
        assert served(client) == OTHER.collection


def test_a_rollback_holds_until_promoted_or_the_settings_change(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 2, MEAN)
    with connect(uri) as client:
        shelf.index(client, MEAN)
        with pytest.raises(NotFound, match="no other collection was served before"):
            promotion_by_hand.rollback(client, shelf.context(ENRICHED))
        shelf.index(client, ENRICHED)
        assert promotion_by_hand.rollback(client, shelf.context(ENRICHED)).served == MEAN.collection
        held = shelf.index(client, ENRICHED)
        assert held.served == MEAN.collection
        assert "embed-assets promote" in held.why
        with pytest.raises(NotFound, match="no other collection was served before"):
            promotion_by_hand.rollback(client, shelf.context(ENRICHED))
        by_hand = promote(shelf, client, ENRICHED, ENRICHED)
        assert (by_hand.served, by_hand.moved) == (ENRICHED.collection, True)
        assert promotion_by_hand.rollback(client, shelf.context(ENRICHED)).served == MEAN.collection
        assert shelf.index(client, MEAN).served == MEAN.collection, "the settings agree now"
        assert shelf.index(client, ENRICHED).served == ENRICHED.collection

        assert promote(shelf, client, MEAN, ENRICHED).served == MEAN.collection
        kept = shelf.index(client, ENRICHED)
        assert kept.served == MEAN.collection, "what a person chose stays"


def promote(shelf, client, spec, wanted, **how):
    return promotion_by_hand.promote(client, shelf.context(wanted), spec.collection, **how)


BY_HAND = """
import sys
from pathlib import Path
from embed_assets.index import promotion_by_hand
from embed_assets.index.connection import connect
from embed_assets_tests.made_library import OTHER, Shelf

root, uri = sys.argv[1:]
with connect(uri, wait_seconds=900) as client:
    promotion_by_hand.rollback(client, Shelf(Path(root), uri).context(OTHER))
"""


def test_a_choice_by_hand_while_lite_is_measured_is_not_waited_for_and_holds(lite, tmp_path):
    shelf = shelf_of(tmp_path, lite, 3, MEAN, ENRICHED, OTHER)
    with connect(lite, wait_seconds=PATIENCE) as client:
        shelf.index(client, MEAN)
        shelf.index(client, ENRICHED)
        list(index_library(client, shelf.context(OTHER), shelf.albums))
        with subprocess.Popen(
            [sys.executable, "-c", BY_HAND, str(tmp_path), lite],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        ) as other:
            while not client._lock.is_awaited():
                assert other.poll() is None
                time.sleep(0.02)
            status = promotion.promote_if_ready(client, shelf.context(OTHER))
            assert other.wait(PATIENCE) == 0
        assert (status.served, status.moved) == (MEAN.collection, False)
        assert "moved the alias" in status.why
        assert served(client) == MEAN.collection
        assert "chosen by hand" in promotion.promote_if_ready(client, shelf.context(OTHER)).why


def test_rows_with_other_fields_fill_a_collection_of_their_own(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 2, MEAN)
    earlier = replace(MEAN, row_schema=MEAN.row_schema - 1)
    assert earlier.collection != MEAN.collection
    with connect(uri) as client:
        assert shelf.index(client, earlier).served == earlier.collection
        some = shelf.index(client, MEAN, [b"Artist/Album 00"])
        assert some.served == earlier.collection
        assert shelf.index(client, MEAN).served == MEAN.collection
        back = promotion_by_hand.rollback(client, shelf.context(MEAN))
        assert back.served == earlier.collection
        assert promote(shelf, client, MEAN, MEAN).served == MEAN.collection


def test_what_moves_goes_or_is_retagged_while_the_next_one_is_filled_is_so_in_the_served_one(
    uri, tmp_path
):
    shelf = shelf_of(tmp_path, uri, 4, MEAN)
    retagged, gone, fresh = b"Artist/Album 00", b"Artist/Album 01", b"Artist/New"
    with connect(uri) as client:
        shelf.index(client, MEAN)
        shelf.retag(retagged, "Blue in Green")
        shelf.put(gone, tracks=[])
        shelf.put(fresh, OTHER)
        for path in (retagged, gone, fresh):
            tracks = shelf.albums[path]
            shelf.embed([OTHER], tracks)
            assert shelf.index(client, OTHER, [path]).served == MEAN.collection
        one = shelf.albums[retagged][0].track_id
        found = similar(client, vectors_of(client, [one])[one], 20)
        titles = {m.title for m in found if m.folder == "Artist/Album 00"}
        assert titles == {"Blue in Green"}
        assert {m.folder for m in found} == {f"Artist/Album {i:02}" for i in (0, 2, 3)}
        assert compare(client, MEAN, shelf.tables, uri).none


def test_collections_are_listed_with_what_they_are_and_go_only_by_name(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 2, MEAN)
    tables = shelf.tables
    with connect(uri) as client:
        shelf.index(client, MEAN)
        shelf.index(client, ENRICHED)
        client.create_collection("tracks_of_somebody_else", dimension=8)
        client.create_collection("not_ours", dimension=8)
        new, old, foreign = promotion_by_hand.listed(client, ENRICHED, tables, uri)
        assert (new.name, new.served, new.wanted, new.rows) == (
            ENRICHED.collection,
            True,
            True,
            6,
        )
        assert (new.missing, new.gates["passed"]) == (0, True)
        assert (old.spec, old.served, old.rows, old.missing) == (MEAN, False, 6, 0)
        assert foreign.spec is None
        with pytest.raises(ConfigurationError, match="serve another one first"):
            promotion_by_hand.drop(client, ENRICHED.collection, tables, uri)
        with pytest.raises(NotFound, match=r"there are:.*tracks_of_somebody_else"):
            promotion_by_hand.drop(client, "tracks_nothing", tables, uri)
        with pytest.raises(ConfigurationError, match="--anyway"):
            promotion_by_hand.promote(client, shelf.context(ENRICHED), foreign.name)
        promotion_by_hand.drop(client, MEAN.collection, tables, uri)
        assert MEAN.collection not in client.list_collections()
        with pytest.raises(NotFound, match="no other collection was served before"):
            promotion_by_hand.rollback(client, shelf.context(ENRICHED))
        again = shelf.index(client, MEAN, [b"Artist/Album 00"])
        assert again.served == ENRICHED.collection, "it is filled anew, not taken for complete"


def test_differences_of_any_kind_are_found_and_mended_by_the_next_runs(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 5, MEAN)
    lost, other, orphan = (shelf.albums[b"Artist/Album %02d" % i] for i in (0, 1, 2))
    with connect(uri) as client:
        shelf.index(client, MEAN)
        assert compare(client, MEAN, shelf.tables, uri).none
        client.delete(MEAN.collection, ids=[lost[0].track_id])
        (row,) = client.get(MEAN.collection, [other[0].track_id], ["*"])
        # One row goes and one comes: the count is right, the content is not.
        client.upsert(MEAN.collection, [dict(row) | {"row_digest": "0" * 32, "title": "Forged"}])
        shelf.tables.forget_folder(orphan[0].folder_id)
        # An embedding that was forgotten since: its row stands for nothing.
        forgotten = shelf.albums[b"Artist/Album 04"][0].audio_hash
        shelf.tables.forget_embedding(MEAN.recipe.digest, forgotten)
        drift = reconcile(client, shelf.context(MEAN))[MEAN.collection]
        assert set(drift.differing) == {b"Artist/Album %02d" % i for i in (0, 1, 4)}
        assert drift.orphans == (orphan[0].folder_id,)
        shelf.embed([MEAN], shelf.albums[b"Artist/Album 04"])
        assert set(shelf.tables.indexed(MEAN.collection_key(uri))) == {b"Artist/Album 03"}
        shelf.index(client, MEAN, drift.differing)
        after = compare(client, MEAN, shelf.tables, uri)
        assert after.none
        assert (after.rows, after.folders, after.waiting) == (12, 4, 0)


def test_folders_that_wait_for_their_run_are_no_difference(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 3, MEAN)
    with connect(uri) as client:
        shelf.index(client, MEAN, [b"Artist/Album 00"])
        drift = compare(client, MEAN, shelf.tables, uri)
        assert (drift.none, drift.waiting, drift.folders) == (True, 2, 3)
        verdict = validate(client, shelf.context(MEAN), None)
        assert any("folders_missing is 2" in f for f in verdict.failed)


def test_a_query_of_another_width_says_what_to_do(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 1, MEAN)
    with connect(uri) as client:
        shelf.index(client, MEAN)
        one = shelf.albums[b"Artist/Album 00"][0].track_id
        vector = vectors_of(client, [one])[one]
        with pytest.raises(ConfigurationError, match="embed-assets collections"):
            similar(client, vector.repeat(3))


def test_tables_of_the_version_before_are_taken_over(tmp_path):
    import sqlite3

    shelf = shelf_of(tmp_path, "nowhere.db", 1, MEAN)
    with sqlite3.connect(shelf.tables.database.path) as db:
        db.execute("DROP TABLE collections")
        db.execute("DROP TABLE served")
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert collection_registry.known(shelf.tables, "nowhere.db") == {}
    collection_registry.note_collection(shelf.tables, "nowhere.db", MEAN)
    assert collection_registry.spec_of(shelf.tables, "nowhere.db", MEAN.collection) == MEAN
    assert len(shelf.tables.file_stats(shelf.albums[b"Artist/Album 00"][0].folder_id)) == 3


def test_a_spec_of_another_version_is_unknown_and_not_wrong(tmp_path):
    shelf = Shelf(tmp_path, "nowhere.db")
    collection_registry.note_collection(shelf.tables, "nowhere.db", MEAN)
    with shelf.tables.transaction() as db:
        db.execute("UPDATE collections SET spec = replace(spec, '\"version\"', '\"edition\"')")
    assert collection_registry.spec_of(shelf.tables, "nowhere.db", MEAN.collection) is None
    newer = replace(MEAN, row_schema=MEAN.row_schema + 1)
    assert type(newer).load(newer.dump()) == newer


def test_settings_that_went_back_have_what_was_indexed_before_served_again(lite, tmp_path):
    shelf = shelf_of(tmp_path, lite, 2, MEAN)
    back = shelf.context(MEAN)
    assert not promotion.request_promotion(back), "nothing is served yet"
    with connect(lite) as client:
        shelf.index(client, MEAN)
        assert not promotion.request_promotion(back)
        assert shelf.index(client, ENRICHED).served == ENRICHED.collection
    assert promotion.request_promotion(back)
    (due,) = shelf.albums.keys() - shelf.tables.indexed(back.collection_key).keys()
    with connect(lite) as client:
        assert shelf.index(client, MEAN, [due]).served == MEAN.collection
    assert not promotion.request_promotion(back)
