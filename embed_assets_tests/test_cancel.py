"""Cancelling a run in the UI, and a folder that never works, beside a running `up`."""

import json
import signal
import socket
import time
import wave
from functools import partial

import dagster as dg
import numpy as np
import psutil
import pytest

from embed_assets.defs import state
from embed_assets.defs.execution import IN_PROCESS
from embed_assets.planning.compare import BACKOFF
from embed_assets_tests.assertions import by_role, slots_held
from embed_assets_tests.corpus import whole
from embed_assets_tests.encoded import with_comments
from embed_assets_tests.faults import HANGS, preloaded
from embed_assets_tests.patience import PATIENCE
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


LANES = {"bulk": {}, "fresh": IN_PROCESS}
"""Run config of an import, a process a step, and of a dropped album, all in the run's process."""

PLACES = ("decoder", "disk", "encoder", "retry")


@pytest.fixture
def library(world):
    """Folders by what their runs come to, and no Milvus: each place can be met at its work.

    `decoder`: FFmpeg is busy with it for minutes; `disk`: decoding waits for its disk; `encoder`:
    long tracks of which all is embedded; `retry`: the index step, which waits to be tried again.
    """
    world.settings |= {"EMBED_SCAN_SECONDS": "3600", "EMBED_WINDOWS": "0"}
    world.faults = preloaded(world.root, world.library)
    world.settings |= world.faults.environment
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        world.settings["EMBED_MILVUS_URI"] = f"http://127.0.0.1:{s.getsockname()[1]}"
    (world.library / "cover.jpg").write_bytes(b"\xff\xd8\xff")
    world.up()
    world.until(lambda: looked(world), "the only look of the sensor is over")
    for place in PLACES:
        (world.library / place).mkdir()
    endless = with_comments(whole("flac", 2), 70_000)
    (world.library / "decoder/1.flac").write_bytes(endless)
    noise = np.random.default_rng(0).integers(-8000, 8000, 22_050 * 1200, np.int16)
    for i in range(6):
        # Long enough that there is still something to read once it is seen that it is being read.
        name = f"{'encoder' if i < 3 else 'disk'}/{i}.wav"
        with wave.open(str(world.library / name), "wb") as file:
            file.setparams((1, 2, 22_050, 0, "NONE", ""))
            file.writeframes(np.roll(noise, i).tobytes())
    world.album("retry", 2)
    with world.instance() as instance:
        instance.add_dynamic_partitions("music_folders", list(PLACES))
    return world


def looked(world):
    with world.instance() as instance:
        (sensor,) = [s for s in instance.all_instigator_state() if s.name == "library_sensor"]
        return instance.get_ticks(sensor.instigator_origin_id, sensor.selector_id, limit=1)


def bring(world, place, lane):
    """Start a run and wait until it is at work in this place; returns its id."""
    world.faults.end()
    run = materialize(world, place, config=json.dumps(LANES[lane]))
    started, waits = dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_UP_FOR_RETRY
    if place == "decoder":
        world.until(lambda: has(world, run, started, "track_manifest"), "it reads")
        world.until(lambda: working(world), "the decoder is at work")
    elif place == "disk":
        before = world.faults.told().total()
        world.until(lambda: scanned(world, run), "it is scanned")
        world.faults.begin(("any", HANGS, 1.0, world.library / "disk"))
        world.until(lambda: world.faults.told().total() > before, "the disk does not answer")
    elif place == "encoder":
        world.until(lambda: has(world, run, started, "audio_embeddings"), "it embeds")
        world.until(lambda: working(world), "the encoder is at work")
    else:
        world.until(lambda: has(world, run, waits, "milvus_index"), "it waits for its retry")
    return run


def cancelled(world, run):
    return run_ended(world, run) == "CANCELED"


def has(world, run, kind, step):
    with world.instance() as instance:
        return any(e.step_key == step for e in instance.all_logs(run, of_type=kind))


def scanned(world, run):
    return has(world, run, dg.DagsterEventType.ASSET_MATERIALIZATION, "track_manifest")


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


def left(world):
    roles = by_role(world)
    return [p for role in WORKERS for p in roles.get(role, [])]


@pytest.mark.stress
@pytest.mark.parametrize("lane", LANES)
def test_a_run_that_is_cancelled_stops_wherever_it_is(library, lane):
    world, took = library, {}
    for place in PLACES:
        run = bring(world, place, lane)
        asked = time.monotonic()
        answer = world.graphql(TERMINATE, run=run)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer
        is_cancelled = partial(cancelled, world, run)
        world.until(is_cancelled, f"{place}: it is cancelled")
        world.until(lambda: not left(world), f"{place}: no process of it is left")
        took[place] = round(time.monotonic() - asked, 1)
        world.until(lambda: slots_held(world) == {}, f"{place}: no slot is held")
    print(f"\n{lane}: cancelled, and no process left, after so many seconds: {took}")
    comes_by_itself(world)


@pytest.mark.stress
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("lane", LANES)
def test_up_stops_whatever_its_runs_do(library, lane, number):
    world, took = library, {}
    for place in PLACES:
        if world.process is None:
            world.up()
        run = bring(world, place, lane)
        asked = time.monotonic()
        world.process.send_signal(number)
        assert world.process.wait(PATIENCE) == 0
        world.process = None
        took[place] = round(time.monotonic() - asked, 1)
        assert world.processes() == [], place
        # Dagster tries it again once it is back, and until then it counts as one that runs.
        assert slots_held(world).keys() <= {"runs"}, place
        with world.instance() as instance:
            assert instance.get_run_by_id(run).is_finished, place
    print(f"\n{lane}, {number.name}: `up` had ended after so many seconds: {took}")
    comes_by_itself(world)


def comes_by_itself(world):
    """What was cancelled is done once nothing is in the way."""
    world.down()
    world.faults.end()
    del world.settings["EMBED_MILVUS_URI"]
    world.settings |= {"EMBED_SCAN_SECONDS": "2", "EMBED_WINDOWS": "3"}
    (world.library / "decoder/1.flac").write_bytes(whole("flac", 2))
    world.up()
    world.until(world.in_step, "what was cancelled comes by itself")
    names = {f"{p.parent.name}/{p.name}" for p in world.library.glob("*/*")}
    assert set(world.rows()) == names


def tries(world, folder):
    """(folders, start) of each run that covers a folder."""
    with world.instance() as instance:
        known = state.known_keys(instance)
        records = instance.get_run_records(ascending=True)
        found = [(state.held_keys([r.dagster_run], known), r.start_time) for r in records]
    return [(folders, start) for folders, start in found if folder in folders and start]


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

    world.until(lambda: len(tries(world, "Poison")) > 1, "it is retried automatically")
    world.until(lambda: slots_held(world) == {}, "all runs have ended")
    (_, first), *later = tries(world, "Poison")
    assert [folders for folders, _ in later] == [{"Poison"}], "it is alone from now on"
    assert later[0][1] - first > BACKOFF[0] - 5, "it rested"
    (world.library / "Poison/01.ogg").chmod(0o644)
    world.run("retry", "Poison")
    world.until(lambda: "Poison/01.ogg" in world.indexed(), "it is tried when asked")
    world.assert_index_is_library()
