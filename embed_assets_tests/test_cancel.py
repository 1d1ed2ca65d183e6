"""Cancelling a run in the UI, and a folder that never works, beside a running `up`."""

import json
import socket
import time

import dagster as dg
import psutil
import pytest

from embed_assets_tests.evidence import by_role, slots_held
from embed_assets_tests.synth import write_track
from embed_assets_tests.test_ui import materialize, run_ended

TERMINATE = """
mutation Terminate($run: String!) {
  terminateRun(runId: $run) {
    __typename
    ... on TerminateRunFailure { message }
    ... on PythonError { message }
  }
}"""

WORKERS = ("run worker", "forkserver", "step", "pool forkserver", "pool worker", "orphan")


def has(world, run, kind, step):
    with world.instance() as instance:
        return any(e.step_key == step for e in instance.all_logs(run, of_type=kind))


def working(world):
    """Whether a worker of the pool is busy: it has used the processor since it was looked at."""
    busy = by_role(world).get("pool worker", [])
    before = {p.pid: _seconds(p) for p in busy}
    time.sleep(0.4)
    return any(_seconds(p) > before[p.pid] + 0.1 for p in busy)


def _seconds(process):
    try:
        return sum(process.cpu_times()[:2])
    except psutil.Error:
        return 0.0


@pytest.fixture
def library(world):
    """Long tracks of which all is embedded, so that each step can be met at its work."""
    world.settings |= {"EMBED_SCAN_SECONDS": "3600", "EMBED_WINDOWS": "0"}
    world.album("Anchor", 1)
    world.up()
    world.until(world.in_step, "the only look of the sensor is over")
    for i in range(6):
        write_track(world.library / f"Long/{i}.flac", seconds=400, seed=i, rate=22_050, channels=1)
    with world.instance() as instance:
        instance.add_dynamic_partitions("music_folders", ["Long"])
    return world


@pytest.mark.stress
def test_a_run_that_is_cancelled_stops_within_ten_seconds_wherever_it_is(library):
    world = library
    run = materialize(world, "Long")
    started = dg.DagsterEventType.STEP_START
    world.until(lambda: has(world, run, started, "audio_embeddings"), "it embeds")
    world.until(lambda: working(world), "the encoder is at work")
    stops(world, run)

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        world.down()
        for path in sorted((world.library / "Long").iterdir())[1:]:
            path.unlink()
        world.settings |= {"EMBED_MILVUS_URI": f"http://127.0.0.1:{s.getsockname()[1]}"}
        world.settings |= {"EMBED_WINDOWS": "3"}
        world.up()
        run = materialize(world, "Long")
        waits = dg.DagsterEventType.STEP_UP_FOR_RETRY
        world.until(lambda: has(world, run, waits, "milvus_index"), "it waits for its retry")
        stops(world, run)


def stops(world, run):
    asked = time.monotonic()
    answer = world.graphql(TERMINATE, run=run)["terminateRun"]
    assert answer["__typename"] == "TerminateRunSuccess", answer
    world.until(lambda: run_ended(world, run) == "CANCELED", "it is cancelled", 10)
    world.until(lambda: not left(world), "no process of it is left", 10)
    assert time.monotonic() - asked < 10
    world.until(lambda: slots_held(world) == {}, "no slot is held", 45)


def left(world):
    roles = by_role(world)
    return [p for role in WORKERS for p in roles.get(role, [])]


@pytest.mark.stress
def test_a_folder_that_always_fails_holds_no_other_back_and_rests(world):
    world.humble = True
    world.settings["EMBED_SCAN_SECONDS"] = "2"
    world.album("Poison", 1)
    (world.library / "Poison/01.ogg").chmod(0)
    for i in range(6):
        world.album(f"Album {i}", 10 + i)
    world.up()
    good = {f"Album {i}/01.ogg" for i in range(6)}
    world.until(lambda: set(world.indexed()) >= good, "the others are indexed")

    def told():
        return [
            r for r in json.loads(world.run("errors", "--json").stdout) if r["path"] == "Poison"
        ]

    world.until(told, "the poison is plain to see")
    assert "ermission" in told()[0]["message"]
    assert told()[0]["run_id"]
    world.album("Later", 20)
    world.until(lambda: "Later/01.ogg" in world.indexed(), "what comes later is indexed")

    def runs():
        with world.instance() as instance:
            return instance.get_runs_count(), slots_held(world)

    world.until(lambda: not runs()[1], "all runs have ended")
    before = runs()[0]
    time.sleep(12)
    assert runs()[0] == before, "it rests"
    (world.library / "Poison/01.ogg").chmod(0o644)
    world.run("errors", "--clear", "Poison")
    world.until(lambda: "Poison/01.ogg" in world.indexed(), "it is tried at once when asked", 40)
    world.assert_index_is_library()
