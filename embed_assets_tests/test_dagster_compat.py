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
from dagster import DagsterEventType
from dagster._annotations import is_public
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon
from dagster._daemon.types import DaemonHeartbeat
from filelock import Timeout

import embed_assets
from embed_assets.defs import dagster_compat
from embed_assets.defs.dagster_compat import pools, runs
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


DEFS = dg.Definitions([shelf], jobs=[dg.define_asset_job("all_of_it", [shelf])])


def job():
    return DEFS.resolve_job_def("all_of_it")


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
    with runs.open_folder(home) as other, runs.lock(instance, "turns"):
        assert runs.read_note(other, "embed_assets/note") == "two"
        with pytest.raises(Timeout):
            runs.lock(other, "turns").acquire(timeout=0)


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
