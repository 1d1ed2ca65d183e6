"""What is wrong, and what do I do: `errors`, `doctor`, `status` and exit codes, case by case."""

import json
import os
import shutil
import time

import dagster as dg
import pytest

from embed_assets.index.connection import connect
from embed_assets_tests.synth import write_track
from embed_assets_tests.test_failures import events


def doctor(world, *arguments):
    """Exit code, and the checks by name."""
    done = world.run("doctor", "--json", *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {f["check"]: f for f in json.loads(done.stdout)}


def problems(world):
    return {r["path"]: r for r in json.loads(world.run("errors", "--json").stdout)}


def test_a_home_that_cannot_be_one_is_said_to_be_so(world):
    world.album("Album", 1)
    world.home.write_text("a file")
    code, found = doctor(world)
    assert code == 1
    assert "EMBED_HOME" in found["home"]["message"]
    assert "is not a folder" in found["home"]["message"]
    done = world.run("sync")
    assert done.returncode == 2
    assert "EMBED_HOME" in done.stderr
    assert "Traceback" not in done.stderr


def test_commands_that_only_look_make_nothing(world):
    world.album("Album", 1)
    for command in ("status", "errors", "doctor", "similar x"):
        done = world.run(*command.split())
        assert "Traceback" not in done.stderr, done.stderr
        assert not world.home.exists(), command


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMBED_SETTLE_SECONDS", "inf"),
        ("EMBED_SETTLE_SECONDS", "nan"),
        ("EMBED_WINDOW_SECONDS", "nan"),
        ("EMBED_DEVICE", "gpu please"),
        ("EMBED_ENCODER", "clap"),
        ("EMBED_SETTLE_SECONDS", "1e300"),
        ("EMBED_HOME", "/tmp/a?b"),
        ("EMBED_HOME", "/tmp/a%41b"),
        ("EMBED_HOME", os.fsdecode(b"/tmp/\xff")),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_every_command(world, name, value):
    world.album("Album", 1)
    world.settings[name] = value
    for command in ("sync", "status", "errors"):
        done = world.run(command)
        assert done.returncode == 2, (command, done.stdout, done.stderr)
        assert name in done.stderr
        assert "Traceback" not in done.stderr
    done = world.run("doctor")
    assert done.returncode in (1, 2)
    assert name in done.stdout + done.stderr


def test_a_mistyped_setting_is_named_with_what_was_meant(world):
    world.album("Album", 1)
    world.settings["EMBED_LIBRARY"] = ""
    world.settings["EMBED_LIBARY"] = str(world.library)
    world.settings["EMBED_OF_ANOTHER_PROGRAM"] = "1"
    (world.root / ".env").write_text("EMBED_WINDOW=6\n")
    found = doctor(world)[1]
    for command in ("sync", "status"):
        done = world.run(command)
        assert done.returncode == 2
        for wrong, meant in (
            ("EMBED_LIBARY", "EMBED_LIBRARY"),
            ("EMBED_WINDOW", "EMBED_WINDOWS or EMBED_WINDOW_SECONDS"),
        ):
            sentence = f"{wrong} is not a setting and has no effect: is it {meant}?"
            assert sentence in done.stderr
            assert sentence in found["settings"]["message"]
        assert "ANOTHER" not in done.stderr
    assert found["removals"]["message"] == "see library"


def test_neither_a_login_nor_a_traceback_comes_of_wrong_settings(world):
    world.album("Album", 1)
    world.settings["EMBED_MILVUS_URI"] = "http://nina:p@ss/secret@host:19530"
    done = world.run("status")
    assert done.returncode == 2
    assert "EMBED_MILVUS_URI" in done.stderr
    assert "secret" not in done.stderr
    assert "ss/" not in done.stderr
    del world.settings["EMBED_MILVUS_URI"]
    (world.root / ".env").write_bytes(b"\xff\xfe\0EMBED")
    done = world.run("status")
    assert done.returncode == 2
    assert ".env" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_index_that_cannot_be_read_is_not_in_step(world):
    world.album("Album", 1)
    world.sync()
    for file in (world.home / "milvus.db").rglob("*"):
        if file.is_file() and "embed_assets" not in file.name:
            file.write_bytes(b"")
    done = world.run("sync", "--json")
    assert done.returncode == 1
    assert "milvus.db" in done.stderr
    assert "Traceback" not in done.stderr
    shutil.rmtree(world.home / "milvus.db")
    assert world.sync()["embedded"] == 0
    world.assert_index_is_library()


def test_without_a_library_that_is_what_is_said_and_nothing_of_weights(world):
    world.settings |= {"EMBED_LIBRARY": "", "EMBED_ENCODER": "muq", "EMBED_MODEL": "/nowhere"}
    for command in ("status", "errors", "sync"):
        done = world.run(command)
        assert done.returncode == 2
        assert "EMBED_LIBRARY is not set" in done.stderr
        assert "EMBED_MODEL" not in done.stderr


def test_a_collection_of_another_width_ends_sync_with_2_at_once_and_no_retry(world):
    world.album("Album", 1)
    world.settings["EMBED_FOLDERS_PER_RUN"] = "1"
    world.album("Other", 2)
    spec = world.project().spec()
    world.home.mkdir()
    with connect(world.project().uri) as client:
        client.create_collection(spec.collection, dimension=7)
    done = world.run("sync", "--json")
    assert done.returncode == 2, done.stderr
    assert spec.collection in done.stderr
    assert "Traceback" not in done.stderr
    assert events(world, dg.DagsterEventType.STEP_UP_FOR_RETRY) == []
    with world.instance() as instance:
        assert instance.get_runs_count() <= 2, "as many as go on at once"
    (problem,) = problems(world).values()
    assert spec.collection in problem["message"]
    assert doctor(world)[0] == 1


def test_another_try_of_what_was_rejected_is_had_by_asking_for_it(world):
    world.album("Artist/Album", 1)
    world.album("Other", 2)
    folder = world.library / "Artist/Album"
    (folder / "empty.mp3").touch()
    (world.library / "Other/empty.mp3").touch()
    write_track(folder / "blip.wav", seconds=0.3)
    first = world.sync()["runs"]
    before = problems(world)
    assert {r["run_id"] for r in before.values()} == set(first)
    assert world.sync()["runs"] == []

    done = world.run("retry", "Artist/Album/empty.mp3", "--json")
    assert json.loads(done.stdout) == {"folders": ["Artist/Album"], "tracks": 1}
    again = world.sync()
    assert len(again["runs"]) == 1
    after = problems(world)
    assert after.keys() == before.keys()
    tried = {p for p in after if after[p]["run_id"] == again["runs"][0]}
    assert tried == {"Artist/Album/empty.mp3"}

    world.run("retry", str(world.library / "Artist"))
    again = world.sync()
    tried = {p for p, r in problems(world).items() if r["run_id"] in again["runs"]}
    assert tried == {"Artist/Album/empty.mp3", "Artist/Album/blip.wav"}
    assert again["embedded"] == 1, "what was good is made again as well"
    nothing = world.run("retry", "No such")
    assert nothing.returncode == 1
    assert "embed-assets errors" in nothing.stderr
    world.assert_index_is_library()


def test_damaged_vectors_are_found_by_doctor_and_made_again_by_asking(world):
    world.album("Album", 1, 2)
    world.sync()
    assert doctor(world, "--deep")[0] == 0
    store, recipe = world.project().store, world.project().spec().recipe.digest
    audio_hash = next(store.entries(recipe)).audio_hash
    path = store.path(recipe, audio_hash)
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.write_bytes(raw)
    code, found = doctor(world)
    assert code == 1
    assert "1 of 2" in found["vectors"]["message"]
    assert "retry 'Album'" in found["vectors"]["message"]
    assert world.run("retry", "Album").returncode == 0
    assert world.sync()["embedded"] == 2
    assert doctor(world, "--deep")[0] == 0
    world.assert_index_is_library()


@pytest.mark.stress
def test_a_folder_whose_run_was_killed_long_ago_is_still_listed(world):
    from embed_assets.defs import state

    world.put("Killed/x.ogg", 1)
    with world.instance() as instance:
        state.add_keys(instance, ["Killed"])
        old = _fail(instance, "Killed", "its worker was killed")
        state.add_keys(instance, ["Fine"])
        for _ in range(210):
            _fail(instance, "Fine", "another")
    found = problems(world)
    assert found["Killed"]["run_id"] == old.run_id
    assert "killed" in found["Killed"]["message"]


def test_a_folder_that_a_killed_run_only_passed_is_not_listed(world):
    (path,) = world.album("Album", 1)
    world.sync()
    # What was indexed in the second before a failure counts as indexed after it.
    time.sleep(2)
    with world.instance() as instance:
        _fail(instance, "Album", "its worker was killed")
    assert problems(world) == {}
    os.utime(world.full(path), (1e9, 1e9))
    assert "killed" in problems(world)["Album"]["message"]
    world.sync()
    assert problems(world) == {}


def _fail(instance, key, why):
    """A run for a folder that failed, and that Dagster will not try again."""
    from dagster._core.storage.dagster_run import DagsterRun
    from dagster._core.utils import make_new_run_id

    tags = {"dagster/partition": key}
    run = instance.add_run(DagsterRun("bring_in_step", run_id=make_new_run_id(), tags=tags))
    instance.report_run_failed(run, why)
    instance.add_run_tags(run.run_id, {"dagster/will_retry": "false"})
    return run


def test_half_a_small_library_that_is_gone_is_said_by_sync_doctor_and_status(world):
    for i in range(6):
        world.put(f"Album {i}/x.ogg", i)
    world.sync()
    away = world.root / "away"
    away.mkdir()
    for i in range(4):
        os.rename(world.library / f"Album {i}", away / f"Album {i}")
    refused = world.run("sync")
    assert refused.returncode == 2
    assert "4 of 6" in refused.stderr
    assert "--confirm-removals" in refused.stderr
    code, found = doctor(world)
    assert code == 1
    assert "4 of 6" in found["removals"]["message"]
    shown = world.run("status")
    assert shown.returncode == 2
    assert "PROBLEM" in shown.stdout
    assert json.loads(world.run("status", "--json").stdout)["problem"]
    assert len(world.rows()) == 6
    assert world.sync("--confirm-removals")["removed"] == 4
    for i in range(4):
        os.rename(away / f"Album {i}", world.library / f"Album {i}")
    back = world.sync()
    assert (back["embedded"], back["reused"]) == (0, 4)
    world.assert_index_is_library()


@pytest.mark.stress
def test_a_library_of_which_all_was_deleted_is_emptied_on_a_persons_word_only(world):
    world.album("Album", 1, 2)
    world.sync()
    world.remove("Album")
    refused = world.run("sync")
    assert refused.returncode == 2
    assert "--confirm-removals" in refused.stderr
    assert len(world.rows()) == 2
    assert world.sync("--confirm-removals")["removed"] == 2
    assert world.rows() == {}
    world.album("Album", 1, 2)
    back = world.sync()
    assert (back["embedded"], back["reused"]) == (0, 2)


def test_what_files_are_called_cannot_steer_the_terminal(world):
    began = time.time()
    name = b"Al\x1b[2Jbum/\x1b]0;owned\x07\xc2\x9b31m\xe2\x80\xaegpj.mp3"
    world.put_bad(name, b"")
    world.put(b"Al\x1b[2Jbum/\x1b[31mred.ogg", 1)
    world.sync()
    for command in (["errors"], ["errors", "--json"], ["similar", "red"], ["status"], ["doctor"]):
        done = world.run(*command)
        for c in ("\x1b", "\x07", "\x9b", "\u202e"):
            assert c not in done.stdout + done.stderr, (command, c)
    world.put("a\nembed-assets: all is lost/x.ogg", 2)
    world.sync()
    done = world.run("similar", "red", "--m3u", str(world.root / "x.m3u"))
    assert "left out of" in done.stderr
    assert not any(line.startswith("embed-assets:") for line in done.stderr.splitlines())
    listed = json.loads(world.run("errors", "--json").stdout)
    assert listed[0]["path"] == name.decode()
    assert began <= listed[0]["at"] <= time.time()
