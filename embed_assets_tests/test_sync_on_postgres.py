"""A whole project with its tables in PostgreSQL, which may be killed at any time."""

from __future__ import annotations

import time

import pytest

from embed_assets.errors import TransientError
from embed_assets_tests.postgres import running_postgres

OUTAGE_SECONDS = 3.0


@pytest.fixture
def shared(world):
    """A world whose tables are in a PostgreSQL server of its own."""
    with running_postgres() as server:
        world.settings["EMBED_TABLES"] = server.address("music")
        world.server = server
        yield world
        world.power_loss()


def test_a_library_is_indexed_with_its_tables_in_postgres(shared):
    shared.album(b"Artist/\xff 100 % 'it'?", 1, 2)
    shared.album("Other", 3)
    shared.put_bad("Other/bad.mp3", b"nothing")
    done = shared.sync()
    assert (done["embedded"], done["rejected"], done["failed_folders"]) == (3, 1, 0)
    shared.assert_index_is_library()
    shared.move("Other", "Moved")
    shared.remove(b"Artist/\xff 100 % 'it'?/01.ogg")
    assert shared.sync()["embedded"] == 0
    shared.assert_index_is_library()
    assert shared.sync()["runs"] == []
    assert not (shared.home / "tables.sqlite").exists()
    for command in ("status", "errors", "doctor", "collections", "gc", "duplicates"):
        found = shared.run(command, "--json")
        assert found.returncode == 0, f"{command}: {found.stderr}"


BEGUN = {
    "track_manifest": "SELECT count(*) FROM tracks",
    "audio_embeddings": "SELECT count(*) FROM embeddings",
    "milvus_index": "SELECT count(*) FROM indexed",
}
"""What grows while a step runs."""


@pytest.mark.cluster
def test_a_database_that_is_killed_amid_each_step_stops_nothing_for_good(shared):
    shared.album("First", 0)
    shared.up()
    for n, (step, sql) in enumerate(BEGUN.items()):
        before = count(shared, sql)
        for i in range(4 * n + 1, 4 * n + 5):
            shared.album(f"Album {i}", 2 * i, 2 * i + 1)
        shared.until(lambda: count(shared, sql) > before, f"{step} has begun")  # noqa: B023
        shared.server.kill()
        time.sleep(OUTAGE_SECONDS)
        shared.server.start()
        shared.until(lambda: in_step(shared), f"everything is indexed, after {step}")
    assert shared.down() == 0
    shared.assert_index_is_library()
    assert shared.sync()["runs"] == []


def count(world, sql: str) -> int:
    try:
        with world.project().tables.connect() as db:
            return db.execute(sql).fetchone()[0]
    except TransientError:
        return 0


def in_step(world) -> bool:
    try:
        return world.in_step()
    except TransientError:
        return False
