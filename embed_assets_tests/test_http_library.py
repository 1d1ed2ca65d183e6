"""What `serve` says about the library as a whole: artists, duplicates, map, export, and looks."""

from __future__ import annotations

import base64
import time

import numpy as np
import pytest

import embed_assets as ea
from embed_assets.defs.sensor import LOOK_SECONDS
from embed_assets.http import maps
from embed_assets.storage import looks
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.test_asking import index
from embed_assets_tests.test_http import detail, running

SEEDS = {"Nina": (1, 2), "Miles": (3, 4), "Kraftwerk": (5, 6)}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Two tracks each of three artists, one of both first, and a copy."""
    made = LiveProject(tmp_path_factory.mktemp("about"))
    made.library.mkdir(parents=True)
    for artist, seeds in SEEDS.items():
        for seed in seeds:
            made.put(f"{artist}/{seed}.flac", seed, title=f"Song {seed}", artist=artist, genre="A")
    made.put("Both/7.flac", 7, title="Duet", artist="Nina; Miles", genre="B")
    made.put("Copies/1.flac", 1, title="Song 1", artist="NINA", genre="A")
    index(made.project())
    return made


@pytest.fixture(scope="module")
def client(filled):
    with running(filled) as client:
        yield client


def test_artists_are_ordered_by_how_they_sound(client, filled):
    answer = client.post("/v1/artists", json={"artist": "nina", "songs": 2}).json()
    assert answer["artist"] == "Nina"
    assert {a["artist"] for a in answer["artists"]} == {"Miles", "Kraftwerk"}
    scores = [a["score"] for a in answer["artists"]]
    assert scores == sorted(scores, reverse=True)
    vectors = ea.Library(filled.made_settings()).snapshot()
    rows = {row["path"]: row["track_id"] for row in vectors.listed()}

    def mean(*paths):
        found = vectors.vectors([rows[p] for p in paths])
        total = np.mean([*found.values()], axis=0)
        return total / np.linalg.norm(total)

    # Copies count once, and a duet for both.
    nina = mean("Both/7.flac", "Copies/1.flac", "Nina/2.flac")
    miles = mean("Miles/3.flac", "Miles/4.flac", "Both/7.flac")
    score = next(a["score"] for a in answer["artists"] if a["artist"] == "Miles")
    assert score == pytest.approx(float(nina @ miles), abs=1e-4)
    for artist in answer["artists"]:
        assert len(artist["tracks"]) == 2
        assert all(artist["artist"] in track["artist"] for track in artist["tracks"])


def test_an_artist_that_is_not_there_is_said_so(client):
    assert "'Nobody'" in detail(client.post("/v1/artists", json={"artist": "Nobody"}), 404)
    assert detail(client.post("/v1/artists", json={"artist": ""}), 422)


def test_duplicates_come_in_pages(client):
    first = client.get("/v1/duplicates", params={"n": 1, "least": -1}).json()
    assert first["groups"][0]["certain"] is True
    assert {t["path"] for t in first["groups"][0]["tracks"]} == {"Nina/1.flac", "Copies/1.flac"}
    rest, after = [], first["after"]
    while after is not None:
        page = client.get("/v1/duplicates", params={"n": 5, "least": -1, "after": after}).json()
        rest += page["groups"]
        after = page["after"]
    assert not any(group["certain"] for group in rest)
    assert len(rest) == 7 * 6 / 2


def test_the_map_places_every_track(client):
    found = client.get("/v1/map", params={"by": "genre"}).json()
    points = found["points"]
    assert {len(column) for column in points.values()} == {8}
    assert all(0 <= value <= 1 for value in (*points["x"], *points["y"]))
    assert {found["groups"][i] for i in points["group"]} == {"A", "B"}
    assert (found["method"], found["drawing"]) == ("pca", False)


def test_a_better_map_is_drawn_beside_the_queries(client, monkeypatch):
    monkeypatch.setattr(maps, "TSNE_LEAST", 7)
    monkeypatch.setattr("embed_assets.search.projection.TSNE_LEAST", 7)
    first = client.get("/v1/map", params={"by": "folder"}).json()
    assert (first["method"], first["drawing"]) == ("pca", True)
    until = time.monotonic() + PATIENCE
    while (found := client.get("/v1/map", params={"by": "folder"}).json())["drawing"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert found["method"] == "tsne"
    assert found["points"]["track_id"] == first["points"]["track_id"]


def test_everything_can_be_exported_with_its_vectors(client, filled):
    seen, after = {}, ""
    while after is not None:
        page = client.get("/v1/export", params={"n": 3, "after": after, "vectors": "base64"}).json()
        assert page["encoder"] == "acoustic"
        for track in page["tracks"]:
            seen[track["track_id"]] = np.frombuffer(base64.b64decode(track["vector"]), "<f4")
        after = page["after"]
    want = ea.Library(filled.made_settings()).snapshot().vectors(list(seen))
    assert len(seen) == 8
    assert all(np.array_equal(seen[track], want[track]) for track in seen)
    plain = client.get("/v1/export").json()["tracks"]
    assert all(track["vector"] == "" for track in plain)


def test_an_export_of_nothing_is_no_empty_page(tmp_path):
    empty = LiveProject(tmp_path)
    empty.library.mkdir()
    with running(empty) as client:
        assert "nothing is indexed yet" in detail(client.get("/v1/export"), 503)


def test_looks_before_a_scan_are_one(client, filled):
    first = client.post("/v1/look")
    assert first.status_code == 202
    assert client.post("/v1/look").json() == first.json()
    number = first.json()["look"]
    tables = filled.project().tables
    begun = looks.begin(tables)
    assert begun == [number]
    # What is asked for while a scan runs may have come too late for it.
    later = client.post("/v1/look").json()["look"]
    assert later > number
    looks.finish(tables, begun)
    assert client.get(f"/v1/look/{number}").json()["done_at"] is not None
    assert client.get(f"/v1/look/{later}").json()["done_at"] is None
    assert "no look" in detail(client.get("/v1/look/999999"), 404)


def test_a_sync_answers_looks(tmp_path):
    made = LiveProject(tmp_path)
    made.library.mkdir(parents=True)
    made.put("A/1.flac", 1)
    with running(made) as client:
        number = client.post("/v1/look").json()["look"]
        made.run("sync")
        found = client.get(f"/v1/look/{number}").json()
    assert found["requested_at"] <= found["begun_at"] <= found["done_at"]


def test_a_look_makes_up_scan_though_scans_are_an_hour_apart(tmp_path):
    made = LiveProject(tmp_path, settings={"EMBED_SCAN_SECONDS": "3600"})
    made.library.mkdir(parents=True)
    made.put("A/1.flac", 1)
    made.up()
    try:
        made.until(made.in_step, "the first scan")
        made.put("B/2.flac", 2)
        time.sleep(2 * LOOK_SECONDS)
        assert not made.in_step()
        with running(made) as client:
            assert client.post("/v1/look").status_code == 202
        made.until(made.in_step, "the scan that was asked for")
    finally:
        made.down()
