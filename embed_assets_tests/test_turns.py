"""The encoder and Milvus Lite do one run's work at a time: how the others wait for their turn."""

import subprocess
import sys
import time

import psutil


def seconds_used(process):
    """Processor time of a process and of all below it."""
    used = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            used += sum(each.cpu_times()[:2])
        except psutil.Error:
            continue
    return used


def test_a_run_that_waits_for_the_encoder_leaves_the_processor_to_it_and_begins_soon(world):
    world.album("Album", 1)
    with world.instance() as instance:
        pools = instance.event_log_storage
        pools.initialize_concurrency_limit_to_default("gpu")
        pools.claim_concurrency_slot("gpu", "another run", "audio_embeddings")
        command = [sys.executable, "-m", "embed_assets.cli", "sync"]
        sync = subprocess.Popen(command, env=world.environment, cwd=world.root)
        try:
            world.until(
                lambda: pools.get_concurrency_info("gpu").pending_step_count,
                "the run waits for its turn",
            )
            process = psutil.Process(sync.pid)
            time.sleep(1)
            before = seconds_used(process)
            time.sleep(4)
            assert seconds_used(process) - before < 2
            pools.free_concurrency_slot_for_step("another run", "audio_embeddings")
            assert sync.wait(timeout=60) == 0
        finally:
            sync.kill()
            sync.wait()
    world.assert_index_is_library()
