"""Runs on two hosts of a real Ray cluster: what docs/cluster.md promises, step by step as it says.

The tests share a cluster and a library, and each adds albums of its own.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import dagster as dg
import pytest
from dagster._cli.api import ExecuteRunArgs

from embed_assets.definitions import build_defs
from embed_assets.defs.activity import cause_of
from embed_assets.defs.state import RANGE_START_TAG
from embed_assets_tests.assertions import slots_held
from embed_assets_tests.ray_hosts import ray_project, set_pool_limits, why_not

pytestmark = pytest.mark.cluster

SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


@pytest.fixture(scope="module")
def _namespaces():
    if said := why_not():
        pytest.skip(said)


@pytest.fixture(scope="module")
def made(_namespaces, tmp_path_factory, postgres_server, milvus_server, object_server):
    """A head and two hosts, with a library that is empty."""
    root = tmp_path_factory.mktemp("cluster")
    servers = postgres_server, milvus_server, object_server
    with (
        ray_project(root, *servers, EMBED_FOLDERS_PER_RUN="2") as (world, cluster),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("DAGSTER_POSTGRES_URL", world.settings["DAGSTER_POSTGRES_URL"])
        set_pool_limits(world, 1)
        for name in "ab":
            cluster.start_host(name)
        yield world, cluster


@pytest.fixture
def hosts(made, monkeypatch):
    """The world and the cluster, with both hosts."""
    world, cluster = made
    for name, value in world.settings.items():
        if name.startswith(("AWS_", "DAGSTER_")):
            monkeypatch.setenv(name, value)
    for name in "ab":
        if cluster.hosts[name].process is None:
            cluster.start_host(name)
    cluster.until(lambda: cluster.alive() == 3, "both hosts have joined")
    return world, cluster


@pytest.fixture
def working(hosts):
    """The world and the cluster, with both hosts and `up`."""
    world, cluster = hosts
    if world.process is None:
        albums(world, "First", 1, 2, seed=90)
        world.up()
    return world, cluster


def runs_of(world):
    with world.instance() as instance:
        return {run.run_id: run for run in instance.get_runs()}


def albums(world, name, count, tracks, seed):
    for i in range(count):
        first = seed + i * tracks
        world.album(f"{name} {i}", *range(first, first + tracks))


def run_that_embeds(world, cluster, before):
    """Wait for a run that embeds; returns its id and its host."""
    found = []

    def embeds():
        for run_id in set(world.embedded_runs().values()) - before:
            found.extend((run_id, h) for h in cluster.hosts.values() if h.workers(run_id))
        return found

    world.until(embeds, "a host embeds")
    return found[0]


def deliver(world, host, run):
    """Have a host do a run that somebody else was to do, as a queue that delivers twice does."""
    with world.instance() as instance:
        arguments = ExecuteRunArgs(run.job_code_origin, run.run_id, instance.get_ref())
    done = host.run(*arguments.get_command_args())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def forward_passes(world):
    """How many tracks were embedded, by the word of all steps that did it."""
    with world.instance() as instance:
        done = instance.fetch_materializations(dg.AssetKey("audio_embeddings"), limit=1000)
    return sum(r.asset_materialization.metadata["embedded"].value for r in done.records)


def turns_in_the_encoder(world):
    """When each embedding step began and ended, in the order in which they began."""
    ends = {dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE}
    turns = []
    with world.instance() as instance:
        for run_id in runs_of(world):
            began = None
            for entry in instance.all_logs(run_id, {dg.DagsterEventType.STEP_START, *ends}):
                if entry.step_key != "audio_embeddings":
                    continue
                if entry.dagster_event_type in ends:
                    turns.append((began, entry.timestamp))
                else:
                    began = entry.timestamp
    return sorted(turns)


def test_an_import_is_done_by_both_hosts_and_each_audio_is_embedded_once(hosts):
    world, cluster = hosts
    albums(world, "Album", 6, 4, seed=0)
    world.album("Copy of the first", *range(4))
    for name in "ab":
        told = cluster.hosts[name].run("embed-assets", "doctor", "--json")
        assert told.returncode == 0, told.stdout + told.stderr
        said = {found["check"]: found for found in json.loads(told.stdout)}
        assert "their launcher watches them" in said["cluster"]["message"]
    world.up()
    world.until(world.in_step, "all is in")
    ended = runs_of(world)
    assert {run.status for run in ended.values()} == {SUCCESS}
    by_host = {name: cluster.hosts[name].worked_on() for name in "ab"}
    assert all(by_host.values()), by_host
    assert by_host["a"] | by_host["b"] == set(ended)
    assert forward_passes(world) == len(world.embedded_runs()) == 24
    turns = turns_in_the_encoder(world)
    assert len(turns) == len(ended)
    assert all(a[1] <= b[0] for a, b in pairwise(turns)), turns
    world.assert_index_is_library()


def test_up_can_be_restarted_while_a_host_works(working):
    world, cluster = working
    before = set(world.embedded_runs().values())
    own = world.root / "dagster/dagster.yaml"
    written = own.read_bytes()
    albums(world, "Restarted", 2, 6, seed=100)
    run_id, host = run_that_embeds(world, cluster, before)
    # It stands still meanwhile: otherwise a fast machine would be done with it.
    held = host.workers(run_id)
    for process in held:
        process.suspend()
    assert world.down() == 0
    assert runs_of(world)[run_id].status == dg.DagsterRunStatus.STARTED, "stopping `up` ends no run"
    world.up()
    for process in held:
        process.resume()
    world.until(world.in_step, "all is in")
    assert runs_of(world)[run_id].status == SUCCESS, "the run was left alone"
    assert own.read_bytes() == written
    world.assert_index_is_library()


def test_the_folders_of_a_host_that_is_killed_are_done_elsewhere(working):
    world, cluster = working
    before = set(world.embedded_runs().values())
    albums(world, "Killed", 2, 12, seed=200)
    run_id, host = run_that_embeds(world, cluster, before)
    host.kill()
    done = world.embedded_runs()
    world.until(lambda: runs_of(world)[run_id].status == FAILURE, "its run is failed")
    world.until(world.in_step, "all is in")
    world.until(lambda: not slots_held(world), "no slot is held")
    assert done.items() <= world.embedded_runs().items(), "embedded again"
    assert len(world.embedded_runs()) > len(done), "it was killed amid its work"
    later = set(world.embedded_runs().values()) - before - {run_id}
    assert later <= set().union(*(h.worked_on() for h in cluster.hosts.values() if h is not host))
    world.assert_index_is_library()


def test_a_run_that_was_about_to_start_on_a_host_that_is_killed_is_done_elsewhere(working):
    world, cluster = working
    world.until(world.in_step, "no run starts")
    before = set(runs_of(world))
    albums(world, "About to start", 1, 2, seed=250)
    held = []

    def starts():
        for run_id in set(runs_of(world)) - before:
            for host in cluster.hosts.values():
                for process in host.workers(run_id):
                    # It stands still: otherwise it might begin before its host is killed.
                    process.suspend()
                    held.append((run_id, host))
        return held

    world.until(starts, "a worker starts")
    run_id, host = held[0]
    assert runs_of(world)[run_id].status == dg.DagsterRunStatus.STARTING
    host.kill()
    world.until(lambda: runs_of(world)[run_id].status == FAILURE, "its run is failed")
    with world.instance() as instance:
        assert "lost before it began" in cause_of(instance, run_id)
    world.until(world.in_step, "all is in")
    world.assert_index_is_library()


def test_a_host_that_stood_still_and_wakes_changes_nothing(working):
    world, cluster = working
    before = set(world.embedded_runs().values())
    albums(world, "Frozen", 2, 12, seed=300)
    run_id, host = run_that_embeds(world, cluster, before)
    host.freeze()
    world.put("Frozen 0/01.ogg", 400)
    world.remove("Frozen 1/02.ogg")
    world.until(world.in_step, "all is in without it")
    status = runs_of(world)[run_id].status
    rows = world.rows()
    host.wake()
    cluster.until(lambda: not host.workers(run_id), "its worker ends")
    assert status == runs_of(world)[run_id].status == FAILURE
    assert world.in_step()
    assert {path: row[0] for path, row in world.rows().items()} == {
        path: row[0] for path, row in rows.items()
    }
    world.assert_index_is_library()


def test_a_run_that_is_delivered_again_is_ignored(working):
    world, cluster = working
    before = set(world.embedded_runs().values())
    albums(world, "Twice", 1, 12, seed=500)
    run_id, host = run_that_embeds(world, cluster, before)
    (other,) = (cluster.hosts[name] for name in "ab" if cluster.hosts[name] is not host)
    # It stands still meanwhile: otherwise it might be done.
    held = host.workers(run_id)
    for process in held:
        process.suspend()
    deliver(world, other, runs_of(world)[run_id])
    for process in held:
        process.resume()
    world.until(lambda: runs_of(world)[run_id].is_finished, "the run ends")
    deliver(world, other, runs_of(world)[run_id])
    with world.instance() as instance:
        entries = instance.all_logs(run_id, dg.DagsterEventType.ENGINE_EVENT)
    messages = [entry.dagster_event.message or "" for entry in entries]
    assert [m.partition(" that")[0] for m in messages if m.startswith("Ignoring")] == [
        "Ignoring a duplicate run",
        "Ignoring a run worker",
    ]
    assert runs_of(world)[run_id].status == SUCCESS
    world.until(world.in_step, "all is in")
    world.assert_index_is_library()


def test_two_hosts_that_begin_the_same_run_at_once_leave_no_wrong_row(working):
    world, cluster = working
    albums(world, "At once", 1, 6, seed=600)
    world.until(world.in_step, "all is in")
    with world.instance() as instance:
        done = next(r for r in instance.get_runs() if "At once" in r.tags.get(RANGE_START_TAG, ""))
        assert world.down() == 0
        world.put("At once 0/01.ogg", 650)
        job = build_defs(world.made_settings()).resolve_job_def("bring_in_step")
        twice = instance.create_run_for_job(
            job,
            tags=done.tags,
            run_config=done.run_config,
            job_code_origin=done.job_code_origin,
        )
    with ThreadPoolExecutor() as threads:
        hosts = [cluster.hosts[name] for name in "ab"]
        list(threads.map(lambda host: deliver(world, host, twice), hosts))
    world.up()
    world.until(world.in_step, "all is in")
    world.assert_index_is_library()


def test_a_host_with_other_settings_is_refused_and_the_others_do_its_folders(working):
    world, cluster = working
    world.until(world.in_step, "no run starts")
    before = runs_of(world)
    other, usual = (cluster.hosts[name] for name in "ab")
    for host in (other, usual):
        host.kill()
    cluster.until(lambda: cluster.alive() == 1, "both hosts are missed")
    as_set, other.settings = other.settings, other.settings | {"EMBED_WINDOWS": "5"}
    cluster.start_host(other.name)
    cluster.until(lambda: cluster.alive() == 2, "the host has joined")
    albums(world, "Refused", 1, 3, seed=700)

    def failed():
        return [r for i, r in runs_of(world).items() if i not in before and r.is_failure]

    world.until(failed, "the host refuses")
    with world.instance() as instance:
        assert "EMBED_WINDOWS is 5 here and 3 there" in cause_of(instance, failed()[0].run_id)
    assert not [path for path in world.rows() if "Refused" in path]
    other.kill()
    other.settings = as_set
    cluster.start_host(usual.name)
    world.until(world.in_step, "the other host does it")
    world.assert_index_is_library()
