"""How good are the neighbours? On vectors whose right figures are known."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.stats import skew

from embed_assets.context import IndexContext
from embed_assets.defs.neighbours import neighbours_beat_chance
from embed_assets.defs.resources import resources
from embed_assets.errors import ConfigurationError
from embed_assets.index.neighbour_gates import better_neighbours
from embed_assets.neighbours import lists
from embed_assets.neighbours.figures import differences, hubs_of, mean_of, relations_of
from embed_assets.neighbours.labels import Labels, labels_of
from embed_assets.neighbours.lists import Vectors, nearest_lists
from embed_assets.neighbours.measure import OTHER_ALBUM, SAME_ALBUM, SAME_GENRE, measure
from embed_assets.neighbours.ranking import BY_COSINE
from embed_assets.project import Project
from embed_assets.search.evaluate import evaluate
from embed_assets.search.local import local_answers
from embed_assets.settings import Settings
from embed_assets.storage import collection_registry
from embed_assets.storage.records import Embedding
from embed_assets_tests.shelf import DIM, SPEC, Shelf, random_vectors


def stored(vectors):
    made = np.asarray(vectors, np.float32)
    return Vectors(made / np.linalg.norm(made, axis=1, keepdims=True), np.arange(len(made)))


def discography(artists, albums, tracks, genres=1):
    """Labels of so many artists with so many albums of so many tracks."""
    artist = np.repeat(np.arange(artists), albums * tracks)
    album = np.repeat(np.arange(artists * albums), tracks)
    return Labels(artist, album, artist % genres, artist)


def in_corners(labels, noise=0.01):
    """Vectors for which the tracks of an artist are close together and far from all others."""
    rng = np.random.default_rng(0)
    n, width = len(labels), labels.artist.max() + 1
    return stored(np.eye(width)[labels.artist] + noise * rng.standard_normal((n, width)))


def everything(labels):
    return np.arange(len(labels))


def figures(vectors, labels, asked=None, ranking=BY_COSINE):
    asked = everything(labels) if asked is None else asked
    return {r.relation: r for r in relations_of(measure(vectors, labels, asked, ranking))}


def test_perfect_neighbours_get_all_that_is_possible_and_chance_is_exact():
    labels = discography(artists=20, albums=2, tracks=5, genres=4)
    found = figures(in_corners(labels), labels)
    # Without its album a track has 195 candidates, 5 of them by its artist.
    other = found[OTHER_ALBUM]
    assert (other.precision, other.possible) == (0.5, 0.5)
    assert other.chance == pytest.approx(5 / 195, abs=1e-4)
    assert (other.low, other.high) == (0.5, 0.5)
    assert (other.tracks, other.artists) == (200, 20)
    # With it, the 9 nearest are by its artist, and 4 of these are on its album.
    assert found[SAME_ALBUM].precision == found[SAME_ALBUM].possible == 0.4
    assert found[SAME_ALBUM].chance == pytest.approx(4 / 199, abs=1e-4)
    # 190 candidates are by others, 40 of them of its genre.
    assert found[SAME_GENRE].possible == 1.0
    assert found[SAME_GENRE].chance == pytest.approx(40 / 190, abs=1e-4)


def test_vectors_that_mean_nothing_are_as_good_as_chance():
    labels = discography(artists=50, albums=3, tracks=8, genres=5)
    rng = np.random.default_rng(1)
    found = figures(stored(rng.standard_normal((1200, 12))), labels)
    for one in found.values():
        assert one.low <= one.chance <= one.high, one
        assert one.high < one.possible


def test_a_sample_is_searched_among_all_and_estimates_the_same():
    labels = discography(artists=40, albums=2, tracks=10)
    vectors = in_corners(labels, noise=0.4)
    every = figures(vectors, labels)
    asked = np.random.default_rng(2).permutation(800)[:300]
    some = figures(vectors, labels, asked)
    for name, one in every.items():
        if one.precision is not None:
            assert some[name].low <= one.precision <= some[name].high
            assert some[name].tracks == 300


def test_tracks_without_a_tag_or_a_partner_are_not_asked_for():
    shelf_like = Shelf(None)
    rows = [
        shelf_like.track("A/1", artist="Nina Simone; Band", album="One", genre="Jazz"),
        shelf_like.track("A/2", artist="NINA SIMONE", album="one", genre="Jazz; Soul"),
        shelf_like.track("B/1", artist="nina simone", album="Two"),
        shelf_like.track("B/2", album_artist="Nina Simone", album="Two"),
        shelf_like.track("C/1", album="Loose"),
        shelf_like.track("C/2", genre="jazz"),
        shelf_like.track("C/3", artist="Alone"),
    ]
    nobody = [shelf_like.track("V/1", artist="Unknown Artist", album_artist="Various Artists")]
    assert labels_of(nobody).artist.tolist() == [-1]
    labels = labels_of(rows)
    assert labels.artist.tolist() == [0, 0, 0, 0, -1, -1, 1]
    assert labels.genre.tolist() == [0, 0, -1, -1, -1, 0, -1]
    assert labels.album[0] == labels.album[1]
    assert labels.album[2] != labels.album[3], "by another album artist"
    assert labels.album[5] == labels.album[6], "without a title the folder is the album"
    assert labels.group[4] == labels.group[5] != labels.group[6]
    found = figures(stored(random_vectors(7)), labels)
    assert found[OTHER_ALBUM].tracks == 4
    assert found[SAME_GENRE].tracks == 2, "jazz without an artist counts as by another one"
    loose = figures(stored(random_vectors(2)), labels_of(rows[4:6]))
    assert (loose[SAME_GENRE].tracks, loose[SAME_GENRE].precision) == (0, None)


def test_the_ten_nearest_are_those_of_a_full_sort(monkeypatch):
    for name, size in (("QUERIES", 7), ("COLUMNS", 13), ("FIRST_COLUMNS", 5)):
        monkeypatch.setattr(lists, name, size)
    vectors = stored(np.random.default_rng(3).standard_normal((120, 6)))
    group = np.arange(120) % 11
    asked = np.array([3, 50, 51, 119])
    found = nearest_lists(vectors, asked, {"all": np.arange(120), "group": group}, BY_COSINE)
    cosines = vectors.array @ vectors.array.T
    np.fill_diagonal(cosines, -2)
    assert found["all"].tolist() == np.argsort(-cosines[asked])[:, :10].tolist()
    cosines[group[:, None] == group] = -2
    assert found["group"].tolist() == np.argsort(-cosines[asked])[:, :10].tolist()
    few = nearest_lists(stored(random_vectors(3)), np.arange(3), {"all": np.arange(3)}, BY_COSINE)
    assert sorted(few["all"][0].tolist()) == [-1] * 8 + [1, 2]


def test_a_track_near_to_all_others_is_a_hub():
    around = np.eye(40)
    vectors = stored(
        np.vstack([around + 0.001 * np.random.default_rng(4).random((40, 40)), np.ones(40)])
    )
    labels = discography(artists=41, albums=1, tracks=1)
    measured = measure(vectors, labels, everything(labels), BY_COSINE)
    hubs = hubs_of(measured)
    assert hubs.most == 40, "it is in the list of everybody else"
    assert hubs.top_percent == pytest.approx(40 / 410, abs=1e-4)
    assert hubs.skewness == pytest.approx(skew(measured.occurrences), abs=1e-3)
    assert hubs.orphans == pytest.approx((measured.occurrences == 0).mean(), abs=1e-4)


def test_the_skewness_of_all_is_estimated_from_a_sample_without_bias():
    labels = discography(artists=300, albums=1, tracks=1)
    rng = np.random.default_rng(5)
    vectors = stored(rng.standard_normal((300, 5)) + 0.8)
    whole = hubs_of(measure(vectors, labels, everything(labels), BY_COSINE))
    found = [
        hubs_of(measure(vectors, labels, rng.permutation(300)[:100], BY_COSINE)) for _ in range(60)
    ]
    assert np.mean([f.skewness for f in found]) == pytest.approx(whole.skewness, abs=0.12)
    assert found[0].orphans is None, "which tracks nobody lists is not known from a sample"


def test_intervals_draw_artists_and_not_tracks():
    few = mean_of(np.repeat([0.0, 1.0, 0.0, 1.0], 100), np.repeat(np.arange(4), 100))
    many = mean_of(np.tile([0.0, 1.0], 200), np.arange(400))
    assert few.value == many.value == 0.5
    assert few.high - few.low > 3 * (many.high - many.low)
    assert many.high - many.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)
    alone = mean_of(np.array([0.2, 0.4]), np.array([7, 7]))
    assert (alone.low, alone.high) == (0.0, 1.0), "one artist says nothing about others"


def test_two_models_are_compared_on_the_same_tracks():
    labels = discography(artists=30, albums=2, tracks=5)
    good, bad = (
        measure(in_corners(labels, noise), labels, everything(labels), BY_COSINE)
        for noise in (0.2, 1.0)
    )
    (one,) = [d for d in differences(good, bad) if d.relation == OTHER_ALBUM]
    assert one.low > 0
    (back,) = [d for d in differences(bad, good) if d.relation == OTHER_ALBUM]
    assert back.difference == -one.difference
    assert all(d.difference == d.low == d.high == 0 for d in differences(good, good))


# On the tables and the store


def library_of(shelf, artists=12, albums=2, tracks=4):
    rows, vectors = [], []
    rng = np.random.default_rng(6)
    for a in range(artists):
        centre = rng.standard_normal(DIM)
        for b in range(albums):
            for t in range(tracks):
                tags = {"artist": f"Artist {a}", "album": f"Album {b}", "genre": f"G{a % 3}"}
                rows.append(shelf.track(f"{a}/{b}/{t}.ogg", **tags, duration=100 + len(rows)))
                vectors.append(centre + 0.05 * rng.standard_normal(DIM))
    shelf.put(rows, np.array(vectors))
    return rows


def project_of(shelf):
    return Project.of(Settings.load(home=shelf.root, encoder="acoustic"))


def test_a_library_is_evaluated_on_its_tags(tmp_path):
    shelf = Shelf(tmp_path)
    rows = library_of(shelf)
    copy = shelf.track("Copies/copy.ogg", rows[0].path.decode(), artist="Artist 0", album="Best of")
    shelf.put([copy], random_vectors(1))
    answers = local_answers(project_of(shelf), SPEC)
    found = evaluate(answers)
    assert (found.tracks, found.asked) == (96, 96), "identical audio counts once"
    by_name = {r.relation: r for r in found.relations}
    assert by_name[OTHER_ALBUM].precision == pytest.approx(0.4, abs=0.01)
    assert found.same_track is None, "its tracks have one window"
    assert found.beside == (), "it is the built-in encoder itself"
    assert json.dumps(asdict(found))
    sampled = evaluate(answers, 20)
    assert (sampled.tracks, sampled.asked) == (96, 20)
    assert sampled == evaluate(answers, 20)
    with pytest.raises(ConfigurationError, match="sample is -1"):
        evaluate(answers, -1)


def hear(project, spec, rows, vectors):
    """Store these vectors of tracks under a spec."""
    for row, vector in zip(rows, vectors, strict=True):
        windows = np.asarray(vector, np.float32)[None, None]
        project.store.write(spec.recipe.digest, row.audio_hash, windows, replace=True)
    digest = spec.recipe.digest
    project.tables.put_embeddings(Embedding(digest, r.audio_hash, 1, at=5.0) for r in rows)


def move(project, rows, before, after):
    """Have all that is indexed under a spec be indexed under another one, with its vectors."""
    for row in rows:
        windows = project.store.read(before.recipe.digest, row.audio_hash)
        project.store.write(after.recipe.digest, row.audio_hash, windows, replace=True)
    with project.tables.transaction() as db:
        recipes = after.recipe.digest, before.recipe.digest
        db.execute("UPDATE embeddings SET recipe = ? WHERE recipe = ?", recipes)
        keys = after.collection_key(project.uri), before.collection_key(project.uri)
        db.execute("UPDATE indexed SET collection_key = ? WHERE collection_key = ?", keys)


def test_too_few_tracks_are_said_to_be_too_few(tmp_path):
    shelf = Shelf(tmp_path)
    shelf.put([shelf.track("A/1.ogg")], random_vectors(1))
    with pytest.raises(ConfigurationError, match="1 different track with vectors"):
        evaluate(local_answers(project_of(shelf), SPEC))


def test_a_track_whose_windows_differ_from_all_others_finds_its_other_half(tmp_path):
    shelf = Shelf(tmp_path)
    rows = [shelf.track(f"A/{i}.ogg") for i in range(8)]
    rng = np.random.default_rng(7)
    corners = np.eye(DIM)[:8]
    for i, (row, corner) in enumerate(zip(rows, corners, strict=True)):
        first, last = corner, corner if i < 6 else corners[13 - i]
        windows = np.stack([first, rng.standard_normal(DIM), last]).astype(np.float32)
        shelf.store.write(SPEC.recipe.digest, row.audio_hash, windows[:, None], replace=True)
    shelf.put(rows, corners)
    found = evaluate(local_answers(project_of(shelf), SPEC)).same_track
    assert (found.found, found.tracks) == (6 / 8, 8)
    assert found.chance == 1 / 8


def test_a_model_is_compared_with_the_built_in_encoder_where_both_have_vectors(tmp_path):
    shelf = Shelf(tmp_path)
    rows = library_of(shelf)
    project = project_of(shelf)
    # What is on the shelf is what a model made; half of it the built-in encoder heard, too.
    half = rows[:48]
    hear(project, project.spec(), half, np.random.default_rng(8).standard_normal((48, 128)))
    made = replace(SPEC, recipe=replace(SPEC.recipe, encoder="muq"))
    move(project, rows, SPEC, made)
    found = evaluate(local_answers(project, made))
    (beside,) = found.beside
    assert (beside.name, beside.tracks, found.tracks) == ("acoustic", 48, 96)
    better = {d.relation: d for d in beside.differences}[OTHER_ALBUM]
    assert better.low > 0, "noise is worse"


def noise_under(shelf, rows, weights="noise"):
    """A spec under which the same tracks have vectors that mean nothing."""
    made = replace(SPEC, recipe=replace(SPEC.recipe, weights=weights))
    hear(project_of(shelf), made, rows, random_vectors(len(rows), seed=9))
    return made


def test_before_a_model_is_served_its_neighbours_are_compared_with_those_served(tmp_path):
    shelf = Shelf(tmp_path)
    rows = library_of(shelf, artists=20)
    noise = noise_under(shelf, rows)
    for spec in (SPEC, noise):
        collection_registry.note_collection(shelf.tables, shelf.uri, spec)
    index = IndexContext(shelf.library, shelf.tables, shelf.store, noise, shelf.uri)
    worse = {d.relation: d for d in better_neighbours(index, SPEC.collection)}
    assert worse[OTHER_ALBUM].high < 0
    better = {d.relation: d for d in better_neighbours(index.of(SPEC), noise.collection)}
    assert better[OTHER_ALBUM].low > 0
    assert better_neighbours(index, noise.collection) == (), "the same one"
    assert better_neighbours(index, "tracks_unknown_0") == ()


def test_the_check_in_the_ui_has_the_figures_of_every_collection_and_warns(tmp_path):
    shelf = Shelf(tmp_path)
    rows = library_of(shelf, artists=20)
    noise = noise_under(shelf, rows)
    settings = Settings.load(home=shelf.root, encoder="acoustic")
    for spec in (SPEC, noise):
        collection_registry.note_collection(shelf.tables, shelf.uri, spec)
    collection_registry.note_move(
        shelf.tables, shelf.uri, SPEC.collection, None, "first", SPEC.collection
    )
    found = neighbours_beat_chance(**resources(settings))
    (record,) = found.metadata["collections"].records
    assert found.passed
    assert record.data["served"] == "yes"
    assert record.data["same artist, another album"].startswith("0.400 (")

    with shelf.tables.transaction() as db:
        db.execute("UPDATE indexed SET collection_key = ?", (noise.collection_key(shelf.uri),))
    collection_registry.note_move(
        shelf.tables, shelf.uri, noise.collection, SPEC.collection, "gates", noise.collection
    )
    found = neighbours_beat_chance(**resources(settings))
    assert not found.passed
    assert "no more often than by chance" in found.description
