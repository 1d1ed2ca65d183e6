"""Asking for the part that sounds like this, of real audio: a medley is found by what is in it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from embed_assets.api import Library
from embed_assets.audio.decode import heard_seconds, read_windows
from embed_assets.audio.windows import WindowPolicy, placed
from embed_assets.cli.command_line import app
from embed_assets.errors import ConfigurationError
from embed_assets.index.address import is_server
from embed_assets.operations.collections import collections, drop
from embed_assets.operations.doctor import doctor
from embed_assets.operations.status import status
from embed_assets.search.parts import clock, part_of
from embed_assets.storage.segment_vector_file import SegmentVectorFile
from embed_assets_tests.encoded import encode
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.made_library import ENRICHED, MEAN, shelf_of, windows_of
from embed_assets_tests.synth import music, write_audio
from embed_assets_tests.test_asking import index

LONG = {"EMBED_WINDOWS": "0", "EMBED_WINDOW_SECONDS": "5", "EMBED_PARTS": "true"}


def put(world, name, *seeds, seconds=20.0):
    samples = np.concatenate([music(seconds, seed) for seed in seeds], axis=1)
    tags = {"title": Path(name).stem, "artist": name[:5], "genre": f"Genre {seeds[0]}"}
    write_audio(world.library / name, samples, tags=tags)


def medley(world):
    """Six tracks, and a medley of the second and the fourth, whose first begins at 0."""
    for seed in range(6):
        put(world, f"Album/{seed}.flac", seed)
    put(world, "Mixes/medley.flac", 1, 3)


@pytest.fixture
def world_at(uri, tmp_path):
    made = LiveProject(tmp_path / "world", {"EMBED_MILVUS_URI": uri} | LONG)
    made.library.mkdir(parents=True)
    medley(made)
    index(made.project())
    yield made
    made.power_loss()


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """The same library on Lite, for all tests that only ask."""
    made = LiveProject(tmp_path_factory.mktemp("heard"), dict(LONG))
    made.library.mkdir()
    medley(made)
    index(made.project())
    return made


@pytest.fixture
def asked_of(request, uri):
    """That one, and then one on a server."""
    if is_server(uri):
        return request.getfixturevalue("world_at")
    return request.getfixturevalue("heard")


def asked(world, query, **more):
    answer = Library(world.made_settings()).parts(query, **more)
    assert answer.notes == ()
    return answer.matches


def test_a_medley_is_found_by_its_parts_and_where_each_begins(asked_of):
    world = asked_of
    for seed, place in ((1, 0), (3, 20)):
        found = asked(world, f"Album/{seed}.flac")
        assert len({m.path for m in found}) == len(found) == 6, "one answer a track"
        assert found[0].path == "Mixes/medley.flac"
        assert place <= found[0].start < found[0].end <= place + 20
        assert found[0].score > 0.99
        whole = Library(world.made_settings()).similar(f"Album/{seed}.flac")
        mean = {m.path: m.score for m in whole}
        assert found[0].score > mean["Mixes/medley.flac"] + 0.01
    for part, path in (((2, 18), "Album/1.flac"), ((25, 40), "Album/3.flac")):
        assert asked(world, "Mixes/medley.flac", part=part)[0].path == path
    for part in ((31, None), (21, float("inf"))):
        assert asked(world, "Mixes/medley.flac", part=part)[0].path == "Album/3.flac"
    jazz = asked(world, "Album/1.flac", where=["genre=genre 5"])
    assert [m.path for m in jazz] == ["Album/5.flac"]
    assert len(asked(world, "Mixes", n=3)) == 3
    assert [len(asked(world, "Mixes", per_artist=k)) for k in (0, 1)] == [6, 1]


def test_it_is_shown_for_people_and_as_a_playlist(heard, tmp_path, monkeypatch):
    world = heard
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    done = world.run("parts", "Album/3.flac", "-n", "1", "--m3u", str(tmp_path / "a.m3u"))
    assert re.search(r"\+(0\.99\d|1\.000) +0:\d\d\.\.0:\d\d +medley", done.stdout), done.stdout
    assert "Mixes/medley.flac" in (tmp_path / "a.m3u").read_text()

    def ask(*arguments):
        return CliRunner().invoke(app, ["parts", *arguments])

    found = json.loads(ask("Mixes/medley.flac", "--part", "22..38s", "--json").stdout)
    assert found[0]["path"] == "Album/3.flac"
    assert 0 <= found[0]["start"] < found[0]["end"] <= 20
    wrong = ask("Album/3.flac", "--part", "2:00..1:00")
    assert "ends before it begins" in str(wrong.exception)
    monkeypatch.setenv("EMBED_PARTS", "false")
    assert "EMBED_PARTS=true" in str(ask("Album/3.flac").exception)


def test_what_is_not_there_to_be_found_is_said(tmp_path):
    world = LiveProject(tmp_path / "world", {"EMBED_WINDOWS": "2", "EMBED_WINDOW_SECONDS": "5"})
    world.library.mkdir(parents=True)
    medley(world)
    index(world.project())
    world.settings["EMBED_PARTS"] = "true"
    with pytest.raises(ConfigurationError, match="run `embed-assets sync`"):
        asked(world, "Album/3.flac")
    index(world.project())
    ask = Library(world.made_settings()).parts
    (note,) = ask("Album/3.flac", part=(9, 11)).notes
    assert "used the nearest embedded part, 0:02..0:07 (EMBED_WINDOWS=2)" in note
    (note,) = ask("Album/3.flac", part="1:30..2:00").notes
    assert "ends at 0:20, before that part; used 0:12..0:17 instead" in note
    put(world, "Later/9.flac", 9)
    (world.library / "Album/0.flac").unlink()
    world.settings["EMBED_PARTS"] = "false"
    index(world.project())
    world.settings["EMBED_PARTS"] = "true"
    answer = Library(world.made_settings()).parts("Album/3.flac")
    assert "the parts of 2 folders are not indexed yet, or out of date" in answer.notes[0]
    assert not {"Album/0.flac", "Later/9.flac"} & {m.path for m in answer}


def test_sync_fills_parts_when_asked_and_embeds_nothing_for_it(world):
    world.album("Some", 1, 2)
    world.album("More", 3)
    assert world.sync()["embedded"] == 3
    assert to_do(world) == 0
    world.settings["EMBED_PARTS"] = "true"
    assert to_do(world) == 2
    assert "except for 2 folders still to be indexed" in said_of_the_index(world)
    filled = world.sync()
    assert (filled["embedded"], filled["reused"], len(filled["runs"])) == (0, 3, 1)
    assert to_do(world) == 0
    kinds = [(c["of"], c["rows"], c["complete"], c["served"]) for c in collections(world.project())]
    assert kinds == [("tracks", 3, True, True), ("parts", 3, True, True)]
    assert ", 3 of parts, matching the tables, served" in said_of_the_index(world)
    assert world.run("collections").stdout.count("gates:     not measured yet") == 2
    assert world.run("collections", "--check").returncode == 0
    *_, gates_of_parts = re.findall(r"gates: .*", world.run("collections").stdout)
    assert re.match(r"gates:     passed .*: parts_vector_width \d+, .*parts_self", gates_of_parts)
    del world.settings["EMBED_PARTS"]
    assert to_do(world) == 0
    world.settings["EMBED_PARTS"] = "true"
    assert drop(world.project(), world.project().spec().segment_spec.collection) is None
    assert to_do(world) == 2


def said_of_the_index(world):
    (message,) = (f.message for f in doctor(world.made_settings()) if f.check == "index")
    return message


def to_do(world):
    return status(world.made_settings()).folders_to_do


@pytest.mark.parametrize("spec", [MEAN, ENRICHED], ids=["mean", "enriched"])
def test_the_file_of_windows_holds_what_the_store_has(lite, tmp_path, spec):
    shelf = shelf_of(tmp_path, lite, 4, spec)
    tracks = [t for album in shelf.albums.values() for t in album]
    embedded = {t.audio_hash: 1.0 for t in tracks}
    some = dict(list(embedded.items())[:5])
    first, second = (
        SegmentVectorFile(shelf.store, spec),
        SegmentVectorFile(shelf.store, spec.segment_spec),
    )
    first.keep(some)
    query = first.read(tracks[7].audio_hash)[1]
    cosines, numbers = second.best(query, embedded)
    assert second.total == 36
    assert (int(cosines.argmax()), numbers[7]) == (7, 1)
    assert cosines.max() == pytest.approx(1, abs=1e-5)
    for i, t in enumerate(tracks):
        scores = second.read(t.audio_hash) @ query
        assert (cosines[i], numbers[i]) == (
            pytest.approx(scores.max(), abs=1e-5),
            scores.argmax(),
        )

    # A file that a kill or a power loss cut short is made whole, and one embedded again is new.
    with open(first.vectors_file, "r+b") as file:
        file.truncate(first.vectors_file.stat().st_size - 7)
    with open(first.names_file, "ab") as file:
        file.write(b"half a name")
    shelf.store.write(spec.recipe.digest, tracks[0].audio_hash, windows_of("else"), replace=True)
    again = embedded | {tracks[0].audio_hash: 2.0}
    third = SegmentVectorFile(shelf.store, spec)
    assert len(third.rows) == 11, "the last one lost its end"
    assert third.best(third.read(tracks[0].audio_hash)[2], again)[1][0] == 2
    assert second.best(query, embedded | {"0" * 32: 1.0})[0][-1] == -2.0, "nothing is known of it"
    assert os.path.getsize(first.vectors_file) == third.total * 4 * spec.dim

    # Where nothing can be kept, the store itself is read.
    first.names_file.unlink()
    first.vectors_file.unlink()
    first.names_file.parent.rename(tmp_path / "away")
    first.names_file.parent.write_text("no folder")
    bare = SegmentVectorFile(shelf.store, spec)
    assert int(bare.best(query, embedded)[0].argmax()) == 7


def test_windows_are_placed_where_they_were_decoded(tmp_path):
    for seconds, count in ((63.0, 0), (63.0, 3), (4.0, 3), (20.0, 3), (30.04, 0)):
        policy = WindowPolicy(10.0, count)
        write_audio(tmp_path / "a.wav", music(seconds, 1))
        told = read_windows(os.fsencode(tmp_path / "a.wav"), seconds, policy, 24_000)
        heard = told.decoded_seconds if policy.covers(seconds) else heard_seconds(told.notes)
        windows = placed(seconds, policy, len(told.windows), heard)
        assert [start for start, _ in windows] == pytest.approx(told.starts, abs=0.02)
    # A file that ends sooner than it says.
    whole = encode(music(63.0, 1, channels=1), 44_100, "mp3", "libmp3lame", "fltp")
    (tmp_path / "cut.mp3").write_bytes(whole[: len(whole) * 2 // 3])
    for count in (0, 3):
        policy = WindowPolicy(10.0, count)
        told = read_windows(os.fsencode(tmp_path / "cut.mp3"), 63.0, policy, 24_000)
        heard = told.decoded_seconds if count == 0 else heard_seconds(told.notes)
        assert 40 < heard < 45
        windows = placed(63.0, policy, len(told.windows), heard)
        assert [start for start, _ in windows] == pytest.approx(told.starts, abs=0.6)
    assert len(placed(0.0, WindowPolicy(10.0, 3), 3)) == 3


def test_what_people_write_of_a_part():
    assert part_of("1:30..2:00") == (90, 120)
    assert part_of("90s..2m") == (90, 120)
    assert part_of("..2m") == (0, 120)
    assert part_of("1:02:03") == (3723, None)
    assert part_of("1m..")[1] == float("inf")
    assert part_of(" ") is None
    assert clock(3723.9) == "1:02:03"
    assert clock(65) == "1:05"
