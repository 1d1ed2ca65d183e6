"""MuQ-MuLan's words have upstream's vectors, each phrase alone, and cost a model only once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embed_assets import encoders
from embed_assets.encoders import phrases as phrases_
from embed_assets.encoders.cards import CARDS
from embed_assets.encoders.mulan import text_engine, weights
from embed_assets.encoders.mulan.words import MulanWords
from embed_assets.encoders.phrases import Phrases, normal, phrases_of
from embed_assets.errors import ConfigurationError
from embed_assets_tests import small_mulan as small
from embed_assets_tests.muq_tools import run
from embed_assets_tests.patience import PATIENCE

NAME = "muq-mulan"
TEXTS = [*small.TEXTS, "Rain  and METAL ½", "x" * 40, "words that nobody knows: ẞ ж 月"]


@pytest.fixture(scope="module")
def upstream(small_mulan: Path) -> Any:
    return small.upstream(small_mulan)


@pytest.fixture(scope="module")
def cache(small_mulan: Path) -> Path:
    return small_mulan.parent / "cache"


@pytest.fixture(scope="module", params=["openvino", "torch"])
def words(request: pytest.FixtureRequest, small_mulan: Path, cache: Path) -> MulanWords:
    if request.param == "openvino":
        found = encoders.words(NAME, str(small_mulan), cache)
        assert found.tower.engine == "openvino"
        return found
    model = str(small_mulan)
    return MulanWords(text_engine.on_torch(weights.find(model, cache), model))


def alone(upstream: Any, text: str) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return upstream(texts=[text])[0].numpy()


def test_a_text_has_the_vector_that_upstream_gives_it_alone(
    words: MulanWords, upstream: Any
) -> None:
    ours = words.vectors(TEXTS)
    assert (ours.dtype, ours.shape) == (np.float32, (len(TEXTS), small.DIM))
    for text, vector in zip(TEXTS, ours, strict=True):
        assert vector @ alone(upstream, text) >= 0.9999, text


def test_a_text_beside_a_longer_one_has_another_vector_upstream(upstream: Any) -> None:
    """Why phrases go through one by one; if this changes, they may go together."""
    import torch

    with torch.inference_mode():
        together = upstream(texts=["rain", "fast heavy metal with distorted guitars"])[0].numpy()
    assert together @ alone(upstream, "rain") < 0.99


def test_a_text_that_is_too_long_says_so(words: MulanWords) -> None:
    with pytest.raises(ConfigurationError, match=r"too long \(\d+ pieces of words, at most 62\)"):
        words.vectors(["rain " * 70])


def test_once_converted_words_need_neither_torch_nor_transformers(
    small_mulan: Path, cache: Path
) -> None:
    encoders.words(NAME, str(small_mulan), cache)
    code = (
        "import sys; from pathlib import Path; from embed_assets import encoders\n"
        "encoders.words('muq-mulan', sys.argv[1], Path(sys.argv[2])).vectors(['rain'])\n"
        "heavy = {'torch', 'muq', 'transformers', 'librosa', 'pandas'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = run(code, small_mulan, cache)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_encoder_without_words_names_the_setting_and_one_that_has_them(tmp_path: Path) -> None:
    for name in [card.name for card in CARDS.values() if not card.has_words]:
        for call in (encoders.words, phrases_of):
            with pytest.raises(
                ConfigurationError, match=rf"EMBED_ENCODER is {name}, .*EMBED_ENCODER={NAME}"
            ):
                call(name, "", tmp_path)


class Counted:
    """A text side that counts what it is asked."""

    def __init__(self) -> None:
        self.loads, self.asked = 0, []

    def __call__(self) -> Counted:
        self.loads += 1
        return self

    def vectors(self, phrases: list[str]) -> np.ndarray:
        self.asked += phrases
        made = [np.eye(4, dtype=np.float32)[len(phrase) % 4] for phrase in phrases]
        return np.stack(made)


def test_a_phrase_is_computed_once_for_all_processes(tmp_path: Path) -> None:
    model = Counted()
    first = Phrases(model, tmp_path / "kept").vectors(["calm piano", "rain"])
    # As another process would.
    again = Phrases(model, tmp_path / "kept")
    np.testing.assert_array_equal(again.vectors(["  calm \n piano", "rain"]), first)
    assert (model.loads, model.asked, again.is_loaded) == (1, ["calm piano", "rain"], False)
    for file in (tmp_path / "kept").glob("*.npy"):
        file.write_bytes(b"damaged")
    np.testing.assert_array_equal(again.vectors(["rain"]), first[1:])
    assert model.loads == 2


def test_the_model_is_released_when_nobody_asked_for_a_while(tmp_path: Path) -> None:
    model = Counted()
    phrases = Phrases(model, tmp_path, idle_seconds=0.05)
    phrases.vectors(["rain"])
    until = time.monotonic() + PATIENCE
    while phrases.is_loaded:
        assert time.monotonic() < until
        time.sleep(0.02)
    phrases.vectors(["rain"])
    assert model.loads == 1, "it was remembered"
    phrases.vectors(["wind"])
    assert model.loads == 2


def test_the_model_is_released_also_after_a_phrase_that_it_refuses(tmp_path: Path) -> None:
    class Refusing(Counted):
        def vectors(self, phrases: list[str]) -> np.ndarray:
            raise ConfigurationError("a phrase is too long")

    phrases = Phrases(Refusing(), tmp_path, idle_seconds=0.05)
    with pytest.raises(ConfigurationError, match="too long"):
        phrases.vectors(["rain"])
    until = time.monotonic() + PATIENCE
    while phrases.is_loaded:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_is_remembered_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phrases_, "MOST_KEPT", 3)
    phrases = Phrases(Counted(), tmp_path)
    for word in ("one", "two", "three", "four", "five"):
        phrases.vectors([word])
    assert len(list(tmp_path.glob("*.npy"))) == 3
    phrases.release()


def test_a_disk_that_takes_nothing_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("in the way")
    model = Counted()
    phrases = Phrases(model, tmp_path / "kept")
    for _ in range(2):
        assert phrases.vectors(["rain"]).shape == (1, 4)
    assert model.asked == ["rain", "rain"]
    phrases.release()


@pytest.mark.parametrize("phrase", ["", " \n", "a" * 2000, "\udc80"])
def test_what_is_no_phrase_is_refused(phrase: str) -> None:
    with pytest.raises(ConfigurationError):
        normal(phrase)


def test_what_is_not_needed_any_more_is_named_for_gc(small_mulan: Path, tmp_path: Path) -> None:
    digest = encoders.describe(NAME, str(small_mulan), tmp_path).weights
    made = [
        tmp_path / NAME / f"{digest}-text-{text_engine.TEXT_CONVERSION}",
        tmp_path / NAME / "0123-4",
        tmp_path / "phrases" / digest,
        tmp_path / "phrases" / "0123",
    ]
    for folder in made:
        folder.mkdir(parents=True)
    assert encoders.unused_files([digest], "", tmp_path) == [made[3], made[1]]
    assert encoders.unused_files([], str(small_mulan), tmp_path) == [made[3], made[2], made[1]]
