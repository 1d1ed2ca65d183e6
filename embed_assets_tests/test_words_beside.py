"""With EMBED_WORDS another encoder answers `find`, beside the one that answers `similar`.

First what is between the tables and the index, with made-up vectors; then runs of Dagster.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import embed_assets as ea
from embed_assets import encoders
from embed_assets.definitions import build_defs
from embed_assets.defs import audio_embeddings
from embed_assets.defs.execution import IN_PROCESS
from embed_assets.defs.host_check import run_settings, spec_tags
from embed_assets.defs.state import add_keys, range_tags
from embed_assets.embedding.canary.notes import Notes
from embed_assets.encoders.config import EncoderConfig, VectorConfig
from embed_assets.errors import ConfigurationError
from embed_assets.identity import WORDS, IndexSpec, track_id
from embed_assets.index import promotion, promotion_by_hand
from embed_assets.index.collection import load, rows_by_folder, served
from embed_assets.index.connection import connect
from embed_assets.index.folders import written_versions
from embed_assets.index.reconcile import compare, reconcile
from embed_assets.operations.doctor import doctor
from embed_assets.operations.errors import errors
from embed_assets.operations.gc import gc
from embed_assets.operations.retry import retry
from embed_assets.operations.sync import SyncResult
from embed_assets.operations.sync_counts import other_runs
from embed_assets.storage import collection_registry, queries
from embed_assets.storage.records import Embedding
from embed_assets_tests import small_mulan as small_mulan_of
from embed_assets_tests import small_muq
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.made_library import MEAN, OTHER, Shelf, shelf_of
from embed_assets_tests.test_http import running as serving

NAME = "muq-mulan"
KNOWS_WORDS = replace(OTHER.recipe, encoder=NAME, weights="words")
NEWER = replace(KNOWS_WORDS, weights="newer words")
BOTH = replace(MEAN, words=KNOWS_WORDS)
FIRST = b"Artist/Album 00"


def test_weights_that_are_missing_for_words_only_are_said_to_be_so(tmp_path):
    sound = EncoderConfig("acoustic", "", "cpu", tmp_path)
    words = EncoderConfig(NAME, str(tmp_path / "nowhere"), "cpu", tmp_path)
    without = VectorConfig(sound, 10.0, 3, "mean", words=words)
    assert without.spec() == replace(without, words=None).spec(), "sound does not wait for it"
    assert re.search(r"EMBED_WORDS_MODEL is .*nowhere", without.words_missing())
    assert "EMBED_MODEL" not in without.words_missing()
    words = replace(words, model="OpenMuQ/MuQ-MuLan-large")
    missing = replace(without, words=words).words_missing()
    assert "or set EMBED_WORDS=false" in missing
    assert "EMBED_ENCODER" not in missing


def spec_for(words: Any) -> IndexSpec:
    spec = replace(MEAN, words=words).words_spec
    assert spec is not None
    return spec


def assert_in_step(client: Any, shelf: Shelf, spec: IndexSpec) -> None:
    for one in spec.every_collection:
        assert compare(client, one, shelf.tables, shelf.address).none
        assert collection_registry.unfinished(shelf.tables, shelf.address, one) == 0


def titles(client: Any, spec: IndexSpec) -> set[str]:
    load(client, spec.collection)
    return {row["title"] for row in client.query(spec.collection, 'title != ""', ["title"])}


def test_without_it_nothing_is_named_otherwise_than_before() -> None:
    assert "words" not in json.loads(MEAN.dump()), "an earlier version can read it"
    assert IndexSpec.load(BOTH.dump()) == BOTH
    assert (BOTH.digest, BOTH.collection) == (MEAN.digest, MEAN.collection)
    alone = IndexSpec(KNOWS_WORDS)
    assert BOTH.every_collection == (MEAN, alone), "as if the other encoder were the only one"
    assert replace(BOTH, parts=True).every_collection == (MEAN, MEAN.segment_spec, alone)


def test_each_collection_has_an_alias_and_gates_of_its_own(uri: str, tmp_path: Path) -> None:
    words, newer = spec_for(KNOWS_WORDS), spec_for(NEWER)
    shelf = shelf_of(tmp_path, uri, 3, BOTH, words)
    with connect(uri) as client:
        status = shelf.index(client, BOTH)
        assert (status.served, status.words.served) == (MEAN.collection, words.collection)
        assert (served(client), served(client, WORDS)) == (MEAN.collection, words.collection)
        assert_in_step(client, shelf, BOTH)
        checked = promotion.promote_if_ready_and_validate(client, shelf.context(BOTH))
        assert [one.report.passed for one in checked.each] == [True, True]

        # Another model of words is served when it is complete, and holds back nothing else.
        changed = replace(MEAN, words=NEWER)
        shelf.embed([newer], [t for tracks in shelf.albums.values() for t in tracks])
        some = shelf.index(client, changed, [FIRST])
        assert (some.served, some.words.served) == (MEAN.collection, words.collection)
        assert some.words.why == "it is being filled, 2 folders are missing"
        shelf.retag(FIRST, "Meanwhile")
        shelf.index(client, changed, [FIRST])
        assert all("Meanwhile" in titles(client, one) for one in (MEAN, words, newer))
        moved = shelf.index(client, changed)
        assert (moved.words.served, moved.words.report.passed) == (newer.collection, True)
        assert not moved.moved
        back = promotion_by_hand.rollback(client, shelf.context(newer), WORDS)
        assert (back.served, served(client)) == (words.collection, MEAN.collection)
        held = shelf.index(client, changed)
        assert "chosen by hand" in held.words.why
        assert shelf.index(client, BOTH).words.served == words.collection

        # A row that is lost is found missing, and written again.
        client.delete(words.collection, ids=[shelf.albums[FIRST][0].track_id])
        client.persist(words.collection)
        assert not reconcile(client, shelf.context(BOTH))[words.collection].none
        assert FIRST not in written_versions(shelf.tables, BOTH, uri)
        shelf.index(client, BOTH, [FIRST])
        assert_in_step(client, shelf, BOTH)

        with pytest.raises(ConfigurationError, match="EMBED_WORDS=false"):
            promotion_by_hand.drop(client, words.collection, shelf.tables, uri, with_words=True)
        assert shelf.index(client, MEAN, []).words is None
        assert served(client, WORDS) is None, "nothing points to what is no longer kept up to date"
        assert promotion.request_promotion(shelf.context(BOTH)), "a run serves it again"
        promotion_by_hand.drop(client, words.collection, shelf.tables, uri)
        assert words.collection not in client.list_collections()


def test_the_collection_of_an_encoder_with_words_goes_on_when_another_one_joins_it(
    lite: str, tmp_path: Path
) -> None:
    alone = spec_for(KNOWS_WORDS)
    shelf = shelf_of(tmp_path, lite, 2, MEAN, alone)
    with connect(lite) as client:
        shelf.index(client, alone)
        shelf.index(client, BOTH, [FIRST])
        assert (served(client), served(client, WORDS)) == (alone.collection, alone.collection)
        joined = shelf.index(client, BOTH)
        assert (joined.served, joined.words.served) == (MEAN.collection, alone.collection)
        returned = shelf.index(client, alone, [])
        assert (returned.served, returned.words) == (alone.collection, None)
        assert served(client, WORDS) is None


def test_a_track_that_only_the_encoder_of_words_rejects_is_listed_and_holds_nothing_back(
    lite: str, tmp_path: Path
) -> None:
    words = spec_for(KNOWS_WORDS)
    shelf = shelf_of(tmp_path, lite, 1, MEAN, words)
    lost, *_ = shelf.albums[FIRST]
    rejected = Embedding(words.recipe.digest, lost.audio, reason="corrupt", message="no sound")
    shelf.tables.put_embeddings([rejected])
    with connect(lite) as client:
        shelf.index(client, BOTH)
        assert_in_step(client, shelf, BOTH)
        ids = [{t for _, t, _ in rows_by_folder(client, one.collection)} for one in (MEAN, words)]
    assert ids[0] - ids[1] == {lost.track_id}
    (listed,) = queries.rejects(shelf.tables, BOTH)
    assert (listed.path, listed.reason) == (lost.path, "corrupt")
    assert listed.message == "only `find` lacks it: no sound"
    assert not list(queries.rejects(shelf.tables, MEAN))


@pytest.fixture
def beside(world: LiveProject, small_mulan: Path) -> LiveProject:
    """A world whose music a small MuQ-MuLan can embed for `find`; not switched on yet."""
    cache = small_mulan.parent / "cache"
    encoders.load(NAME, str(small_mulan), "cpu", cache)
    shutil.copytree(cache, world.home / "models", ignore=shutil.ignore_patterns(".*", "*.tmp"))
    world.settings |= {"EMBED_WORDS_MODEL": str(small_mulan), "EMBED_DEVICE": "cpu"}
    return world


def test_an_encoder_that_knows_words_itself_needs_no_other(small_mulan: Path) -> None:
    mulan = EncoderConfig(NAME, str(small_mulan), "cpu", small_mulan.parent / "cache")
    itself = VectorConfig(mulan, 10.0, 3, "mean", words=mulan)
    assert (itself.spec().words, itself.encoders()) == (None, (mulan,))
    wider = replace(itself, pooling="enriched")
    spec = wider.spec()
    assert [one.pooling for one in spec.every_collection] == ["enriched", "mean"]
    assert wider.passes(spec) == ((spec.recipe, mulan),), "the same vectors serve for both"


def run(world: LiveProject, *folders: str, tags: dict[str, str] | None = None) -> Any:
    """Execute a run over folders in this process; it must succeed."""
    job = build_defs(world.made_settings()).resolve_job_def("bring_in_step")
    with world.instance() as instance:
        add_keys(instance, folders)
        every = range_tags(folders) | spec_tags(instance, world.project().index())
        tags = every | (tags or {})
        return job.execute_in_process(IN_PROCESS, instance=instance, tags=tags)


def both_in_step(world: LiveProject) -> bool:
    project = world.project()
    spec = project.spec()
    with connect(project.uri) as client:
        diffs = reconcile(client, project.index())
    assert len(diffs) == len(spec.every_collection)
    return all(diff.none and not diff.waiting for diff in diffs.values())


def made_at(world: LiveProject) -> dict[tuple[str, str], float]:
    with world.project().tables.connect() as db:
        rows = db.execute("SELECT recipe, audio_hash, at FROM embeddings")
        return {(recipe, audio): at for recipe, audio, at in rows}


def test_switched_on_later_it_embeds_for_words_only_and_each_answers_its_own(
    beside: LiveProject,
) -> None:
    world = beside
    world.album("Album", 1, 2)
    world.album("Other", 3)
    began, meanwhile = time.time(), SyncResult()
    made = run(world, "Album", "Other")
    assert made.success
    with world.instance() as instance:
        meanwhile.count(instance, began)
        assert (meanwhile.embedded, meanwhile.other_runs) == (3, [made.run_id])
        assert not list(other_runs(instance, time.time()))
    first = made_at(world)
    lib = ea.Library(world.made_settings())
    with pytest.raises(ConfigurationError, match=r"knows no words: set EMBED_WORDS=true"):
        lib.find("rain")
    world.settings["EMBED_WORDS"] = "true"
    lib = ea.Library(world.made_settings())
    assert len(lib.similar("Album/01.ogg")) == 2, "answered meanwhile"
    for asked in (lib, lib.snapshot()):
        with pytest.raises(ConfigurationError, match=r"by words yet.*muq-mulan.*beside acoustic"):
            asked.find("rain")
    made = run(world, "Album", "Other").asset_materializations_for_node("audio_embeddings")
    assert {m.partition: m.metadata["words_embedded"].value for m in made} == {
        "Album": 2,
        "Other": 1,
    }
    assert {k: v for k, v in made_at(world).items() if k in first} == first, "nothing else is"
    assert both_in_step(world)

    found, near = lib.find("calm piano"), lib.similar("Album/01.ogg")
    assert (found.encoder, len(found), near.encoder, len(near)) == (NAME, 3, "acoustic", 2)
    snapshot = lib.snapshot()
    assert [m.path for m in snapshot.find("calm piano")] == [m.path for m in found]
    assert (snapshot.encoder, snapshot.similar("Album/01.ogg").encoder) == ("acoustic",) * 2
    with serving(world) as client:
        answer = client.get("/v1/find", params={"q": "calm piano"}).json()
        assert client.get("/v1/status").json()["words"] is True
    assert [m["path"] for m in answer["matches"]] == [m.path for m in found]
    assert found.spec == world.project().spec().words_spec

    # What changes is changed in both, and a retry embeds with both.
    world.move("Other/01.ogg", "Album/03.ogg")
    (world.library / "Other").rmdir()
    world.put("Album/01.ogg", 5)
    retry(world.made_settings(), "Album/02.ogg")
    before = made_at(world)
    run(world, "Album", "Other", tags={"embed_assets/remove": "true"})
    assert both_in_step(world)
    again = [audio for (_, audio), at in made_at(world).items() if at != before.get((_, audio))]
    assert len(set(again)) == 2, "the new track, and the one of the retry"
    assert len(again) == 4, "by both encoders"
    assert {m.path for m in lib.find("rain")} == {f"Album/0{i}.ogg" for i in (1, 2, 3)}
    assert {m.path for m in lib.similar("Album/03.ogg")} == {"Album/01.ogg", "Album/02.ogg"}


def test_switched_off_it_is_no_longer_asked_and_what_it_made_can_go(beside: LiveProject) -> None:
    world = beside
    world.settings["EMBED_WORDS"] = "true"
    world.album("Album", 1, 2)
    run(world, "Album")
    words = world.project().spec().words_spec
    lib = ea.Library(world.made_settings())
    track = track_id(world.project().library.name, b"Album/01.ogg")
    project = world.project()
    lost = lib.snapshot().track(track).audio
    project.tables.put_embeddings(
        [Embedding(words.recipe.digest, lost, reason="corrupt", message="no sound")]
    )
    run(world, "Album")
    assert both_in_step(world)
    assert [row["path"] for row in errors(world.made_settings())] == ["Album/01.ogg"]
    lib = ea.Library(world.made_settings())  # one that is open may be a second out of date
    assert {m.path for m in lib.find("rain")} == {"Album/02.ogg"}
    assert len(lib.similar("Album/01.ogg")) == 1
    shown = lib.status()
    assert (shown.tracks_embedded, shown.tracks_rejected) == (2, 0)
    assert (shown.words.tracks_embedded, shown.words.tracks_rejected) == (1, 1)
    assert (shown.words.served, shown.words.tracks_pending) == (words.collection, 0)

    assert list(project.store.entries(words.recipe.digest))
    world.settings["EMBED_WORDS"] = "false"
    done = world.run("collections", "--drop", words.collection, "--json")
    assert [c["name"] for c in json.loads(done.stdout)] == [project.spec().collection]
    swept = gc(world.made_settings(), dry_run=False, older_than=0.0)
    assert swept.recipes_in_use == [project.spec().recipe.digest]
    assert not list(project.store.entries(words.recipe.digest))
    assert len(ea.Library(world.made_settings()).similar("Album/01.ogg")) == 1


def test_what_fails_for_words_only_is_retried_and_holds_back_no_search_by_sound(
    beside: LiveProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = beside
    world.settings["EMBED_WORDS"] = "true"
    world.album("Album", 1, 2)
    spec = world.project().spec()
    wrong = world.project().store.root / spec.words.digest
    wrong.parent.mkdir(parents=True)
    wrong.write_text("no folder can be made here")
    monkeypatch.setattr(audio_embeddings, "LAST_TRY", 0)
    assert run(world, "Album").success
    lib = ea.Library(world.made_settings())
    assert len(lib.similar("Album/01.ogg")) == 1
    (listed,) = errors(world.made_settings())
    assert (listed["path"], listed["reason"]) == ("Album", "audio_embeddings failed")
    assert spec.words.digest in listed["message"]
    wrong.unlink()
    run(world, "Album")
    assert both_in_step(world)
    assert not errors(world.made_settings())
    assert len(lib.find("rain")) == 2


def test_without_the_weights_for_words_all_else_goes_on(beside: LiveProject) -> None:
    world = beside
    world.settings["EMBED_WORDS"] = "true"
    world.album("Album", 1, 2)
    world.album("Other", 3)
    run(world, "Album", "Other")
    words = world.project().spec().words_spec
    small = world.settings["EMBED_WORDS_MODEL"]
    world.settings["EMBED_WORDS_MODEL"] = str(world.root / "moved away")

    # The index follows the library, as far as it can, and what `find` used stays where it is.
    world.move("Other/01.ogg", "Album/03.ogg")
    (world.library / "Other").rmdir()
    world.put("Album/04.ogg", 4)
    done = world.run("sync", "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert "moved away" in result["words_missing"]
    assert (result["embedded"], result["failed_folders"]) == (1, 0)
    project = world.project()
    with connect(project.uri) as client:
        assert served(client, WORDS) == words.collection
        load(client, words.collection)
        there = {t for _, t, _ in rows_by_folder(client, words.collection)}
    name = project.library.name
    assert there == {track_id(name, b"Album/0%d.ogg" % i) for i in (1, 2, 3)}

    lib = ea.Library(world.made_settings())
    assert len(lib.similar("Album/01.ogg")) == 3
    assert len(lib.snapshot()) == 4
    assert lib.errors() == []
    shown = lib.status()
    assert (shown.tracks_embedded, shown.folders_to_do) == (4, 0)
    assert "moved away" in shown.words.problem
    assert (shown.words.tracks_embedded, shown.words.served) == (3, words.collection)
    assert "PROBLEM: EMBED_WORDS_MODEL" in world.run("status").stdout
    for asked in (lib, lib.snapshot()):
        with pytest.raises(ConfigurationError, match=r"EMBED_WORDS_MODEL is .*moved away"):
            asked.find("rain")
    found = {f.check: f for f in doctor(world.made_settings())}
    assert (found["encoder"].ok, found["words"].ok, found["index"].ok) == (True, False, True)
    assert "moved away" in found["words"].message
    kept = gc(world.made_settings(), dry_run=False, older_than=0.0)
    assert words.recipe.digest in kept.recipes_in_use
    with serving(world) as client:
        assert client.get("/v1/find", params={"q": "rain"}).status_code == 503
        assert client.get("/v1/status").json()["words"] is False
        assert client.get("/v1/similar", params={"seed": "Album/01.ogg"}).status_code == 200

    world.settings["EMBED_WORDS_MODEL"] = small
    assert "0 embedded and 1 for `find`," in world.run("sync").stdout, "as soon as they are back"
    assert len(ea.Library(world.made_settings()).find("rain")) == 4


def test_weights_for_words_that_are_damaged_hold_back_no_search_by_sound(
    beside: LiveProject,
) -> None:
    world = beside
    world.settings["EMBED_WORDS"] = "true"
    world.album("Album", 1, 2)
    damaged = shutil.copytree(world.settings["EMBED_WORDS_MODEL"], world.root / "damaged")
    (damaged / "model.safetensors").unlink()
    (damaged / "model.safetensors").write_bytes(b"no tensors")
    world.settings["EMBED_WORDS_MODEL"] = str(damaged)
    assert run(world, "Album").success
    assert len(ea.Library(world.made_settings()).similar("Album/01.ogg")) == 1
    (listed,) = errors(world.made_settings())
    assert (listed["path"], listed["reason"]) == ("Album", "audio_embeddings failed")
    assert str(damaged) in listed["message"]


def test_drift_of_vectors_for_words_stops_those_only(beside: LiveProject) -> None:
    world = beside
    world.settings["EMBED_WORDS"] = "true"
    world.album("Album", 1)
    run(world, "Album")
    recipe = world.project().spec().words.digest
    notes = Notes.beside(world.project().store)
    noted = notes.read(recipe)
    for key in noted.stages:
        other = notes.accepted.read(recipe, key)[:, :, ::-1].copy()
        notes.accepted.write(recipe, key, other, replace=True)
    noted.environment = {"python": "another"}
    notes.write(recipe, noted)
    world.put("Album/02.ogg", 2)
    assert run(world, "Album").success
    lib = ea.Library(world.made_settings())
    assert len(lib.similar("Album/01.ogg")) == 1
    assert len(lib.find("rain")) == 1
    (listed,) = errors(world.made_settings())
    assert "new vectors are not written beside the stored ones" in listed["message"]
    shown = lib.status()
    assert (shown.tracks_embedded, shown.words.tracks_embedded) == (2, 1)


LOADS = """
import os
import embed_assets.encoders as encoders
real, log = encoders.load, os.environ["LOADED"]

def load(name, *args):
    with open(log, "a+") as file:
        file.seek(0)
        pids = [int(line.split()[1]) for line in file]
        alive = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
        file.write(f"{name} {os.getpid()} {len(alive)}\\n")
    return real(name, *args)

encoders.load = load
"""
"""Every Python process notes each encoder that it loads, and how many processes have one."""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks /proc which processes live")
def test_beside_muq_each_answers_its_own_and_one_model_at_a_time_is_in_memory(
    beside: LiveProject, small: Path
) -> None:
    world = beside
    cache, log = small.parent / "cache", world.root / "loaded"
    encoders.load("muq", str(small), "cpu", cache)
    ignored = shutil.ignore_patterns(".*", "*.tmp")
    shutil.copytree(cache, world.home / "models", ignore=ignored, dirs_exist_ok=True)
    site = world.root / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(LOADS)
    world.settings |= {"EMBED_ENCODER": "muq", "EMBED_MODEL": str(small), "EMBED_WORDS": "true"}
    world.settings |= {"PYTHONPATH": f"{site}{os.pathsep}{Path(__file__).parents[1]}"}
    world.settings |= {"LOADED": str(log)}
    world.album("Album", 1, 2)
    done = world.run("sync", "--json", program=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["embedded"], result["words_embedded"]) == (2, 2)
    loads = [line.split() for line in log.read_text().splitlines()]
    assert {name for name, _, _ in loads} == {"muq", NAME}
    last_muq = max(i for i, (name, _, _) in enumerate(loads) if name == "muq")
    assert all(name == "muq" for name, _, _ in loads[: last_muq + 1]), "one after the other"
    assert len({pid for _, pid, _ in loads}) == len(loads), "no process has two"
    assert loads[last_muq + 1][2] == "0", "the first ones have ended"

    lib = ea.Library(world.made_settings())
    found, near = lib.find("calm piano"), lib.similar("Album/01.ogg")
    assert (found.encoder, len(found), near.encoder, len(near)) == (NAME, 2, "muq", 1)
    spec = world.project().spec()
    assert (spec.dim, spec.words_spec.dim) == (small_muq.DIM, small_mulan_of.DIM)
    assert both_in_step(world)


KILLED = """
import os, signal, sys
from embed_assets.storage.tables import Tables
put, recipes = Tables.put_embeddings, set()

def put_and_die(self, rows, **how):
    put(self, rows := list(rows), **how)
    recipes.update(row.recipe for row in rows)
    if len(recipes) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Tables.put_embeddings = put_and_die
import embed_assets_tests.test_words_beside as test
from embed_assets_tests.live_project import LiveProject
from pathlib import Path
world = LiveProject(Path(sys.argv[1]), dict(a.split("=", 1) for a in sys.argv[2:]))
test.run(world, "Album")
"""


def test_a_run_that_is_killed_between_the_two_is_finished_by_the_next(beside: LiveProject) -> None:
    world = beside
    world.settings["EMBED_WORDS"] = "true"
    world.album("Album", 1, 2)
    command = [sys.executable, "-c", KILLED, str(world.root)]
    command += [f"{name}={value}" for name, value in world.settings.items()]
    root = str(Path(__file__).parents[1])
    killed = subprocess.run(command, env=world.environment | {"PYTHONPATH": root})
    assert killed.returncode == -9
    before = made_at(world)
    assert len(before) == 3, "one of the four was not embedded yet"
    assert world.sync()["words_embedded"] <= 1
    assert both_in_step(world)
    assert {k: v for k, v in made_at(world).items() if k in before} == before


def test_a_host_without_it_is_refused_and_names_it(beside: LiveProject) -> None:
    world = beside
    world.album("Album", 1)
    assert not {n for n in run_settings(world.project().index()) if n.startswith("words")}
    with world.instance() as instance:
        add_keys(instance, ["Album"])
        tags = range_tags(["Album"]) | spec_tags(instance, world.project().index())
        world.settings["EMBED_WORDS"] = "true"
        job = build_defs(world.made_settings()).resolve_job_def("bring_in_step")
        failed = job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    failure = next(e.step_failure_data for e in failed.all_events if e.is_step_failure)
    assert "EMBED_WORDS is True here and False there" in failure.user_failure_data.description
