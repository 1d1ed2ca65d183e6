"""Asking for a track or a folder to be read and embedded anew, whatever is known of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from embed_assets.defs import state
from embed_assets.errors import FolderChanged
from embed_assets.identity import folder_id
from embed_assets.planning.values import Policy, SensorCursor
from embed_assets.storage import retry_requests
from embed_assets_tests.indexing import note_indexed
from embed_assets_tests.shelf import SPEC, Shelf, random_vectors
from embed_assets_tests.synth import write_track


def retry(world, *arguments):
    done = world.run("retry", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rejected(world):
    return {r["path"]: r["run_id"] for r in json.loads(world.run("errors", "--json").stdout)}


def test_a_track_or_a_folder_is_read_and_embedded_anew_once(world):
    world.album("Artist/Album", 1, 2)
    world.album("Artist/Other", 3)
    world.album("Else", 4)
    (world.library / "Artist/Album/empty.mp3").touch()
    write_track(world.library / "Artist/Album/blip.wav", seconds=0.3)
    world.sync()
    before, rows, listed = world.embedded_runs(), world.rows(), rejected(world)

    assert retry(world, "Artist/Album/01.ogg") == {"folders": ["Artist/Album"], "tracks": 1}
    assert json.loads(world.run("status", "--json").stdout)["folders_to_do"] == 1
    assert world.rows().keys() == rows.keys(), "until then all is found as before"
    done = world.sync()
    assert (done["embedded"], done["reused"], done["rejected"]) == (1, 1, 2)
    assert len(anew(world, before)) == 1
    assert rejected(world) == listed
    again = world.sync()
    assert (again["runs"], again["rejected"]) == ([], 2), "those of earlier runs count, too"

    asked_for = retry(world, str(world.library / "Artist"))
    assert asked_for == {"folders": ["Artist/Album", "Artist/Other"], "tracks": 5}
    done = world.sync()
    assert (done["embedded"], done["rejected"], done["failed_folders"]) == (3, 2, 0)
    again = rejected(world)
    assert again.keys() == listed.keys()
    assert set(again.values()) <= set(done["runs"])
    assert len(anew(world, before)) == 4, "all but the one of Else, and what was rejected twice"
    assert world.sync()["runs"] == []
    after = world.rows()
    assert {p: h for p, (h, _) in after.items()} == {p: h for p, (h, _) in rows.items()}
    assert all((after[p][1] == rows[p][1]).all() for p in rows), "the same vectors"
    world.assert_index_is_library()


def anew(world, before):
    return {h for h, run in world.embedded_runs().items() if run != before[h]}


def test_vectors_that_are_wrong_in_the_store_are_made_again(world):
    world.album("Album", 1, 2)
    world.sync()
    store, recipe = world.project().store, world.project().spec().recipe.digest
    one, two = sorted(e.audio_hash for e in store.entries(recipe))
    # Whole and readable, and yet of another track.
    shutil.copy(store.path(recipe, one), store.path(recipe, two))
    retry(world, "Album")
    assert world.sync()["embedded"] == 2
    world.assert_index_is_library()


def test_errors_clear_is_the_same_under_its_old_name(world):
    world.album("Album", 1)
    world.sync()
    cleared = json.loads(world.run("errors", "--clear", "Album", "--json").stdout)
    assert cleared == {"cleared": ["Album"]}
    assert world.sync()["embedded"] == 1


def test_what_is_not_known_is_said_to_be_so_and_nothing_is_asked_for(world):
    world.album("Album", 1)
    world.sync()
    for name in ("No such", "Album/no such.ogg", "../Album", ""):
        done = world.run("retry", name)
        assert done.returncode == 1, (name, done.stdout)
        assert "Traceback" not in done.stderr, name
    assert retry_requests.open_requests(world.project().tables) == {}


def test_what_was_asked_for_is_done_though_everything_is_killed_on_the_way(world):
    world.album("Album", 1, 2)
    world.album("Other", 3)
    world.sync()
    before = world.embedded_runs()
    retry(world, ".")
    tables = world.project().tables

    def states():
        with tables.connect() as db:
            return db.execute("SELECT sum(retry), sum(probed = 0) FROM tracks").fetchone()

    assert states() == (3, 3)
    for unfinished in (lambda: states()[1] < 3, lambda: states()[0] < 3):
        command = [sys.executable, "-m", "embed_assets.cli", "sync"]
        with open(world.root / "sync.log", "ab") as log:
            sync = subprocess.Popen(
                command, env=world.environment, cwd=world.root, stdout=log, stderr=log
            )
        while not unfinished() and sync.poll() is None:
            time.sleep(0.01)
        world.power_loss()
        sync.wait()
    world.sync()
    assert states() == (0, 0)
    assert retry_requests.open_requests(tables) == {}
    assert len(anew(world, before)) == 3
    assert world.sync()["runs"] == []
    world.assert_index_is_library()


@pytest.fixture
def shelf(each_database, tmp_path):
    made = Shelf(tmp_path)
    made.put(
        [made.track("A/1"), made.track("A/2"), made.track("B/1", audio="A/1")], random_vectors(3)
    )
    return made


A, B = folder_id("music", b"A"), folder_id("music", b"B")


def ask(shelf, path):
    return retry_requests.ask(shelf.tables, lambda p: p == path, [])


def test_a_folder_is_not_done_before_its_tracks_are_read_embedded_and_indexed(shelf):
    recipe, tables = SPEC.recipe.digest, shelf.tables
    assert ask(shelf, b"A/1") == ([b"A"], 1)
    assert tables.digest(A) is None
    assert len(tables.file_stats(A)) == 1, "the other one need not be read"
    scan(shelf, A, b"A")
    assert [t.path for t in tables.pending(A, recipe)] == [b"A/1"]
    assert retry_requests.open_requests(tables).keys() == {b"A"}
    note_indexed(shelf.tables, shelf.collection_key, (A, "v", 2))
    assert retry_requests.open_requests(tables).keys() == {b"A"}, "it is not embedded yet"
    (track,) = tables.pending(A, recipe)
    shelf.at += 1
    embed(shelf, track)
    assert tables.pending(A, recipe) == []
    assert tables.indexed(shelf.collection_key) == {}, (
        "rows of all that have the audio are written again"
    )
    note_indexed(shelf.tables, shelf.collection_key, (A, "v", 2), finished=False)
    assert retry_requests.open_requests(tables).keys() == {b"A"}, "its parts are not indexed yet"
    note_indexed(shelf.tables, shelf.collection_key, (A, "v", 2))
    assert retry_requests.open_requests(tables) == {}


def test_a_try_that_began_before_it_was_asked_for_does_not_count(shelf):
    tables = shelf.tables
    tables.begin_scan(A, b"A", "before")
    ask(shelf, b"A/1")
    with pytest.raises(FolderChanged):
        tables.put_tracks([shelf.track("A/1")], "before")
    with pytest.raises(FolderChanged):
        tables.finish_scan(A, "before", "digest", 2)
    # What is embedded meanwhile was read before.
    embed(shelf, shelf.track("A/1"))
    assert tables.asked_again(A)
    note_indexed(shelf.tables, shelf.collection_key, (A, "v", 2))
    assert retry_requests.open_requests(tables).keys() == {b"A"}


def test_a_file_that_is_rejected_as_it_is_read_anew_is_not_to_be_embedded(shelf):
    from dataclasses import replace

    ask(shelf, b"A/1")
    scan(shelf, A, b"A", replace(shelf.track("A/1"), audio_hash=None, reason="corrupt"))
    assert not shelf.tables.asked_again(A)
    note_indexed(shelf.tables, shelf.collection_key, (A, "v", 1))
    assert retry_requests.open_requests(shelf.tables) == {}


def scan(shelf, folder, path, *rows):
    shelf.tables.begin_scan(folder, path, "again")
    shelf.tables.put_tracks(rows or [shelf.track("A/1")], "again")
    shelf.tables.keep_tracks(folder, [shelf.track("A/2").track_id], "again")
    shelf.tables.finish_scan(folder, "again", "digest", 2)


def embed(shelf, track):
    from embed_assets.storage.records import Embedding

    row = Embedding(SPEC.recipe.digest, track.audio_hash, 1, at=shelf.at)
    shelf.tables.put_embeddings([row])


def test_a_folder_that_rests_after_failures_rests_no_longer(world):
    from embed_assets.defs.evaluation import evaluate
    from embed_assets.index.folders import version_of
    from embed_assets.library.walk import walk

    world.album("Album", 1)
    os.utime(world.library / "Album/01.ogg", (1e9, 1e9))
    (folder,) = walk(world.library)
    project = world.project()
    spec = project.spec()
    cursor = SensorCursor(attempts={"Album": (version_of(folder.digest, spec), 4, time.time())})
    with world.instance() as instance:
        state.add_keys(instance, ["Album"])

        def due():
            policy = Policy(settle_seconds=0)
            found = evaluate(instance, project.index(), cursor, policy)
            return found.plan.due, found.plan.backing_off

        assert due() == (0, 1)
        # No table knows the folder: its runs were killed before they began.
        assert retry(world, "Album") == {"folders": ["Album"], "tracks": 0}
        assert due() == (1, 0)
