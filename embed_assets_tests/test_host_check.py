"""A run is done with the settings it was requested for, or not at all."""

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator

from embed_assets.definitions import build_defs, library_job
from embed_assets.defs.execution import IN_PROCESS
from embed_assets.defs.host_check import SPEC_TAG, cancel_outdated, spec_tags
from embed_assets.defs.resources import resources
from embed_assets.defs.state import add_keys, range_tags
from embed_assets.project import Project
from embed_assets_tests.test_power_loss import _origin


@pytest.fixture
def requested(world):
    """Tags of a run that was requested with 3 windows of a track."""
    world.album("Album", 1)
    with world.instance() as instance:
        add_keys(instance, ["Album"])
        return range_tags(["Album"]) | tags_of(instance, world)


def tags_of(instance, world):
    index = Project.of(world.made_settings()).index()
    return spec_tags(instance, index)


def execute(instance, world, tags):
    """Execute the job on a host with the settings of the world; also what its steps failed of."""
    job = build_defs(world.made_settings()).resolve_job_def("bring_in_step")
    result = job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    failures = [e.step_failure_data for e in result.all_events if e.is_step_failure]
    return result, [f.user_failure_data for f in failures if f.user_failure_data]


def test_a_host_whose_tables_are_elsewhere_is_refused(world, requested):
    world.settings["EMBED_TABLES"] = "postgresql://me@127.0.0.1:1/music"
    with world.instance() as instance:
        _, failures = execute(instance, world, requested)
    (failure,) = failures
    assert "EMBED_TABLES (empty: in EMBED_HOME) is 'postgresql://me@127.0.0.1:1/music' here" in (
        failure.description
    )
    assert failure.metadata["wrong"].value == "setting", "it is not retried"


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("EMBED_WINDOWS", "5", "EMBED_WINDOWS is 5 here and 3 there"),
        ("EMBED_POOLING", "enriched", "EMBED_POOLING is 'enriched' here and 'mean' there"),
        ("EMBED_MILVUS_URI", "/elsewhere/milvus.db", "EMBED_MILVUS_URI"),
        (
            "EMBED_VECTORS",
            "s3://other/vectors",
            "EMBED_VECTORS (empty: in EMBED_HOME) is 's3://other/vectors' here and '' there",
        ),
    ],
)
def test_a_host_with_other_settings_is_refused_and_writes_nothing(
    world, requested, setting, value, said
):
    world.settings[setting] = value
    with world.instance() as instance:
        result, failures = execute(instance, world, requested)
        run = instance.get_run_by_id(result.run_id)
    assert run.is_failure
    (failure,) = failures
    assert failure.description.startswith("track_manifest: this host")
    assert said in failure.description
    assert failure.metadata["wrong"].value == "setting", "it is not retried"
    retries = [e for e in result.all_events if e.event_type_value == "STEP_UP_FOR_RETRY"]
    assert not retries
    assert not list(world.project().tables.folders())
    assert not (world.home / "vectors").exists()
    assert not (world.home / "milvus.db").exists()


def test_a_host_with_the_same_settings_does_the_run(world, requested):
    with world.instance() as instance:
        result, _ = execute(instance, world, requested)
    assert result.success
    world.assert_index_is_library()


def test_an_old_run_that_somebody_executes_again_has_the_settings_of_today(
    world, requested, monkeypatch
):
    with world.instance() as instance:
        old, _ = execute(instance, world, requested)
        world.settings["EMBED_WINDOWS"] = "5"
        for name, value in world.environment.items():
            if name.startswith("EMBED_"):
                monkeypatch.setenv(name, value)
        options = dg.ReexecutionOptions(parent_run_id=old.run_id)
        job = dg.reconstructable(library_job)
        tags, config = requested, IN_PROCESS
        with dg.execute_job(
            job, instance, reexecution_options=options, tags=tags, run_config=config
        ) as again:
            assert again.success
        assert instance.get_run_by_id(again.run_id).tags[SPEC_TAG] == requested[SPEC_TAG]


def test_a_queued_run_of_earlier_settings_makes_way_for_one_of_now(world, requested):
    world.settings |= {"EMBED_WINDOWS": "5", "EMBED_SETTLE_SECONDS": "0"}
    settings = world.made_settings()
    defs = build_defs(settings)
    with world.instance() as instance:
        job = defs.resolve_job_def("bring_in_step")
        queued = instance.create_run_for_job(job, tags=requested, remote_job_origin=_origin())
        event = dg.DagsterEventType.PIPELINE_ENQUEUED.value
        instance.report_dagster_event(dg.DagsterEvent(event, "bring_in_step"), queued.run_id)
        context = dg.build_sensor_context(
            instance=instance, definitions=defs, resources=resources(settings)
        )
        tick = defs.resolve_sensor_def("library_sensor").evaluate_tick(context)
        assert instance.get_run_by_id(queued.run_id).status == dg.DagsterRunStatus.CANCELED
    (request,) = tick.run_requests
    assert request.tags[SPEC_TAG] != requested[SPEC_TAG]


def test_an_old_run_that_somebody_executes_again_is_not_canceled_in_the_queue(world, requested):
    world.settings["EMBED_WINDOWS"] = "5"
    settings = world.made_settings()
    index = Project.of(settings).index()
    with world.instance() as instance:
        job = build_defs(settings).resolve_job_def("bring_in_step")
        old = instance.create_run_for_job(job, tags=requested)
        instance.report_run_failed(old)
        again = instance.create_run_for_job(
            job,
            tags=requested,
            remote_job_origin=_origin(),
            parent_run_id=old.run_id,
            root_run_id=old.run_id,
        )
        event = dg.DagsterEventType.PIPELINE_ENQUEUED.value
        instance.report_dagster_event(dg.DagsterEvent(event, "bring_in_step"), again.run_id)
        cancel_outdated(instance, index)
        assert instance.get_run_by_id(again.run_id).status == dg.DagsterRunStatus.QUEUED


def test_a_run_that_was_failed_while_its_host_stood_still_does_nothing_more(world):
    world.album("Album", 1)
    job = build_defs(world.made_settings()).resolve_job_def("bring_in_step")
    with world.instance() as instance:
        add_keys(instance, ["Album"])
        tags = range_tags(["Album"]) | tags_of(instance, world)
        run = instance.create_run_for_job(job, tags=tags, run_config=IN_PROCESS)
        for event in execute_run_iterator(InMemoryJob(job), run, instance):
            if event.is_step_success and event.step_key == "track_manifest":
                instance.report_run_failed(run, "its host does not answer")
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        failures = instance.all_logs(run.run_id, {dg.DagsterEventType.STEP_FAILURE})
    said = failures[0].dagster_event.step_failure_data.user_failure_data.description
    assert "this run was ended (FAILURE) while this host" in said
    assert not world.embedded_runs()
