"""What failed: `errors` lists it, and `status`, `doctor` and `sync` count the same."""

from __future__ import annotations

import os
import time

from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.utils import make_new_run_id

from embed_assets.defs import state
from embed_assets.identity import folder_id
from embed_assets.operations.doctor import doctor
from embed_assets.operations.errors import errors
from embed_assets.operations.status import status


def killed(world, *keys: str) -> None:
    """A run that ended without a word of its folders, as one whose worker was killed."""
    with world.instance() as instance:
        state.add_keys(instance, keys)
        tags = state.range_tags(keys)
        run = instance.add_run(DagsterRun("bring_in_step", run_id=make_new_run_id(), tags=tags))
        instance.report_run_failed(run, "its worker was killed")
        instance.add_run_tags(run.run_id, {"dagster/will_retry": "false"})


def failed_in_all(world) -> set[str]:
    """The folders that `errors` lists, once `status` and `doctor` were found to count as many."""
    settings = world.made_settings()
    listed = [p for p in errors(settings) if p["path"] == p["folder"]]
    unreadable = {p["path"] for p in listed if p["reason"] == "cannot be read"}
    failed = {p["path"] for p in listed} - unreadable
    said = status(settings)
    assert (said.folders_failed, said.folders_unreadable) == (len(failed), len(unreadable))
    tracks = next(f for f in doctor(settings) if f.check == "tracks")
    assert tracks.ok is (not failed)
    assert not failed or f"{len(failed)} folder" in tracks.message
    return failed


def test_all_commands_agree_on_which_folders_failed(world):
    for name in ("Killed", "Also killed", "Failed", "Fine"):
        (world.library / name).mkdir()
        (world.library / name / "x.ogg").write_bytes(b"")
    tables = world.project().tables
    assert failed_in_all(world) == set()
    killed(world, "Killed", "Also killed")
    assert failed_in_all(world) == {"Killed", "Also killed"}
    folder = folder_id("music", b"Failed")
    tables.put_failures([(folder, b"Failed")], "track_manifest", "the disk hung", "run")
    assert failed_in_all(world) == {"Killed", "Also killed", "Failed"}
    tables.put_failures([(folder, b"Killed")], "track_manifest", "the disk hung", "run")
    assert failed_in_all(world) == {"Killed", "Also killed"}, "a folder counts once"


def test_what_a_killed_run_had_done_before_did_not_fail(world):
    paths = world.album("Album", 1)
    assert world.sync()["failed_folders"] == 0
    time.sleep(1.1)  # What was indexed within a second of a run's end was so after it.
    killed(world, "Album")
    assert failed_in_all(world) == set()
    os.utime(world.full(paths[0]), (1e9, 1e9))
    assert failed_in_all(world) == {"Album"}
    world.sync()
    assert failed_in_all(world) == set()
