"""Music is found by words: what ranks first, how far it stands out, and what is said otherwise."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import embed_assets as ea
from embed_assets import encoders
from embed_assets.errors import ConfigurationError
from embed_assets.identity import track_id
from embed_assets.search import by_words
from embed_assets_tests.browser import chromium, until, watch
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.test_asking import index
from embed_assets_tests.test_http import running

NAME = "muq-mulan"
PHRASES = ["calm piano", "rain"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, small_mulan: Path) -> LiveProject:
    """Eight tracks and a copy of one, indexed with a small MuQ-MuLan."""
    settings = {"EMBED_ENCODER": NAME, "EMBED_MODEL": str(small_mulan), "EMBED_DEVICE": "cpu"}
    made = LiveProject(tmp_path_factory.mktemp("find"), settings)
    made.library.mkdir(parents=True)
    encoders.load(NAME, str(small_mulan), "cpu", small_mulan.parent / "cache")
    shutil.copytree(small_mulan.parent / "cache", made.home / "models")
    for i in range(8):
        made.put(f"Some/{i}.flac", i, title=f"Blue {i}", artist=f"A{i % 2}", genre=f"G{i % 3}")
    made.put("Copies/0.flac", 0, title="Blue 0", artist="A0", genre="G0")
    index(made.project())
    return made


@pytest.fixture(scope="module")
def lib(filled: LiveProject) -> ea.Library:
    return ea.Library(filled.made_settings())


@pytest.fixture(scope="module")
def vectors(filled: LiveProject, lib: ea.Library) -> dict[str, np.ndarray]:
    """The vector of each track by its path."""
    name = filled.project().library.name
    paths = {track_id(name, path): path.decode() for path in filled.tracks}
    return {paths[t]: v for t, v in lib.snapshot().vectors(list(paths)).items()}


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def phrase(lib: ea.Library, *texts: str) -> np.ndarray:
    choice = lib.settings
    words = encoders.words(NAME, choice.model, choice.model_cache)
    return unit(words.vectors(texts).mean(axis=0))


def expected(vectors: dict[str, np.ndarray], query: np.ndarray) -> list[tuple[str, float, float]]:
    """Paths in their order, each audio once, with the cosine and its deviations."""
    scores = {path: float(v @ query) for path, v in vectors.items()}
    mean, spread = np.mean(list(scores.values())), np.std(list(scores.values()))
    ranked = sorted((p for p in scores if p != "Some/0.flac"), key=lambda p: -scores[p])
    return [(p, scores[p], (scores[p] - mean) / spread) for p in ranked]


def check(result: ea.Result, wanted: list[tuple[str, float, float]]) -> None:
    assert [m.path for m in result] == [path for path, _, _ in wanted][: len(result)]
    for match, (_, score, deviations) in zip(result, wanted, strict=False):
        assert match.score == pytest.approx(score, abs=1e-4)
        assert match.deviations == pytest.approx(deviations, abs=1e-2)


def test_phrases_are_averaged_and_the_nearest_tracks_come_first(
    lib: ea.Library, vectors: dict[str, np.ndarray]
) -> None:
    assert len(vectors) == 9
    found = lib.find(PHRASES, n=20)
    assert len(found) == 8, "a copy is listed once"
    check(found, expected(vectors, phrase(lib, *PHRASES)))
    check(lib.snapshot().find("rain", n=3), expected(vectors, phrase(lib, "rain")))
    assert found.encoder == NAME
    assert found.query.name == '"calm piano" and "rain"'


def test_of_what_is_not_wanted_half_is_subtracted(
    lib: ea.Library, vectors: dict[str, np.ndarray]
) -> None:
    query = unit(phrase(lib, *PHRASES) - 0.5 * phrase(lib, "metal"))
    check(lib.find(PHRASES, without="metal"), expected(vectors, query))


def test_results_may_also_be_like_a_track_which_is_not_among_them(
    lib: ea.Library, vectors: dict[str, np.ndarray]
) -> None:
    words, alike = phrase(lib, "rain"), vectors["Some/3.flac"]
    spreads = [np.std([v @ q for v in vectors.values()]) for q in (words, alike)]
    query = unit(words / spreads[0] + alike / spreads[1])
    wanted = [row for row in expected(vectors, query) if row[0] != "Some/3.flac"]
    check(lib.find("rain", like="Some/3.flac"), wanted)


def test_filters_are_those_of_similar(lib: ea.Library) -> None:
    assert {m.genre for m in lib.find("rain", where="genre=G1")} == {"G1"}
    assert len(lib.find("rain", per_artist=1)) == 2
    assert len(lib.find("rain", n=3)) == 3


def test_it_says_when_nothing_stands_out(lib: ea.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    best = lib.find("rain")[0].deviations
    monkeypatch.setattr(by_words, "STANDS_OUT", best + 0.1)
    (note,) = lib.find("rain").notes
    assert note.startswith(f"nothing stands out: the best is {best:.1f} standard deviations")
    monkeypatch.setattr(by_words, "STANDS_OUT", best - 0.1)
    assert not lib.find("rain").notes


def test_in_a_large_library_how_far_a_track_stands_out_is_estimated(
    lib: ea.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lib.find("rain")
    monkeypatch.setattr(by_words, "SAMPLE", 4)
    estimated = lib.find("rain")
    assert [(m.path, m.score) for m in estimated] == [(m.path, m.score) for m in whole]
    ratios = {
        (a.deviations - whole[0].deviations) / (b.deviations - estimated[0].deviations)
        for a, b in zip(whole[1:], estimated[1:], strict=True)
    }
    assert max(ratios) == pytest.approx(min(ratios), rel=0.02), "one scale for all"
    assert 0.3 < min(ratios) < 3


@pytest.mark.parametrize("phrases", ["", [], ["rain", " "]])
def test_without_a_phrase_it_asks_for_one(lib: ea.Library, phrases: str | list[str]) -> None:
    with pytest.raises(ConfigurationError, match="what is to be heard"):
        lib.find(phrases)


def test_settings_that_do_not_fit_what_is_served_are_named(
    filled: LiveProject, tmp_path: Path
) -> None:
    changed = filled.made_settings().model_copy(update={"model": "owner/other"})
    with pytest.raises(ConfigurationError, match="owner/other"):
        ea.Library(changed).find("rain")


def test_over_http_it_gives_the_same(filled: LiveProject, lib: ea.Library) -> None:
    with running(filled) as client:
        by_post = client.post(
            "/v1/find",
            json={"phrases": PHRASES, "without": ["metal"], "like": ["Some/3.flac"], "n": 3},
        )
        simple = [("q", "calm piano"), ("q", "rain"), ("not", "metal"), ("n", "3")]
        by_get = client.get("/v1/find", params=simple)
        m3u = client.get("/v1/find", params=[*simple, ("format", "m3u")])
        status = client.get("/v1/status").json()
        empty = client.post("/v1/find", json={"phrases": [" "]})
    expected = lib.find(PHRASES, without="metal", like="Some/3.flac", n=3)
    answer = by_post.json()
    assert [m["path"] for m in answer["matches"]] == [m.path for m in expected]
    assert [m["deviations"] for m in answer["matches"]] == [m.deviations for m in expected]
    assert answer["seeds"] == ["Blue 3 - A1 (Some/3.flac)"]
    simpler = [m.path for m in lib.find(PHRASES, without="metal", n=3)]
    assert [m["path"] for m in by_get.json()["matches"]] == simpler
    assert all(path in m3u.text for path in simpler)
    assert status["words"] is True
    assert (empty.status_code, "what is to be heard" in empty.json()["detail"]) == (400, True)


def test_an_index_of_an_encoder_without_words_names_the_setting(tmp_path: Path) -> None:
    made = LiveProject(tmp_path)
    made.put("Some/0.flac", 0)
    index(made.project())
    with pytest.raises(ConfigurationError, match=f"EMBED_ENCODER is acoustic.*={NAME}"):
        ea.Library(made.made_settings()).find("rain")
    made.settings["EMBED_ENCODER"] = NAME
    with pytest.raises(ConfigurationError, match=r"was made by acoustic.*embed-assets collections"):
        ea.Library(made.made_settings()).find("rain")
    with running(made) as client:
        assert client.get("/v1/find", params={"q": "rain"}).status_code == 503, "it comes later"


@pytest.mark.browser
def test_on_the_page_words_are_what_it_should_sound_like(
    filled: LiveProject, lib: ea.Library
) -> None:
    with running(filled) as client, chromium() as browser:
        page = browser.new_page(viewport={"width": 360, "height": 740})
        seen = watch(page)
        page.goto(f"{client.base_url}/")
        page.fill("#words", "calm piano, rain, -metal")
        page.click("#by-sound")
        until(page, "document.querySelectorAll('#results li').length > 0")
        until(page, "document.querySelector('#answer-title').textContent.includes('calm piano')")
        titles = page.locator("#results .title").all_inner_texts()
        wide = page.evaluate("document.documentElement.scrollWidth")
        if folder := os.environ.get("EMBED_TEST_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/by-sound.png")
        seen.assert_clean(f"{client.base_url}/")
    found = lib.find(["calm piano", "rain"], without="metal", one_recording=True)
    assert titles == [match.title for match in found]
    assert wide <= 360


def test_the_command_prints_scores_and_deviations_as_json_and_as_a_playlist(
    filled: LiveProject,
) -> None:
    arguments = ("find", *PHRASES, "--not", "metal", "-n", "2")
    done = filled.run(*arguments, "--m3u", "found.m3u")
    assert done.returncode == 0, done.stderr
    assert 'Sounds like "calm piano" and "rain", not "metal":' in done.stdout
    assert " sd  Blue " in done.stdout
    printed = json.loads(filled.run(*arguments, "--json").stdout)
    assert len(printed) == 2
    from embed_assets_tests.test_json import compare_with_page

    compare_with_page("find", printed)
