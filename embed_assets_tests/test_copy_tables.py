"""`copy-tables`: a library moves from SQLite to PostgreSQL and back, with all that is known."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from embed_assets.cli import main
from embed_assets.errors import ConfigurationError
from embed_assets.operations.copy_tables import copy_tables
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets.storage import collection_registry, looks, retry_requests, schema
from embed_assets.storage.copy import copy_tables as copy_database
from embed_assets.storage.owner import library_id
from embed_assets.storage.ranking_choice import choose_ranking
from embed_assets.storage.records import Embedding, IndexedFolder, Track
from embed_assets.storage.sqlite_database import SqliteDatabase
from embed_assets_tests.made_library import MEAN


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home")


def fill(tables) -> None:
    """Have rows in each table, some with bytes and signs that few have."""
    paths = [b"A/\xff%s'.mp3", b"A/\\ ?:x.flac", "A/é\n.ogg".encode()]
    tables.begin_scan("f", b"A \xfe", "scan")
    tables.put_tracks(
        (
            Track(f"id {i}", "f", p, 2**40, 2**62, -1, f"audio {i}", duration=0.1, title="%\\'\t£")
            for i, p in enumerate(paths)
        ),
        "scan",
    )
    tables.put_tracks([Track("bad", "f", b"bad", 0, 1, 1, reason="corrupt")], "scan")
    tables.finish_scan("f", "scan", "digest", 4, ctimes=-5)
    tables.begin_scan("gone", b"Gone", "scan")
    tables.put_tracks([Track("gone", "gone", b"Gone/x", 1, 1, 1, "audio gone")], "scan")
    tables.forget_folder("gone")
    tables.put_embeddings(Embedding("r", f"audio {i}", 3, 1 / 3, at=1e9 + i) for i in range(2))
    tables.put_indexed("key", [IndexedFolder("f", "digest.x", 3, 0)])
    tables.put_failures([("f", b"A \xfe")], "embed", "why", "run", shared=True)
    retry_requests.ask(tables, lambda path: path == paths[0], [])
    tables.put_failures([("g", b"G")], "embed", "why", "run", shared=True)
    collection_registry.note_collection(tables, "milvus", MEAN)
    collection_registry.note_move(tables, "milvus", "new", None, "first", "new")
    choose_ranking(tables, "key", "cosine", "why")
    library_id(tables)
    for _ in range(3):
        look(tables)


def look(tables) -> None:
    looks.request(tables)
    looks.finish(tables, looks.begin(tables))


def rows(database):
    with database.connect() as db:
        found = {}
        for table in schema.TABLES:
            cursor = db.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in cursor.description]
            found[table] = sorted(repr(sorted(zip(names, r, strict=True))) for r in cursor)
        return found


def test_everything_arrives_in_postgres_and_comes_back(settings, postgres, tmp_path):
    tables = Project.of(settings).tables
    fill(tables)
    before = rows(tables.database)
    assert all(before.values()), "a row in each table"
    copied = copy_tables(settings, postgres, lambda _: None)
    assert copied == {table: len(found) for table, found in before.items()}
    there = Project.of(settings.model_copy(update={"tables": postgres}))
    assert rows(there.tables.database) == before
    # Numbers go on where they were.
    last = looks.newest(there.tables).id
    look(there.tables)
    assert looks.newest(there.tables).id > last
    collection_registry.note_move(there.tables, "milvus", "next", "new", "ready", "next")
    after = rows(there.tables.database)

    moved = settings.model_copy(update={"tables": postgres})
    copy_tables(moved, str(tmp_path / "back/tables.sqlite"), lambda _: None)
    assert rows(SqliteDatabase(tmp_path / "back/tables.sqlite")) == after
    assert rows(tables.database) == before, "the first ones stay as they were"


def test_tables_that_are_there_are_kept_unless_they_are_to_be_replaced(settings, tmp_path):
    fill(Project.of(settings).tables)
    target = tmp_path / "other.sqlite"
    copy_tables(settings, str(target), lambda _: None)
    there = rows(SqliteDatabase(target))
    with pytest.raises(ConfigurationError, match="--replace"):
        copy_tables(settings, str(target), lambda _: None)
    Project.of(settings).tables.forget_folder("f")
    copy_tables(settings, str(target), lambda _: None, replace=True)
    now = rows(SqliteDatabase(target))
    assert now != there
    assert now == rows(Project.of(settings).tables.database)


def test_a_copy_that_fails_leaves_the_target_as_it_was(settings, tmp_path):
    tables = Project.of(settings).tables
    fill(tables)
    with closing(sqlite3.connect(settings.home / "tables.sqlite")) as db:
        db.execute("UPDATE looks SET requested_at = x'00'")
        db.execute("ALTER TABLE looks RENAME TO lost")
        db.commit()
    target = SqliteDatabase(tmp_path / "other.sqlite")
    with pytest.raises(Exception, match="looks"):
        copy_database(tables.database, target)
    assert not any(rows(target).values())


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("postgresql://me:secret@host/music", "EMBED_TABLES_PASSWORD"),
        ("mysql://host/music", "must be an address of PostgreSQL"),
        ("{home}/tables.sqlite", "where the tables are already"),
        ("other.sqlite", "no tables to copy"),
    ],
)
def test_what_cannot_be_copied_is_said(settings, target, why, monkeypatch, capsys):
    monkeypatch.setenv("EMBED_HOME", str(settings.home))
    monkeypatch.setattr("sys.argv", ["x", "copy-tables", target.format(home=settings.home)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert why in said
    assert "secret" not in said
