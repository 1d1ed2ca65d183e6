"""Files that changed and kept their size and time, and files that did not change and look as if."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from mutagen.flac import FLAC

from embed_assets.errors import FolderChanged, Reason, TrackRejected
from embed_assets.identity import folder_id
from embed_assets.library import ctimes
from embed_assets.library.manifest import MusicFolder, ScanResult, scan_folder
from embed_assets.library.unchanged import unchanged
from embed_assets.library.walk import walk
from embed_assets.storage.records import UNKNOWN_CTIME, FileStat
from embed_assets.workers import Pool, open_pool
from embed_assets_tests.indexing import note_indexed
from embed_assets_tests.postgres import tables_at
from embed_assets_tests.synth import write_track

ALBUM = folder_id("music", b"Album")


@pytest.fixture(scope="module")
def pool():
    with open_pool(1) as pool:
        yield pool


class Scanned:
    """A library of one album, and its manifest."""

    def __init__(self, root: Path, pool: Pool) -> None:
        self.library, self.pool = MusicFolder(root / "music"), pool
        self.tables = tables_at(root / "tables.sqlite")
        for i in (1, 2):
            write_flac(self.file(i), seed=i, title=f"Old {i}")

    def file(self, number: int) -> Path:
        return self.library.root / f"Album/{number}.flac"

    def scan(self) -> ScanResult:
        return scan_folder(self.library, b"Album", self.tables, self.pool)

    def titles(self) -> list[str]:
        with self.tables.connect() as db:
            return [t for (t,) in db.execute("SELECT title FROM tracks ORDER BY path")]

    def index(self) -> None:
        note_indexed(self.tables, "place", (ALBUM, "version", 2))

    def is_indexed(self) -> bool:
        return self.tables.indexed("place").keys() == {b"Album"}

    def seen(self) -> tuple[str | None, int]:
        (folder,) = walk(self.library.root)
        return folder.digest, folder.ctimes


@pytest.fixture
def scanned(each_database, tmp_path, pool):
    made = Scanned(tmp_path, pool)
    made.scan()
    made.index()
    return made


def write_flac(path: Path, seed: int, title: str) -> None:
    """A FLAC file with room for other tags."""
    write_track(path, seconds=2, seed=seed)
    tags = FLAC(path)
    tags["title"] = title
    tags.save(padding=lambda info: 2000)


def retag(path: Path | str, title: str) -> None:
    """Write other tags as a tagger does that preserves times, into the room that is there."""
    before = os.stat(path)
    tags = FLAC(path)
    tags["title"] = title
    tags.save()
    put_back(path, before)


def put_back(path: Path | str, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(path)
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_retag_that_keeps_size_and_time_is_read_and_has_the_folder_indexed_again(scanned):
    before = scanned.seen()
    retag(scanned.file(1), "New title, longer")
    after = scanned.seen()
    assert after[0] == before[0], "names, sizes and times are as before"
    assert after[1] != before[1]
    found = scanned.scan()
    assert (found.probed, found.unchanged) == (1, 1)
    assert scanned.titles() == ["New title, longer", "Old 2"]
    assert not scanned.is_indexed(), "a run that is killed now leaves the folder to be done"


def test_other_audio_of_equal_size_and_time_is_another_audio(tmp_path, pool):
    made = Scanned(tmp_path, pool)
    wav = made.library.root / "Album/x.wav"
    write_track(wav, seconds=2, seed=5)
    made.scan()
    hashes = {h for (h,) in query(made, "SELECT audio_hash FROM tracks")}
    before = os.stat(wav)
    write_track(wav, seconds=2, seed=6)
    put_back(wav, before)
    made.scan()
    assert len(hashes & {h for (h,) in query(made, "SELECT audio_hash FROM tracks")}) == 2


def test_other_permissions_cost_a_reading_and_nothing_else(scanned):
    sql = "SELECT track_id, audio_hash, added_at FROM tracks ORDER BY path"
    before = query(scanned, sql)
    scanned.file(1).chmod(0o640)
    assert scanned.scan().probed == 1
    assert scanned.is_indexed()
    assert query(scanned, sql) == before
    assert scanned.scan().probed == 0
    assert ctimes.known(scanned.tables, time.time()) == {b"Album": scanned.seen()[1]}


def test_ctimes_that_change_for_nothing_again_and_again_count_less_and_less(scanned):
    for n in range(ctimes.TRIES):
        scanned.file(1).chmod(0o600 + n)
        assert scanned.scan().probed == 1
    assert ctimes.resting(scanned.tables, time.time()) == 1
    retag(scanned.file(2), "New")
    assert scanned.scan().probed == 0
    assert b"Album" not in ctimes.known(scanned.tables, time.time()), "no look asks for a run"

    # A day later it is read; and since that told something, ctimes count again.
    later(scanned, ctimes.REST_SECONDS)
    assert ctimes.known(scanned.tables, time.time())[b"Album"] != scanned.seen()[1]
    assert scanned.scan().probed == 1
    assert scanned.titles() == ["Old 1", "New"]
    assert ctimes.of_folder(scanned.tables, ALBUM)[0] == 0


def test_the_time_for_which_vain_ctimes_do_not_count_doubles():
    day = ctimes.REST_SECONDS
    assert ctimes.count(ctimes.TRIES - 1, 0.0, 1.0)
    for more, days in enumerate((1, 2, 4, 8)):
        useless_reads = ctimes.TRIES + more
        assert not ctimes.count(useless_reads, 1e9, 1e9 + days * day - 1)
        assert ctimes.count(useless_reads, 1e9, 1e9 + days * day)
    assert ctimes.count(ctimes.TRIES, 1e9, 1e9 - 5), "a clock that was put back stops nothing"


def test_a_file_that_is_replaced_while_it_is_read_is_noticed_whatever_its_times(tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"x" * 3000)
    other.write_bytes(b"y" * 3000)
    info = path.stat()
    os.utime(other, ns=(info.st_atime_ns, info.st_mtime_ns))
    # As on a file system that has no ctime of its own.
    file_stat = FileStat(info.st_size, info.st_mtime_ns)
    name = os.fsencode(path)
    with (
        pytest.raises(FolderChanged, match="a: changed while it was read"),
        unchanged(name, file_stat, b"a", lambda: True),
    ):
        os.replace(other, path)
    shutil.copy2(path, other)
    with unchanged(name, file_stat, b"a", lambda: True):
        os.replace(other, path)
    for change in (path.unlink, lambda: path.write_bytes(b"z" * 3000)):
        with pytest.raises(FolderChanged), unchanged(name, file_stat, b"a", lambda: True):
            change()


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_an_error_of_the_disk_is_said_though_the_file_changed_as_well(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    info = path.stat()
    file_stat = FileStat(info.st_size, info.st_mtime_ns)

    def failing(raised):
        with unchanged(os.fsencode(path), file_stat, b"a", lambda: True):
            path.write_bytes(b"longer")
            raise raised

    with pytest.raises(type(error)):
        failing(error)


def test_a_file_is_rejected_only_if_it_is_the_one_that_was_listed(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    info = path.stat()
    file_stat = FileStat(info.st_size, info.st_mtime_ns)

    def failing(raised, change=lambda: None):
        with unchanged(os.fsencode(path), file_stat, b"a", lambda: True):
            change()
            raise raised

    rejected = TrackRejected(Reason.CORRUPT, "half of it")
    with pytest.raises(TrackRejected, match="half of it"):
        failing(rejected)
    with pytest.raises(FolderChanged, match="was deleted or moved"):
        failing(FileNotFoundError(2, "No such file"), path.unlink)
    path.write_bytes(b"x")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    with pytest.raises(FolderChanged, match="changed while it was read"):
        failing(rejected, lambda: path.write_bytes(b"longer"))


def test_where_only_the_ctime_changes_a_second_reading_decides(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    info = path.stat()
    file_stat = FileStat(info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    asked = []
    with unchanged(os.fsencode(path), file_stat, b"a", lambda: asked.append(1) or True) as reading:
        pass
    assert not asked
    time.sleep(0.02)
    path.chmod(0o640)
    with unchanged(os.fsencode(path), file_stat, b"a", lambda: asked.append(1) or True) as reading:
        pass
    assert (asked, reading.jumped) == ([1], False)
    with pytest.raises(FolderChanged), unchanged(os.fsencode(path), file_stat, b"a", lambda: False):
        pass
    with unchanged(os.fsencode(path), FileStat(*file_stat[:2], UNKNOWN_CTIME), b"a", lambda: False):
        pass


def test_a_retag_reaches_the_index_and_a_chmod_costs_a_reading(world):
    album = world.library / "Album"
    for i in (1, 2):
        write_flac(album / f"{i}.flac", seed=i, title=f"Old {i}")
    assert world.sync()["embedded"] == 2
    retag(album / "1.flac", "New title")
    assert json.loads(world.run("status", "--json").stdout)["folders_to_do"] == 1
    done = world.sync()
    assert (done["embedded"], done["reused"], len(done["runs"])) == (0, 2, 1)
    assert "Sounds like New title" in world.run("similar", "New title").stdout
    assert world.sync()["runs"] == []

    for path in album.iterdir():
        path.chmod(0o640)
    done = world.sync()
    assert (done["embedded"], done["failed_folders"], len(done["runs"])) == (0, 0, 1)
    assert world.sync()["runs"] == []


def test_a_home_of_the_version_before_is_read_once_more_and_embeds_nothing_again(world):
    path = world.library / "Album/1.flac"
    write_flac(path, seed=1, title="Old title")
    write_flac(world.library / "Other/1.flac", seed=2, title="Other")
    world.sync()
    as_the_version_before(world.home / "tables.sqlite")
    assert json.loads(world.run("status", "--json").stdout)["folders_to_do"] == 2
    done = world.sync()
    assert (done["embedded"], done["reused"], len(done["runs"])) == (0, 2, 1)
    assert world.sync()["runs"] == []
    retag(path, "New title")
    done = world.sync()
    assert (done["embedded"], done["reused"], len(done["runs"])) == (0, 1, 1)
    assert "Sounds like New title" in world.run("similar", "New title").stdout
    assert world.sync()["runs"] == []


def as_the_version_before(path: Path) -> None:
    """Take from the tables what version 5 of their schema did not have."""
    with sqlite3.connect(path) as db:
        for table, columns in {
            "tracks": ("ctime_ns", "retry", "decoder"),
            "folders": ("ctimes", "useless_reads"),
        }.items():
            for column in columns:
                db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        db.execute("ALTER TABLE folders DROP COLUMN useless_read_at")
        db.execute("ALTER TABLE tracks ADD COLUMN inode INTEGER")
        db.execute("UPDATE tracks SET inode = 7, probed = 2")
        db.execute("DROP TABLE retry_requests")
        db.execute("DROP TABLE gone_audio")
        db.execute("PRAGMA user_version = 5")
    db.close()


def later(scanned: Scanned, seconds: float) -> None:
    with scanned.tables.transaction() as db:
        db.execute("UPDATE folders SET useless_read_at = useless_read_at - ?", (seconds,))


def query(scanned: Scanned, sql: str) -> list[tuple]:
    with scanned.tables.connect() as db:
        return db.execute(sql).fetchall()
