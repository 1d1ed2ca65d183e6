"""The library from Python: what is opened, asked and answered, also by many threads at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import embed_assets as ea
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.index.connection import connect
from embed_assets.index.folders import index_library
from embed_assets.index.promotion import promote_if_ready
from embed_assets.library.manifest import scan_folder
from embed_assets.project import Project
from embed_assets.search import searcher
from embed_assets.workers import open_pool
from embed_assets_tests.embedded import embed_folder
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.test_asking import index

THREADS = 8
TURNS = 4


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Two albums and a copy of one track, indexed; what a test adds to it, it takes away again."""
    made = LiveProject(tmp_path_factory.mktemp("api"))
    made.library.mkdir(parents=True)
    for i, genre in enumerate(("Jazz", "Acid Jazz", "Rock", "Rock")):
        made.put(f"Some/{i}.flac", i, title=f"Blue {i}", artist=f"A{i % 2}", genre=genre)
    made.put("Copies/0.flac", 0, title="Blue 0", artist="A0", genre="Jazz")
    made.put("Other/9.flac", 9, title="Red", artist="B")
    index(made.project())
    return made


@pytest.fixture
def lib(filled):
    return ea.Library(filled.made_settings())


def paths(result):
    return [m.path for m in result]


def test_importing_it_imports_nothing_heavy():
    script = "import sys, embed_assets, embed_assets.cli; embed_assets.open(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {"torch", "pymilvus", "milvus_lite", "librosa", "pandas", "dagster", "av", "sklearn"}
    assert loaded.isdisjoint(heavy), loaded & heavy
    bare = subprocess.run(
        [sys.executable, "-c", "import sys, embed_assets; print('numpy' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert bare.stdout.strip() == "False"


def test_every_public_name_is_there():
    assert {name for name in ea.__all__ if getattr(ea, name)} == set(ea.__all__) <= set(dir(ea))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ea.nothing


def test_settings_come_from_the_environment_but_for_those_that_are_given(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBED_ENCODER", "acoustic")
    monkeypatch.setenv("EMBED_WINDOWS", "5")
    lib = ea.open(library=tmp_path, home=str(tmp_path / "home"), windows=7)
    told = lib.settings
    assert (told.library, told.encoder, told.windows) == (tmp_path, "acoustic", 7)
    assert str(tmp_path) in repr(lib)
    with pytest.raises(ea.ConfigurationError, match="libary is not a setting: is it library"):
        ea.open(libary=tmp_path)
    with pytest.raises(ea.ConfigurationError, match="EMBED_WINDOWS='many'"):
        ea.open(windows="many")
    with pytest.raises(ea.ConfigurationError, match=r"EMBED_ENCODER='acustic': .*one of: muq,"):
        ea.open(encoder="acustic")
    with pytest.raises(ea.ConfigurationError, match="EMBED_PARTS='ja': write true or false"):
        ea.open(parts="ja")
    with pytest.raises(ea.ConfigurationError, match="nothing is indexed yet"):
        lib.similar("anything")
    assert not (tmp_path / "home").exists(), "asking makes nothing"


def test_a_result_says_what_was_asked_and_is_a_sequence(lib, tmp_path):
    found = lib.similar("blue", n=3, where="genre!=rock")
    assert found.query.seeds == ("Blue 0 - A0 (Some/0.flac)",)
    assert found.query.n == 3
    assert [c.field for c in found.query.filters.where] == ["genre"]
    assert "It also fits: Blue 1" in found.notes[0]
    assert found.encoder == "acoustic"
    assert len(found) == len(found.matches) == 2
    assert list(found) == [found[0], *found[1:]]
    assert isinstance(found[0], ea.Match)
    frame = found.to_pandas()
    assert list(frame["path"]) == paths(found)
    nothing = lib.similar("blue", where="genre=polka")
    assert (len(nothing), not nothing) == (0, True)
    assert "track_id" in nothing.to_pandas().columns
    assert found.to_m3u(tmp_path / "a.m3u") == []
    assert (tmp_path / "a.m3u").read_text().count("#EXTINF") == 2


def test_a_query_is_words_a_path_an_id_or_several(lib, filled):
    by_path = lib.similar("Some/2.flac")
    (track,) = lib.tracks().query("path == 'Some/2.flac'")["track_id"]
    for query in ("blue 2", track, [track], filled.library / "Some/2.flac"):
        assert lib.similar(query).matches == by_path.matches
    assert lib.similar(tracks=[track]).matches == by_path.matches
    several = lib.similar(["Some/2.flac", "red"])
    assert several.query.seeds == ("Blue 2 - A0 (Some/2.flac)", "Red - B (Other/9.flac)")
    assert several.matches == lib.similar("red", tracks=[track]).matches
    near = lib.similar("Some/2.flac", avoid=["red", "Some/3.flac"])
    assert near.query.name.endswith("not Red - B (Other/9.flac) or Blue 3 - A1 (Some/3.flac)")
    assert not {"Other/9.flac", "Some/3.flac"} & set(paths(near))
    with pytest.raises(ea.NotFound, match="no track has the id 'ffff'"):
        lib.similar(tracks=["ffff"])
    with pytest.raises(ea.NotFound, match="name a track by its path"):
        lib.similar()
    with pytest.raises(ea.NotFound, match="'no such song'"):
        lib.similar("no such song")


def test_conditions_are_one_text_or_several(lib):
    jazz = ["Copies/0.flac", "Some/1.flac"]
    assert sorted(paths(lib.similar("red", where='genre="acid jazz"'))) == ["Some/1.flac"]
    assert sorted(paths(lib.similar("red", where="genre=jazz artist!=b"))) == jazz
    assert sorted(paths(lib.similar("red", where=["genre=jazz", "artist!=b"]))) == jazz
    (condition,) = lib.similar("red", where="genre=jazz").query.filters.where
    assert sorted(paths(lib.similar("red", where=[condition]))) == jazz
    for wrong in ("genre=acid jazz", "artist=don't", "nonsense"):
        with pytest.raises(ea.ConfigurationError, match="put a value with spaces"):
            lib.similar("red", where=wrong)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("year=foo", "year: 'foo' is not a number; write a whole number or a range"),
        ("added_at=yesterday", "added_at: 'yesterday' is not a date; write a date or a range"),
        ("added_at=2026-13", "'2026-13' is not a date"),
        ("duration=abc..", "duration: 'abc' is not a duration; write a duration"),
        ("year=..", r"year: '\.\.' has neither a lower nor an upper bound; write"),
    ],
)
def test_a_condition_that_is_none_says_what_to_write(lib, where, told):
    with pytest.raises(ea.ConfigurationError, match=told):
        lib.similar("red", where=where)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "/\0"])
def test_what_no_track_can_be_called_is_not_found(lib, name):
    with pytest.raises(ea.NotFound):
        lib.similar(name)


def test_numbers_that_mean_nothing_are_refused(lib):
    for ask in (
        lambda: lib.path("Some/0.flac", "Some/1.flac", steps=1),
        lambda: lib.radio("Some/0.flac", n=-1),
        lambda: lib.radio("Some/0.flac", seed=-1),
        lambda: lib.radio("Some/0.flac", drift=float("nan")),
    ):
        with pytest.raises(ea.ConfigurationError):
            ask()
    with pytest.raises(ea.NotFound):
        lib.similar(tracks=[3])


def test_other_questions(lib, tmp_path):
    way = lib.path("Some", "red", steps=4)
    assert (way[0].path, way[-1].path, len(way)) == ("Some/0.flac", "Other/9.flac", 4)
    assert way.notes, "which track of the folder was taken"
    drift = lib.radio("red", n=3, seed=1)
    assert len({m.audio_hash for m in drift}) == 3
    assert lib.radio("red", n=3, seed=1).matches == drift.matches
    (twice,) = (g for g in lib.duplicates() if g.certain)
    assert paths(twice.tracks) == ["Copies/0.flac", "Some/0.flac"]
    assert lib.draw_map(tmp_path / "m.html")["tracks"] == 6
    with pytest.raises(ea.ConfigurationError, match="EMBED_PARTS=true"):
        lib.parts("red")
    assert list(lib.tracks()["path"]) == sorted(lib.tracks()["path"])


def test_a_snapshot_stays_as_it_was(lib, filled, monkeypatch):
    monkeypatch.setattr(searcher, "FRESH_SECONDS", 0.0)
    snap = lib.snapshot()
    before = snap.similar("red").matches
    frame = snap.tracks()
    filled.put("New/1.flac", 20, title="Yellow", artist="C")
    index(filled.project(), [b"New"])
    try:
        assert "New/1.flac" in paths(lib.similar("red"))
        assert lib.similar("yellow").query.seeds == ("Yellow - C (New/1.flac)",)
        assert snap.similar("red").matches == before
        assert snap.tracks().equals(frame)
        assert len(snap) == 6
        with pytest.raises(ea.NotFound, match="not indexed yet"):
            snap.similar("yellow")
    finally:
        filled.remove("New")
        filled.project().tables.forget_folder(folder_of(filled, b"New"))
    # What has gone since is found by its name in the snapshot that has it.
    later = ea.Library(filled.made_settings()).snapshot()
    assert len(later) == 6


def folder_of(world, path):
    return next(f for f, p, _ in world.project().tables.folders() if p == path)


def test_a_track_that_was_rejected_says_why(lib, filled):
    filled.put_bad("Bad/broken.mp3", b"")
    project = filled.project()
    with open_pool(1) as pool:
        scan_folder(project.library, b"Bad", project.tables, pool)
    try:
        for name in ("Bad/broken.mp3", "broken.mp3"):
            with pytest.raises(ea.NotFound, match="was rejected"):
                lib.similar(name)
    finally:
        filled.remove("Bad")
        project.tables.forget_folder(folder_of(filled, b"Bad"))


def test_a_file_has_the_vector_that_the_index_has_of_it(lib, filled, tmp_path):
    vector = lib.embed(filled.library / "Some/2.flac")
    assert vector.dtype == np.float32
    assert float(vector @ vector) == pytest.approx(1, abs=1e-5)
    project = filled.project()
    spec = project.spec()
    ready = searcher.Searcher(project.tables, project.store, spec, spec.collection_key(project.uri))
    ((nearest,), (cosine,)) = ready.nearest(vector, 1)
    assert ready.track(nearest).path == b"Some/2.flac"
    assert float(cosine) == pytest.approx(1, abs=1e-5)
    (tmp_path / "empty.mp3").touch()
    with pytest.raises(ea.TrackRejected, match="empty"):
        lib.embed(tmp_path / "empty.mp3")
    with pytest.raises(FileNotFoundError):
        lib.embed(tmp_path / "nothing.mp3")


@pytest.mark.parametrize("call", ["sync()", "embed(lib.settings.library / 'Some/2.flac')"])
def test_a_script_that_its_processes_would_run_again_is_told_at_once(filled, tmp_path, call):
    script = tmp_path / "script.py"
    begin = f"import embed_assets as ea\nprint('begun', flush=True)\nlib = ea.open()\nlib.{call}\n"
    script.write_text(begin)
    done = subprocess.run(
        [sys.executable, script], env=filled.environment, capture_output=True, text=True
    )
    assert 'put what the script does below `if __name__ == "__main__":`' in done.stderr
    assert done.stdout == "begun\n" * 2
    assert done.returncode == 1


def test_beside_a_folder_of_its_name_the_package_is_found(tmp_path):
    (tmp_path / "embed_assets").mkdir()  # as a clone is, for who works in the folder above it
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", "import embed_assets; embed_assets.Library"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_eight_threads_ask_while_runs_write_and_another_collection_is_served(tmp_path, monkeypatch):
    """Each answer is of one collection: scores of tracks that stay are those of its pooling."""
    monkeypatch.setattr(searcher, "FRESH_SECONDS", 0.0)
    # Of a single window both poolings make the same of these tracks.
    world = LiveProject(tmp_path / "world", {"EMBED_WINDOW_SECONDS": "1"})
    world.library.mkdir(parents=True)
    for i in range(6):
        world.put(f"Stays/{i}.ogg", i, artist="Old")
    settings = world.made_settings()
    projects = {
        pooling: Project.of(settings.model_copy(update={"pooling": pooling}))
        for pooling in ("mean", "enriched")
    }
    lib = ea.open(**{name: getattr(settings, name) for name in settings.model_fields_set})
    stop, seen = threading.Event(), set()

    def scores(result):
        return {m.path: m.score for m in result if m.artist == "Old"}

    def asking() -> int:
        asked = 0
        while not stop.is_set():
            for ask in (lib, lib.snapshot()):
                found = ask.similar("Stays/0.ogg", n=50)
                assert scores(found) == pytest.approx(expected[found.spec.pooling], abs=1e-5)
                seen.add((found.spec.pooling, len(found)))
                way = ask.path("Stays/0.ogg", "Stays/1.ogg", steps=4, where="artist=old")
                assert len(way) == 4
                assert len(ask.radio("Stays/2.ogg", n=5, where="artist=old")) == 5
                ask.duplicates(0.9)
            asked += 1
        return asked

    with open_pool(1) as pool:
        expected = {}
        for pooling, project in projects.items():
            write(project, [b"Stays"], pool)
            found = ea.Library(settings).similar("Stays/0.ogg", n=50)
            assert found.spec.pooling == pooling, "it is served"
            expected[pooling] = scores(found)
        assert expected["mean"] != expected["enriched"]
        with ThreadPoolExecutor(THREADS) as threads:
            running = [threads.submit(asking) for _ in range(THREADS)]
            try:
                for turn in range(TURNS):
                    world.put(f"New {turn}/1.ogg", 10 + turn, artist="New")
                    for project in projects.values():
                        write(project, [b"New %d" % turn], pool)
            finally:
                stop.set()
            assert all(r.result() for r in running)
    assert {pooling for pooling, _ in seen} == {"mean", "enriched"}
    assert len({many for _, many in seen}) > 2, "what was written meanwhile was found"
    last = lib.similar("Stays/0.ogg", n=50)
    assert len(last) == 5 + TURNS


def write(project, folders, pool):
    """What a run of these folders does, and the look behind it, which moves the alias."""
    spec, tables, store = project.spec(), project.tables, project.store
    embedding = EmbedContext(project.library, spec.recipe, project.vectors.tracks, tables, store)
    for path in folders:
        scan_folder(project.library, path, tables, pool)
        embed_folder(embedding, path, pool)
    with connect(project.uri) as client:
        for report in index_library(client, project.index(), folders):
            assert not isinstance(report, tuple), report
        status = promote_if_ready(client, project.index())
        assert status.served == spec.collection, status.why
