"""A person's own dagster.yaml: what `cluster-config` prints, and what `doctor` says of it."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
import yaml
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon
from dagster._daemon.types import DaemonHeartbeat

from embed_assets.defs.dagster_compat.pools import set_pool_limit
from embed_assets.defs.dagster_compat.runs import open_folder
from embed_assets.defs.host_check import spec_tags
from embed_assets.operations.cluster_config import cluster_config, steps
from embed_assets.project import Project

ELSEWHERE = {"module": "embed_assets_tests.other_hosts", "class": "OtherHosts"}


@pytest.fixture
def own(world, postgres, monkeypatch):
    """The folder of a dagster.yaml as it is printed, with hosts that the tests have."""
    world.album("Album", 1)
    folder = world.root / "own"
    folder.mkdir()
    printed = world.run("cluster-config", "--runs", "3")
    assert printed.returncode == 0, printed.stderr
    made = yaml.safe_load(printed.stdout)
    assert made["run_launcher"]["class"] == "RayRunLauncher"
    made["run_launcher"] = ELSEWHERE | {"config": {"folder": str(world.root)}}
    (folder / "dagster.yaml").write_text(yaml.safe_dump(made))
    url = postgres.replace("postgresql://", "postgresql+psycopg2://")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
    world.settings |= {"EMBED_DAGSTER_HOME": str(folder), "DAGSTER_POSTGRES_URL": url}
    # `doctor` looks for the command `dagster`.
    world.settings["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return folder


def said(world):
    """What `doctor` says of the cluster, or an earlier check that met the same error."""
    found = {f["check"]: f for f in json.loads(world.run("doctor", "--json").stdout)}
    one = found["cluster"]
    one = found[one["message"].removeprefix("see ")] if one["ok"] is None else one
    return one["ok"], one["message"]


def test_what_is_printed_can_be_used_and_doctor_says_what_is_left_to_do(world, own, postgres):
    before = sorted(f.name for f in own.iterdir())
    ok, message = said(world)
    assert not ok
    assert "concurrency set gpu N` and `DAGSTER_HOME=" in message
    with open_folder(own) as instance:
        for pool in ("gpu", "milvus"):
            set_pool_limit(instance, pool, 1)
    ok, message = said(world)
    assert not ok
    assert "Milvus Lite" in message
    index = Project.of(world.made_settings()).index()
    with open_folder(own) as instance:
        spec_tags(instance, index)
    world.settings["EMBED_MILVUS_URI"] = "http://127.0.0.1:1"
    ok, message = said(world)
    assert not ok
    assert "the tables are in EMBED_HOME" in message
    world.settings["EMBED_TABLES"] = postgres
    ok, message = said(world)
    assert not ok
    assert "EMBED_MILVUS_URI (with EMBED_MILVUS_DATABASE) is 'http://127.0.0.1:1' here" in message
    world.settings |= {"EMBED_WINDOWS": "5"}
    assert "EMBED_WINDOWS is 5 here and 3 there; EMBED_MILVUS_URI" in said(world)[1]
    index = Project.of(world.made_settings()).index()
    with open_folder(own) as instance:
        spec_tags(instance, index)
    ok, message = said(world)
    assert ok, message
    assert "their launcher watches them" in message
    assert sorted(f.name for f in own.iterdir() if f.name != "storage") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instance_class": None}, "stores the events of folders one by one"),
        ({"concurrency": {"pools": {"default_limit": 1}}}, "`default_limit` of pools fails"),
        ({"run_monitoring": {"enabled": False}}, "free_slots_after_run_end_seconds"),
        ({"storage": {"postgres": {"url": "x"}}}, "its dagster.yaml cannot be used"),
        ({"instance_class": {"module": "not_there", "class": "X"}}, "cannot be used"),
        ({"run_launcher": {"module": "not_there", "class": "X"}}, "Install what it needs"),
    ],
)
def test_doctor_names_what_is_wrong_in_a_persons_own_file(world, own, change, message):
    file = own / "dagster.yaml"
    made = {**yaml.safe_load(file.read_text()), **change}
    file.write_text(yaml.safe_dump({k: v for k, v in made.items() if v is not None}))
    ok, found = said(world)
    assert not ok
    assert message in found


def test_a_daemon_that_runs_without_up_as_in_a_helm_chart_is_seen(world, own):
    kind = QueuedRunCoordinatorDaemon.daemon_type()
    for beat, ok in ((time.time() - 3600, None), (time.time(), True)):
        with open_folder(own) as instance:
            instance.add_daemon_heartbeat(DaemonHeartbeat(beat, kind, "daemon", []))
        found = {f["check"]: f for f in json.loads(world.run("doctor", "--json").stdout)}
        assert found["dagster"]["ok"] is ok, found["dagster"]
    assert "a daemon runs without `up`" in world.run("status").stdout


def test_a_database_that_is_away_is_said_to_be_so(world, own, monkeypatch):
    away = "postgresql+psycopg2://nobody@127.0.0.1:1/dagster"
    world.settings["DAGSTER_POSTGRES_URL"] = away
    done = world.run("sync")
    assert done.returncode == 1, done.stderr
    assert "is the server running, and reachable from this machine?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_a_file_is_refused(world):
    world.album("Album", 1)
    world.settings["EMBED_DAGSTER_HOME"] = str(world.root)
    done = world.run("sync")
    assert done.returncode == 2
    assert "there is no dagster.yaml" in done.stderr


def test_any_address_is_one_value_of_the_file():
    for address in ("http://head:8265", "http://head: {8265} #RUNS", 'a"\n: b'):
        made = yaml.safe_load(cluster_config(address, 2, gpus=0, cpus=8))
        assert made["run_launcher"]["config"]["ray"]["address"] == address


def test_a_run_gets_gpus_or_processors():
    with_gpu = yaml.safe_load(cluster_config("http://head:8265", 2, gpus=1, cpus=8))
    without = yaml.safe_load(cluster_config("http://head:8265", 2, gpus=0, cpus=8))
    assert with_gpu["run_launcher"]["config"]["ray"] == {
        "address": "http://head:8265",
        "num_gpus": 1,
    }
    assert without["run_launcher"]["config"]["ray"] == {
        "address": "http://head:8265",
        "num_cpus": 8,
    }
    assert "default_limit" not in with_gpu["concurrency"]["pools"]


def test_the_steps_name_settings_of_milvus_for_a_number_of_tracks():
    assert "EMBED_MILVUS_INDEX" not in steps(4)
    assert "EMBED_MILVUS_SHARDS" not in steps(4, 1_000_000)
    ten, hundred = steps(4, 10_000_000), steps(4, 100_000_000)
    assert "EMBED_MILVUS_VECTOR_TYPE=float16\n" in ten
    assert "EMBED_MILVUS_MMAP=true\n" in ten
    assert "EMBED_MILVUS_INDEX=DISKANN\n" in hundred
    assert "set milvus 4\n" in hundred
