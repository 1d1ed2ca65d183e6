"""Every folder that `sync` counts as failed is in `errors`, with its reason, whatever befell it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress

import psutil

from embed_assets.defs import state
from embed_assets.identity import folder_id
from embed_assets.storage.records import CHANGED, NOT_DONE
from embed_assets_tests.assertions import by_role
from embed_assets_tests.synth import write_hour
from embed_assets_tests.test_made_up_stats import made_up


def listed(world):
    return {r["path"]: r for r in json.loads(world.run("errors", "--json").stdout)}


def test_a_folder_that_changes_whenever_it_is_read(world):
    world.album("Well", 1)
    world.album("Restless", 2)
    shim = made_up(world.library / "Restless", written="1")
    world.settings |= shim
    done = world.run("sync")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "`embed-assets errors` says why." in done.stdout
    (row,) = listed(world).values()
    assert (row["path"], row["reason"]) == ("Restless", CHANGED)
    assert "01.ogg: changed while it was read; the folder will be processed again" in row["message"]
    assert row["run_id"]
    assert world.indexed().keys() == {"Well/01.ogg"}, "nothing of it was stored"
    for name in shim:
        del world.settings[name]
    assert world.sync()["failed_folders"] == 0
    assert listed(world) == {}


DIES = """
import multiprocessing
from embed_assets.operations import sync
from embed_assets.operations.run_processes import RunProcess
from embed_assets.settings import Settings

def killed_as_it_starts(settings, request, tags):
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    return RunProcess(request, "no run has this name", process)

if __name__ == "__main__":
    sync.start_run = killed_as_it_starts
    sync.PATIENCE_SECONDS = 1.0
    print(sync.sync(Settings.load()).failed_folders)
"""


def test_a_folder_whose_run_dies_before_it_begins(world):
    world.album("Album", 1)
    done = subprocess.run(
        [sys.executable, "-c", DIES],
        env=world.environment,
        cwd=world.root,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "1\n", done.stderr
    (row,) = listed(world).values()
    assert (row["path"], row["reason"]) == ("Album", NOT_DONE)
    assert "before the run began" in row["message"]
    assert world.sync()["failed_folders"] == 0
    assert listed(world) == {}


def test_a_folder_whose_runs_are_killed(world):
    world.settings["EMBED_WINDOWS"] = "0"
    world.album("Album", 1)
    # Each run is seen, and killed, long before it would be done.
    hours = [world.library / f"Album/{i}.wav" for i in range(8)]
    for i, path in enumerate(hours):
        write_hour(path, seed=i)
    done = threading.Event()

    def kill():
        while not done.wait(0.05):
            with world.instance() as instance:
                live = state.live_runs(instance)
            for process in by_role(world).get("run worker", []) if live else []:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        ended = world.run("sync", program=True)
    finally:
        done.set()
        thread.join()
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert listed(world)["Album"]["message"]
    for path in hours:
        path.unlink()
    assert world.sync()["failed_folders"] == 0
    assert listed(world) == {}


def test_a_partition_that_was_typed_in_by_hand_and_means_no_folder_goes(world):
    world.album("Album", 1)
    with world.instance() as instance:
        state.add_keys(instance, ["no//folder", "../outside"])
    assert world.sync()["failed_folders"] == 0
    with world.instance() as instance:
        assert state.known_keys(instance) == ["Album"]


def test_what_failed_and_is_now_as_it_is_indexed_is_no_problem(world):
    world.album("Album", 1)
    world.album("Other", 2)
    world.sync()
    tables = world.project().tables
    for name in (b"Album", b"Other"):
        tables.put_failures([(folder_id("music", name), name)], CHANGED, "changed", "run")
    os.utime(world.library / "Album/01.ogg", (1e9, 1e9))
    assert listed(world).keys() == {"Album"}
    world.sync()
    assert listed(world) == {}
