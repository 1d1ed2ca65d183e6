"""A whole project with its vectors in an object store, and nothing of them in EMBED_HOME."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from embed_assets.errors import TransientError
from embed_assets.index.connection import connect
from embed_assets.index.folders import index_library
from embed_assets.index.row import VectorKey
from embed_assets.index.row_vectors import Windows
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.garbage import collect_garbage
from embed_assets.storage.object_store import ObjectStore
from embed_assets.storage.vector_store import VectorsLost
from embed_assets_tests.made_library import ENRICHED, MEAN, OTHER, Shelf, shelf_of, windows_of
from embed_assets_tests.object_server import LOGIN, names_in


@pytest.fixture
def elsewhere(world, bucket, object_server):
    """A world whose vectors are in a bucket."""
    world.settings |= object_server.environment
    world.settings["EMBED_VECTORS"] = f"s3://{bucket}/my/vectors"
    return world


def test_a_library_is_indexed_with_its_vectors_elsewhere(elsewhere, bucket, object_server):
    world = elsewhere
    world.album("First", 1, 2, 3)
    world.album("Second", 4, 5)
    world.put_bad("Second/bad.mp3", b"nothing")
    away = world.settings | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    world.settings, there = away, world.settings
    failed = world.run("sync", "--json")
    assert failed.returncode == 1, failed.stderr
    assert "it cannot be reached" in failed.stderr
    world.settings = there

    done = world.sync()
    assert (done["embedded"], done["rejected"], done["failed_folders"]) == (5, 1, 0)
    world.assert_index_is_library()
    assert len(names_in(world.project().store)) == 6, "with the mark"
    assert not (world.home / "vectors").exists()
    asked = object_server.requests(bucket)
    assert asked["PUT"] == 6
    assert asked["HEAD"] <= 2, "at most one for each run that embeds"

    doctor = {c["check"]: c for c in json.loads(world.run("doctor", "--json").stdout)}
    assert "written, read, listed and deleted" in doctor["cluster"]["message"]
    assert doctor["vectors"]["message"].startswith("5 stored vectors read")

    for folder in ("cache", "search"):
        shutil.rmtree(world.home / folder)
    world.settings["EMBED_POOLING"] = "enriched"
    assert world.sync()["embedded"] == 0, "another collection is filled from the store"
    checked = world.run("collections", "--check", "--json")
    assert checked.returncode == 0, checked.stdout
    secret = LOGIN["AWS_SECRET_ACCESS_KEY"].encode()
    for file in (f for f in world.home.rglob("*") if f.is_file()):
        assert secret not in file.read_bytes(), file

    del world.settings["EMBED_POOLING"]
    shutil.rmtree(world.home)
    refused = world.run("sync")
    assert refused.returncode == 2
    assert "another library" in refused.stderr
    assert world.run("adopt-vectors").returncode == 0
    assert world.sync()["embedded"] == 0, "so does a machine that has nothing yet"
    world.assert_index_is_library()


def test_old_vectors_that_nothing_uses_go_by_the_clock_of_the_store(bucket, tmp_path):
    shelf = shelf_of(tmp_path, "nowhere.db", 2)
    store = ObjectStore(f"s3://{bucket}/vectors", tmp_path / "home")
    for spec in (MEAN, OTHER):
        for tracks in shelf.albums.values():
            for track in tracks:
                store.write(spec.recipe.digest, track.audio, windows_of(track.audio))

    def collect(older_than: float, *, dry_run: bool = False):
        recipes = {MEAN.recipe.digest}
        return collect_garbage(shelf.tables, store, recipes, older_than=older_than, dry_run=dry_run)

    young = collect(3600)
    assert (young.entries, young.too_young, young.removed) == (12, 6, 0)
    assert collect(-60, dry_run=True).removed == 6
    assert len(names_in(store)) == 12
    assert collect(-60).removed == 6
    assert {name.partition("/")[0] for name in names_in(store)} == {MEAN.recipe.digest}


@dataclass
class FarShelf(Shelf):
    """A shelf whose vectors are in a bucket, without copies on this machine."""

    bucket: str = ""

    @property
    def store(self) -> ObjectStore:
        return ObjectStore(f"s3://{self.bucket}", self.root / "home")


def test_vectors_that_are_lost_elsewhere_are_noticed_when_they_are_read(bucket, lite, tmp_path):
    shelf = FarShelf(tmp_path, lite, bucket=bucket)
    for album in (b"A", b"B"):
        shelf.put(album, MEAN)
    lost = shelf.albums[b"A"][1]
    recipe = MEAN.recipe.digest
    shelf.store.delete(recipe, [lost.audio])
    with connect(lite) as client:
        found = {}
        for told in index_library(client, shelf.context(ENRICHED), [b"A", b"B"]):
            found[told[0] if isinstance(told, tuple) else told.path] = told
        assert found[b"B"].rows == 3
        _, error = found[b"A"]
        assert isinstance(error, TransientError)
        assert f"no vectors at s3://{bucket} (at" in str(error)
        assert "embedded again at the next attempt" in str(error)
        assert [t.track_id for t in shelf.tables.pending(lost.folder_id, recipe)] == [lost.track_id]
        shelf.embed([MEAN], [lost])
        (told,) = index_library(client, shelf.context(ENRICHED), [b"A"])
        assert told.rows == 3


class Spoiling(FolderStore):
    """A store on a disk that spoils what many read at once, and nothing else."""

    def read_many(self, recipe_digest, wanted, *, keep=False):
        return iter([VectorsLost("spoilt") for _ in wanted])


def test_vectors_that_were_spoilt_on_the_way_once_are_not_deleted(tmp_path):
    shelf = shelf_of(tmp_path, "nowhere.db", 1, MEAN)
    (tracks,) = shelf.albums.values()
    windows = Windows(shelf.tables, Spoiling(shelf.store.root), forget_lost=True)
    keys = [VectorKey(t.audio, 0) for t in tracks]
    for track, found in zip(tracks, windows.read(MEAN, keys), strict=True):
        np.testing.assert_array_equal(found, windows_of(track.audio))
    assert len(list(shelf.store.entries(MEAN.recipe.digest))) == 3
    assert shelf.tables.pending(tracks[0].folder_id, MEAN.recipe.digest) == []
