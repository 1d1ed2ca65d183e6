"""Asking on the command line: names that mean several tracks, playlists, maps, odd names."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import pytest

from embed_assets.api import Library
from embed_assets.defs.library_map import drawn_spec
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.errors import ConfigurationError, EmbedAssetsError
from embed_assets.formats import plain
from embed_assets.index.connection import connect
from embed_assets.index.folders import FolderIndexed, index_library
from embed_assets.index.promotion import promote_if_ready
from embed_assets.library.manifest import MusicFolder, scan_folder
from embed_assets.library.walk import walk
from embed_assets.operations import collections
from embed_assets.project import Project
from embed_assets.search.answers import Filters
from embed_assets.search.filters import parse
from embed_assets.search.map_page import page
from embed_assets.search.milvus import MilvusAnswers
from embed_assets.search.names import Names, each_or_one, find_each
from embed_assets.search.playlist import write_m3u
from embed_assets.search.projection import draw, picture
from embed_assets.workers import open_pool
from embed_assets_tests.embedded import embed_folder
from embed_assets_tests.shelf import Shelf, random_vectors

ESCAPE = "\x1b[2J\x9b31m"


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    from embed_assets_tests.conftest import _world

    for world in _world(tmp_path_factory.mktemp("asked")):
        for i, genre in enumerate(("Jazz", "Acid Jazz", "Rock", 'Q"uo\\te')):
            world.put(f"Some/{i}.flac", i, title=f"Blue {i}", artist=f"A{i % 2}", genre=genre)
        world.put(f"Odd/#{ESCAPE}.flac", 7, title=f"{ESCAPE}red", artist="B")
        world.put(b"Odd/caf\xe9.flac", 8)
        world.put("Odd/two\nlines.flac", 9)
        index(world.project())
        yield world


def index(project, paths=None):
    """What a run of these folders (all) does, without Dagster."""
    spec, tables, store = project.spec(), project.tables, project.store
    embedding = EmbedContext(project.library, spec.recipe, project.vectors.tracks, tables, store)
    paths = paths or [folder.path for folder in walk(project.library.root)]
    with open_pool(1) as pool:
        for path in paths:
            scan_folder(project.library, path, tables, pool)
            embed_folder(embedding, path, pool)
    with connect(project.uri) as client:
        for report in index_library(client, project.index(), paths):
            assert isinstance(report, FolderIndexed), report
        promote_if_ready(client, project.index())


def ask(world, *arguments):
    done = world.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done


def test_words_that_mean_several_tracks_say_which_was_taken(asked):
    done = ask(asked, "similar", "blue", "--json")
    assert re.search(r"took Blue 0 - A0 .*also fits: Blue 1 - A1 .*Blue 3", done.stderr)
    assert {m["path"] for m in json.loads(done.stdout)} >= {"Some/1.flac"}
    assert ask(asked, "similar", "Some/0.flac").stderr == ""


def test_words_find_a_track_whatever_their_case_and_accents(asked):
    blue = ask(asked, "similar", "Blue 0", "--json").stdout
    assert ask(asked, "similar", "0 BLÜE", "--json").stdout == blue


def test_a_question_of_several_tracks_is_headed_by_all_of_them(asked):
    told = ask(asked, "similar", "Some/0.flac", "--also", "Odd").stdout.splitlines()[0]
    assert "Some/0.flac" in told
    assert "Odd" in told


def test_each_argument_is_a_name_if_quotes_or_paths_set_them_apart(asked):
    names = Names(asked.project())
    for given in (
        ["Blue 0", "Blue 1"],
        ["blue", "A0 0"],
        ["Odd", "Some/0.flac"],
        ["Odd", "Some"],
        ["Some/0.flac", "blue"],
        ["Odd", "blue"],
    ):
        assert each_or_one(names, given) == given
    assert each_or_one(names, ["blue", "0"]) == ["blue 0"]
    assert each_or_one(names, ["no", "such", "track"]) == ["no such track"]
    # The name of a folder is also the first word of what is in it.
    assert each_or_one(names, ["Some", "blue", "0"]) == ["Some blue 0"]
    told = ask(asked, "similar", "Blue 0", "Blue 1").stdout.splitlines()[0]
    assert "Some/0.flac" in told
    assert "Some/1.flac" in told


def test_a_way_says_where_it_is_short_and_which_track_of_a_folder_it_took(asked):
    done = ask(asked, "path", "Some", "Odd", "--steps", "50")
    assert "took Blue 0 - A0 (Some/0.flac)" in done.stderr
    assert "only 7 tracks match" in done.stdout
    same = asked.run("path", "Some/0.flac", "Some/0.flac")
    assert (same.returncode, "the same audio" in same.stderr) == (2, True)


def test_filters_several_tracks_and_a_folder(asked):
    def paths(*arguments):
        return {m["path"] for m in json.loads(ask(asked, *arguments, "--json").stdout)}

    assert paths("similar", "Odd", "--genre", "jazz") == {"Some/0.flac", "Some/1.flac"}
    assert paths("similar", "Odd", "--genre", 'q"uo\\te') == {"Some/3.flac"}
    assert len(paths("similar", "Some/0.flac", "Some/1.flac")) == 5
    assert paths("similar", "Odd", "--not-artist", "A0") == {"Some/1.flac", "Some/3.flac"}
    assert len(paths("similar", "Odd", "--per-artist", "1")) == 2
    assert len(paths("path", "Some/0.flac", "Some/2.flac", "--steps", "5")) == 5
    assert len(paths("radio", "Some/0.flac", "--random", "1")) == 6
    assert json.loads(ask(asked, "duplicates", "--json").stdout) == []
    wrong = asked.run("similar", "Odd", "--year", "soon")
    assert (
        wrong.returncode,
        "'soon' is not a number; write a whole number or a range" in wrong.stderr,
    ) == (2, True)


def test_milvus_itself_gives_the_same_answers(asked):
    library = Library(asked.made_settings())
    milvus = MilvusAnswers(asked.project(), asked.project().spec().collection)
    for query, more in (
        (["Some/0.flac"], {}),
        (["Odd"], {"where": [parse("genre=jazz"), parse("artist!=A1")]}),
        (["Some/0.flac", "Some/1.flac"], {"avoid": ["Some/3.flac"], "per_artist": 1}),
    ):
        here = library.similar(query, 5, **more)
        seeds, avoid = (find_each(milvus.names, q) for q in (query, more.get("avoid", ())))
        filters = Filters(more.get("where", ()), more.get("per_artist", 0))
        there = milvus.similar(seeds, avoid, 5, filters)
        assert [(m.path, m.genre) for m in here] == [(m.path, m.genre) for m in there]
        assert [m.score for m in here] == pytest.approx([m.score for m in there], abs=1e-5)


def test_all_is_answered_from_what_is_served_while_another_collection_is_filled(asked, tmp_path):
    now = asked.project()
    served = Library(asked.made_settings())
    before = served.path("Some/0.flac", "Some/2.flac", 5).matches
    settings = asked.made_settings().model_copy(update={"pooling": "enriched"})
    filling, later = Library(settings), Project.of(settings)
    index(later, [b"Some"])
    with pytest.raises(ConfigurationError, match="use: serve another one first"):
        collections.drop(now, now.spec().collection)
    assert filling.path("Some/0.flac", "Some/2.flac", 5).matches == before
    assert len(filling.radio("Some/0.flac", seed=1)) == 6
    assert filling.duplicates(0.5) == served.duplicates(0.5) != []
    assert filling.draw_map(tmp_path / "m.html")["tracks"] == 7
    answer = filling.similar("Some/0.flac", 6)
    assert answer.matches == served.similar("Some/0.flac", 6).matches
    assert answer.spec == now.spec()
    assert drawn_spec(now.tables, later.spec(), now.uri) == now.spec()
    # Of what other tables have made nothing is known here: Milvus itself is asked.
    home = {"home": tmp_path, "milvus_uri": now.uri}
    with pytest.raises(ConfigurationError, match="the tables do not know it"):
        Library(settings.model_copy(update=home)).snapshot()
    collections.drop(later, later.spec().collection)


def test_no_name_and_no_tag_steers_the_terminal(asked):
    for arguments in (
        ("similar", "Some/0.flac"),
        ("similar", "Some/0.flac", "--json"),
        ("similar", f"Odd/#{ESCAPE}.flac"),
        ("radio", "Some/0.flac"),
        ("errors",),
    ):
        done = ask(asked, *arguments)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout + done.stderr), arguments
    assert plain("a\x1b[31m\n\u202eb") == "a\\x1b[31m\\x0a\\u202eb"


def test_a_playlist_has_relative_paths_and_says_what_it_left_out(asked):
    lists = asked.root / "lists"
    lists.mkdir()
    done = ask(asked, "similar", "Some/0.flac", "--m3u", str(lists / "a.m3u"), "-n", "10")
    assert len(re.findall("left out of", done.stderr)) == 2
    lines = (lists / "a.m3u").read_text("utf-8").splitlines()
    assert lines[0] == "#EXTM3U"
    named = [line for line in lines if not line.startswith("#")]
    assert len(named) == 4
    for line in named:
        assert (lists / line).is_file(), line
    assert "#EXTINF:3,A1 - Blue 1" in lines


def test_a_playlist_takes_no_tracks_place_and_leaves_a_link_a_link(tmp_path):
    music, matches = made_up(tmp_path, "a.mp3")
    track = tmp_path / "a.mp3"
    track.write_bytes(b"music")
    with pytest.raises(ConfigurationError, match="audio file"):
        write_m3u(track, music, matches)
    assert track.read_bytes() == b"music"
    with pytest.raises(EmbedAssetsError, match="directory") as told:
        write_m3u(tmp_path, music, matches)
    assert told.value.exit_code == 1
    real, link = tmp_path / "real.m3u", tmp_path / "link.m3u"
    real.write_text("old")
    link.symlink_to(real)
    write_m3u(link, music, matches)
    assert link.is_symlink()
    assert "a.mp3" in real.read_text()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)
    write_m3u(pipe, music, matches)
    assert os.read(reader, 1000).startswith(b"#EXTM3U")
    os.close(reader)
    assert pipe.is_fifo()


def test_a_name_that_starts_as_a_comment_is_no_comment(tmp_path):
    (tmp_path / "#1.mp3").touch()
    music, matches = made_up(tmp_path, "#1.mp3")
    assert write_m3u(tmp_path / "x.m3u", music, matches) == []
    assert (tmp_path / "x.m3u").read_text().splitlines()[2] == "./#1.mp3"


def made_up(root, name):
    """A folder of music, and a track of it as an answer."""
    shelf = Shelf(root)
    shelf.put([shelf.track(name, duration=1)], random_vectors(1))
    return MusicFolder(root), [shelf.searcher().match(0, 1.0)]


def test_a_map_holds_everything_and_nothing_in_it_is_code(tmp_path):
    shelf = Shelf(tmp_path)
    evil = "</script><img src=x onerror=alert(1)>\u2028<!--"
    rows = [shelf.track(f"{f}/{i}", genre=evil, title=evil) for i, f in enumerate("aab" * 10)]
    shelf.put(rows, random_vectors(30))
    ready = shelf.searcher()
    for method in ("pca", "tsne"):
        text = page(ready, draw(ready, method=method))
        head, data = text.split('<script id="data" type="application/json">')
        data = json.loads(data.split("</script>")[0])
        assert data["title"] == [evil] * 30
        assert evil not in text
        assert "default-src 'none'" in head
        frame = page(ready, replace(draw(ready, method="pca"), positions=[]))
        assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", frame)
        assert all(0 <= v <= 9999 for v in data["x"] + data["y"])
        assert [len(set(near) - {i}) for i, near in enumerate(data["near"])] == [8] * 30
    assert draw(ready, by="folder").groups == ["a", "b"]
    assert len(picture(draw(ready))) < 10_000
    one = Shelf(tmp_path / "one")
    one.put([one.track("a/1")], random_vectors(1))
    assert page(one.searcher(), draw(one.searcher()))


def test_the_map_command_writes_a_file_and_the_asset_a_picture(asked, tmp_path):
    told = json.loads(ask(asked, "map", str(tmp_path / "m.html"), "--json").stdout)
    assert told["tracks"] == 7
    assert os.path.getsize(tmp_path / "m.html") == told["bytes"]
