"""What goes of Dagster's history, and that nothing else changes by it."""

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import InProcessTestWorkspaceLoadTarget
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster_graphql.schema import create_schema

from embed_assets.definitions import build_defs
from embed_assets.defs import state
from embed_assets.defs.dagster_compat import events, files
from embed_assets.defs.dagster_compat.runs import PARTITION_TAG, VERSION_TAG
from embed_assets.defs.history import Pruned, prune
from embed_assets.defs.partitions import MUSIC_FOLDERS
from embed_assets.defs.resources import resources
from embed_assets.operations.errors import errors
from embed_assets.operations.gc import gc
from embed_assets_tests.aged_home import AgedHome
from embed_assets_tests.assertions import versions_in_dagster

HOUR = 3600.0
DAY = 24 * HOUR
FOLDERS = [f"Album {i:02d}" for i in range(20)]
KILLED, CANCELLED, RETRIED, WAITING = FOLDERS[:4]
ASSETS = ("track_manifest", "audio_embeddings", "milvus_index")

SHOWN = """
query Shown($key: AssetKeyInput!, $folders: [String!]) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode {
      partitionStats { numMaterialized numMaterializing numFailed numPartitions }
      assetPartitionStatuses {
        ... on DefaultPartitionStatuses {
          materializedPartitions materializingPartitions failedPartitions unmaterializedPartitions
        }
      }
      latestMaterializationByPartition(partitions: $folders) {
        runId timestamp partition tags { key value }
        metadataEntries { label ... on IntMetadataEntry { intValue } }
        runOrError { ... on Run { id status startTime endTime } }
      }
      assetMaterializations(limit: 1) { runId timestamp partition }
      assetChecksOrError {
        ... on AssetChecks {
          checks {
            name
            executionForLatestMaterialization {
              runId status timestamp evaluation { success metadataEntries { label } }
            }
          }
        }
      }
    }
  }
}"""

LOG = """
query Log($id: ID!) {
  logsForRun(runId: $id) { ... on EventConnection { events { __typename } } }
  runOrError(runId: $id) { ... on Run { status stepStats { stepKey } } }
}"""


@dg.asset
def library_map():
    """Draws nothing: what stays of it in the history is the question."""


class Aged:
    """A library of which each folder was imported often, and the runs of six weeks."""

    def __init__(self, world, instance):
        self.world, self.instance = world, instance
        self.settings = world.made_settings()
        self.defs = build_defs(self.settings)
        self.now = time.time()

    def execute(self, job, **tags):
        made = self.defs.resolve_job_def(job).execute_in_process(instance=self.instance, tags=tags)
        assert made.success
        return made.run_id

    def begun(self, folder, **tags):
        """A run of a folder of which nothing but its beginning is known."""
        tags |= {PARTITION_TAG: folder}
        job = self.defs.resolve_job_def("bring_in_step")
        return self.instance.create_run_for_job(job, tags=tags)

    def prune(self, days=30, **options):
        return prune(self.instance, days, now=self.now, **options)

    def gc(self, **settings):
        """What `gc --json` prints."""
        return gc(
            self.settings.model_copy(update=settings), dry_run=False, older_than=DAY
        ).as_json()

    def asked(self):
        """The runs that the sensor asks for."""
        with dg.build_sensor_context(
            instance=self.instance, definitions=self.defs, resources=resources(self.settings)
        ) as context:
            tick = self.defs.resolve_sensor_def("library_sensor").evaluate_tick(context)
        return [request.tags for request in tick.run_requests]

    @contextmanager
    def ui(self):
        """Answers to GraphQL, as the webserver gives them; kept by one process."""
        origin = InProcessCodeLocationOrigin(
            LoadableTargetOrigin(module_name="embed_assets.definitions")
        )
        schema = create_schema()
        with WorkspaceProcessContext(
            self.instance, InProcessTestWorkspaceLoadTarget(origin)
        ) as webserver:

            def ask(query, **variables):
                answer = asyncio.run(
                    schema.execute_async(
                        query,
                        context_value=webserver.create_request_context(),
                        variable_values=variables,
                    )
                )
                assert not answer.errors, answer.errors
                return answer.data

            yield ask

    def shown(self, ask):
        """All that the UI shows of the assets, their partitions and checks."""
        return {
            asset: ask(SHOWN, key={"path": [asset]}, folders=FOLDERS)["assetNodeOrError"]
            for asset in (*ASSETS, "library_map")
        }

    def bytes(self):
        return files.size_of(self.settings.instance_home)


@pytest.fixture
def aged(world):
    """1,000 reconciliations, one each hour, and 200 imports of folders up to now."""
    world.settings["EMBED_SETTLE_SECONDS"] = "0"
    for i, folder in enumerate(FOLDERS):
        world.album(folder, i)
    with world.instance() as instance:
        made = Aged(world, instance)
        state.add_keys(instance, FOLDERS)
        made.imported = made.execute("bring_in_step", **state.range_tags(FOLDERS))
        drawing = dg.define_asset_job("draw_map", "library_map")
        drawing = dg.Definitions([library_map], jobs=[drawing]).resolve_job_def("draw_map")
        made.drawn = drawing.execute_in_process(instance=instance).run_id
        reconciled = made.execute("reconcile")
        cancelled = made.begun(CANCELLED)
        instance.report_run_canceled(cancelled)
        killed = made.begun(KILLED)
        instance.report_run_failed(killed, "its worker is gone")
        retried = made.begun(RETRIED, **{"dagster/will_retry": "true"})
        instance.report_run_failed(retried)
        made.killed, made.waiting = killed.run_id, made.begun(WAITING)
        made.kept = {made.imported, made.drawn, made.killed, retried.run_id, made.waiting.run_id}
        start = made.now - 1000 * HOUR
        old = {*made.kept, reconciled, cancelled.run_id}
        again = [f for f in FOLDERS if f not in (KILLED, CANCELLED, RETRIED, WAITING)]
        with AgedHome(made.settings.instance_home) as home:
            home.date([made.imported], start - HOUR)
            with sqlite3.connect(world.home / "tables.sqlite") as tables:
                tables.execute("UPDATE indexed SET at = ?", (start - HOUR,))
            home.date(sorted(old - {made.imported}), start)
            for hour in range(1, 1001):
                home.copy(reconciled, start + hour * HOUR - 60)
                if hour % 5 == 0:
                    home.copy(made.imported, start + hour * HOUR - 30, again[hour % len(again)])
        made.execute("reconcile")
        yield made


def test_after_six_weeks_nothing_that_is_shown_or_done_changes_and_the_home_is_bounded(aged):
    with aged.ui() as ask:
        before, asked = aged.shown(ask), aged.asked()
        assert before["milvus_index"]["partitionStats"] == {
            "numMaterialized": 17,
            "numMaterializing": 1,
            "numFailed": 2,
            "numPartitions": 20,
        }
        checks = before["milvus_index"]["assetChecksOrError"]["checks"]
        made = [c["executionForLatestMaterialization"] for c in checks]
        # Neighbours are measured once a day, and not here.
        assert [one["status"] for one in made if one] == ["SUCCEEDED"] * 2
        assert asked == []
        assert ask(LOG, id=aged.imported)["logsForRun"]["events"]
        size, runs = aged.bytes(), len(aged.instance.get_run_ids())
        dry = aged.prune(dry_run=True)
        assert (aged.bytes(), len(aged.instance.get_run_ids())) == (size, runs)

        done = aged.prune()
        assert done == dry
        assert done.complete
        assert done.removed > 800
        assert aged.shown(ask) == before
        assert aged.kept <= set(aged.instance.get_run_ids())
        # The same webserver, which had read that log.
        emptied = ask(LOG, id=aged.imported)
        assert (emptied["logsForRun"]["events"], emptied["runOrError"]["status"]) == ([], "SUCCESS")
        assert len(ask(LOG, id=aged.killed)["logsForRun"]["events"]) > 3

        aged.instance.report_run_canceled(aged.waiting)
        told = aged.gc(history_days=1)["history"]
        assert told["pruned"]["removed"] > 100
        assert told["databases"] + told["logs"] + told["output"] > told["pruned"]["bytes"] > 1e6
        after = aged.shown(ask)
        assert after["milvus_index"]["partitionStats"]["numMaterializing"] == 0
        for asset in ASSETS:
            aged.instance.event_log_storage.wipe_asset_cached_status(dg.AssetKey(asset))
        assert aged.shown(ask) == after, "counted anew from the events"
        for asset in ASSETS:
            one, other = before[asset], after[asset]
            name = "latestMaterializationByPartition"
            assert one[name] == other[name]
            assert one["assetChecksOrError"] == other["assetChecksOrError"]
            statuses = (x["assetPartitionStatuses"] for x in (one, other))
            assert len({tuple(x["failedPartitions"]) for x in statuses}) == 1
    assert aged.asked() == []

    # A day's reconciliations are left, and what the folders need.
    sizes = files.sizes(aged.instance)
    assert len(aged.instance.get_run_ids()) < 24 + 2 * len(FOLDERS) + 10
    assert sum(sizes.values()) < size / 20
    assert sizes["databases"] < 4_000_000
    assert aged.prune(days=1) == Pruned()

    # What the killed run was for is still to be done: its cause is told.
    track = aged.world.library / KILLED / "01.ogg"
    os.utime(track, (1, 1))
    (problem,) = errors(aged.settings)
    assert (problem["folder"], problem["run_id"]) == (KILLED, aged.killed)
    assert "its worker is gone" in problem["message"]


PRUNE = """
import sys, time
import dagster as dg
from embed_assets.defs.history import prune

with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    print("ready", flush=True)
    while True:
        prune(instance, 30, now=time.time() + 31 * 86400)
"""


@pytest.mark.stress
def test_prunings_killed_at_random_beside_runs_leave_every_folder_green(world, instance):
    chance = random.Random(1)
    folders = [f"Album {i}" for i in range(6)]
    home = str(world.home / "dagster")
    last = {}
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", PRUNE, home], env=world.environment, stdout=subprocess.PIPE
        ) as pruning:
            pruning.stdout.readline()
            until = time.monotonic() + chance.uniform(0.2, 2)
            while time.monotonic() < until:
                folder = chance.choice(folders)
                last[folder] = materialized(instance, folder)
            assert pruning.poll() is None
            pruning.kill()
        indexed = last_indexed(instance)
        assert {folder: by for folder, (_, by) in indexed.items()} == last
        assert set(last.values()) <= runs(instance)
    prune(instance, 30, now=later(31))
    assert runs(instance) == set(last.values())


@dg.asset(partitions_def=MUSIC_FOLDERS)
def milvus_index():
    """A materialization a folder, without the work."""


@pytest.fixture
def instance(world):
    with world.instance() as made:
        yield made


def materialized(instance, folder):
    state.add_keys(instance, [folder])
    return dg.materialize([milvus_index], partition_key=folder, instance=instance).run_id


def later(days):
    return time.time() + days * DAY


def last_indexed(instance):
    return events.last_materialized(instance, state.INDEX_KEY)


def runs(instance):
    return set(instance.get_run_ids())


def test_a_run_over_folders_goes_when_all_that_it_made_was_made_again(instance):
    first, second = materialized(instance, "A"), materialized(instance, "A")
    other = materialized(instance, "B")
    assert prune(instance, 30, now=later(29)) == Pruned()
    assert prune(instance, 0, now=later(1000)) == Pruned(), "0 keeps all"
    done = prune(instance, 30, now=later(31))
    assert (done.removed, done.emptied) == (1, 2)
    assert runs(instance) == {second, other}
    assert first not in runs(instance)


@dg.asset_check(asset="milvus_index")
def in_step():
    return dg.AssetCheckResult(passed=True)


def test_the_last_evaluation_of_a_check_stays_with_its_run_however_old_it_is(instance):
    job = dg.define_asset_job("reconcile", dg.AssetSelection.checks(in_step))
    job = dg.Definitions([milvus_index], asset_checks=[in_step], jobs=[job])
    job = job.resolve_job_def("reconcile")
    made = [job.execute_in_process(instance=instance).run_id for _ in range(3)]
    newest = materialized(instance, "A")
    key = dg.AssetCheckKey(dg.AssetKey("milvus_index"), "in_step")
    storage = instance.event_log_storage
    last = storage.get_latest_asset_check_execution_by_key([key])
    assert prune(instance, 30, now=later(6)) == Pruned()
    prune(instance, 30, now=later(8))
    assert runs(instance) == {made[-1], newest}
    assert storage.get_latest_asset_check_execution_by_key([key]) == last
    assert len(storage.get_asset_check_execution_history(key, limit=10)) == 1


def test_what_is_left_of_a_folder_that_is_gone_goes_too(instance):
    gone, newest = materialized(instance, "A"), materialized(instance, "B")
    instance.delete_dynamic_partition(MUSIC_FOLDERS.name, "A")
    prune(instance, 30, now=later(31))
    assert runs(instance) == {newest}
    materialized(instance, "B")
    prune(instance, 30, now=later(31))
    assert not {gone, newest} & runs(instance)
    assert set(last_indexed(instance)) == {"B"}


def test_a_pruning_that_is_cut_off_anywhere_leaves_folders_green_and_the_next_goes_on(
    instance, monkeypatch
):
    for _ in range(3):
        materialized(instance, "A")
    newest = materialized(instance, "B")
    indexed = last_indexed(instance)

    def cut_off(*arguments, **options):
        raise KeyboardInterrupt

    for module, step in (
        (events, "delete_events"),
        (instance.run_storage, "delete_run"),
        (files, "delete_log"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, step, cut_off)
            with pytest.raises(KeyboardInterrupt):
                prune(instance, 30, now=later(31))
        assert last_indexed(instance) == indexed
        assert {by for _, by in indexed.values()} <= runs(instance)
    prune(instance, 30, now=later(31))
    assert runs(instance) == {by for _, by in indexed.values()} == {indexed["A"][1], newest}


def test_a_run_that_is_queued_or_will_be_tried_again_or_holds_a_slot_stays(world, instance):
    materialized(instance, "A")
    job = build_defs(world.made_settings()).resolve_job_def("bring_in_step")
    begun = [instance.create_run_for_job(job, tags={PARTITION_TAG: "A"}).run_id for _ in range(4)]
    retried, holding, ended, queued = begun
    for run_id in (retried, holding, ended):
        instance.report_run_failed(instance.get_run_by_id(run_id))
    instance.add_run_tags(ended, {"dagster/auto_retry_run_id": retried})
    instance.event_log_storage.initialize_concurrency_limit_to_default("gpu")
    instance.event_log_storage.claim_concurrency_slot("gpu", holding, "audio_embeddings")
    materialized(instance, "A")
    assert prune(instance, 1, now=later(2)).removed == 2
    assert {retried, queued, holding} <= runs(instance)
    assert ended not in runs(instance)
    prune(instance, 1, now=later(8))
    assert {queued, holding} <= runs(instance)
    assert retried not in runs(instance)


def test_a_pruning_has_its_time_and_the_next_goes_on(instance):
    for _ in range(3):
        materialized(instance, "A")
    assert not prune(instance, 30, now=later(31), seconds=0).complete
    assert len(runs(instance)) == 3
    assert prune(instance, 30, now=later(31)).complete
    assert len(runs(instance)) == 1


def test_an_event_that_no_run_logged_goes_unless_it_is_the_last_word_on_a_folder(instance):
    for version in ("dirty", "again.1", "again.2"):
        state.add_keys(instance, ["A"])
        event = dg.AssetMaterialization("milvus_index", partition="A", tags={VERSION_TAG: version})
        instance.report_runless_asset_event(event)
    prune(instance, 30, now=later(31))
    assert versions_in_dagster(instance) == {"A": "again.2"}
    found = instance.fetch_materializations(dg.AssetKey("milvus_index"), limit=10).records
    assert len(found) == 1


def test_runs_logs_and_ticks_of_which_nothing_else_is_left_go(instance, world):
    run = materialized(instance, "A")
    logs = world.home / "dagster" / "history" / "runs"
    lost = logs / f"{'0' * 8}-0000-0000-0000-{'0' * 12}.db"
    shutil.copy(logs / f"{run}.db", lost)
    ticks = world.home / "dagster" / "storage" / "__repository__" / "library_sensor"
    ticks.mkdir(parents=True)
    for name, days in (("1.err", 8), ("2.err", 1)):
        (ticks / name).write_text("{}")
        os.utime(ticks / name, (later(-days),) * 2)
    os.utime(lost, (later(-2),) * 2)
    prune(instance, 30)
    assert not lost.exists()
    assert (logs / f"{run}.db").exists()
    assert [f.name for f in ticks.iterdir()] == ["2.err"]


def test_the_job_prunes_for_the_days_of_the_settings_each_day(world, instance):
    materialized(instance, "A")
    defs = build_defs(world.made_settings())
    schedule = defs.resolve_schedule_def("daily_pruning")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    job = defs.resolve_job_def(schedule.job_name)
    made = job.execute_in_process(instance=instance)
    said = [e.user_message for e in instance.all_logs(made.run_id)]
    assert "0 runs and the logs of 0 more are deleted, 0 bytes" in said


def test_a_sensor_that_finds_nothing_to_do_writes_no_log(world, instance):
    world.settings["EMBED_SETTLE_SECONDS"] = "3600"
    settings = world.made_settings()
    world.album("A", 1)
    defs = build_defs(settings)
    key = ["__repository__", "library_sensor", "1"]
    with dg.build_sensor_context(
        instance=instance, definitions=defs, resources=resources(settings)
    ) as context:
        # As the daemon has it evaluated.
        context._log_key, context._instance_ref = key, instance.get_ref()
        tick = defs.resolve_sensor_def("library_sensor").evaluate_tick(context)
    assert not tick.run_requests
    assert not (settings.instance_home / "storage" / "__repository__").exists()


def test_dagster_deletes_a_run_with_its_materializations_and_leaves_the_rest_behind(instance):
    """Why `dagster_compat.events` exists. Where this fails, see whether Dagster does it now."""
    run = materialized(instance, "A")
    size = files.log_bytes(instance, run)
    assert size > 100_000
    instance.delete_run(run)
    assert last_indexed(instance) == {}
    assert files.log_bytes(instance, run) == size


def test_the_newest_row_stays_since_its_id_would_be_given_again(instance):
    materialized(instance, "A")
    instance.delete_dynamic_partition(MUSIC_FOLDERS.name, "A")
    with instance.event_log_storage.index_connection() as connection:
        newest = connection.exec_driver_sql("SELECT max(id) FROM event_logs").scalar()
    prune(instance, 30, now=later(31))
    with instance.event_log_storage.index_connection() as connection:
        assert connection.exec_driver_sql("SELECT max(id) FROM event_logs").scalar() == newest
