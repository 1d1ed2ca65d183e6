"""What is read or embedded again is found as before until it is indexed again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embed_assets.identity import digest, folder_id, track_id
from embed_assets.index import promotion_by_hand
from embed_assets.index.connection import connect
from embed_assets.index.folders import index_library, version_of, written_versions
from embed_assets.library.walk import folder_digest, list_audio
from embed_assets.operations.errors import failed_folders
from embed_assets.search.searcher import Searcher
from embed_assets.storage import collection_registry, queries, retry_requests
from embed_assets.storage.database import NEW_REVISION
from embed_assets.storage.records import EMPTY, Embedding, Track
from embed_assets.storage.tables import Tables
from embed_assets_tests.made_library import ENRICHED, MEAN, shelf_of
from embed_assets_tests.test_retags import as_the_version_before
from embed_assets_tests.test_walk import put

ALBUM = b"Artist/Album 01"


def titles(shelf, spec=MEAN):
    found = Searcher(shelf.tables, shelf.store, spec, spec.collection_key(shelf.address))
    return sorted(t.title for _, t in found.tracks())


ON_SQLITE = pytest.mark.parametrize("each_database", ["sqlite"], indirect=True)


@pytest.fixture
def shelf(each_database, lite, tmp_path):
    made = shelf_of(tmp_path, lite, 2, MEAN)
    with connect(lite) as client:
        made.index(client, MEAN)
    return made


def out_of_step(shelf, spec=MEAN):
    """The folders that are to be indexed, as every reader of the tables has it."""
    written = {path for _, path, is_written in folders(shelf, spec) if is_written}
    assert collection_registry.unfinished(shelf.tables, shelf.address, spec) == 2 - len(written)
    counts = queries.counts(shelf.tables, spec.recipe.digest, spec.collection_key(shelf.address))
    assert counts.folders_indexed == len(written)
    versions = written_versions(shelf.tables, spec, shelf.address)
    digests = {path: shelf.tables.digest(folder) for folder, path, _ in folders(shelf, spec)}
    assert written == {p for p, v in versions.items() if v.startswith(f"{digests[p]}.")}
    return shelf.albums.keys() - written


def folders(shelf, spec):
    return list(collection_registry.written_folders(shelf.tables, shelf.address, spec))


def test_a_retagged_album_is_found_until_and_after_it_is_indexed_again(shelf):
    assert out_of_step(shelf) == set()
    before = titles(shelf)
    folder = folder_id(shelf.library.name, ALBUM)
    shelf.tables.begin_scan(folder, ALBUM, "scan")
    one, *others = shelf.albums[ALBUM]
    shelf.tables.put_tracks([replace(one, title="New")], "scan")
    assert len(titles(shelf)) == len(before), "it is being read"
    shelf.tables.keep_tracks(folder, [t.track_id for t in others], "scan")
    shelf.tables.finish_scan(folder, "scan", shelf.tables.digest(folder) or "same", 3)
    assert len(titles(shelf)) == len(before), "it is read and not yet indexed"
    assert out_of_step(shelf) == {ALBUM}
    with connect(shelf.address) as client:
        shelf.index(client, MEAN, [ALBUM])
    assert out_of_step(shelf) == set()
    assert titles(shelf) == sorted([*before[1:], "New"])


def test_audio_that_is_embedded_again_is_found_meanwhile(shelf):
    before = titles(shelf)
    shelf.embed([MEAN], shelf.albums[ALBUM][:1])
    assert titles(shelf) == before
    assert out_of_step(shelf) == {ALBUM}
    shelf.embed([MEAN], shelf.albums[ALBUM])
    assert out_of_step(shelf) == {ALBUM}
    with connect(shelf.address) as client:
        shelf.index(client, MEAN, [ALBUM])
    assert out_of_step(shelf) == set()


def test_going_back_after_a_retag_serves_every_folder(shelf):
    with connect(shelf.address) as client:
        assert shelf.index(client, ENRICHED).served == ENRICHED.collection
        shelf.retag(ALBUM, "Blue in Green")
        shelf.index(client, ENRICHED, [ALBUM])
        back = promotion_by_hand.rollback(client, shelf.context(ENRICHED))
        assert back.served == MEAN.collection
    assert len(titles(shelf)) == 6
    assert titles(shelf).count("Blue in Green") == 3
    assert out_of_step(shelf) == {ALBUM}


@ON_SQLITE
def test_after_an_upgrade_everything_is_found_and_rows_without_a_decoder_are_no_others(shelf):
    before = titles(shelf)
    as_the_version_before(shelf.tables.database.path)
    assert titles(shelf) == before
    assert out_of_step(shelf) == set(shelf.albums)
    folder = folder_id(shelf.library.name, ALBUM)
    with connect(shelf.address) as client:
        shelf.index(client, MEAN)
    assert out_of_step(shelf) == set()
    shelf.tables.begin_scan(folder, ALBUM, "scan")
    rows = [replace(t, decoder="ffmpeg") for t in shelf.albums[ALBUM]]
    assert shelf.tables.put_tracks(rows, "scan") == set()


def test_folders_are_marked_without_reading_about_all_others(tmp_path):
    tables = Tables(tmp_path / "tables.sqlite")
    with tables.connect() as db:
        for which in ("= ?", "IN (SELECT folder_id FROM tracks WHERE audio_hash = ?)"):
            plan = db.execute(f"EXPLAIN QUERY PLAN {NEW_REVISION} {which}", ("",))
            steps = [row[3] for row in plan]
            assert not any(step.startswith("SCAN") for step in steps), steps


def test_errors_lists_a_folder_whose_parts_failed_until_they_are_indexed(world):
    world.settings["EMBED_PARTS"] = "true"
    put(world.library, "Album/1.ogg", "Other/1.ogg")
    project = world.project()
    spec, tables = project.spec(), project.tables
    tracks = [embedded(project, path) for path in (b"Album", b"Other")]
    folder, paths = tracks[0].folder_id, [b"Album", b"Other"]

    def index(client, wanted):
        reports = list(index_library(client, project.index().of(wanted), paths))
        return {r[0] for r in reports if isinstance(r, tuple)}

    def listed():
        with world.instance() as instance:
            return {p.path for p in failed_folders(instance, project, spec)}

    with connect(project.uri) as client:
        assert index(client, replace(spec, parts=False)) == set()
        tables.put_failures([(folder, b"Album")], "milvus_index", "no vectors", "run")
        project.store.path(spec.recipe.digest, tracks[0].audio_hash).unlink()
        assert index(client, spec) == {b"Album"}
        assert listed() == {b"Album"}
        embedded(project, b"Album")
        assert index(client, spec) == set()
    assert listed() == set()
    assert queries.failed_folders(tables) == []


def embedded(project, path):
    """Have the tables and the store hold a folder's only track."""
    recipe, tables, full = project.spec().recipe, project.tables, path + b"/1.ogg"
    folder, audio = folder_id(project.library.name, path), digest("audio", full)
    files = list_audio(project.library.root, path)
    windows = np.random.default_rng(1).standard_normal((3, 1, recipe.dim)).astype(np.float32)
    project.store.write(recipe.digest, audio, windows, replace=True)
    tables.put_embeddings([Embedding(recipe.digest, audio, 3, 30.0)])
    track = Track(
        track_id(project.library.name, full), folder, full, 1, 1, 1, audio, duration=180.0
    )
    tables.begin_scan(folder, path, "scan")
    tables.put_tracks([track], "scan")
    tables.finish_scan(folder, "scan", folder_digest(files), 1)
    return track


def test_a_folder_whose_track_went_and_came_back_between_two_scans_is_indexed_again(shelf):
    digest = shelf.tables.digest(folder_id(shelf.library.name, ALBUM))
    folder = folder_id(shelf.library.name, ALBUM)
    shelf.tables.begin_scan(folder, ALBUM, "without it")
    shelf.tables.keep_tracks(folder, [t.track_id for t in shelf.albums[ALBUM][1:]], "without it")
    shelf.tables.finish_scan(folder, "without it", "another digest", 2)
    # The run dies here, and the file comes back: the walk gives the digest that was indexed.
    assert out_of_step(shelf) == {ALBUM}
    assert (
        version_of(digest, MEAN) not in written_versions(shelf.tables, MEAN, shelf.address).values()
    )


def test_a_folder_that_was_emptied_and_came_back_is_not_taken_for_empty(shelf):
    folder = folder_id(shelf.library.name, ALBUM)
    shelf.tables.begin_scan(folder, ALBUM, "emptied")
    shelf.tables.finish_scan(folder, "emptied", "no files", 0)
    with connect(shelf.address) as client:
        shelf.index(client, MEAN, [ALBUM])
    assert written_versions(shelf.tables, MEAN, shelf.address)[ALBUM] == EMPTY
    shelf.tables.begin_scan(folder, ALBUM, "back")
    shelf.tables.put_tracks(shelf.albums[ALBUM], "back")
    shelf.tables.finish_scan(folder, "back", "its files", 3)
    assert out_of_step(shelf) == {ALBUM}


@ON_SQLITE
def test_a_request_that_was_open_when_tables_were_upgraded_is_not_forgotten(shelf):
    retry_requests.ask(shelf.tables, lambda path: path == ALBUM, [])
    folder = folder_id(shelf.library.name, ALBUM)
    shelf.tables.begin_scan(folder, ALBUM, "read")
    shelf.tables.put_tracks(shelf.albums[ALBUM], "read")
    shelf.tables.finish_scan(folder, "read", "digest", 3)
    with connect(shelf.address) as client:
        shelf.index(client, MEAN, [ALBUM])
    with shelf.tables.transaction() as db:
        db.execute("UPDATE tracks SET retry = 1 WHERE folder_id = ?", (folder,))
        db.execute("UPDATE folders SET revision = 0")
        db.execute("UPDATE indexed SET revision = 0")
        db.execute("PRAGMA user_version = 6")
    assert out_of_step(shelf) == {ALBUM}


@ON_SQLITE
def test_tables_of_the_version_before_are_taken_over_with_all_that_they_say(shelf):
    with connect(shelf.address) as client:
        shelf.index(client, MEAN, list(shelf.albums))
    retry_requests.ask(shelf.tables, lambda path: path.startswith(ALBUM), [])
    collection_registry.note_fingerprint(shelf.tables, shelf.address, MEAN.collection, "files")
    said, due = all_rows(shelf), out_of_step(shelf)
    as_schema_7(shelf)
    assert all_rows(shelf) == said
    assert due == out_of_step(shelf) == {ALBUM}
    assert retry_requests.open_requests(shelf.tables).keys() == {ALBUM}
    known = collection_registry.fingerprint_of(shelf.tables, shelf.address, MEAN.collection)
    assert known == "files"


def all_rows(shelf):
    with shelf.tables.connect() as db:
        tables = [t for (t,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables}


def as_schema_7(shelf):
    """Give tables and columns the names that they had in version 7 of the schema."""
    with shelf.tables.transaction() as db:
        for table, columns in {
            "folders": {"useless_reads": "vain", "useless_read_at": "vain_at"},
            "tracks": {"retry": "again"},
            "indexed": {"collection_key": "place"},
            "collections": {"uri": "address", "fingerprint": "stamp"},
            "served": {"uri": "address"},
        }.items():
            for new, old in columns.items():
                db.execute(f"ALTER TABLE {table} RENAME COLUMN {new} TO {old}")
        db.execute("ALTER TABLE retry_requests RENAME TO asked")
        db.execute("PRAGMA user_version = 7")
