"""The encoder and Milvus Lite do one run's work at a time: how the others wait for their turn."""

import multiprocessing
import subprocess
import sys
import time
from contextlib import contextmanager

import dagster as dg
import psutil
import pytest
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from filelock import FileLock

from embed_assets.definitions import build_defs
from embed_assets.defs.resources import resources
from embed_assets.defs.state import embedding_at_once, fit_pools
from embed_assets.index.backend import backend_of
from embed_assets.planning import compare
from embed_assets.project import FOLDERS_PER_GPU_RUN, fitted
from embed_assets.settings import Settings
from embed_assets_tests.patience import PATIENCE

SYNC = ("-m", "embed_assets.cli", "sync")
IMPORT = """
import dagster as dg
from embed_assets.definitions import library_job
from embed_assets.defs.instance import open_instance
from embed_assets.defs.state import add_keys, range_tags
from embed_assets.settings import Settings

with open_instance(Settings.load()) as instance:
    add_keys(instance, ["Album"])
    job = dg.reconstructable(library_job)
    assert dg.execute_job(job, instance=instance, tags=range_tags(["Album"])).success
"""


def seconds_used(process):
    """Processor time of a process and of all below it."""
    used = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            used += sum(each.cpu_times()[:2])
        except psutil.Error:
            continue
    return used


TURNS = 3


def take_turns(home, name, together):
    """Ask for the slot of `gpu` when the others do; fails where it is somebody else's meanwhile."""
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "before_cursor_execute")
    def slowly(connection, cursor, statement, *rest):
        # Long enough for the others to come between what was read and what is written.
        if statement.startswith(("INSERT INTO pending_steps", "UPDATE concurrency_slots")):
            time.sleep(0.05)

    run = dg.DagsterRun(job_name="bring_in_step", run_id=name)
    with dg.DagsterInstance.from_config(home) as instance:
        for i in range(TURNS):
            with InstanceConcurrencyContext(instance, run) as pools:
                together.wait(PATIENCE)
                while not pools.claim("gpu", f"step {i}"):
                    time.sleep(0.02)
                with FileLock(f"{home}/used.lock", timeout=0):
                    time.sleep(0.02)
                pools.free_step(f"step {i}")


def test_processes_that_ask_for_the_encoder_at_once_have_it_one_after_the_other(world):
    with world.instance() as instance:
        instance.event_log_storage.initialize_concurrency_limit_to_default("gpu")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["embed_assets.definitions"])
    home = str(world.made_settings().instance_home)
    together = context.Barrier(3)
    asking = [
        context.Process(target=take_turns, args=(home, f"run {i}", together)) for i in range(3)
    ]
    for process in asking:
        process.start()
    for process in asking:
        process.join(PATIENCE)
        process.kill()
        process.join()
    assert [process.exitcode for process in asking] == [0, 0, 0]


@contextmanager
def waits_for_the_encoder(world, *command):
    """A process whose only run waits, for another one has the encoder; and Dagster's pools."""
    with world.instance() as instance:
        pools = instance.event_log_storage
        pools.initialize_concurrency_limit_to_default("gpu")
        pools.claim_concurrency_slot("gpu", "another run", "audio_embeddings")
        command = [sys.executable, *command]
        process = subprocess.Popen(command, env=world.environment, cwd=world.root)
        try:
            world.until(
                lambda: pools.get_concurrency_info("gpu").pending_step_count,
                "the run waits for its turn",
            )
            yield process, pools
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("command", [SYNC, ("-c", IMPORT)], ids=["in one process", "one a step"])
def test_a_run_that_waits_for_the_encoder_leaves_the_processor_to_it_and_begins_soon(
    world, command
):
    world.album("Album", 1)
    with waits_for_the_encoder(world, *command) as (process, pools):
        waiting = psutil.Process(process.pid)

        def rests():
            before = seconds_used(waiting)
            time.sleep(2)
            return seconds_used(waiting) - before < 1

        # What it starts with may take long on a busy machine; what spins never rests.
        world.until(rests, "it leaves the processor to the other one", 300)
        pools.free_concurrency_slot_for_step("another run", "audio_embeddings")
        assert process.wait(PATIENCE) == 0
    world.assert_index_is_library()


def test_a_free_encoder_is_used_though_nobody_told_those_who_wait(world, monkeypatch):
    """What two processes of Dagster come to when one queues up while the other one leaves."""
    world.album("Album", 1)
    with waits_for_the_encoder(world, *SYNC) as (sync, pools):
        with monkeypatch.context() as untold:
            untold.setattr(pools, "assign_pending_steps", lambda names: None)
            pools.free_concurrency_slot_for_step("another run", "audio_embeddings")
        assert sync.wait(PATIENCE) == 0
    world.assert_index_is_library()


def test_an_import_has_a_run_for_each_gpu_and_one_that_reads_ahead(world, monkeypatch):
    monkeypatch.setattr(compare, "INTERACTIVE_SECONDS", 0.0)
    world.settings |= {"EMBED_FOLDERS_PER_RUN": "1", "EMBED_SETTLE_SECONDS": "0"}
    for i in range(8):
        world.album(f"Album {i}", i)
    settings = world.made_settings()
    defs = build_defs(settings)
    sensor = defs.resolve_sensor_def("library_sensor")
    with world.instance() as instance:

        def asked():
            context = dg.build_sensor_context(
                instance=instance, definitions=defs, resources=resources(settings)
            )
            return len(sensor.evaluate_tick(context).run_requests)

        assert asked() == 2
        lite = backend_of(settings.index_uri)
        fit_pools(instance, 3, lite)
        assert asked() == 4
        fit_pools(instance, 1, lite)
        assert asked() == 2, "a machine that lost its GPUs"
        instance.event_log_storage.set_concurrency_slots("gpu", 2)
        fit_pools(instance, 3, lite)
        assert embedding_at_once(instance) == 2, "a person chose it"


@pytest.mark.parametrize(
    ("chosen", "folders"),
    [
        ({"device": "cuda"}, FOLDERS_PER_GPU_RUN),
        ({"device": "cuda", "folders_per_run": 100}, 100),
        ({"device": "cpu"}, 64),
        ({"device": "cpu", "encoder": "acoustic"}, 64),
    ],
)
def test_a_run_is_worth_loading_the_model_for(chosen, folders):
    assert fitted(Settings(_env_file=None, **chosen)).folders_per_run == folders
