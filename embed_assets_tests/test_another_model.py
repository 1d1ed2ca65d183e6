"""A person changes the settings, and back; asks meanwhile; cleans up; restores a backup."""

import json
import os
import shutil
import sqlite3
import sys
import time

import pytest

from embed_assets.index.address import is_server
from embed_assets.index.collection import ALIAS
from embed_assets.index.connection import connect
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.searcher import searching

SEARCHER = """
import sys, time
import embed_assets

while True:
    matches = embed_assets.open().similar(sys.argv[1], 3)
    assert len(matches) == 3, matches
    print("found", flush=True)
    time.sleep(0.05)
"""


@pytest.fixture
def world_at(uri, tmp_path):
    """A world whose index is a Lite folder, and then one of a server."""
    made = LiveProject(tmp_path / "world", {"EMBED_MILVUS_URI": uri})
    made.library.mkdir(parents=True)
    yield made
    made.power_loss()


def shown(world, *command, code=0):
    done = world.run(*command, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_another_pooling_and_back_without_a_forward_pass_or_a_search_that_fails(world_at):
    world = world_at
    for i in range(3):
        world.album(f"Album {i}", i, 10 + i)
    world.sync()
    checked = shown(world, "collections", "--check")
    (first,) = shown(world, "collections")
    assert (checked["passed"], checked["served"]) == (True, first["name"])
    assert checked["gates"] == first["gates"]
    assert all(first[what] for what in ("served", "wanted", "complete", "gates_passed"))
    assert (first["rows"], first["encoder"], first["windows"]) == (6, "acoustic", 3)
    command = [sys.executable, "-c", SEARCHER, "Album 1/01.ogg"]
    with searching(command, world.root, world.environment) as old_settings:
        world.settings["EMBED_POOLING"] = "enriched"
        with searching(command, world.root, world.environment) as new_settings:
            result = world.sync()
            time.sleep(1)
    print(len(old_settings.lines()) + len(new_settings.lines()), "searches meanwhile")
    assert result["embedded"] == 0
    new, old = shown(world, "collections")
    assert (old["name"], old["served"], old["complete"]) == (first["name"], False, True)
    assert (new["pooling"], new["width"], new["gates_passed"]) == ("enriched", 384, True)
    assert {len(v) for _, v in world.rows().values()} == {384}

    assert shown(world, "rollback")["served"] == old["name"]
    told = world.run("sync")
    assert f"{old['name']} is served, not {new['name']}" in told.stderr
    for command in ("sync", "status", "similar Album"):
        told = world.run(*command.split())
        assert "embed-assets promote" in " ".join((told.stdout + told.stderr).split()), command
    assert {len(v) for _, v in world.rows().values()} == {128}
    world.assert_index_is_library()
    assert shown(world, "promote")["served"] == new["name"]

    del world.settings["EMBED_POOLING"]
    back = world.sync()
    assert back["embedded"] == 0
    assert written_rows(world, back["runs"]) == 0, "no row had to be written"
    assert shown(world, "collections")[0]["name"] == old["name"]
    world.assert_index_is_library()
    assert world.run("collections", "--drop", old["name"]).returncode == 2
    assert [c["name"] for c in shown(world, "collections", "--drop", new["name"])] == [old["name"]]
    searched = {p for p in world.home.glob("search/*") if "-enriched-" in p.name}
    swept = shown(world, "gc", "--older-than", "0")
    assert set(swept["copies"]) == {str(p) for p in searched} != set()
    assert not any(p.exists() for p in searched)
    assert swept["removed"] == 0
    assert shown(world, "similar", "Album 1/01.ogg")

    if is_server(world.project().uri):
        with connect(world.project().uri) as client:
            client.drop_alias(ALIAS)
            client.drop_collection(old["name"])
        assert world.sync()["embedded"] == 0
        world.assert_index_is_library()


def test_what_is_served_answers_while_the_weights_of_another_encoder_are_not_here_yet(world):
    world.album("Album", 1, 2, 3, 4)
    synced = world.sync()
    status = shown(world, "status")
    assert status["rate"] >= (synced["embedded"] - 1) / synced["seconds"], "of the time it worked"
    asked = [("similar", "Album/01.ogg"), ("path", "Album/01.ogg", "Album/03.ogg")]
    before = [shown(world, *words) for words in asked]
    world.settings |= {"EMBED_ENCODER": "muq", "EMBED_MODEL": "no/such-weights-here"}
    assert [shown(world, *words) for words in asked] == before
    (served,) = shown(world, "collections")
    assert (served["served"], served["wanted"], served["encoder"]) == (True, False, "acoustic")
    told = world.run("similar", "Album/01.ogg")
    assert "acoustic, which is served" in told.stdout
    assert "the weights of muq are missing" in told.stdout
    assert "downloads" in world.run("doctor").stdout, "how to have them"
    world.settings["EMBED_ENCODER"] = "mqu"
    assert "EMBED_ENCODER" in world.run("similar", "Album/01.ogg", "--json").stderr


def written_rows(world, runs):
    """Rows that the index steps of these runs wrote, by their metadata."""
    import dagster as dg

    total = 0
    with world.instance() as instance:
        for run in runs:
            for event in instance.all_logs(run, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
                made = event.dagster_event.event_specific_data.materialization
                if made.asset_key.path[-1] == "milvus_index":
                    total += made.metadata["written"].value
    return total


@pytest.mark.stress
def test_a_backup_of_tables_and_vectors_is_all_that_a_new_machine_needs(world):
    for i in range(2):
        world.album(f"Album {i}", i, 10 + i)
    world.sync()
    saved = world.root / "backup"
    shutil.copytree(world.home / "vectors", saved / "vectors")
    tables = sqlite3.connect(world.home / "tables.sqlite")
    tables.execute("VACUUM INTO ?", [str(saved / "tables.sqlite")])
    tables.close()
    shutil.rmtree(world.home)
    os.rename(saved, world.home)
    back = world.sync()
    assert (back["embedded"], back["reused"], back["tracks"]) == (0, 4, 4)
    world.assert_index_is_library()

    # What is gone from the library, and what nothing uses, is swept: no sooner, and nothing else.
    gone = world.album("Album 2", 20)
    world.sync()
    world.remove("Album 2")
    busy = world.run("gc")
    assert busy.returncode == 1
    assert "embed-assets sync" in busy.stderr
    dry = world.run("gc", "--dry-run").stdout
    assert dry.startswith("without --dry-run this would remove nothing"), "what matters comes first"
    world.sync()
    entries = sorted(world.home.glob("vectors/*/*/*.npy"))
    assert (len(gone), len(entries)) == (1, 5)
    young = shown(world, "gc")
    assert (young["removed"], young["too_young"]) == (0, 1)
    for path in entries:
        os.utime(path, (time.time() - 90_000,) * 2)
    assert shown(world, "gc")["too_young"] == 1, "its music was deleted just now"
    with world.project().tables.connect() as db:
        db.execute("UPDATE gone_audio SET gone_at = gone_at - 90000")
    before = sum(p.stat().st_size for p in entries)
    dry = shown(world, "gc", "--dry-run")
    assert (dry["removed"], dry["entries"], dry["in_step"]) == (1, 5, True)
    assert len(list(world.home.glob("vectors/*/*/*.npy"))) == 5
    swept = shown(world, "gc")
    left = sorted(world.home.glob("vectors/*/*/*.npy"))
    assert (swept["removed"], len(left)) == (1, 4)
    assert swept["removed_bytes"] == before - sum(p.stat().st_size for p in left)
    shutil.rmtree(world.home / "milvus.db")
    assert world.sync()["embedded"] == 0
    world.assert_index_is_library()
