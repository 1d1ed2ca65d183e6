"""A place has the vectors of one library: no other uses them, and an empty disk hides none.

The same of a folder and of an object store.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from embed_assets.cli import main
from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.operations import status
from embed_assets.operations.canary import canary
from embed_assets.operations.copy_tables import copy_tables
from embed_assets.operations.copy_vectors import copy_vectors
from embed_assets.operations.doctor import doctor
from embed_assets.operations.gc import gc
from embed_assets.operations.sync import sync
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets.storage import object_client
from embed_assets.storage.owner import adopt, check_owner, library_id, own_store
from embed_assets.storage.postgres_database import STATE
from embed_assets.storage.records import Embedding
from embed_assets.storage.vector_store import MARK, VectorsLost
from embed_assets_tests.object_server import names_in, put_raw
from embed_assets_tests.postgres import tables_at

RECIPE = "a" * 32
WINDOWS = np.ones((3, 1, 8), np.float32)


def audio(i: int) -> str:
    return f"{i * 2**120:032x}"


@pytest.fixture(params=["folder", "object store"])
def place(request, tmp_path):
    """A value of EMBED_VECTORS."""
    if request.param == "folder":
        (tmp_path / "nas").mkdir()
        return str(tmp_path / "nas")
    return f"s3://{request.getfixturevalue('bucket')}/vectors"


@pytest.fixture
def library(place, tmp_path):
    """Makes the project of a library with a home of its own, and with its vectors in that place."""

    def made(name: str, **others) -> Project:
        return Project.of(settings_of(tmp_path, name, place, **others))

    return made


def settings_of(root: Path, name: str, place: str, **others) -> Settings:
    music = root / "music"
    music.mkdir(exist_ok=True)
    (music / "readme").touch()
    return Settings(
        _env_file=None,
        home=root / name,
        vectors=place,
        library=music,
        encoder="acoustic",
        **others,
    )


def embed(project: Project, *numbers: int):
    """Store vectors as a run does, and record them."""
    store = own_store(project.tables, project.store)
    for i in numbers:
        store.write(RECIPE, audio(i), WINDOWS)
    project.tables.put_embeddings(Embedding(RECIPE, audio(i), 3, at=time.time()) for i in numbers)
    return store


def entries(project: Project) -> list[str]:
    return [name for name in names_in(project.store) if name != MARK]


def test_a_second_library_is_refused_and_told_whose_the_vectors_are(library, tmp_path, place):
    first, second = library("first"), library("second")
    embed(first, 1, 2)
    for refused in (own_store, check_owner):
        with pytest.raises(ConfigurationError, match="has the vectors of another library") as said:
            refused(second.tables, second.store)
        assert str(tmp_path / "first" / "tables.sqlite") in str(said.value)
        assert "adopt-vectors" in str(said.value)
    settings = settings_of(tmp_path, "second", place)
    for dry_run in (True, False):
        with pytest.raises(ConfigurationError, match="another library"):
            gc(settings, dry_run=dry_run, older_than=0.0)
    found = {f.check: f for f in doctor(settings)}
    assert found["vectors"].ok is False
    assert "another library" in found["vectors"].message
    assert len(entries(first)) == 2
    embed(first, 3)


FIRST_USE = """
import sys
from pathlib import Path
from embed_assets.errors import ConfigurationError
from embed_assets.project import store_in, tables_in
from embed_assets.storage import object_client
from embed_assets.storage.owner import own_store
tables, store = tables_in(Path(sys.argv[1])), store_in(Path(sys.argv[1]), sys.argv[2])
tables.database.exists(), print("ready", flush=True), sys.stdin.readline()
try:
    own_store(tables, store)
    print("won")
except ConfigurationError:
    print("refused")
"""


def test_of_libraries_that_begin_at_once_one_has_the_place(place, tmp_path):
    root = Path(__file__).resolve().parents[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_USE, str(tmp_path / f"home {i // 2}"), place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        for i in range(4)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0].strip() for process in started]
    assert said in (["won"] * 2 + ["refused"] * 2, ["refused"] * 2 + ["won"] * 2), said


def test_a_place_of_an_earlier_version_is_taken_over_by_the_library_that_knows_its_vectors(library):
    first, second = library("first"), library("second")
    for i in range(4):
        first.store.write(RECIPE, audio(i), WINDOWS)
    known = [Embedding(RECIPE, audio(i), 3) for i in range(4)]
    first.tables.put_embeddings(known)
    second.tables.put_embeddings([Embedding(RECIPE, audio(i), 3) for i in range(7, 16)])
    with pytest.raises(TransientError, match="does not have the vectors of this library"):
        own_store(second.tables, second.store)
    check_owner(first.tables, first.store)
    assert MARK not in names_in(first.store), "who only looks makes no mark"
    own_store(first.tables, first.store)
    with pytest.raises(ConfigurationError, match="another library"):
        own_store(second.tables, second.store)


def test_vectors_of_an_earlier_version_are_not_taken_by_a_library_that_knows_none(library):
    first, second = library("first"), library("second")
    first.store.write(RECIPE, audio(1), WINDOWS)
    for refused in (own_store, check_owner):
        with pytest.raises(ConfigurationError, match=r"none of them is known.*adopt-vectors"):
            refused(second.tables, second.store)
    first.tables.put_embeddings([Embedding(RECIPE, audio(1), 3)])
    own_store(first.tables, first.store)


def test_an_empty_place_is_taken_by_a_new_library_and_not_by_one_that_has_vectors(library):
    first, second = library("first"), library("second")
    first.tables.put_embeddings([Embedding(RECIPE, audio(1), 3)])
    with pytest.raises(TransientError, match="is the disk mounted"):
        check_owner(first.tables, first.store)
    assert embed(second, 1).read(RECIPE, audio(1)).shape == (3, 1, 8)


def test_tables_that_move_or_come_back_keep_the_place(each_database, library, tmp_path, place):
    first = library("first")
    embed(first, 1)
    settings = settings_of(tmp_path, "first", place)
    moved = tables_at(tmp_path / "moved.sqlite")
    copy_tables(settings, moved.database.place, lambda _: None)
    own_store(moved, first.store)
    shutil.copytree(tmp_path / "first", tmp_path / "restored")
    restored = library("restored")
    own_store(restored.tables, restored.store)


def test_lost_tables_find_their_vectors_again_after_a_person_said_so(
    library, tmp_path, place, monkeypatch, capsys
):
    embed(library("first"), 1)
    monkeypatch.setenv("EMBED_HOME", str(tmp_path / "again"))
    monkeypatch.setenv("EMBED_VECTORS", place)
    monkeypatch.setattr("sys.argv", ["x", "adopt-vectors"])
    with pytest.raises(SystemExit, match="0"):
        main()
    said = capsys.readouterr().out
    assert "belongs to this library now" in said
    assert str(tmp_path / "first" / "tables.sqlite") in said
    again = library("again")
    assert own_store(again.tables, again.store).has(RECIPE, audio(1))
    with pytest.raises(ConfigurationError, match="another library"):
        check_owner(library("first").tables, again.store)


def test_a_damaged_mark_says_what_to_do(library):
    first = library("first")
    embed(first, 1)
    no_such_time = b'{"library": "a", "tables": "b", "host": "c", "at": 1e300}'
    for damaged in (b"{", b"", b"\xff\0", no_such_time):
        put_raw(first.store, MARK, damaged)
        with pytest.raises(TransientError, match=r"damaged.*adopt-vectors"):
            own_store(first.tables, first.store)
    adopt(first.tables, first.store)
    own_store(first.tables, first.store)


def test_the_folder_of_a_home_belongs_to_the_home_and_has_no_mark(tmp_path):
    project = Project.of(Settings(_env_file=None, home=tmp_path / "home"))
    embed(project, 1)
    assert MARK not in names_in(project.store)
    (tmp_path / "home" / "tables.sqlite").unlink()
    assert own_store(project.tables, project.store).has(RECIPE, audio(1))
    with pytest.raises(ConfigurationError, match="only a place that EMBED_VECTORS names"):
        adopt(project.tables, project.store)


def test_a_disk_that_goes_away_amid_a_run_loses_nothing(tmp_path):
    nas = tmp_path / "nas"
    nas.mkdir()
    project = Project.of(settings_of(tmp_path, "home", str(nas)))
    store = embed(project, 1, 2)
    nas.rename(tmp_path / "unplugged")
    nas.mkdir()  # What a mount point is without its disk.
    for call in (
        lambda: store.write(RECIPE, audio(3), WINDOWS),
        lambda: store.read(RECIPE, audio(1)),
        lambda: store.known_lost(RECIPE, [audio(1)]),
    ):
        with pytest.raises(TransientError, match="is the disk mounted") as said:
            call()
        assert not isinstance(said.value, VectorsLost)
    assert list(nas.iterdir()) == []
    nas.rmdir()
    (tmp_path / "unplugged").rename(nas)
    assert store.known_lost(RECIPE, [audio(1), audio(2), audio(9)]) == [audio(9)]


def test_vectors_are_not_copied_into_the_place_of_another_library(library, tmp_path, place):
    embed(library("first"), 1)
    second = Settings(_env_file=None, home=tmp_path / "second")
    Project.of(second).store.write(RECIPE, audio(2), WINDOWS)
    with pytest.raises(ConfigurationError, match="another library"):
        copy_vectors(second, place, lambda _: None)
    assert len(entries(library("first"))) == 1


def test_a_server_that_replaces_objects_keeps_the_mark_of_the_library_that_was_there(
    bucket, tmp_path, monkeypatch
):
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    place = f"s3://{bucket}/vectors"
    first = Project.of(settings_of(tmp_path, "first", place))
    embed(first, 1)
    second = Settings(_env_file=None, home=tmp_path / "second")
    Project.of(second).store.write(RECIPE, audio(2), WINDOWS)
    with pytest.raises(ConfigurationError, match="another library"):
        copy_vectors(second, place, lambda _: None)
    embed(first, 3)
    assert len(entries(first)) == 2


def test_who_waits_for_a_status_is_told_soon_that_the_server_hangs(
    object_server, bucket, tmp_path, monkeypatch
):
    monkeypatch.setattr(object_client, "HURRIED", timedelta(seconds=0.5))
    project = Project.of(settings_of(tmp_path, "home", f"s3://{bucket}/vectors"))
    began = time.monotonic()
    with object_server.frozen(), pytest.raises(TransientError, match="did not answer in time"):
        check_owner(project.tables, project.store, hurried=True)
    assert time.monotonic() - began < object_client.RETRYING.total_seconds()
    check_owner(project.tables, project.store)


def test_a_status_does_not_wait_for_a_share_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(status, "ANSWER_SECONDS", 0.2)
    (tmp_path / "nas").mkdir()
    mark = tmp_path / "nas" / MARK
    os.mkfifo(mark)  # Who opens it for reading waits for a writer.
    found = status.status(settings_of(tmp_path, "home", str(tmp_path / "nas")))
    assert "has not answered" in found.vectors
    mark.write_text("{")


def test_tables_of_the_version_before_get_an_id(each_database, tmp_path):
    tables = tables_at(tmp_path / "home/tables.sqlite")
    tables.put_embeddings([Embedding(RECIPE, audio(1), 3)])
    with tables.connect() as db:
        db.execute("DROP TABLE library_id")
        if each_database == "postgres":
            db.execute(f"UPDATE {STATE} SET version = 10")
    if each_database == "postgres":
        # Another process would see the version at its first connection.
        from embed_assets.storage.postgres_sessions import pool_of

        pool_of(tables.database.address).has_tables = False
    else:
        with closing(sqlite3.connect(tmp_path / "home/tables.sqlite")) as db:
            db.execute("PRAGMA user_version = 10")
    assert len(library_id(tables)) == 32
    assert library_id(tables) == library_id(tables_at(tmp_path / "home/tables.sqlite"))
    with tables.connect() as db:
        assert db.execute("SELECT count(*) FROM embeddings").fetchone()[0] == 1


def test_without_its_disk_each_command_says_so(tmp_path):
    """The folder is the mount point itself, which is empty while the disk is away."""
    nas, away = tmp_path / "nas", tmp_path / "unplugged"
    nas.mkdir()
    settings = settings_of(tmp_path, "home", str(nas))
    embed(Project.of(settings), 1, 2)
    nas.rename(away)
    nas.mkdir()
    for command in (sync, canary, partial(gc, dry_run=False, older_than=0.0)):
        with pytest.raises(TransientError, match="is the disk mounted"):
            command(settings)
    assert "is the disk mounted" in status.status(settings).vectors
    found = {f.check: f for f in doctor(settings)}["vectors"]
    assert (found.ok, "is the disk mounted" in found.message) == (False, True)
    assert list(nas.iterdir()) == []
    nas.rmdir()
    away.rename(nas)
    assert status.status(settings).vectors == ""


def test_a_library_whose_setting_is_forgotten_embeds_nothing_anew(library, tmp_path, place):
    forgetful = Project.of(settings_of(tmp_path, "home", ""))
    embed(forgetful, 1)
    copy_vectors(settings_of(tmp_path, "home", ""), place, lambda _: None)
    settled = library("home")
    embed(settled, 2)
    for refused in (own_store, check_owner):
        with pytest.raises(ConfigurationError, match="EMBED_VECTORS is not set here"):
            refused(forgetful.tables, forgetful.store)
    embed(library("home"), 3)

    copy_vectors(settings_of(tmp_path, "home", place), str(forgetful.store.root), lambda _: None)
    embed(forgetful, 4)
    assert len(entries(forgetful)) == 4, "moved back, it goes on there"


def test_vectors_that_are_lost_for_good_can_be_embedded_anew_at_home(library, tmp_path):
    embed(library("home"), 1)
    at_home = Project.of(settings_of(tmp_path, "home", ""))
    adopt(at_home.tables, at_home.store)
    embed(at_home, 2)
    with pytest.raises(ConfigurationError, match="only a place that EMBED_VECTORS names"):
        adopt(at_home.tables, at_home.store)
