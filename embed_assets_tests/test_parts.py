"""A track is found by one of its parts: windows have rows of their own, kept as tracks' rows are.

On Milvus Lite, and on a real server where there is one.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from embed_assets.errors import ConfigurationError, NotFound
from embed_assets.identity import digest, folder_id, track_id
from embed_assets.index import promotion_by_hand
from embed_assets.index.collection import count, load, rows_by_folder, served
from embed_assets.index.connection import connect
from embed_assets.index.expected_rows import index_rows
from embed_assets.index.nearest import vectors_of
from embed_assets.index.reconcile import compare, reconcile
from embed_assets.index.row import SegmentRow, part_id
from embed_assets.index.writer import FolderFailed, FolderWritten
from embed_assets.search.segments import ask_parts
from embed_assets.storage import collection_registry
from embed_assets.storage.pooling import pool
from embed_assets.storage.records import Embedding
from embed_assets_tests.indexing import (
    SPEC,
    album,
    child,
    index_folders,
    killed_parts,
    sound_of,
    vector_of,
)
from embed_assets_tests.made_library import ENRICHED, MEAN, shelf_of, windows_of

PARTS = replace(MEAN, parts=True)
ALBUM = b"Artist/Album 01"


def part_rows(client, spec=PARTS):
    """Folder id, track id and digest of all rows of parts."""
    load(client, spec.segment_spec.collection)
    return Counter(rows_by_folder(client, spec.segment_spec.collection))


def wanted_rows(shelf, spec=PARTS):
    folders = [folder_id(shelf.library.name, path) for path in shelf.albums]
    rows = (row for f in folders for row in index_rows(shelf.tables, f, spec.segment_spec))
    return Counter((r.folder_id, r.track_id, r.row_digest) for r in rows)


def assert_in_step(client, shelf, spec=PARTS):
    assert part_rows(client, spec) == wanted_rows(shelf, spec)
    for one in spec.collection_specs:
        assert compare(client, one, shelf.tables, shelf.address).none
    assert collection_registry.unfinished(shelf.tables, shelf.address, spec) == 0


def test_without_the_setting_nothing_is_named_or_made_otherwise(lite, tmp_path):
    assert (PARTS.digest, PARTS.collection) == (MEAN.digest, MEAN.collection)
    assert MEAN.digest == digest("index", MEAN.recipe.digest, "mean", "2"), "as before there were"
    assert PARTS.segment_spec.collection == MEAN.collection.replace("tracks_", "parts_")
    assert (PARTS.collection_specs, MEAN.collection_specs) == ((MEAN, MEAN.segment_spec), (MEAN,))
    shelf = shelf_of(tmp_path, lite, 1, MEAN)
    with connect(lite) as client:
        shelf.index(client, MEAN)
        assert client.list_collections() == [MEAN.collection]
    assert not list(shelf.root.rglob("*-windows.*"))


def test_each_window_has_a_row_with_its_place_and_vector(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 2, MEAN)
    with connect(uri) as client:
        assert shelf.index(client, PARTS).served == MEAN.collection
        assert_in_step(client, shelf)
        track = shelf.albums[ALBUM][1]
        ids = [part_id(track.track_id, i) for i in range(3)]
        name = PARTS.segment_spec.collection
        rows = client.get(name, ids, ["*"], consistency_level="Strong")
        assert [(r["start"], r["end"]) for r in sorted(rows, key=lambda r: r["part_id"])] == [
            (25.0, 35.0),
            (85.0, 95.0),
            (145.0, 155.0),
        ]
        assert {(r["title"], r["path"]) for r in rows} == {("Title 1", "Artist/Album 01/1.ogg")}
        vectors = vectors_of(client, ids, name, "part_id")
        windows = windows_of(track.audio_hash)
        for i, one in enumerate(ids):
            assert vectors[one] == pytest.approx(pool(windows[i : i + 1], "mean"), abs=1e-6)
        found = ask_parts(client, PARTS, vectors[ids[2]], 6)
        assert [len({p.track_id for p in found}), found[0].track_id] == [6, track.track_id]
        assert (found[0].start, found[0].end) == (145.0, 155.0)
        assert found[0].score == pytest.approx(1, abs=1e-5)
        others = ask_parts(client, PARTS, vectors[ids[2]], 6, exclude=[track.audio_hash])
        assert [p.track_id for p in others] == [p.track_id for p in found[1:]]
        jazz = ask_parts(client, PARTS, vectors[ids[2]], 6, where='folder == "Artist/Album 00"')
        assert {p.folder for p in jazz} == {"Artist/Album 00"}


def test_new_retagged_moved_replaced_and_removed_tracks_reach_the_parts(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 3, MEAN)
    with connect(uri) as client:
        shelf.index(client, PARTS)
        shelf.retag(ALBUM, "Blue in Green")
        shelf.put(b"Artist/Album 09", MEAN)
        first, second, third = shelf.albums[b"Artist/Album 00"]
        longer = replace(second, duration=300.0)
        path = b"Artist/Album 02/moved.ogg"
        moved = replace(
            third,
            track_id=track_id(shelf.library.name, path),
            folder_id=folder_id(shelf.library.name, b"Artist/Album 02"),
            path=path,
        )
        shelf.put(b"Artist/Album 00", tracks=[first, longer])
        shelf.put(b"Artist/Album 02", tracks=[moved])
        shelf.index(client, PARTS)
        assert_in_step(client, shelf)
        assert count(client, PARTS.segment_spec.collection) == 3 * (3 + 2 + 1 + 3)


def test_a_track_of_fewer_windows_than_before_leaves_none_behind(uri, tmp_path):
    spec = replace(MEAN, recipe=replace(MEAN.recipe, windows=0), parts=True)
    shelf = shelf_of(tmp_path, uri, 1, spec)
    (path,) = shelf.albums
    one = shelf.albums[path][0]
    with connect(uri) as client:
        for seconds in (3600.0, 95.0, 180.0):
            track = replace(one, duration=seconds, audio_hash=digest("audio", str(seconds)))
            n = -(-int(seconds) // 10)
            windows = np.random.default_rng(n).standard_normal((n, 1, 16)).astype(np.float32)
            shelf.put(path, spec, tracks=[track])
            shelf.store.write(spec.recipe.digest, track.audio_hash, windows, replace=True)
            shelf.tables.put_embeddings(
                [Embedding(spec.recipe.digest, track.audio_hash, n, seconds)]
            )
            shelf.index(client, spec)
            assert_in_step(client, shelf, spec)
            assert count(client, spec.segment_spec.collection) == n


def test_what_a_kill_has_doubled_or_left_over_is_mended(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 2, MEAN)
    first, second, third = shelf.albums[ALBUM]
    with connect(uri) as client:
        shelf.index(client, PARTS)
        name = PARTS.segment_spec.collection
        lost, extra = part_id(first.track_id, 1), part_id(second.track_id, 7)
        (row,) = client.get(name, [part_id(second.track_id, 2)], ["*"])
        client.upsert(name, [dict(row) | {"part_id": extra}])
        client.delete(name, ids=[lost])
        client.delete(name, ids=[part_id(third.track_id, 0)])
        client.upsert(name, [dict(row) | {"part_id": part_id(third.track_id, 9)}])
        found = reconcile(client, shelf.context(PARTS))
        assert found[MEAN.collection].none
        assert found[name].differing == (ALBUM,)
        assert ALBUM not in shelf.tables.indexed(PARTS.segment_spec.collection_key(uri))
        shelf.index(client, PARTS, [ALBUM])
        assert_in_step(client, shelf)
        shelf.tables.forget_folder(first.folder_id)
        del shelf.albums[ALBUM]
        assert reconcile(client, shelf.context(PARTS))[name].orphans
        assert_in_step(client, shelf)


def test_parts_are_filled_later_without_a_row_of_tracks_and_off_again(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 3, MEAN)
    with connect(uri) as client:
        shelf.index(client, MEAN)
        assert collection_registry.unfinished(shelf.tables, uri, PARTS) == 3
        really, written = client.upsert, Counter()

        def watched(name, rows):
            written[name] += len(rows)
            return really(name, rows)

        client.upsert = watched
        shelf.index(client, PARTS)
        assert dict(written) == {PARTS.segment_spec.collection: 27}
        shelf.retag(ALBUM, "While it is off")
        shelf.index(client, MEAN)
        assert written[PARTS.segment_spec.collection] == 27
        assert collection_registry.unfinished(shelf.tables, uri, PARTS) == 1
        shelf.index(client, PARTS)
        assert_in_step(client, shelf)


def test_the_next_collection_is_served_with_its_parts_and_back(uri, tmp_path):
    shelf = shelf_of(tmp_path, uri, 3, MEAN)
    wide = replace(ENRICHED, parts=True)
    *some, last = shelf.albums
    with connect(uri) as client:
        shelf.index(client, PARTS)
        assert shelf.index(client, wide, some).served == MEAN.collection
        # The rows of tracks are all there, those of parts are not.
        for _ in index_folders(client, wide.segment_spec, [], lambda sound: np.zeros(0)):
            pass
        shelf.index(client, ENRICHED, [])
        shelf.retag(some[0], "Meanwhile")
        assert shelf.index(client, wide, [some[0]]).served == MEAN.collection
        assert_in_step(client, shelf)
        moved = shelf.index(client, wide, [last])
        assert (moved.served, moved.report.passed) == (wide.collection, True)
        names = {g.name for g in moved.report.gates}
        assert {"parts_self_recall_at_1", "parts_cosine_to_store", "parts_norm_error"} <= names
        assert_in_step(client, shelf, wide)
        listed = {c.name: c for c in promotion_by_hand.listed(client, wide, shelf.tables, uri)}
        assert {n for n, c in listed.items() if c.served} == {
            wide.collection,
            wide.segment_spec.collection,
        }
        assert listed[PARTS.segment_spec.collection].spec == MEAN.segment_spec
        back = promotion_by_hand.rollback(client, shelf.context(wide))
        assert back.served == MEAN.collection
        with pytest.raises(NotFound, match="there is no collection parts_"):
            promote(client, shelf, wide.segment_spec.collection, wide)
        client.delete(wide.segment_spec.collection, filter='part_id != ""')
        with pytest.raises(ConfigurationError, match="parts_folders_that_differ is 3"):
            promote(client, shelf, wide.collection, wide)
        assert promote(client, shelf, wide.collection, wide, parts=False).moved
        promotion_by_hand.drop(client, PARTS.segment_spec.collection, shelf.tables, uri)
        assert PARTS.segment_spec.collection not in client.list_collections()
        assert served(client) == wide.collection


def promote(client, shelf, name, spec, parts=True):
    return promotion_by_hand.promote(client, shelf.context(replace(spec, parts=parts)), name)


def test_a_flat_folder_with_long_mixes_holds_one_batch_of_vectors_at_a_time(uri):
    tracks = list(album("mixes", 20).rows())
    rows = [SegmentRow(t, i, 10.0 * i, 10.0 * i + 10) for t in tracks for i in range(120)]
    asked, batches = 0, []

    def counted(sound):
        nonlocal asked
        asked += 1
        return vector_of(digest(*map(str, sound)))

    with connect(uri) as client:
        really = client.upsert

        def watched(name, some):
            nonlocal asked
            batches.append((len(some), asked))
            asked = 0
            return really(name, some)

        client.upsert = watched
        folder = replace(album("mixes", 0), rows=lambda: iter(rows))
        (told,) = index_folders(client, SPEC.segment_spec, [folder], counted)
        assert (told.rows, told.written) == (2400, 2400)
        assert batches == [(500, 500)] * 4 + [(400, 400)]
        broken = replace(folder, rows=lambda: iter([*rows, rows[0]]))
        (told,) = index_folders(client, SPEC.segment_spec, [broken], counted)
        assert isinstance(told, FolderFailed)


KILLED = """
uri, seed = sys.argv[1:]
with connect(uri) as client:
    print("go", flush=True)
    for told in index_folders(client, SPEC.segment_spec, killed_parts(int(seed)), sound_of):
        print(told.folder_id, flush=True)
"""


@pytest.mark.stress
def test_a_writer_of_parts_killed_at_any_moment_is_mended_by_a_repeat(uri):
    rng = random.Random(int(os.environ.get("SEED", "1")))
    name, unfinished = SPEC.segment_spec.collection, 0
    for kill in range(int(os.environ.get("KILLS", "12"))):
        writer = child(KILLED, uri, str(kill))
        assert writer.stdout.readline() == "go\n"
        time.sleep(rng.uniform(0.0, 2.5))
        unfinished += writer.poll() is None
        writer.send_signal(signal.SIGKILL)
        reported = set(writer.communicate()[0].split())
        wanted = killed_parts(kill)
        want = Counter((r.folder_id, r.track_id, r.row_digest) for f in wanted for r in f.rows())
        with connect(uri) as client:
            load(client, name)
            have = Counter(rows_by_folder(client, name, sorted(reported))) if reported else {}
            assert have == {k: n for k, n in want.items() if k[0] in reported}
            if kill % 3 == 2:
                continue  # the next writer finds what two kills have left
            told = index_folders(client, SPEC.segment_spec, wanted, sound_of)
            assert all(isinstance(w, FolderWritten) for w in told)
            assert Counter(rows_by_folder(client, name)) == want
    print(unfinished, "kills hit a writer at work")
    assert unfinished >= 3
