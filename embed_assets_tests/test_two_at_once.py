"""Two at once: each waits or says what to do, nothing is done twice, the index stays right."""

import json
import random
import subprocess
import sys
import time
from collections import Counter

import pytest

from embed_assets.definitions import library_job
from embed_assets.defs import state
from embed_assets.defs.evaluation import evaluate, prepare, run_tags
from embed_assets.defs.run_requests import drop_already_requested, record_requested, request_lock
from embed_assets.operations.sync_counts import counts_of
from embed_assets.planning.values import Policy, SensorCursor
from embed_assets_tests.assertions import assert_store_is_true, slots_held
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.test_ui import backfill, ended


def begin(world, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "embed_assets.cli", *arguments],
        env=world.environment,
        cwd=world.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    return out


def runs_of(world):
    """How many runs covered each folder."""
    with world.instance() as instance:
        known, runs = state.known_keys(instance), instance.get_runs()
    return Counter(key for run in runs for key in state.held_keys([run], known))


def test_two_syncs_share_the_work_and_do_nothing_twice(world):
    world.settings["EMBED_FOLDERS_PER_RUN"] = "2"
    for i in range(6):
        world.album(f"Album {i}", 2 * i, 2 * i + 1)
    both = [begin(world, "sync", "--json") for _ in range(2)]
    told = [json.loads(end(process)) for process in both]
    assert set(runs_of(world).values()) == {1}
    own = [set(t["runs"]) for t in told]
    assert not own[0] & own[1]
    with world.instance() as instance:
        assert counts_of(instance, [*own[0], *own[1]])["embedded"] == 12
    assert all(t["embedded"] <= 12 for t in told), "a sync also counts what the other one did"
    assert all(t["failed_folders"] == 0 for t in told)
    assert slots_held(world) == {}
    world.assert_index_is_library()


def test_what_another_look_asked_for_meanwhile_is_left_out(world):
    world.album("New", 1)
    with world.instance() as instance:
        looks = [look_at(world, instance) for _ in range(3)]
        (sensors, _), (syncs, cursor), (late, _) = looks
        assert [found.plan.requests for found, _ in looks] == [sensors.plan.requests] * 3
        (request,) = sensors.plan.requests
        project = world.project()
        with request_lock(instance, PATIENCE):
            prepare(instance, project.index(), sensors.plan)
            record_requested(instance, sensors)
        left = drop_already_requested(instance, syncs, cursor)
        assert (left.plan.requests, left.plan.running) == ((), 1), "the daemon will make that run"
        assert cursor.attempts == {}, "it was not tried here"
        run = instance.create_run_for_job(library_job(), tags=run_tags(request))
        assert drop_already_requested(instance, late, SensorCursor()).plan.requests == (), (
            "it has made it"
        )
        instance.report_run_canceled(run)
        again, cursor = look_at(world, instance)
        assert drop_already_requested(instance, again, cursor).plan.requests == (request,)


def look_at(world, instance):
    cursor, policy = SensorCursor(), Policy(settle_seconds=0.0)
    return evaluate(instance, world.project().index(), cursor, policy), cursor


@pytest.mark.stress
@pytest.mark.parametrize("seed", [1, 2])
def test_sync_beside_up_does_no_folder_twice(world, seed):
    """Each folder is new at a moment at which both look, to within fractions of a second."""
    world.settings |= {"EMBED_SCAN_SECONDS": "1", "EMBED_SETTLE_SECONDS": "1"}
    world.album("Before", 0)
    world.up()
    world.until(world.in_step, "the first album is in")
    chance = random.Random(seed)
    syncs = []
    for i in range(8):
        world.album(f"Album {i}", 2 * i, 2 * i + 1)
        time.sleep(chance.uniform(0.0, 3.0))
        syncs.append(begin(world, "sync"))
        if chance.random() < 0.5:
            end(syncs.pop())
    for sync in syncs:
        end(sync)
    world.until(world.in_step, "all is in")
    print(f"\nseed {seed}: {dict(runs_of(world))}")
    assert set(runs_of(world).values()) == {1}
    world.assert_index_is_library()


@pytest.mark.stress
def test_a_backfill_over_what_the_sensor_is_doing_embeds_nothing_twice(world):
    world.settings |= {"EMBED_SCAN_SECONDS": "1", "EMBED_FOLDERS_PER_RUN": "4"}
    for i in range(12):
        world.album(f"Album {i:02}", 3 * i, 3 * i + 1, 3 * i + 2)
    world.up()
    world.until(lambda: len(world.embedded_runs()) >= 4, "the sensor's runs are at work")
    with world.instance() as instance:
        keys = state.known_keys(instance)
    asked = backfill(world, keys)
    before = world.embedded_runs()
    questions = Counter()
    deadline = time.monotonic() + PATIENCE
    while not ended(world, asked):
        assert time.monotonic() < deadline, "the backfill does not end"
        done = world.run("similar", "Album 00/01.ogg", "--json")
        assert done.returncode in (0, 1)
        assert "Traceback" not in done.stderr, done.stderr
        questions[done.returncode] += 1
        for command in ("status", "errors"):
            done = world.run(command, "--json")
            assert done.returncode == 0, done.stderr
    assert ended(world, asked) == "COMPLETED_SUCCESS"
    world.until(world.in_step, "all is in")
    world.until(lambda: slots_held(world) == {}, "no slot is held")
    after = world.embedded_runs()
    assert len(after) == 36
    assert before.items() <= after.items(), "embedded again"
    print(f"\n{len(keys)} folders asked for twice; `similar` meanwhile, by exit code: {questions}")
    assert questions[0] > 0
    world.assert_index_is_library()
    assert_store_is_true(world)
