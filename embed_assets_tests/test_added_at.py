"""When a track was added, whatever became of its file since."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from mutagen.flac import FLAC

from embed_assets.identity import folder_id
from embed_assets.index.collection import ALIAS, load
from embed_assets.index.connection import connect
from embed_assets.library.manifest import MusicFolder, scan_folder
from embed_assets.workers import Pool, open_pool
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.postgres import tables_at
from embed_assets_tests.synth import write_track

LONG_AGO = 1_234_567_890.0


@pytest.fixture(scope="module")
def pool():
    with open_pool(1) as pool:
        yield pool


class Albums:
    """A library whose albums are scanned one by one, in any order."""

    def __init__(self, root: Path, pool: Pool) -> None:
        self.library, self.pool = MusicFolder(root / "music"), pool
        self.tables = tables_at(root / "tables.sqlite")
        self.put("Anchor/1.flac", 99)
        self.scan("Anchor")

    def put(self, name: str, seed: int) -> Path:
        return write_track(self.library.root / name, seconds=1, seed=seed)

    def move(self, old: str, new: str) -> None:
        target = self.library.root / new
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.library.root / old, target)

    def scan(self, *albums: str) -> None:
        """What a run does for albums: those that are gone are removed and retired."""
        for album in albums:
            path = os.fsencode(album)
            found = scan_folder(self.library, path, self.tables, self.pool, may_remove=True)
            if not found.tracks:
                self.tables.forget_folder(folder_id("music", path))

    def were_added(self, at: float) -> None:
        with self.tables.transaction() as db:
            db.execute("UPDATE tracks SET added_at = ? WHERE path NOT LIKE 'Anchor%'", (at,))

    def added(self) -> dict[str, float]:
        with self.tables.connect() as db:
            rows = db.execute("SELECT path, added_at FROM tracks").fetchall()
        return {os.fsdecode(p): at for p, at in rows if not p.startswith(b"Anchor")}

    def remembered(self) -> int:
        with self.tables.connect() as db:
            return db.execute("SELECT count(*) FROM gone_audio").fetchone()[0]


@pytest.fixture
def albums(each_database, tmp_path, pool):
    made = Albums(tmp_path, pool)
    made.put("Old/1.flac", 1)
    made.put("Old/2.flac", 2)
    made.scan("Old")
    made.were_added(LONG_AGO)
    return made


@pytest.mark.parametrize("order", [("Old", "New"), ("New", "Old")])
def test_a_moved_album_was_added_when_it_first_came(albums, order):
    albums.move("Old", "New")
    albums.scan(*order)
    assert albums.added() == {"New/1.flac": LONG_AGO, "New/2.flac": LONG_AGO}
    assert albums.remembered() == 0


def test_an_album_that_was_away_for_a_while_was_added_when_it_first_came(albums, tmp_path):
    shutil.move(albums.library.root / "Old", tmp_path / "away")
    albums.scan("Old")
    assert (albums.added(), albums.remembered()) == ({}, 2)
    shutil.move(tmp_path / "away", albums.library.root / "Back")
    albums.scan("Back")
    assert set(albums.added().values()) == {LONG_AGO}
    assert albums.remembered() == 0


def test_a_track_that_is_moved_and_retagged_at_once_keeps_the_time(albums):
    albums.move("Old/1.flac", "Other Artist/Renamed.flac")
    tags = FLAC(albums.library.root / "Other Artist/Renamed.flac")
    tags["title"] = "Another title"
    tags.save()
    albums.scan("Old", "Other Artist")
    assert albums.added()["Other Artist/Renamed.flac"] == LONG_AGO


def test_a_track_whose_name_another_one_took_keeps_the_time_when_it_comes_back(albums):
    kept = albums.library.root.parent / "kept.flac"
    shutil.move(albums.library.root / "Old/1.flac", kept)
    albums.put("Old/1.flac", 3)
    albums.scan("Old")
    shutil.move(kept, albums.library.root / "Old/3.flac")
    albums.scan("Old")
    assert albums.added()["Old/3.flac"] == LONG_AGO


def test_what_is_new_is_new_and_a_copy_is_as_old_as_its_audio(albums):
    albums.put("New/1.flac", 7)
    shutil.copy(albums.library.root / "Old/1.flac", albums.library.root / "New/copy.flac")
    began = time.time()
    albums.scan("New")
    added = albums.added()
    assert added["New/1.flac"] >= began
    assert added["New/copy.flac"] == LONG_AGO


def test_a_rename_leaves_nothing_to_remember_and_what_is_gone_for_long_is_forgotten(albums):
    albums.move("Old/1.flac", "Old/renamed.flac")
    albums.scan("Old")
    assert albums.remembered() == 0
    shutil.rmtree(albums.library.root / "Old")
    albums.scan("Old")
    albums.tables.forget_gone_audio(time.time() - 3600)
    assert albums.remembered() == 2
    albums.tables.forget_gone_audio(time.time() + 1)
    assert albums.remembered() == 0


def test_the_index_says_when_a_moved_album_was_added(world):
    world.album("Anchor", 9)
    world.album("Artist/Album", 1, 2)
    world.sync()
    before = added_at(world)
    time.sleep(1.1)
    world.move("Artist/Album", "Artist/Album (1965)")
    assert world.sync()["embedded"] == 0
    away = world.root / "away"
    os.rename(world.library / "Artist/Album (1965)", away)
    assert world.sync()["removed"] == 2
    os.rename(away, world.library / "Artist/Album (1965)")
    assert world.sync()["embedded"] == 0
    after = added_at(world)
    for name in ("01.ogg", "02.ogg"):
        assert after[f"Artist/Album (1965)/{name}"] == before[f"Artist/Album/{name}"]
    world.assert_index_is_library()


def added_at(world) -> dict[str, int]:
    with connect(world.project().uri, wait_seconds=PATIENCE) as client:
        load(client, ALIAS)
        rows = client.query(ALIAS, 'track_id != ""', ["path", "added_at"], limit=100)
    return {r["path"]: r["added_at"] for r in rows}
