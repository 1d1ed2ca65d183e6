"""The canary where people meet it: runs, `doctor`, `errors`, the Dagster UI, and the command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dagster as dg
import pytest

from embed_assets.definitions import build_defs
from embed_assets_tests.test_whats_wrong import doctor, problems

UPGRADED = """
import importlib.metadata
import soxr

real, version = soxr.resample, importlib.metadata.version
soxr.resample = lambda samples, a, b, **_: real(samples, a, b, quality="QQ")
importlib.metadata.version = lambda name: "99.0" if name == "soxr" else version(name)
"""
"""Every Python process resamples with soxr's quick quality, and finds a newer soxr installed."""


@pytest.fixture
def upgrade(world):
    """Calls that install another soxr for all processes of a world, and the old one again."""
    site = world.root / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(UPGRADED)
    ours = str(Path(__file__).parent.parent)

    def install(*, other: bool) -> None:
        world.settings["PYTHONPATH"] = f"{site}{os.pathsep}{ours}" if other else ours

    return install


def test_no_new_vectors_stand_beside_others_until_somebody_decides(world, upgrade):
    world.album("Old", 1, 2, 3)
    world.sync()
    assert "as they were" in doctor(world)[1]["canary"]["message"]

    upgrade(other=True)
    world.album("New", 4)
    done = world.run("sync", "--json", program=True)
    assert done.returncode == 2
    assert "new vectors are not written" in done.stderr
    assert "the first stage that differs is the resampler" in done.stderr
    assert "-> 99.0" in done.stderr
    assert "pip install soxr==" in done.stderr
    (problem,) = problems(world)
    assert problem == "New"
    code, found = doctor(world)
    assert code == 1
    assert found["canary"]["ok"] is False
    assert "embed-assets canary --accept" in found["canary"]["message"]
    assert set(world.embedded_runs()) == set(world.indexed().values()), "nothing was embedded"
    assert len(world.rows()) == 3

    # What needs no new vectors goes through.
    world.move("Old", "Renamed")
    world.remove("New")
    moved = world.run("sync", "--json", program=True)
    assert moved.returncode == 0, moved.stderr
    assert json.loads(moved.stdout)["reused"] == 3

    upgrade(other=False)
    world.album("New", 4)
    back = world.run("sync", "--json", program=True)
    assert back.returncode == 0, back.stderr
    assert doctor(world)[1]["canary"]["ok"] is True
    world.assert_index_is_library()


def test_a_change_can_be_accepted(world, upgrade):
    world.album("Old", 1, 2, 3)
    world.sync()
    upgrade(other=True)
    checked = world.run("canary", program=True)
    assert checked.returncode == 1
    assert "resampler" in checked.stdout
    accepted = world.run("canary", "--accept", program=True)
    assert accepted.returncode == 0, accepted.stderr
    assert "accepted; new vectors are written" in accepted.stdout
    world.album("New", 4)
    done = world.run("sync", "--json", program=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["embedded"] == 1


def evaluations(world):
    """The results of the check in the Dagster UI, newest first."""
    check = dg.AssetCheckKey(dg.AssetKey("audio_embeddings"), "vectors_reproducible")
    with world.instance() as instance:
        records = instance.event_log_storage.get_asset_check_execution_history(check, limit=9)
        return [r.event.dagster_event.asset_check_evaluation_data for r in records]


def test_the_ui_shows_the_check_with_its_figures(world, upgrade):
    world.album("Old", 1, 2, 3)
    world.sync()
    (first,) = evaluations(world)
    assert first.passed
    defs = build_defs(world.made_settings())
    assert defs.resolve_schedule_def("daily_canary").cron_schedule == "53 2 * * *"
    job = defs.resolve_job_def("canary")
    assert [node.definition.pool for node in job.nodes] == ["gpu"], "it waits for those that embed"
    with world.instance() as instance:
        assert job.execute_in_process(instance=instance).success
    daily = evaluations(world)[0]
    assert daily.passed
    assert daily.metadata["tracks"].value == 3
    assert daily.metadata["distance"].value < 1e-6

    upgrade(other=True)
    world.album("New", 4)
    assert world.run("sync", program=True).returncode == 2
    red = evaluations(world)[0]
    assert not red.passed
    assert red.severity is dg.AssetCheckSeverity.ERROR
    assert red.metadata["stage"].value == "resampler"
    assert red.metadata["distance"].value > 1e-3
    assert "soxr" in red.metadata["changed"].value


def test_gc_removes_notes_of_models_that_are_not_used(world):
    world.album("Old", 1)
    world.sync()
    other = world.home / "canary" / f"{'0' * 32}.json"
    other.write_text("{}")
    os.utime(other, (1e9, 1e9))
    kept = set((world.home / "canary").iterdir()) - {other}
    assert kept
    assert world.run("gc", "--older-than", "0").returncode == 0
    assert set((world.home / "canary").iterdir()) == kept
