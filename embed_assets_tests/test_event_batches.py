"""A run over many folders stores their events together: nothing is lost, or done without one."""

import signal
import subprocess
import sys

import dagster as dg
import pytest

from embed_assets.definitions import library_job
from embed_assets.defs import state
from embed_assets.defs.dagster_compat import batches
from embed_assets.index import folders
from embed_assets.storage.tables import Tables

ALBUMS = [f"Album {i}" for i in range(5)]

KILLED = """
import os, signal, sys
import dagster as dg
from embed_assets.definitions import library_job
from embed_assets.defs.dagster_compat import batches
from embed_assets.defs.execution import IN_PROCESS
from embed_assets.defs.dead_runs import worker_tags
from embed_assets.defs.instance import open_instance
from embed_assets.defs.state import add_keys, range_tags
from embed_assets.index import folders
from embed_assets.settings import Settings
from embed_assets.storage.tables import Tables

folders.FOLDERS_PER_RECORD = 2
when, albums, seen = sys.argv[1], sys.argv[2:], []
store, record = batches._store_asset_events, Tables.put_indexed

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def store_asset_events(storage, events):
    event = events[0].get_dagster_event()
    if event.is_step_materialization and event.step_key == "milvus_index":
        seen.append(when)
        if len(seen) == 2 and when == "before the events":
            die()
        if len(seen) == 2 and when == "between the run's log and the index":
            storage.index_transaction = die
    store(storage, events)

def put_indexed(*args, **kwargs):
    if len(seen) == 2 and when == "before the rows":
        die()
    record(*args, **kwargs)
    if len(seen) == 2 and when == "after the rows":
        die()

batches._store_asset_events, Tables.put_indexed = store_asset_events, put_indexed
with open_instance(Settings.load()) as instance:
    add_keys(instance, albums)
    job = dg.reconstructable(library_job)
    tags = range_tags(albums) | worker_tags()
    dg.execute_job(job, instance=instance, tags=tags, run_config=IN_PROCESS)
"""


def green(world) -> set[str]:
    """The partitions that the UI shows as materialized in `milvus_index`."""
    with world.instance() as instance:
        return set(instance.get_materialized_partitions(state.INDEX_KEY))


def recorded(world) -> set[str]:
    """The folders of which the tables say so."""
    return {path.split("/")[0] for path in world.indexed()}


@pytest.mark.parametrize(
    ("when", "reported", "done"),
    [
        ("before the events", 2, 2),
        ("between the run's log and the index", 2, 2),
        ("before the rows", 4, 2),
        ("after the rows", 4, 4),
    ],
)
def test_a_run_that_is_killed_has_recorded_no_folder_that_is_not_green(world, when, reported, done):
    for seed, name in enumerate(ALBUMS):
        world.album(name, seed)
    command = [sys.executable, "-c", KILLED, when, *ALBUMS]
    killed = subprocess.run(command, env=world.environment, cwd=world.root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert recorded(world) <= green(world)
    assert (len(green(world)), len(recorded(world))) == (reported, done)
    before = world.embedded_runs()
    assert world.sync()["failed_folders"] == 0
    assert green(world) == set(ALBUMS)
    assert world.embedded_runs() == before, "a track was embedded again"
    world.assert_index_is_library()


@pytest.fixture
def run(world, monkeypatch):
    """Executes the job over all albums in this process."""
    for name, value in world.environment.items():
        if name.startswith("EMBED_"):
            monkeypatch.setenv(name, value)

    def execute(instance) -> dg.ExecuteInProcessResult:
        return library_job().execute_in_process(
            instance=instance, tags=state.range_tags(ALBUMS), raise_on_error=False
        )

    for seed, name in enumerate(ALBUMS):
        world.album(name, seed)
    with world.instance() as instance:
        state.add_keys(instance, ALBUMS)
    return execute


def test_a_batch_that_cannot_be_stored_is_stored_one_by_one(world, run, monkeypatch):
    def locked(storage, events):
        raise OSError("the database is locked")

    monkeypatch.setattr(batches, "_store_asset_events", locked)
    with world.instance() as instance:
        assert run(instance).success
    assert green(world) == set(ALBUMS)
    world.assert_index_is_library()


def test_the_folders_of_a_batch_are_green_before_the_next_batch_is_recorded(
    world, run, monkeypatch
):
    """As somebody sees it who looks at the UI while the run goes on."""
    record, seen = Tables.put_indexed, []

    def put_indexed(tables, key, written, **how):
        seen.append((len(green(world)), len(recorded(world))))
        record(tables, key, written, **how)

    monkeypatch.setattr(folders, "FOLDERS_PER_RECORD", 2)
    monkeypatch.setattr(Tables, "put_indexed", put_indexed)
    with world.instance() as instance:
        assert run(instance).success
    assert seen == [(2, 0), (4, 2), (5, 4)]


def test_finished_folders_are_green_where_another_one_fails(world, run):
    world.move("Album 3", "Elsewhere")
    with world.instance() as instance:
        assert not run(instance).success
        scanned = instance.get_materialized_partitions(dg.AssetKey("track_manifest"))
    assert set(scanned) == set(ALBUMS) - {"Album 3"}
