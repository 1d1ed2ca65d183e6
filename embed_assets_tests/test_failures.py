"""What goes wrong, by class: what is retried, what is not, and what people are told."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import dagster as dg

from embed_assets.definitions import library_job
from embed_assets.defs import state
from embed_assets.errors import TransientError
from embed_assets.identity import folder_id
from embed_assets.index.collection import load
from embed_assets.index.connection import connect
from embed_assets.operations.ready import ready
from embed_assets.settings import Settings
from embed_assets.storage.tables import Tables
from embed_assets_tests.assertions import slots_held
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.synth import write_hour


def events(world, kind):
    """(step, run id) of each event of a kind in all runs."""
    with world.instance() as instance:
        return [
            (e.step_key, run.run_id)
            for run in instance.get_runs()
            for e in instance.all_logs(run.run_id, of_type=kind)
        ]


def test_without_weights_nothing_is_begun_and_the_way_out_is_named(world):
    world.album("Album", 1)
    world.settings |= {"EMBED_ENCODER": "muq", "EMBED_MODEL": str(world.root / "no-such-folder")}
    for command in ("sync", "up", "status", "errors"):
        done = world.run(command)
        assert done.returncode == 2, done.stderr
        assert "EMBED_MODEL" in done.stderr
        assert "Traceback" not in done.stderr
    with world.instance() as instance:
        assert instance.get_runs_count() == 0


def test_wrong_settings_end_with_exit_code_2_and_name_the_variable(world):
    world.album("Album", 1)
    for name, value in {
        "EMBED_ENCODER": "clap",
        "EMBED_POOLING": "max",
        "EMBED_WINDOWS": "-1",
        "EMBED_LIBRARY": str(world.root / "nowhere"),
        "EMBED_MILVUS_URI": "milvus.sqlite",
    }.items():
        world.settings = {name: value}
        done = world.run("sync", "--json")
        assert done.returncode == 2, (name, done.stdout, done.stderr)
        assert name in done.stderr
        assert "Traceback" not in done.stderr


def test_weights_that_the_encoder_makes_no_use_of_are_named(tmp_path):
    lines = []
    for model in ("", "/nope"):
        settings = Settings(_env_file=None, library=tmp_path, encoder="acoustic", model=model)
        ready(settings, lines.append, may_be_empty=True)
    assert lines == ["EMBED_MODEL=/nope has no effect: EMBED_ENCODER=acoustic has no weights"]


def test_while_milvus_is_away_the_step_is_retried_and_finished_work_is_kept(world):
    world.album("Album", 1, 2)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        world.settings["EMBED_MILVUS_URI"] = f"http://127.0.0.1:{s.getsockname()[1]}"
        done = world.run("sync")
    assert done.returncode == 1
    assert "2 embedded" in done.stdout
    assert "1 folder failed" in done.stdout
    (failed,) = (line for line in done.stderr.splitlines() if "FAILED" in line)
    assert "EMBED_MILVUS_URI" in failed
    retries = events(world, dg.DagsterEventType.STEP_UP_FOR_RETRY)
    assert [step for step, _ in retries] == ["milvus_index"] * 3
    with world.instance() as instance:
        (run,) = instance.get_runs()
        told = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)
    assert all("retry in" in e.dagster_event.message for e in told), "and when it is tried again"
    (problem,) = json.loads(world.run("errors", "--json").stdout)
    assert problem["folder"] == "Album"
    assert "EMBED_MILVUS_URI" in problem["message"]
    assert problem["run_id"] == run.run_id

    del world.settings["EMBED_MILVUS_URI"]
    back = world.sync()
    assert (back["embedded"], back["reused"], len(back["runs"])) == (0, 2, 1)
    world.assert_index_is_library()
    assert json.loads(world.run("errors", "--json").stdout) == []


def test_a_real_mass_removal_is_confirmed_with_one_command_and_undone_for_free(world):
    for i in range(24):
        world.put(f"Album {i:02}/x.ogg", i)
    world.sync()
    away = world.root / "away"
    away.mkdir()
    for i in range(22):
        os.rename(world.library / f"Album {i:02}", away / f"Album {i:02}")
    refused = world.run("sync", "--json")
    assert refused.returncode == 2
    assert "22 of 24" in refused.stderr
    assert "--confirm-removals" in refused.stderr
    assert len(world.rows()) == 24
    done = world.sync("--confirm-removals")
    assert done["removed"] == 22
    assert sorted(world.rows()) == ["Album 22/x.ogg", "Album 23/x.ogg"]
    for i in range(22):
        os.rename(away / f"Album {i:02}", world.library / f"Album {i:02}")
    undone = world.sync()
    assert (undone["embedded"], undone["reused"]) == (0, 22)
    world.assert_index_is_library()


def test_rows_that_somebody_deleted_or_changed_are_noticed_and_come_back_for_free(world):
    for i in range(3):
        world.album(f"Album {i}", i, 10 + i)
    world.sync()
    spoil(world)
    doctor = world.run("doctor")
    assert "2 folders differ from the tables" in doctor.stdout
    result = world.sync()
    assert result["runs"]
    assert result["embedded"] == 0
    world.assert_index_is_library()

    spoil(world)
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "embed_assets.definitions"]
    environment = world.environment | {"DAGSTER_HOME": str(world.home / "dagster")}
    subprocess.run([*command, "-j", "reconcile"], env=environment, check=True, capture_output=True)
    with world.instance() as instance:
        checks = {
            name: instance.event_log_storage.get_asset_check_execution_history(
                dg.AssetCheckKey(dg.AssetKey("milvus_index"), name), limit=1
            )[0].evaluation
            for name in ("index_in_step", "wanted_collection_is_served")
        }
    assert checks["index_in_step"].passed is False
    assert checks["index_in_step"].metadata["differing"].value == 2
    assert checks["wanted_collection_is_served"].passed is False, "its gates saw it as well"
    assert "is served, but folders_" in checks["wanted_collection_is_served"].description
    assert not world.in_step(), "and are written again"
    assert world.sync()["runs"]
    world.assert_index_is_library()


def spoil(world):
    """Delete a row by hand, and change another."""
    spec = world.project().spec()
    with connect(world.project().uri) as client:
        load(client, spec.collection)
        rows = client.query(spec.collection, 'path like "Album%"', ["*"], limit=10)
        by_path = {r["path"]: dict(r) for r in rows}
        client.delete(spec.collection, ids=[by_path["Album 0/01.ogg"]["track_id"]])
        forged = by_path["Album 1/01.ogg"] | {"audio_hash": "00" * 16, "row_digest": "00" * 16}
        client.upsert(spec.collection, [forged])


def test_doctor_says_what_is_wrong_and_what_to_do(world):
    done = world.run("doctor", "--json")
    found = {f["check"]: f for f in json.loads(done.stdout)}
    assert done.returncode == 1
    assert found["library"]["ok"] is False
    assert "mounted?" in found["library"]["message"]
    world.album("Album", 1)
    world.sync()
    done = world.run("doctor", "--json")
    found = {f["check"]: f for f in json.loads(done.stdout)}
    assert done.returncode == 0, found
    assert "matching the tables" in found["index"]["message"]
    assert found["dagster"]["ok"] is None


def test_lost_tables_index_or_vectors_are_noticed_by_the_next_sync_and_come_back(world):
    for i in range(2):
        world.album(f"Album {i}", i, 10 + i)
    world.sync()
    for path in world.home.glob("tables.sqlite*"):
        path.unlink()
    back = world.sync()
    assert (back["embedded"], back["reused"]) == (0, 4), "the store still had them"
    world.assert_index_is_library()

    shutil.rmtree(world.home / "milvus.db")
    back = world.sync()
    assert (back["embedded"], back["reused"]) == (0, 4)
    world.assert_index_is_library()

    shutil.rmtree(world.home / "dagster")
    assert world.sync()["runs"] == [], "the tables say what is indexed"
    with world.instance() as instance:
        assert state.known_keys(instance) == ["Album 0", "Album 1"]
    shutil.rmtree(world.home / "dagster")
    world.remove("Album 1")
    assert len(world.sync()["runs"]) == 1
    world.assert_index_is_library()
    world.album("Album 1", 1, 11)
    world.sync()

    world.settings["EMBED_MILVUS_URI"] = str(world.root / "elsewhere.db")
    assert world.sync()["embedded"] == 0
    world.assert_index_is_library()

    shutil.rmtree(world.home / "vectors")
    shutil.rmtree(world.root / "elsewhere.db")
    assert world.sync()["embedded"] == 4
    world.assert_index_is_library()
    (world.home / "tables.sqlite").write_bytes(b"rubbish" * 1000)
    done = world.run("sync", "--json")
    assert done.returncode == 2
    assert "tables.sqlite is damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_odd_questions_get_an_answer_and_no_traceback(world):
    world.put(b"caf\xe9/\xff.ogg", 1)
    world.album("Album", 2)
    world.sync()
    for query in ("caf\udce9/\udcff.ogg", "caf\\xe9/\\xff.ogg"):
        assert json.loads(world.run("similar", query, "--json").stdout), query
    for query in ("\udcff\udcfe", "x" * 50_000, "", "'\"%_", "no such thing"):
        done = world.run("similar", query)
        assert done.returncode == 1, (query, done.stdout)
        assert "Traceback" not in done.stderr
    assert world.run("up", "--port", "99999").returncode == 2
    world.settings["EMBED_HOME"] = "~nosuchuser/x"
    assert world.run("status").returncode == 2


def test_a_sync_that_is_stopped_cancels_its_run_and_tries_no_step_again(world):
    world.settings["EMBED_WINDOWS"] = "0"
    # Work for longer than it takes to see that it began.
    (world.library / "Long").mkdir(parents=True)
    for i in range(8):
        write_hour(world.library / f"Long/{i}.wav", seed=i)
    # Tests that a script runs in the background hand SIGINT on as ignored; a terminal does not. No
    # preexec_fn: gRPC has threads in this process, and minds a fork.
    heeds = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
        " os.execv(sys.executable, sys.argv[1:])"
    )
    command = [sys.executable, "-c", heeds, sys.executable, "-m", "embed_assets.cli", "sync"]
    with open(world.root / "sync.log", "wb") as log:
        sync = subprocess.Popen(
            command,
            env=world.environment,
            cwd=world.root,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def embeds():
        assert sync.poll() is None, (world.root / "sync.log").read_text()
        return "audio_embeddings" in dict(events(world, started))

    started = dg.DagsterEventType.STEP_START
    world.until(embeds, "it embeds")
    # As a terminal does, which asks every process.
    os.killpg(sync.pid, signal.SIGINT)
    assert sync.wait(PATIENCE) == 130
    world.until(lambda: not world.processes(), "no process is left")
    with world.instance() as instance:
        assert [r.status for r in instance.get_runs()] == [dg.DagsterRunStatus.CANCELED]
    assert events(world, dg.DagsterEventType.STEP_UP_FOR_RETRY) == []
    assert not slots_held(world)
    told = (world.root / "sync.log").read_text()
    assert "stopping; finished work is kept" in told
    assert "Traceback" not in told
    assert json.loads(world.run("errors", "--json").stdout) == []


IMPATIENT = """
from embed_assets.operations import sync, sync_progress
from embed_assets.settings import Settings

sync_progress.SAY_SECONDS = sync.EVALUATE_SECONDS = sync.WAIT_SECONDS = 0.02
# Each time that it could: on a busy machine its own bound on what that costs leaves most out.
sync.SyncProgress.__call__ = sync.SyncProgress._print
sync.sync(Settings.load(), progress=print)
"""


def test_sync_says_how_far_it_is(world):
    world.album("Album", *range(6))
    command = [sys.executable, "-c", IMPATIENT]
    done = subprocess.run(
        command, env=world.environment, cwd=world.root, capture_output=True, text=True, check=True
    )
    assert "\n6 of 6 tracks embedded, " in done.stdout, done.stdout


def test_a_scan_that_was_killed_is_done_again_though_the_folder_is_as_it_was(world):
    world.album("Album", 1, 2)
    world.sync()
    project = world.project()
    tables, folder = project.tables, folder_id(project.library.name, b"Album")
    # What a run leaves that is killed while it reads a change that is then taken back.
    tables.begin_scan(folder, b"Album", "killed")
    assert json.loads(world.run("status", "--json").stdout)["folders_to_do"] == 1
    assert world.sync()["failed_folders"] == 0
    assert tables.digest(folder)
    assert json.loads(world.run("status", "--json").stdout)["folders_to_do"] == 0


def test_a_disk_that_is_full_when_the_index_is_recorded_has_the_step_tried_again(
    world, monkeypatch
):
    world.album("Album", 1)
    for name, value in world.environment.items():
        if name.startswith("EMBED_"):
            monkeypatch.setenv(name, value)
    record, full = Tables.put_indexed, []

    def full_once(tables, place, written, **how):
        if not full:
            full.append(place)
            raise TransientError("the disk is full")
        record(tables, place, written, **how)

    monkeypatch.setattr(Tables, "put_indexed", full_once)
    with world.instance() as instance:
        state.add_keys(instance, ["Album"])
        done = library_job().execute_in_process(instance=instance, partition_key="Album")
    again = [e.step_key for e in done.all_events if e.event_type_value == "STEP_UP_FOR_RETRY"]
    assert again == ["milvus_index"]
    assert world.in_step()
    world.assert_index_is_library()
