"""An instance in PostgreSQL whose runs go to other hosts: `up`, `sync` and the hosts' settings.

`test_ray` has hosts that share no disk.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from sqlalchemy.exc import DatabaseError

from embed_assets.definitions import build_defs
from embed_assets.defs.activity import cause_of
from embed_assets.defs.dagster_compat.pools import set_pool_limit
from embed_assets.defs.dead_runs import reap, worker_tags
from embed_assets.errors import TransientError
from embed_assets.operations.sync_by_daemon import wait_for_daemon
from embed_assets.project import Project
from embed_assets_tests.aged_home import date_back
from embed_assets_tests.assertions import slots_held
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.other_hosts import PRIVATE, can_be_private
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.postgres import USER, running_postgres

OUTAGE_SECONDS = 60.0

BEGUN = {"track_manifest": "tracks", "audio_embeddings": "embeddings", "milvus_index": "indexed"}
"""Which table gets rows while a step runs."""

ROOT = Path(__file__).resolve().parent.parent

YAML = """
instance_class: {{module: embed_assets.defs.dagster_compat.batches, class: BatchingInstance}}
storage: {{postgres: {{postgres_url: "{url}"}}}}
run_launcher:
  module: embed_assets_tests.other_hosts
  class: OtherHosts
  config: {{folder: "{hosts}"}}
run_coordinator:
  module: dagster
  class: QueuedRunCoordinator
  config: {{dequeue_interval_seconds: 1}}
concurrency: {{pools: {{granularity: op}}, runs: {{max_concurrent_runs: 4}}}}
run_monitoring:
  enabled: true
  poll_interval_seconds: 5
  start_timeout_seconds: 600
  free_slots_after_run_end_seconds: 5
run_retries: {{enabled: true, max_retries: 1, retry_on_asset_or_op_failure: false}}
telemetry: {{enabled: false}}
"""


@pytest.fixture
def cluster(world, postgres):
    """A world whose instance is a person's own, in PostgreSQL, with workers on other hosts."""
    return with_other_hosts(world, postgres)


@pytest.fixture
def one_database(world):
    """The same, with a server of its own, which has the tables, too."""
    with running_postgres() as server:
        for name in ("dagster", "tables"):
            server.execute(f"CREATE DATABASE {name} OWNER {USER}")
        world.settings["EMBED_TABLES"] = server.address("tables")
        yield with_other_hosts(world, server.address("dagster")), server
        world.power_loss()


def with_other_hosts(world, postgres):
    home, hosts = world.root / "own", world.root / "hosts"
    for folder in (home, hosts):
        folder.mkdir()
    url = postgres.replace("postgresql://", "postgresql+psycopg2://")
    (home / "dagster.yaml").write_text(YAML.format(url=url, hosts=hosts))
    world.settings["EMBED_DAGSTER_HOME"] = str(home)
    # Where the launcher of the tests is, and the command `dagster` that it starts.
    world.settings["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    world.settings["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with world.instance() as instance:
        for pool in ("gpu", "milvus"):
            set_pool_limit(instance, pool, 1)
    return world


def runs_of(world):
    with world.instance() as instance:
        return instance.get_runs()


@pytest.mark.cluster
def test_a_host_that_is_killed_is_noticed_and_its_work_is_done_elsewhere(cluster):
    for i in range(4):
        cluster.album(f"Album {i}", *range(5 * i, 5 * i + 5))
    cluster.up()
    cluster.until(cluster.embedded_runs, "a run on another host embeds")
    with cluster.instance() as instance:
        (run,) = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        for process in instance.run_launcher.processes(run):
            process.kill()
    done = cluster.embedded_runs()
    cluster.until(cluster.in_step, "all is in")
    cluster.until(lambda: not slots_held(cluster), "no slot is held")
    after = cluster.embedded_runs()
    assert done.items() <= after.items(), "embedded again"
    assert {r.status for r in runs_of(cluster)} == {
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.SUCCESS,
    }
    cluster.assert_index_is_library()


def test_a_run_whose_worker_is_lost_before_it_begins_is_failed_soon(cluster):
    with cluster.instance() as instance:
        starting = dg.DagsterEventType.PIPELINE_STARTING.value
        lost, alive, of_sync, just_now = (
            instance.create_run_for_job(library_job_of(cluster), tags=tags)
            for tags in ({}, {}, worker_tags(), {})
        )
        for run in (lost, alive, of_sync):
            instance.report_dagster_event(dg.DagsterEvent(starting, run.job_name), run.run_id)
        (cluster.root / f"hosts/{alive.run_id}.pid").write_text(str(os.getpid()))
        date_back(instance, "update_timestamp")
        instance.report_dagster_event(dg.DagsterEvent(starting, just_now.job_name), just_now.run_id)
        assert reap(instance) == [lost.run_id]
        assert instance.get_run_by_id(lost.run_id).is_failure
        assert "lost before it began" in cause_of(instance, lost.run_id)
        # The cluster does not answer: nothing is known of the worker.
        (cluster.root / f"hosts/{alive.run_id}.pid").write_text("of no process")
        assert reap(instance) == []
        # It answers, and does not know the worker, as Ray's head once it was started again.
        instance.run_launcher.check_run_worker_health = lambda _: CheckRunHealthResult(
            WorkerStatus.UNKNOWN, "no such job\nand where that was found"
        )
        assert reap(instance) == [alive.run_id]
        assert cause_of(instance, alive.run_id).endswith("no such job. It is retried automatically")
        assert not instance.get_run_by_id(just_now.run_id).is_finished


@pytest.mark.cluster
@pytest.mark.parametrize("step", BEGUN)
def test_a_database_of_everything_that_is_away_for_a_while_stops_nothing_for_good(
    one_database, step
):
    world, server = one_database
    for i in range(6):
        world.album(f"Album {i}", *range(5 * i, 5 * i + 5))
    world.up()
    world.until(lambda: rows(world, BEGUN[step]), f"{step} has begun")
    server.kill()
    time.sleep(OUTAGE_SECONDS)
    server.start()

    def in_step():
        try:
            return world.in_step()
        except (TransientError, DatabaseError):
            return False

    world.until(in_step, "all is in")
    world.until(lambda: not slots_held(world), "no slot is held")
    assert world.down() == 0
    world.assert_index_is_library()


def rows(world, table):
    try:
        with world.project().tables.connect() as db:
            return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    except TransientError:
        return 0


def on_another_host(world, *command):
    """A process with another host name, and its own processes, where that is allowed."""
    line = [sys.executable, "-m", "embed_assets.cli", *command]
    if can_be_private():
        named = ["sh", "-c", 'hostname another && exec "$@"', "sh"]
        line = [*PRIVATE, "--uts", *named, *line]
    return subprocess.run(
        line,
        env=world.environment,
        cwd=world.root,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.cluster
def test_an_instance_has_one_up_on_whichever_host(cluster, tmp_path_factory):
    cluster.album("Album", 1)
    cluster.up()
    other = LiveProject(tmp_path_factory.mktemp("other"), settings=dict(cluster.settings))
    other.settings["EMBED_LIBRARY"] = str(cluster.library)
    told = on_another_host(other, "up", "--port", "1")
    here = f"http://127.0.0.1:{cluster.port}"
    assert told.returncode == 0, told.stderr
    place = f"{here} on {socket.gethostname()}" if can_be_private() else here
    assert f"already up: {place}" in told.stderr
    assert not [run for run in runs_of(cluster) if run.is_failure]


@pytest.mark.cluster
def test_sync_leaves_the_runs_to_the_daemon_whose_launcher_would_take_its_own_for_dead(cluster):
    cluster.settings["EMBED_SCAN_SECONDS"] = "3600"
    cluster.album("Before", 1)
    cluster.up()
    cluster.until(cluster.in_step, "the first album is in")
    cluster.album("Album", 2)
    done = cluster.sync()
    assert (done["folders"], done["failed_folders"], done["runs"]) == (2, 0, [])
    assert (done["embedded"], len(done["other_runs"])) == (1, 1), "what the daemon's run did"
    cluster.assert_index_is_library()
    refused = cluster.run("sync", "--confirm-removals")
    assert refused.returncode == 2
    assert "stop `embed-assets up`" in refused.stderr
    cluster.down()


def test_sync_that_waits_for_a_daemon_ends_when_that_has_ended(cluster):
    cluster.album("Album", 1)
    project = Project.of(cluster.made_settings())
    with cluster.instance() as instance, pytest.raises(TransientError, match="up` has ended"):
        wait_for_daemon(instance, project, project.index(), 0.0, print)


def test_without_a_daemon_sync_executes_its_runs_itself(cluster):
    cluster.album("Album", 1)
    done = cluster.sync()
    assert len(done["runs"]) == 1
    cluster.assert_index_is_library()
    assert json.loads(cluster.run("status", "--json").stdout)["folders_in_step"] == 1


@pytest.mark.cluster
def test_a_host_with_other_settings_is_refused_without_a_storm_of_runs(cluster):
    differs = cluster.root / "hosts" / "environment"
    differs.write_text("EMBED_WINDOWS=5")
    cluster.album("Album", 1)
    cluster.up()

    def failed():
        return [run for run in runs_of(cluster) if run.is_failure]

    cluster.until(failed, "the host refuses")
    with cluster.instance() as instance:
        assert "EMBED_WINDOWS is 5 here and 3 there" in cause_of(instance, failed()[0].run_id)
    assert not cluster.embedded_runs()
    assert not list(cluster.project().tables.folders())
    time.sleep(20)
    assert len(failed()) <= 3
    differs.unlink()
    cluster.until(cluster.in_step, "a host with the same settings does it")
    cluster.assert_index_is_library()


def test_why_a_run_failed_is_said_in_one_line(world):
    with world.instance() as instance:
        run = instance.create_run_for_job(library_job_of(world))
        instance.report_run_failed(run, "Marking run as failed.\nall that Ray knows of its job")
        assert (
            cause_of(instance, run.run_id) == "Marking run as failed. It is retried automatically"
        )


def library_job_of(world):
    return build_defs(world.made_settings()).resolve_job_def("bring_in_step")
