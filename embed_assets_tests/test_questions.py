"""What people ask of the index: like these and unlike those, a way, a drift, what is double."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest

from embed_assets.errors import ConfigurationError
from embed_assets.index.connection import connect
from embed_assets.index.nearest import similar as asked_of_milvus
from embed_assets.search import exact, pca_prefilter, searcher, snapshot
from embed_assets.search.artists import similar_artists
from embed_assets.search.duplicates import duplicates
from embed_assets.search.filters import condition, parse
from embed_assets_tests.indexing import by_brute_force
from embed_assets_tests.shelf import DIM, Shelf, random_vectors


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path)


def fill(shelf, n=60, artists=6, index=False):
    """`n` tracks, ten a folder, of so many artists; their vectors as they were put."""
    vectors = random_vectors(n)
    rows = [
        shelf.track(f"Album {i // 10}/{i:02d}.ogg", artist=f"Artist {i % artists}", duration=60 + i)
        for i in range(n)
    ]
    shelf.put(rows, vectors, index=index)
    return rows, vectors


def at(ready, path):
    return next(i for i, t in ready.tracks() if t.path == path.encode())


def test_the_searcher_and_milvus_give_the_same_answer(shelf):
    _, vectors = fill(shelf, index=True)
    ready = shelf.searcher()
    with connect(shelf.uri) as client:
        for query in vectors[::7]:
            here = [
                ready.match(int(i), float(s)) for i, s in zip(*ready.nearest(query, 9), strict=True)
            ]
            there = asked_of_milvus(client, query, 9)
            assert [m.path for m in here] == [m.path for m in there]
            assert [m.score for m in here] == pytest.approx([m.score for m in there], abs=1e-5)


def test_a_searcher_that_stays_up_sees_what_comes_changes_and_goes(shelf, monkeypatch):
    monkeypatch.setattr(searcher, "FRESH_SECONDS", 0.0)
    fill(shelf)
    ready = shelf.searcher()
    assert (len(ready), ready.refresh()) == (60, False)
    new = [shelf.track("New/a.ogg", artist="Newcomer", duration=5)]
    shelf.put(new, random_vectors(1, seed=5))
    assert ready.refresh()
    found = ready.match(int(ready.nearest(random_vectors(1, seed=5)[0], 1)[0][0]), 1.0)
    assert (found.path, found.artist) == ("New/a.ogg", "Newcomer")
    shelf.put([shelf.track("New/a.ogg", artist="Renamed", duration=5)], random_vectors(1, seed=5))
    assert ready.refresh()
    assert ready.match(at(ready, "New/a.ogg"), 1.0).artist == "Renamed"
    shelf.remove(b"New")
    shelf.remove(b"Album 0")
    assert ready.refresh()
    assert len(ready) == 50
    assert sorted(t.path for _, t in ready.tracks()) == sorted(
        t.path for _, t in shelf.searcher().tracks()
    )


def test_artists_that_come_later_are_found_by_a_searcher_that_stays_up(shelf, monkeypatch):
    monkeypatch.setattr(searcher, "FRESH_SECONDS", 0.0)
    fill(shelf)
    ready = shelf.searcher()
    assert len(similar_artists(ready.snapshot(), "Artist 1").artists) == 5
    shelf.put([shelf.track("New/a.ogg", artist="Newcomer")], random_vectors(1, seed=5))
    assert ready.refresh()
    found = similar_artists(ready.snapshot(), "Artist 1").artists
    assert "Newcomer" in [one.artist for one in found]
    shelf.remove(b"New")
    assert ready.refresh()
    assert len(similar_artists(ready.snapshot(), "Artist 1").artists) == 5


def test_many_rows_are_answered_as_exactly_as_few(shelf, monkeypatch):
    """By candidates along the axes, where these suffice, and by all where they do not."""
    monkeypatch.setattr(snapshot, "EXACT_ROWS", 500)
    monkeypatch.setattr(snapshot, "ASKED_BEFORE", 0)
    monkeypatch.setattr(pca_prefilter, "CANDIDATES", 200)
    monkeypatch.setattr(snapshot, "CANDIDATES", 200)
    rng = np.random.default_rng(1)
    for name, spread, axes_tried, is_exact_enough in (
        ("flat", np.ones(DIM), (2,), False),
        ("steep", 0.3 ** np.arange(DIM), (6,), True),
    ):
        monkeypatch.setattr(pca_prefilter, "AXES", axes_tried)
        there = Shelf(shelf.root / name)
        vectors = (rng.standard_normal((2000, DIM)) * spread).astype(np.float32)
        there.put([there.track(f"{name}/{i}") for i in range(2000)], vectors)
        ready = there.searcher()
        rows = [int(t.path.rpartition(b"/")[2]) for _, t in ready.tracks()]
        for query in vectors[::100]:
            order, scores = by_brute_force(query, vectors, 10)
            found, cosines = ready.nearest(query, 10)
            assert [rows[i] for i in found] == order.tolist()
            assert cosines == pytest.approx(scores, abs=1e-5)
        assert ready._state.prefilter.axes.is_exact_enough is is_exact_enough


@pytest.mark.parametrize("kind", ["random", "in order", "in blocks", "equal", "two values"])
@pytest.mark.parametrize("count", [1, 20, 1_344, 9_999])
def test_no_candidate_is_lost_whatever_the_order_of_the_rows(kind, count):
    rng = np.random.default_rng(2)
    scores = {
        "random": rng.standard_normal(10_000),
        "in order": np.arange(10_000),
        "in blocks": np.repeat(rng.standard_normal(100), 100) + rng.random(10_000) / 100,
        "equal": np.zeros(10_000),
        "two values": (np.arange(10_000) % 16 == 0).astype(float),
    }[kind].astype(np.float32)
    found = pca_prefilter.highest(scores, count)
    assert len(set(found.tolist())) == len(found) >= count
    best = np.sort(scores)[::-1][:count]
    assert np.sort(scores[found])[::-1][:count].tolist() == best.tolist()


def test_like_several_unlike_others_and_at_most_so_many_an_artist(shelf):
    _, vectors = fill(shelf)
    ready = shelf.searcher()
    seeds, avoid = (
        [at(ready, "Album 0/00.ogg"), at(ready, "Album 0/01.ogg")],
        [at(ready, "Album 3/33.ogg")],
    )
    mean = vectors[:2].mean(axis=0)
    plain = exact.similar(ready, seeds, 58)
    assert len(plain) == 58
    assert plain[0].score == pytest.approx(max(vectors[2:] @ mean / np.linalg.norm(mean)), abs=1e-5)
    assert [m.score for m in plain] == sorted((m.score for m in plain), reverse=True)
    kept = exact.similar(ready, seeds, 58, avoid=avoid)
    by_path = {f"Album {i // 10}/{i:02d}.ogg": v for i, v in enumerate(vectors)}
    assert 0 < len(kept) < 57
    assert all(m.score >= by_path[m.path] @ vectors[33] - 1e-6 for m in kept)
    assert "Album 3/33.ogg" not in {m.path for m in kept}
    few = exact.similar(ready, seeds, 12, per_artist=2)
    assert len(few) == 12
    assert set(Counter(m.artist for m in few).values()) == {2}
    assert len(exact.similar(ready, seeds, 20, per_artist=2)) == 12


def test_copies_of_what_was_asked_for_are_no_answers_and_none_is_played_twice(shelf):
    vectors = random_vectors(8)
    vectors[[1, 2]] = vectors[0]
    vectors[5] = vectors[4]
    audio = ["one", "one", "one", "b", "c", "c", "d", "e"]
    rows = [shelf.track(f"a/{i}", audio=name) for i, name in enumerate(audio)]
    shelf.put(rows, vectors)
    ready = shelf.searcher()
    found = exact.similar(ready, [0], 20)
    assert {m.path for m in found} == {"a/3", "a/4", "a/6", "a/7"}
    kept = exact.similar(ready, [0], 20, avoid=[4])
    assert not {m.path for m in kept} & {"a/4", "a/5"}
    assert len(list(exact.radio(ready, [1]))) == 4
    way = exact.path(ready, 0, 3, 8)
    assert {m.path for m in way} == {"a/0", "a/3", "a/4", "a/6", "a/7"}


def test_a_way_leads_from_one_to_the_other_in_small_steps(shelf):
    angles = np.linspace(0, np.pi / 2, 40)
    vectors = np.zeros((80, DIM), np.float32)
    vectors[:40, 0], vectors[:40, 1] = np.cos(angles), np.sin(angles)
    vectors[40:] = random_vectors(40)
    shelf.put([shelf.track(f"a/{i:02d}") for i in range(80)], vectors)
    ready = shelf.searcher()
    way = exact.path(ready, at(ready, "a/00"), at(ready, "a/39"), 8)
    names = [int(m.path[-2:]) for m in way]
    assert names == sorted(set(names))
    assert (names[0], names[-1], len(names)) == (0, 39, 8)
    assert max(b - a for a, b in pairwise(names)) <= 8
    assert min(m.score for m in way) > np.cos(np.pi / 2 / 6)
    for steps, comes in ((60, 60), (80, 80), (200, 80)):
        long = [m.path for m in exact.path(ready, 0, 1, steps)]
        assert (len(long), len(set(long))) == (comes, comes)
    with pytest.raises(ConfigurationError, match="the same audio"):
        exact.path(ready, 3, 3, 5)


def test_a_drift_never_plays_a_track_twice_nor_an_artist_soon_again(shelf):
    fill(shelf, n=200, artists=40)
    ready = shelf.searcher()
    play = list(exact.radio(ready, [0], random=3))
    assert len(play) == len({m.path for m in play}) == 199
    again = exact.radio(ready, [0], random=3)
    assert [m.path for m in islice(again, 50)] == [m.path for m in play[:50]]
    other = exact.radio(ready, [0], random=4)
    assert [m.path for m in islice(other, 50)] != [m.path for m in play[:50]]
    for i in range(100):
        assert len({m.artist for m in play[i : i + exact.RECENT]}) == exact.RECENT
    jazz = exact.radio(ready, [0], where=[condition("artist", "Artist 7")], random=1)
    assert {m.artist for m in jazz} == {"Artist 7"}


def test_doubles_are_certain_by_their_audio_and_suggested_by_their_sound(shelf):
    vectors = random_vectors(6)
    vectors[3] = vectors[0] + 0.01 * vectors[1]
    vectors[4] = vectors[0] + 0.01 * vectors[2]
    rows = [shelf.track(f"a/{i}", duration=100 + 10 * i) for i in range(3)]
    rows.append(shelf.track("a/another encoding", duration=101.5))
    rows.append(shelf.track("a/a long version", duration=190))
    rows += [shelf.track(f"{f}/copy", audio="one", duration=50) for f in "bc"]
    shelf.put(rows, vectors[[0, 1, 2, 3, 4, 5, 5]])
    found = duplicates(shelf.searcher())
    assert [(d.certain, sorted(t.path for t in d.tracks)) for d in found] == [
        (True, ["b/copy", "c/copy"]),
        (False, ["a/0", "a/another encoding"]),
    ]
    assert 0.995 <= found[1].score <= 1


def test_conditions_are_read_as_people_write_them():
    assert condition("year", "1955..1965").fits(1960)
    assert not condition("year", "1955..1965").fits(1966)
    assert not condition("year", "..1965").fits(0), "0 is unknown"
    assert condition("year", "..1965", negate=True).fits(0)
    assert parse("duration=2m..1:02:03").fits(3723)
    assert not parse("duration=2m..").fits(119)
    assert parse("duration=..1m30s").fits(90)
    assert parse("added_at=2026-02..2026-02").fits(1772323199), "the last second of February"
    assert not parse("added_at=2026-02..2026-02").fits(1772323200)
    for words, text, fits in (
        ("jazz", "Acid Jazz; Fusion", True),
        ("jazz", "Jazzy", False),
        ("debussy", "Claude DÉBUSSY", True),
        ("pop rock", "Pop/Rock", True),
        ("!!!", "!!!", True),
        ("!!!", "AC/DC", False),
    ):
        assert condition("genre", words).fits(text) is fits, (words, text)
    assert parse("artist!=The Beatles").fits("Wings")
    for bad in ("year=x", "year=2000..1990", "nope=1", "genre", "duration=soon", "year=..", "a_b"):
        with pytest.raises(ConfigurationError):
            parse(bad)
