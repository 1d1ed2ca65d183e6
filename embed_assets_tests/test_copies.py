"""What a library has twice is one answer: equal audio always, one recording where that is asked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from embed_assets.api import Library
from embed_assets.cli.command_line import app
from embed_assets.index.address import is_server
from embed_assets.index.connection import connect
from embed_assets.index.nearest import similar as milvus_similar
from embed_assets.search import exact, searcher
from embed_assets.search.answers import Filters
from embed_assets.search.duplicates import duplicates
from embed_assets.search.filters import condition, parse
from embed_assets.search.milvus import MilvusAnswers
from embed_assets.search.names import find_each
from embed_assets.search.recordings import distinct
from embed_assets_tests.indexing import SPEC, album, serve, track, vector_of, write
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.shelf import DIM, Shelf, random_vectors
from embed_assets_tests.synth import music, write_audio
from embed_assets_tests.test_asking import index

# Made-up tracks and vectors


@pytest.fixture
def shelf(tmp_path):
    """Twelve songs of an album, of which 1 to 3 are on a best-of, too, and 1 once more."""
    made = Shelf(tmp_path)
    vectors = random_vectors(12)
    put_album(made, vectors)
    made.put(
        [copy_of(made, f"Best of/{i:02d}", i, artist=f"Various {i}") for i in (1, 2, 3)],
        vectors[[1, 2, 3]],
    )
    made.put([copy_of(made, "Attic/copy", 1, artist="The Band")], vectors[[1]])
    return made


def put_album(shelf, vectors):
    rows = [copy_of(shelf, f"Album/{i:02d}", i, artist="The Band") for i in range(12)]
    shelf.put(rows, vectors)


def copy_of(shelf, path, song, **tags):
    return shelf.track(path, audio=f"song {song}", duration=100.0 + 10 * song, **tags)


def at(ready, path):
    return next(i for i, t in ready.tracks() if t.path == path.encode())


def paths(matches):
    return [m.path for m in matches]


def test_equal_audio_is_one_answer_the_first_by_path_and_names_its_copies(shelf):
    ready = shelf.searcher()
    found = exact.similar(ready, [at(ready, "Album/00")], 20)
    assert len(found) == 11
    copies = {m.path: m.copies for m in found if m.copies}
    assert copies["Album/01"] == ("Attic/copy", "Best of/01")
    assert copies["Album/02"] == ("Best of/02",)
    assert set(copies) == {"Album/01", "Album/02", "Album/03"}


def test_of_copies_that_fit_a_filter_the_first_is_shown(shelf):
    ready = shelf.searcher()
    seed = [at(ready, "Album/00")]
    found = exact.similar(ready, seed, 20, where=[parse("artist=various")])
    assert sorted(paths(found)) == ["Best of/01", "Best of/02", "Best of/03"]
    assert {m.path: m.copies for m in found}["Best of/01"] == ("Album/01", "Attic/copy")
    found = exact.similar(ready, seed, 20, where=[parse("folder!=Album")])
    assert sorted(paths(found)) == ["Attic/copy", "Best of/02", "Best of/03"]


def test_as_many_come_as_are_asked_for_though_copies_are_nearest(tmp_path):
    shelf = Shelf(tmp_path)
    vectors = random_vectors(40)
    rows = [copy_of(shelf, f"{k}/{i:02d}", i) for k in range(30) for i in range(40)]
    shelf.put(rows, np.tile(vectors, (30, 1)))
    ready = shelf.searcher()
    for n in (1, 5, 39):
        found = exact.similar(ready, [at(ready, "7/00")], n)
        assert len({m.audio_hash for m in found}) == len(found) == n
        assert {m.path[:2] for m in found} == {"0/"}
        assert {len(m.copies) for m in found} == {29}
    assert len(exact.similar(ready, [at(ready, "7/00")], 100)) == 39


def test_the_same_copy_is_shown_whenever_it_came(shelf, monkeypatch):
    monkeypatch.setattr(searcher, "FRESH_SECONDS", 0.0)
    ready = shelf.searcher()
    vectors = random_vectors(12)

    def shown():
        found, new = (
            exact.similar(one, [at(one, "Album/00")], 20) for one in (ready, shelf.searcher())
        )
        assert found == new
        return next(m for m in found if m.audio_hash == first.audio_hash)

    first = ready.match(at(ready, "Album/01"), 1.0)
    assert shown().path == "Album/01"
    shelf.put([copy_of(shelf, "AA/new", 1)], vectors[[1]])
    assert ready.refresh()
    assert (shown().path, len(shown().copies)) == ("AA/new", 3)
    for folder in (b"AA", b"Attic", b"Best of"):
        shelf.remove(folder)
    assert ready.refresh()
    assert (shown().path, shown().copies) == ("Album/01", ())


def test_radio_and_a_way_name_copies_too(shelf):
    ready = shelf.searcher()
    play = list(exact.radio(ready, [at(ready, "Album/00")], random=1))
    assert len(play) == 11
    assert {m.path: len(m.copies) for m in play if m.copies} == {
        "Album/01": 2,
        "Album/02": 1,
        "Album/03": 1,
    }
    way = exact.path(ready, at(ready, "Album/00"), at(ready, "Best of/01"), 20)
    assert len({m.audio_hash for m in way}) == len(way) == 12
    assert (way[-1].path, way[-1].copies) == ("Best of/01", ("Album/01", "Attic/copy"))


def test_copies_count_once_for_an_artist_and_go_with_what_is_avoided(shelf):
    ready = shelf.searcher()
    seed = [at(ready, "Album/00")]
    assert len(exact.similar(ready, seed, 20, per_artist=1)) == 1
    found = exact.similar(ready, seed, 20, avoid=[at(ready, "Best of/02")])
    assert "Album/02" not in paths(found)


ROWS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from("ab")), min_size=2, max_size=14)


@settings(max_examples=25)
@given(ROWS, st.sampled_from(["", "a", "b"]), st.integers(1, 8))
def test_answers_are_what_sorting_by_hand_gives(tmp_path_factory, made, genre, n):
    shelf = Shelf(tmp_path_factory.mktemp("shelf"))
    vectors = random_vectors(7, seed=3)
    order = np.random.default_rng(len(made)).permutation(len(made)).tolist()
    rows = [copy_of(shelf, f"x/{k:02d}", s, genre=g) for k, (s, g) in zip(order, made, strict=True)]
    shelf.put(rows, vectors[[s for s, _ in made]])
    ready = shelf.searcher()
    where = [condition("genre", genre)] if genre else []
    seed = at(ready, f"x/{order[0]:02d}")
    best = {}
    for k in sorted(range(len(made)), key=order.__getitem__):
        song, g = made[k]
        if song != made[0][0] and genre in ("", g):
            best.setdefault(song, f"x/{order[k]:02d}")
    cosines = vectors @ vectors[made[0][0]]
    wanted = [best[s] for s in sorted(best, key=lambda s: -cosines[s])][:n]
    assert paths(exact.similar(ready, [seed], n, where=where)) == wanted


# One recording


@pytest.fixture
def takes(tmp_path):
    """Forty songs on an album, and a remaster of each, a little louder and a second longer."""
    made = Shelf(tmp_path)
    songs = random_vectors(40, seed=2)
    other = songs + 0.01 * random_vectors(40, seed=3)
    rows = [made.track(f"Album/{i:02d}", duration=100.0 + 10 * i) for i in range(40)]
    rows += [made.track(f"Remaster/{i:02d}", duration=101.0 + 10 * i) for i in range(40)]
    rows += [made.track("Live/00", duration=140.0)]
    made.put(rows, np.concatenate([songs, other, other[:1]]))
    return made


def song(match):
    return match.path[-2:] if not match.path.startswith("Live") else "live"


def test_of_one_recording_the_nearest_is_shown_and_none_of_the_seed(takes):
    ready = takes.searcher()
    seed = [at(ready, "Remaster/00")]
    assert len(exact.similar(ready, seed, 100)) == 80
    found = exact.similar(ready, seed, 100, one_recording=True)
    assert sorted(map(song, found)) == [*(f"{i:02d}" for i in range(1, 40)), "live"]
    every = {m.path: m.score for m in exact.similar(ready, seed, 100)}
    for m in found:
        twin = {"Album": "Remaster", "Remaster": "Album"}.get(m.path.split("/")[0], "Live")
        assert m.score >= every.get(f"{twin}/{song(m)}", -1)
    assert len(exact.similar(ready, seed, 30, one_recording=True)) == 30
    kept = exact.similar(ready, seed, 100, avoid=[at(ready, "Album/05")], one_recording=True)
    assert "05" not in map(song, kept)


def test_radio_and_a_way_play_one_recording_once(takes):
    ready = takes.searcher()
    play = list(exact.radio(ready, [at(ready, "Album/00")], random=1, one_recording=True))
    assert sorted(map(song, play)) == [*(f"{i:02d}" for i in range(1, 40)), "live"]
    ends = at(ready, "Album/00"), at(ready, "Remaster/39")
    for steps in (5, 20, 41, 90):
        way = exact.path(ready, *ends, steps, one_recording=True)
        assert len(set(map(song, way))) == len(way) == min(steps, 41)


def test_one_recording_is_what_duplicates_suggests(takes):
    ready = takes.searcher()
    pairs = {tuple(sorted(t.path for t in d.tracks)) for d in duplicates(ready)}
    assert pairs == {(f"Album/{i:02d}", f"Remaster/{i:02d}") for i in range(40)}
    shown = {m.path for m in exact.similar(ready, [at(ready, "Live/00")], 100, one_recording=True)}
    assert not any(a in shown and b in shown for a, b in pairs)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=12), st.integers(0, 3))
def test_what_is_kept_differs_from_all_before_and_nothing_else_goes(made, heard):
    axes = np.eye(4, DIM, dtype=np.float32)
    heard = min(heard, len(made))
    kept = distinct([s for _, s in made], lambda some: axes[[made[i][0] for i in some]], 0.9, heard)
    before = list(range(heard))
    for i in range(heard, len(made)):
        twin = any(made[i][0] == made[k][0] and abs(made[i][1] - made[k][1]) <= 2 for k in before)
        assert (i in kept) != twin
        before += [] if twin else [i]


# Real audio, on Lite and on a server


def put(world, name, seed, seconds=6.0, gain=1.0, **tags):
    write_audio(world.library / name, gain * music(seconds, seed), tags=tags or None)


def fill(world):
    for i in range(8):
        put(world, f"Album/{i}.flac", i, title=f"Song {i}", artist="The Band")
    for i in (1, 2, 3):
        put(world, f"Best of/{i}.flac", i, title=f"Song {i}", artist="Various")
        put(world, f"Louder/{i}.flac", i, gain=1.05, title=f"Song {i} (2011)", artist="The Band")
    shutil.copytree(world.library / "Best of", world.library / "Another best of")
    index(world.project())


SETTINGS = {"EMBED_WINDOWS": "0", "EMBED_WINDOW_SECONDS": "3", "EMBED_PARTS": "true"}


@pytest.fixture(scope="module")
def on_lite(tmp_path_factory):
    world = LiveProject(tmp_path_factory.mktemp("copies"), dict(SETTINGS))
    world.library.mkdir()
    fill(world)
    return world


@pytest.fixture
def asked(request, uri, tmp_path):
    """That library on Lite, and then on a server."""
    if not is_server(uri):
        yield request.getfixturevalue("on_lite")
        return
    world = LiveProject(tmp_path / "world", SETTINGS | {"EMBED_MILVUS_URI": uri})
    world.library.mkdir(parents=True)
    fill(world)
    yield world
    world.power_loss()


def answers(world, query, n=20, **more):
    return Library(world.made_settings()).similar(query, n, **more).matches


def test_similar_gives_one_row_an_audio_on_lite_and_on_a_server(asked):
    found = answers(asked, "Album/0.flac")
    assert len(found) == len({m.audio_hash for m in found}) == 10
    copies = {m.path: m.copies for m in found if m.copies}
    assert copies == {
        f"Album/{i}.flac": (f"Another best of/{i}.flac", f"Best of/{i}.flac") for i in (1, 2, 3)
    }
    assert len(answers(asked, "Album/0.flac", 9)) == 9
    assert not {"Album/1.flac", "Best of/1.flac"} & set(paths(answers(asked, "Best of/1.flac")))
    various = answers(asked, "Album/0.flac", where=[parse("artist=various")])
    assert sorted(paths(various)) == [f"Another best of/{i}.flac" for i in (1, 2, 3)]
    assert {len(m.copies) for m in various} == {2}
    best = answers(asked, "Album/0.flac", where=[parse("folder=best of"), parse("folder!=another")])
    assert sorted(paths(best)) == [f"Best of/{i}.flac" for i in (1, 2, 3)]
    assert len(answers(asked, "Album/0.flac", per_artist=2)) == 2
    assert "Album/2.flac" not in paths(answers(asked, "Album/0.flac", avoid=["Best of/2.flac"]))


def test_similar_shows_one_recording_once_on_lite_and_on_a_server(asked):
    found = answers(asked, "Album/0.flac", one_recording=True)
    assert sorted(m.title[:6] for m in found) == [f"Song {i}" for i in range(1, 8)]
    of_seed = answers(asked, "Louder/1.flac", one_recording=True)
    assert not [m for m in of_seed if m.title.startswith("Song 1")]
    assert len(answers(asked, "Album/0.flac", 6, one_recording=True)) == 6
    folder = answers(asked, "Best of", one_recording=True)
    assert sorted(m.title for m in folder) == [f"Song {i}" for i in (0, 4, 5, 6, 7)]


def test_parts_give_one_row_an_audio_on_lite_and_on_a_server(asked):
    def parts(query, **more):
        return Library(asked.made_settings()).parts(query, **more).matches

    found = parts("Album/0.flac")
    assert len(found) == len({m.audio_hash for m in found}) == 10
    assert {m.path for m in found if m.copies} == {f"Album/{i}.flac" for i in (1, 2, 3)}
    assert {m.end - m.start for m in found} == {3.0}
    assert len(parts("Album/0.flac", n=9)) == 9
    various = parts("Album/0.flac", where=[parse("artist=various")])
    assert sorted(paths(various)) == [f"Another best of/{i}.flac" for i in (1, 2, 3)]
    takes = parts("Best of/1.flac")
    assert takes[0].path == "Louder/1.flac", "a copy of what was asked for is no answer"
    other = parts("Best of/1.flac", one_recording=True)
    assert sorted(m.title[:6] for m in other) == [f"Song {i}" for i in (0, 2, 3, 4, 5, 6, 7)]


def test_milvus_is_asked_for_more_where_copies_fill_its_answer(uri):
    songs = ["ab" * 16, "cd" * 16, "ef" * 16]
    rows = [
        replace(track(f"{k}", f"{i:02d}.mp3"), audio_hash=song, genre=f"g{i % 2}")
        for k, song in enumerate(songs)
        for i in range(40)
    ]
    write(uri, [album(f"{k}", rows[40 * k : 40 * k + 40]) for k in range(3)])
    with connect(uri) as client:
        serve(client, SPEC)
        found = milvus_similar(client, vector_of(songs[1]), 3)
        odd = milvus_similar(client, vector_of(songs[1]), 3, where='genre == "g1"')
        rest = milvus_similar(client, vector_of(songs[1]), 2, [r.track_id for r in rows[40:79]])
    assert found[0].path == "1/00.mp3"
    assert sorted(paths(found)) == ["0/00.mp3", "1/00.mp3", "2/00.mp3"]
    assert sorted(paths(odd)) == ["0/01.mp3", "1/01.mp3", "2/01.mp3"]
    assert {len(m.copies) for m in found + odd} == {39}
    assert (rest[0].path, len(rest)) == ("1/39.mp3", 2)


def test_milvus_and_the_tables_give_the_same_answers(on_lite):
    library = Library(on_lite.made_settings())
    milvus = MilvusAnswers(on_lite.project(), on_lite.project().spec().collection)
    for query, more in (
        (["Album/0.flac"], {}),
        (["Best of/1.flac"], {"where": [parse("artist=various")]}),
        (["Album/0.flac"], {"avoid": ["Album/5.flac"], "one_recording": True}),
        (["Album/0.flac"], {"per_artist": 1}),
    ):
        for n in (1, 2, 20):
            here = library.similar(query, n, **more)
            seeds, avoid = (find_each(milvus.names, q) for q in (query, more.get("avoid", ())))
            rest = {name: value for name, value in more.items() if name != "avoid"}
            there = milvus.similar(seeds, avoid, n, Filters(**rest))
            assert [(m.path, m.copies) for m in here] == [(m.path, m.copies) for m in there]


def test_the_command_line_names_copies_and_has_the_option(on_lite, monkeypatch):
    for name, value in on_lite.environment.items():
        monkeypatch.setenv(name, value)

    def ask(*arguments):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    told = ask("similar", "Album/0.flac", "-n", "20")
    line = next(line for line in told.splitlines() if "Album/2.flac" in line)
    assert "(Album/2.flac), also Another best of/2.flac and 1 more" in line
    rows = json.loads(ask("similar", "Album/0.flac", "--json"))
    (row,) = (r for r in rows if r["path"] == "Album/2.flac")
    assert row["copies"] == ["Another best of/2.flac", "Best of/2.flac"]
    for arguments, many in (
        (("similar", "Album/0.flac"), 7),
        (("parts", "Album/0.flac"), 7),
        (("radio", "Album/0.flac", "--random", "1"), 7),
        (("path", "Album/0.flac", "Album/7.flac", "--steps", "20"), 8),
    ):
        rows = json.loads(ask(*arguments, "--one-recording", "--json"))
        assert len({r["title"][:6] for r in rows}) == len(rows) == many, arguments
    twice = json.loads(ask("duplicates", "--json"))
    assert [len(d["tracks"]) for d in twice if d["certain"]] == [3, 3, 3]
    assert "copies" not in twice[0]["tracks"][0]


def test_a_searcher_that_is_asked_again_and_again_gives_the_same(on_lite):
    project = on_lite.project()
    spec = project.spec()
    ready = searcher.Searcher(project.tables, project.store, spec, spec.collection_key(project.uri))
    seed = ready.find([t.track_id for _, t in ready.tracks() if t.path == b"Album/0.flac"])
    first = exact.similar(ready, seed, 20)
    assert all(exact.similar(ready, seed, 20) == first for _ in range(8))
    drift = exact.radio(ready, seed, random=5)
    assert len({m.audio_hash for m in islice(drift, 20)}) == 10
