"""What was killed, one process or all at once: `up` alone brings the index in step again."""

import os
import signal
import socket
import subprocess
import sys
import time

import dagster as dg

from embed_assets.defs.dead_runs import HOST_TAG, PID_TAG, begin_to_cancel, reap, worker_tags
from embed_assets.defs.state import add_keys, range_tags
from embed_assets.errors import Reason, TransientError
from embed_assets.workers import cpu_count, open_pool
from embed_assets_tests.aged_home import date_back
from embed_assets_tests.assertions import by_role, slots_held

FOLDERS, TRACKS = 8, 6


def test_an_import_goes_on_where_the_power_was_lost(world):
    world.settings["EMBED_FOLDERS_PER_RUN"] = "3"
    for i in range(FOLDERS):
        world.album(f"Album {i}", *range(i * TRACKS, (i + 1) * TRACKS))
    world.up()
    world.until(lambda: len(world.embedded_runs()) >= 10, "the import is under way")
    world.power_loss()
    before = world.embedded_runs()
    spec = world.project().spec()
    stored = {e.audio_hash for e in world.project().store.entries(spec.recipe.digest)}
    assert len(before) < FOLDERS * TRACKS
    # Two tasks a worker are under way at most, and none of them may have been noted yet.
    assert len(stored - before.keys()) <= 2 * cpu_count(), "more than these are done again"
    started = time.monotonic()
    world.up()
    world.until(world.in_step, "the import is done")
    print(f"{len(before)} of {FOLDERS * TRACKS} embedded when the power went;"
          f" in step {time.monotonic() - started:.1f} s after `up`")  # fmt: skip
    world.until(lambda: not slots_held(world), "no slot is held")
    world.assert_index_is_library()
    after = world.embedded_runs()
    assert {h: after[h] for h in before} == before, "finished tracks were embedded again"


def test_a_code_server_that_was_killed_comes_back(world):
    world.album("Before", 1)
    world.up()
    world.until(world.in_step, "the first album is in")
    for process in by_role(world)["code server"]:
        if "grpc" in process.cmdline():
            process.kill()
    world.album("After", 2)
    world.until(world.in_step, "the second album is in")
    world.assert_index_is_library()


def test_a_run_that_sync_had_not_begun_when_it_was_killed_holds_nothing(world):
    world.album("Album", 1)
    with world.instance() as instance:
        run = instance.create_run_for_job(
            _job(), tags={HOST_TAG: socket.gethostname(), PID_TAG: str(_dead_process())}
        )
        mine = instance.create_run_for_job(_job(), tags=worker_tags())
        retry = instance.create_run_for_job(
            _job(), tags=run.tags, parent_run_id=run.run_id, root_run_id=run.run_id
        )
        assert reap(instance) == [run.run_id]
        assert instance.get_run_by_id(run.run_id).is_failure
        assert not instance.get_run_by_id(mine.run_id).is_finished
        assert not instance.get_run_by_id(retry.run_id).is_finished


def test_a_run_that_up_stops_is_canceled_and_has_not_failed(world):
    with world.instance() as instance:
        launched = instance.create_run_for_job(_job())
        beside = instance.create_run_for_job(_job(), tags=worker_tags())
        start = dg.DagsterEventType.PIPELINE_START.value
        for run in (launched, beside):
            instance.report_dagster_event(dg.DagsterEvent(start, "bring_in_step"), run.run_id)
        begin_to_cancel(instance)
        assert reap(instance, grace_seconds=0.0) == []
        assert instance.get_run_by_id(launched.run_id).status == dg.DagsterRunStatus.CANCELED
        assert instance.get_run_by_id(beside.run_id).status == dg.DagsterRunStatus.STARTED


def test_sync_frees_the_encoder_that_a_run_which_ended_has_left_taken(world):
    """Its worker was killed, the daemon noted that, and was killed before it freed anything."""
    world.album("Album", 1)
    with world.instance() as instance:
        pools = instance.event_log_storage
        pools.initialize_concurrency_limit_to_default("gpu")
        for has in (True, False):
            tags = {HOST_TAG: socket.gethostname(), PID_TAG: str(_dead_process())}
            run = instance.create_run_for_job(_job(), tags=tags)
            claim = pools.claim_concurrency_slot("gpu", run.run_id, "audio_embeddings")
            assert claim.is_claimed is has
            instance.report_run_failed(run, "its worker was killed")
    world.sync()
    assert not slots_held(world)
    world.assert_index_is_library()


def test_sync_waits_neither_for_a_dead_sync_nor_for_a_queue_that_nobody_serves(world):
    world.album("Queued", 1)
    world.album("Killed", 2)
    with world.instance() as instance:
        add_keys(instance, ["Killed", "Queued"])
        dead = worker_tags() | {PID_TAG: str(_dead_process())}
        killed = instance.create_run_for_job(_job(), tags=dead | range_tags(["Killed"]))
        queued = instance.create_run_for_job(
            _job(), tags=range_tags(["Queued"]), remote_job_origin=_origin()
        )
        for run, event in ((killed, "PIPELINE_START"), (queued, "PIPELINE_ENQUEUED")):
            event = dg.DagsterEventType[event].value
            instance.report_dagster_event(dg.DagsterEvent(event, "bring_in_step"), run.run_id)
    world.sync()
    world.assert_index_is_library()


def test_a_run_that_was_launched_just_now_may_have_no_worker_yet(world):
    with world.instance() as instance:
        run = instance.create_run_for_job(_job())
        date_back(instance, "create_timestamp")
        instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.PIPELINE_STARTING.value, "bring_in_step"),
            run.run_id,
        )
        assert reap(instance, grace_seconds=3000) == []
        date_back(instance, "update_timestamp")
        assert reap(instance, grace_seconds=3000) == [run.run_id]


def test_a_reader_that_is_killed_rejects_no_track(tmp_path):
    once, always = tmp_path / "once", tmp_path / "always"
    with open_pool(2) as pool:
        found = dict(pool.run(_die, [(once, 1), (always, 9), (tmp_path / "never", 0)]))
    assert found[once, 1] == found[tmp_path / "never", 0] == "read"
    assert isinstance(found[always, 9], TransientError)


def test_a_reader_that_crashes_again_rejects_the_track(tmp_path):
    with open_pool(1) as pool:
        found = dict(pool.run(_die, [(tmp_path / "crash", -1)]))
    assert found[tmp_path / "crash", -1].reason is Reason.DECODER_CRASHED


def _die(job):
    """Kill this process until it was killed so often; a negative number: crash, always."""
    path, times = job
    if times < 0:
        os.abort()
    before = len(path.read_text()) if path.exists() else 0
    if before < times:
        path.write_text("x" * (before + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return "read"


def _job():
    from embed_assets.definitions import library_job

    return library_job()


def _origin():
    from dagster._core.remote_origin import (
        GrpcServerCodeLocationOrigin,
        RemoteJobOrigin,
        RemoteRepositoryOrigin,
    )

    server = GrpcServerCodeLocationOrigin(host="localhost", port=1, location_name="away")
    return RemoteJobOrigin(RemoteRepositoryOrigin(server, "__repository__"), "bring_in_step")


def _dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
