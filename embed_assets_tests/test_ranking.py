"""Another order of neighbours than by cosine: chosen, never silent, and cosines are still shown."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from embed_assets.api import Library
from embed_assets.errors import ConfigurationError, NotFound
from embed_assets.neighbours import ranking as ranking_module
from embed_assets.neighbours.choose import best_method
from embed_assets.neighbours.labels import Labels
from embed_assets.neighbours.lists import Vectors
from embed_assets.neighbours.measure import OTHER_ALBUM, measure
from embed_assets.neighbours.ranking import (
    CENTRED,
    COSINE,
    CSLS,
    METHODS,
    MUTUAL_PROXIMITY,
    Ranking,
)
from embed_assets.operations.collections import collections
from embed_assets.project import Project
from embed_assets.search import exact, pca_prefilter, searcher, snapshot
from embed_assets.search.answers import Filters
from embed_assets.search.evaluate import choose
from embed_assets.search.local import local_answers
from embed_assets.search.milvus import MilvusAnswers
from embed_assets.search.names import Found
from embed_assets.settings import Settings
from embed_assets.storage import collection_registry
from embed_assets.storage.ranking_choice import choose_ranking, ranking_choice
from embed_assets_tests.shelf import DIM, SPEC, Shelf, random_vectors

OTHERS = [m for m in METHODS if m != COSINE]


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path)


def fill(shelf, n=300, shift=0.5, index=False):
    """Tracks by thirty artists, whose vectors all lean to one side."""
    vectors = random_vectors(n) + shift
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [shelf.track(f"A{i % 7}/{i}.ogg", artist=f"Artist {i % 30}") for i in range(n)]
    shelf.put(rows, vectors, index=index)
    return rows, vectors


def by_brute_force(method, query, vectors, sample):
    """Positions in the order of a method, each number computed as it is defined."""
    cosines = vectors @ query

    def others(vector):
        found = sample @ vector
        return np.sort(found[found < 1 - 1e-5])

    if method == CENTRED:
        centre = sample.mean(axis=0)
        away = [(v - centre) / np.linalg.norm(v - centre) for v in (query, *vectors)]
        return np.argsort(-np.array([away[0] @ a for a in away[1:]]))
    if method == CSLS:
        near = np.array([others(v)[-10:].mean() for v in vectors])
        return np.argsort(-(2 * cosines - near))
    mean, spread = others(query).mean(), others(query).std()
    theirs = np.array([(others(v).mean(), others(v).std()) for v in vectors])
    of_mine = norm.sf((cosines - mean) / spread)
    of_theirs = norm.sf((cosines - theirs[:, 0]) / theirs[:, 1])
    # The product of both shares below, taken from 1 in a way that keeps small differences.
    return np.argsort(of_mine + of_theirs - of_mine * of_theirs)


def sample_of(rows, vectors):
    """The vectors of the lowest audio hashes."""
    lowest = sorted(range(len(rows)), key=lambda i: rows[i].audio_hash)
    return vectors[lowest[: ranking_module.SAMPLE]]


def chosen(shelf, method):
    choose_ranking(shelf.tables, shelf.collection_key, method, "for a test")


@pytest.mark.parametrize("method", OTHERS)
def test_neighbours_are_ranked_by_the_method_and_shown_with_their_cosines(
    shelf, method, monkeypatch
):
    monkeypatch.setattr("embed_assets.search.order.SAMPLE", 120)
    monkeypatch.setattr(ranking_module, "SAMPLE", 120)
    rows, vectors = fill(shelf)
    chosen(shelf, method)
    ready = shelf.searcher()
    place = {t.path: i for i, t in ready.tracks()}
    mine = {place[row.path]: i for i, row in enumerate(rows)}
    sample = sample_of(rows, vectors)
    some = np.zeros(len(rows), bool)
    some[[place[rows[i].path] for i in range(0, 300, 30)]] = True
    differs = 0
    for i in range(0, 300, 37):
        order = by_brute_force(method, vectors[i], vectors, sample).tolist()
        found, cosines = ready.nearest(vectors[i], 12)
        assert [mine[p] for p in found] == order[:12]
        assert cosines == pytest.approx(vectors[order[:12]] @ vectors[i], abs=1e-5)
        few, _ = ready.nearest(vectors[i], 4, some)
        assert [mine[p] for p in few] == [k for k in order if k % 30 == 0][:4]
        differs += order[:12] != np.argsort(-vectors @ vectors[i])[:12].tolist()
    assert differs, "it is another order"


@pytest.mark.parametrize("method", OTHERS)
def test_many_rows_are_ranked_as_exactly_as_few(shelf, method, monkeypatch):
    """By candidates along the axes, where these suffice for this order, and by all elsewhere."""
    rng = np.random.default_rng(1)
    vectors = (rng.standard_normal((2000, DIM)) * 0.3 ** np.arange(DIM)).astype(np.float32)
    shelf.put([shelf.track(f"steep/{i}") for i in range(2000)], vectors)
    chosen(shelf, method)
    some = range(0, 2000, 150)
    plain = shelf.searcher()
    by_scan = [plain.nearest(vectors[i], 10)[0].tolist() for i in some]
    for name, value in (("EXACT_ROWS", 500), ("ASKED_BEFORE", 0), ("CANDIDATES", 200)):
        monkeypatch.setattr(snapshot, name, value)
    monkeypatch.setattr(pca_prefilter, "CANDIDATES", 200)
    monkeypatch.setattr(pca_prefilter, "AXES", (8,))
    quick = shelf.searcher()
    assert [quick.nearest(vectors[i], 10)[0].tolist() for i in some] == by_scan
    assert quick._state.prefilter.axes.is_exact_enough


def test_an_older_snapshot_is_asked_while_a_newer_one_has_more_tracks(shelf, monkeypatch):
    for name, value in (("EXACT_ROWS", 100), ("ASKED_BEFORE", 0)):
        monkeypatch.setattr(snapshot, name, value)
    _, vectors = fill(shelf)
    chosen(shelf, CSLS)
    ready = shelf.searcher()
    expected = shelf.searcher().nearest(vectors[5], 10)[0].tolist()
    older = ready.snapshot()
    shelf.put([shelf.track("New/a.ogg")], random_vectors(1, seed=9))
    assert ready.refresh(at_once=True)
    newer = ready.snapshot()
    newer._state.order.of(newer._state.vectors)
    assert older.nearest(vectors[5], 10)[0].tolist() == expected
    assert len(set(newer.nearest(vectors[5], 400)[0].tolist())) == 301, "all that there are"


def test_similar_keeps_its_filters_and_limits_in_another_order(shelf):
    fill(shelf)
    chosen(shelf, CSLS)
    ready = shelf.searcher()
    found = exact.similar(ready, [3], 20, per_artist=1)
    artists = [m.artist for m in found]
    assert len(set(artists)) == len(artists) == 20
    every = [m.path for m in exact.similar(ready, [3], 299)]
    assert len(set(every)) == 299
    first = {}
    for m in exact.similar(ready, [3], 299):
        first.setdefault(m.artist, m.path)
    assert [m.path for m in found] == list(first.values())[:20], "the nearest of each artist"


def test_a_searcher_that_stays_up_ranks_by_what_is_chosen_later(each_database, shelf, monkeypatch):
    monkeypatch.setattr(searcher, "FRESH_SECONDS", 0.0)
    _, vectors = fill(shelf)
    ready = shelf.searcher()
    before = ready.nearest(vectors[5], 10)[0].tolist()
    chosen(shelf, MUTUAL_PROXIMITY)
    assert ready.refresh()
    assert ready.snapshot().ranking == MUTUAL_PROXIMITY
    assert ready.nearest(vectors[5], 10)[0].tolist() != before
    shelf.put([shelf.track("New/a.ogg")], random_vectors(1, seed=9))
    assert ready.refresh()
    assert len(ready.nearest(vectors[5], 301)[0]) == 301, "with what came since"
    chosen(shelf, COSINE)
    assert ready.refresh()
    assert ready.nearest(vectors[5], 10)[0].tolist() == before
    chosen(shelf, "of a later version")
    ready.refresh()
    assert ready.nearest(vectors[5], 10)[0].tolist() == before


def test_milvus_ranks_again_what_it_found(shelf, monkeypatch):
    monkeypatch.setattr("embed_assets.search.milvus.FEWEST_RERANKED", 300)
    rows, _ = fill(shelf, index=True)
    chosen(shelf, MUTUAL_PROXIMITY)
    project = project_of(shelf)
    monkeypatch.setattr("embed_assets.search.milvus.spec_of", lambda *_: SPEC)
    asked = MilvusAnswers(project, SPEC.collection)
    assert asked.ranking == MUTUAL_PROXIMITY

    def both():
        ready = shelf.searcher()
        (seed,) = ready.find([rows[7].track_id])
        there = asked.similar([Found((rows[7],), "seven")], [], 10, Filters())
        return there, exact.similar(ready, [seed], 10)

    there, here = both()
    assert [m.path for m in there] == [m.path for m in here]
    assert [m.score for m in there] == pytest.approx([m.score for m in here], abs=1e-5)

    # Tracks that came since belong to the sample of a small library.
    monkeypatch.setattr("embed_assets.search.milvus.FEWEST_RERANKED", 700)
    new = [shelf.track(f"New/{i}.ogg") for i in range(400)]
    shelf.put(new, random_vectors(400, seed=9) - 2.0, index=True)
    there, here = both()
    assert [m.path for m in there] == [m.path for m in here]


def project_of(shelf):
    return Project.of(Settings.load(home=shelf.root, encoder="acoustic"))


def test_answers_say_that_another_order_was_chosen(shelf):
    rows, _ = fill(shelf, n=60, index=True)
    library = Library(Settings.load(home=shelf.root, encoder="acoustic"))
    asked = rows[4].track_id
    assert library.similar(asked).notes == ()
    library.choose_ranking(CENTRED)
    for found in (library.similar(asked), library.radio(asked, 5, seed=1)):
        assert "ranked by centred" in found.notes[0]
    (row,) = [r for r in collections(project_of(shelf)) if r["name"] == SPEC.collection]
    assert row["ranking"] == CENTRED
    assert library.snapshot(SPEC.collection).evaluate(10).ranking == CENTRED
    with pytest.raises(NotFound, match="the tables know no collection of tracks 'tracks_x'"):
        library.snapshot("tracks_x")
    library.choose_ranking(COSINE)
    assert library.similar(asked).notes == ()


# Choosing


def discography(artists=30, albums=2, tracks=5):
    artist = np.repeat(np.arange(artists), albums * tracks)
    return Labels(artist, np.repeat(np.arange(artists * albums), tracks), artist % 3, artist)


def measured(vectors, labels):
    made = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    stored = Vectors(made, np.arange(len(made)))
    return {m: measure(stored, labels, np.arange(len(made)), Ranking(m, made)) for m in METHODS}


def clouds(labels, noise, shift):
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((labels.artist.max() + 1, 24))
    return centres[labels.artist] + noise * rng.standard_normal((len(labels), 24)) + shift


def test_cosine_stays_where_no_other_order_is_clearly_better():
    labels = discography()
    choice = best_method(measured(clouds(labels, 0.3, 0.0), labels))
    assert choice.method == COSINE
    assert "no other order is clearly better" in choice.why


def test_an_order_that_finds_clearly_more_is_chosen_and_says_what_it_gains():
    labels = discography()
    # One direction in which tracks differ at random, far from the origin: it owns every cosine.
    vectors = clouds(labels, 1.0, 0.0)
    vectors[:, 0] = 12 + 4 * np.random.default_rng(4).standard_normal(len(labels))
    choice = best_method(measured(vectors, labels))
    assert choice.method != COSINE
    assert choice.why.startswith(f"{OTHER_ALBUM}: +")


def test_without_tags_nothing_is_judged():
    labels = discography()
    none = np.full(len(labels), -1)
    unknown = Labels(none, np.arange(len(labels)), none, np.arange(len(labels)))
    choice = best_method(measured(clouds(labels, 1.0, 5.0), unknown))
    assert choice.method == COSINE
    assert "too few tracks have tags" in choice.why


def test_a_choice_is_kept_with_the_collection_and_goes_with_it(shelf):
    fill(shelf, n=60, index=True)
    project = project_of(shelf)
    found = choose(local_answers(project, SPEC), CSLS)
    assert (found.ranking, found.chosen, found.why) == (CSLS, CSLS, "chosen by hand")
    assert {b.name for b in found.beside} == {m for m in METHODS if m != CSLS}
    answers = local_answers(project, SPEC)
    assert answers.ranking == CSLS
    with pytest.raises(ConfigurationError, match="there is no order 'euclid'"):
        choose(answers, "euclid")
    best = choose(answers, "best")
    assert best.chosen == COSINE
    assert ranking_choice(shelf.tables, shelf.collection_key).why == best.why
    assert local_answers(project, SPEC).ranking == COSINE
    collection_registry.forget_collection(shelf.tables, shelf.uri, SPEC.collection)
    assert ranking_choice(shelf.tables, shelf.collection_key) is None
