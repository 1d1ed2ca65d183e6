"""What Dagster does not offer and we use: where a test fails, another version does it otherwise.

`events` and `files` are tested where they are used, in test_history.py, and `CodeServerWatch` in
test_power_loss.py.
"""

import ast
import inspect
import os
import shutil
import subprocess
import sys
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy
from dagster import DagsterEventType
from dagster._annotations import is_public
from dagster._core.storage.event_log.schema import (
    AssetEventTagsTable,
    AssetKeyTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.serdes import deserialize_value

import embed_assets
from embed_assets.defs import dagster_compat
from embed_assets.defs.dagster_compat import batches, pools, runs
from embed_assets.defs.dagster_compat.locks import lock
from embed_assets.errors import AlreadyRunning
from embed_assets_tests.patience import PATIENCE

PACKAGE = Path(embed_assets.__file__).parent
ROOM = PACKAGE / "defs" / "dagster_compat"
ALBUMS = dg.DynamicPartitionsDefinition(name="albums")


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "instance"
    folder.mkdir()
    shutil.copy(PACKAGE / "dagster.yaml", folder)
    return folder


@pytest.fixture
def instance(home):
    with runs.open_folder(home) as made:
        yield made


@dg.asset(partitions_def=ALBUMS)
def shelf(context: dg.AssetExecutionContext) -> None:
    """Fails for a range, with what it covers."""
    if len(context.partition_keys) > 1:
        raise dg.Failure("too many", metadata={"keys": list(context.partition_keys)})


@dg.asset(partitions_def=ALBUMS, output_required=False)
def reported(context: dg.AssetExecutionContext):
    """Reports its partitions while it runs, and then what others see of them."""
    made = [
        dg.AssetMaterialization(
            context.asset_key, partition=key, tags={runs.VERSION_TAG: f"v {key}"}
        )
        for key in context.partition_keys
    ]
    yield from batches.store_materializations(context, made)
    with runs.open_folder(Path(context.instance.root_directory)) as another:
        seen = another.get_materialized_partitions(context.asset_key)
    context.log.info(f"others see {sorted(seen)}")


@dg.asset(partitions_def=ALBUMS)
def described(context: dg.AssetExecutionContext) -> None:
    """Has metadata for each of its partitions, and some for all."""
    context.add_asset_metadata({"all": 1})
    keys = context.partition_keys
    batches.add_partition_metadata(context, [(key, {"name": key}) for key in keys])
    batches.add_partition_metadata(context, [(key, {"letters": len(key)}) for key in keys])


DEFS = dg.Definitions(
    [shelf, reported, described],
    jobs=[
        dg.define_asset_job("all_of_it", [shelf]),
        dg.define_asset_job("in_batches", [reported, described]),
    ],
)


def job(name="all_of_it"):
    return DEFS.resolve_job_def(name)


def execute(instance, **tags):
    made = job().execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    return instance.get_run_by_id(made.run_id)


def test_the_pinned_dagster_is_the_one_that_this_was_written_for():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    written_for = dagster_compat.WRITTEN_FOR
    assert {f"dagster=={written_for}", f"dagster-webserver=={written_for}"} <= set(
        project["dependencies"]
    )
    assert version("dagster") == written_for


def test_nothing_else_calls_what_dagster_does_not_call_public():
    private = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}: instance.{node.attr}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if ROOM not in file.parents
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and _is_instance(node.value)
        if not is_public(inspect.getattr_static(dg.DagsterInstance, node.attr, None))
    ]
    assert not private


def _is_instance(node):
    """Whether an expression is a Dagster instance, by its name: `instance`, `context.instance`."""
    return getattr(node, "id", getattr(node, "attr", "")) == "instance"


def test_an_instance_is_opened_whatever_dagster_home_says(home, tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with runs.open_folder(home) as instance:
        assert instance.root_directory == str(home)


def test_a_lock_and_a_note_are_those_of_all_who_have_the_instance(home, instance):
    assert runs.read_note(instance, "embed_assets/note") == ""
    runs.write_note(instance, "embed_assets/note", "one")
    runs.write_note(instance, "embed_assets/note", "two")
    with runs.open_folder(home) as other, lock(instance, "turns"):
        assert runs.read_note(other, "embed_assets/note") == "two"
        with pytest.raises(AlreadyRunning), lock(other, "turns", 0):
            pass


def test_a_range_is_run_and_its_failure_says_what_the_step_said(instance):
    instance.add_dynamic_partitions("albums", ["c", "a", "b", "d"])
    run = execute(instance, **{runs.RANGE_START_TAG: "c", runs.RANGE_END_TAG: "b"})
    assert list(runs.step_failures(instance, run.run_id)) == [
        ("too many", {"keys": ["c", "a", "b"]})
    ]
    assert runs.run_ids(instance) == {run.run_id}
    (entry,) = runs.log_of(instance, run.run_id, DagsterEventType.STEP_FAILURE)
    assert "shelf" in entry.get_dagster_event().message


def test_a_partition_is_run_and_its_worker_says_who_it_is(instance):
    instance.add_dynamic_partitions("albums", ["a"])
    before = time.time()
    run = execute(instance, **{runs.PARTITION_TAG: "a"})
    assert run.is_success
    (entry,) = runs.log_of(instance, run.run_id, DagsterEventType.ASSET_MATERIALIZATION)
    assert entry.asset_materialization.partition == "a"
    pids = dict(runs.worker_pids(instance, run.run_id))
    assert before <= pids[str(os.getpid())] <= time.time()


def test_a_run_without_a_worker_ends_and_is_retried_unless_that_is_called_off(instance):
    killed, waiting = (instance.create_run_for_job(job()) for _ in range(2))
    runs.fail_run(instance, killed, "its worker is gone")
    failed = instance.get_run_by_id(killed.run_id)
    assert failed.is_failure
    assert runs.is_to_be_retried(failed)
    retried = dg.RunsFilter(tags=runs.WILL_BE_RETRIED)
    assert [r.dagster_run.run_id for r in instance.get_run_records(retried)] == [killed.run_id]
    runs.never_retry(instance, failed)
    assert not runs.is_to_be_retried(instance.get_run_by_id(killed.run_id))

    runs.begin_to_cancel_run(instance, waiting)
    assert instance.get_run_by_id(waiting.run_id).status is dg.DagsterRunStatus.CANCELING
    runs.cancel_run(instance, waiting, "stopped")
    assert instance.get_run_by_id(waiting.run_id).status is dg.DagsterRunStatus.CANCELED


def test_the_queue_is_served_while_its_daemon_says_that_it_lives(instance):
    assert not runs.queue_is_served(instance, 60)
    kind = QueuedRunCoordinatorDaemon.daemon_type()
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 30, kind, "daemon", []))
    assert runs.queue_is_served(instance, 60)
    assert not runs.queue_is_served(instance, 20)


def test_a_pool_has_the_limit_that_somebody_set_or_the_default_one(instance):
    assert pools.pool_limit(instance, "gpu") is None
    instance.event_log_storage.initialize_concurrency_limit_to_default("gpu")
    assert pools.pool_limit(instance, "gpu") is None
    pools.set_pool_limit(instance, "gpu", 3)
    assert pools.pool_limit(instance, "gpu") == 3


def claims(instance):
    return pools.Claims(instance, dg.DagsterRun(job_name="all_of_it"))


def test_a_slot_that_nobody_was_given_goes_to_whoever_asks_next(instance, monkeypatch):
    pools.patch_claims()
    with claims(instance) as first, claims(instance) as second:
        assert first.claim("gpu", "embed")
        assert not second.claim("gpu", "embed")
        assert 0.05 <= second.interval_to_next_pending_claim_check() <= 0.25
        with monkeypatch.context() as killed:
            # A holder that is killed between leaving and passing on.
            killed.setattr(SqliteEventLogStorage, "assign_pending_steps", lambda self, names: None)
            first.free_step("embed")
        until = time.monotonic() + PATIENCE
        while not second.claim("gpu", "embed"):
            assert time.monotonic() < until
        second.free_step("embed")


def test_slots_of_a_run_that_is_gone_are_freed(instance):
    pools.patch_claims()
    with claims(instance) as gone, claims(instance) as waiting:
        assert gone.claim("gpu", "embed")
        assert not waiting.claim("gpu", "embed")
        (held,) = instance.event_log_storage.get_concurrency_info("gpu").active_run_ids
        assert len(pools.runs_in_pools(instance)) == 2
        pools.free_slots(instance, held)
        assert held not in pools.runs_in_pools(instance)


def in_batches(instance):
    """A run over three partitions, and what it said."""
    instance.add_dynamic_partitions("albums", ["a", "bb", "c"])
    tags = {runs.RANGE_START_TAG: "a", runs.RANGE_END_TAG: "c"}
    return job("in_batches").execute_in_process(instance=instance, tags=tags)


def stored(instance, run_id):
    """What the run's log and the index hold of its events, apart from ids and times."""
    table, tags, keys = SqlEventLogStorageTable.c, AssetEventTagsTable.c, AssetKeyTable.c
    kinds = table.dagster_event_type.like("ASSET_%")
    columns = (table.dagster_event_type, table.asset_key, table.partition, table.step_key)
    log = instance.event_log_storage
    with log.run_connection(run_id) as db:
        of_run = db.execute(sqlalchemy.select(*columns).where(kinds)).fetchall()
    with log.index_connection() as db:
        of_index = db.execute(sqlalchemy.select(*columns).where(kinds)).fetchall()
        of_tags = db.execute(
            sqlalchemy.select(tags.key, tags.value, table.partition).join_from(
                AssetEventTagsTable, SqlEventLogStorageTable, tags.event_id == table.id
            )
        ).fetchall()
        last = db.execute(
            sqlalchemy.select(keys.asset_key, keys.last_materialization, keys.last_run_id)
        ).fetchall()
    own = {f"v {key}" for key in ("a", "bb", "c")}
    return {
        "run": sorted(map(tuple, of_run)),
        "index": sorted(map(tuple, of_index)),
        "tags": sorted(tuple(row) for row in of_tags if row.value in own),
        "tagged": len(of_tags),
        "last": {
            row.asset_key: deserialize_value(row.last_materialization).partition_key for row in last
        },
        "runs": {row.last_run_id == run_id for row in last},
    }


def test_events_in_batches_are_stored_as_one_by_one(instance, tmp_path, monkeypatch):
    single = []
    store = SqliteEventLogStorage.store_event

    def store_event(storage, event):
        single.append(event.dagster_event_type)
        store(storage, event)

    monkeypatch.setattr(SqliteEventLogStorage, "store_event", store_event)
    in_batch = stored(instance, in_batches(instance).run_id)
    assert not {t for t in single if t and t.value.startswith("ASSET_MATERIALIZATION")}

    monkeypatch.setattr(batches, "EVENTS_PER_BATCH", 0)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(PACKAGE / "dagster.yaml", other)
    with runs.open_folder(other) as one_by_one:
        assert in_batch == stored(one_by_one, in_batches(one_by_one).run_id)
    assert single.count(DagsterEventType.ASSET_MATERIALIZATION) == 6
    assert [row[2] for row in in_batch["tags"]] == ["a", "bb", "c"]


def test_the_daemon_and_the_steps_of_a_run_have_batches_too(home, instance, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with (
        dg.DagsterInstance.get() as of_daemon,
        dg.DagsterInstance.from_ref(instance.get_ref()) as of_step,
    ):
        for other in (of_daemon, of_step):
            assert other._get_event_batch_size() == batches.EVENTS_PER_BATCH


def test_a_batch_is_on_the_disk_when_the_step_goes_on(instance):
    run = in_batches(instance)
    messages = [e.user_message for e in runs.log_of(instance, run.run_id)]
    assert "others see ['a', 'bb', 'c']" in messages


def test_a_partition_has_its_own_metadata_and_that_of_all(instance):
    run = in_batches(instance)
    entries = runs.log_of(instance, run.run_id, DagsterEventType.ASSET_MATERIALIZATION)
    made = [entry.asset_materialization for entry in entries]
    found = {
        one.partition: {name: value.value for name, value in one.metadata.items()}
        for one in made
        if one.asset_key.path == ["described"]
    }
    assert found == {key: {"all": 1, "name": key, "letters": len(key)} for key in ("a", "bb", "c")}


def test_other_storages_have_the_batches_that_their_setting_says(home, monkeypatch):
    with (home / "dagster.yaml").open("a") as settings:
        settings.write(
            "event_log_storage:\n"
            "  module: dagster._core.storage.event_log\n"
            "  class: ConsolidatedSqliteEventLogStorage\n"
            f"  config: {{base_dir: {home}}}\n"
        )
    with runs.open_folder(home) as instance:
        assert instance._get_event_batch_size() == 0
        monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "10")
        assert instance._get_event_batch_size() == 10
        assert in_batches(instance).success


OPEN = """
import importlib, sys
from pathlib import Path
import embed_assets.definitions
from embed_assets.defs.dagster_compat.processes import PRELOADED_MODULES
from embed_assets.defs.dagster_compat.runs import open_folder
for name in PRELOADED_MODULES:
    importlib.import_module(name)
before = set(sys.modules)
with open_folder(Path(sys.argv[1])):
    print(*sorted(set(sys.modules) - before))
"""


def test_opening_an_instance_imports_nothing_large_that_is_not_preloaded(home):
    command = [sys.executable, "-c", OPEN, str(home)]
    imported = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert not {"alembic", "sqlalchemy", "yaml", "grpc"} & set(imported)
    assert len(imported) < 100
