"""The canary with MuQ: its golden values are noted at the first check, by engine and precision."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from embed_assets.embedding import embed_track
from embed_assets.embedding.canary.check import check
from embed_assets.embedding.canary.notes import Notes
from embed_assets.embedding.canary.report import Level
from embed_assets.embedding.canary.stages import FEATURES, fingerprint
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.encoders.base import Encoder
from embed_assets.encoders.config import EncoderConfig
from embed_assets.encoders.muq.encoder import reference
from embed_assets.encoders.muq.engines import mel_of
from embed_assets_tests import muq_tools
from embed_assets_tests.canary_tools import embed, resample_very_badly, with_own_notes
from embed_assets_tests.embedded import HERE


@pytest.fixture(scope="module")
def encoder_config(small: Path) -> EncoderConfig:
    return EncoderConfig("muq", str(small), "cpu", small.parent / "cache")


@pytest.fixture(scope="module")
def embedded(
    encoder_config: EncoderConfig, tmp_path_factory: pytest.TempPathFactory
) -> EmbedContext:
    return embed(tmp_path_factory.mktemp("canary_muq"), 3, encoder_config)


@pytest.fixture
def home(embedded: EmbedContext, tmp_path: Path) -> EmbedContext:
    return with_own_notes(embedded, tmp_path)


@pytest.fixture(scope="module")
def encoder(encoder_config: EncoderConfig) -> Encoder:
    return encoder_config.load()


@pytest.fixture
def loaded(encoder: Encoder, monkeypatch: pytest.MonkeyPatch):
    """Has another encoder loaded in this process from then on."""

    def use(other: Encoder) -> None:
        monkeypatch.setattr(embed_track, "_encoder", lru_cache(lambda _: other))

    use(encoder)
    return use


def test_a_healthy_home_is_in_order_and_notes_what_is_not_shipped(home, loaded, encoder):
    first = check(home, HERE)
    assert first.level is Level.OK
    assert first.tracks == 3
    clips = [c for c in first.comparisons if c.name.startswith("clip.")]
    assert [c.distance for c in clips] == [None] * 3, "its vectors are not shipped"
    second = check(home, HERE)
    assert second.level is Level.OK
    assert second.distance < 1e-6
    assert all(FEATURES in c.differences for c in second.comparisons)
    key = f"clip-flac-{encoder.engine}-{encoder.dtype}"
    assert Notes.beside(home.store).accepted.has(home.recipe.digest, key)


def test_another_engine_is_no_drift_and_has_notes_of_its_own(home, loaded, small):
    """On another processor, or where OpenVINO is refused: torch gives the same vectors."""
    check(home, HERE)
    loaded(reference(str(small), small.parent / "cache"))
    report = check(home, HERE)
    assert report.level is Level.OK, report
    assert report.engine.startswith("torch, float32")
    assert [c.distance for c in report.comparisons if c.name == "clip.flac"] == [None]


def test_each_stage_of_muq_is_named(home, loaded, encoder, monkeypatch):
    check(home, HERE)
    with monkeypatch.context() as broken:
        resample_very_badly(broken)
        report = check(home, HERE)
    # How far random weights move is theirs: real ones move further.
    assert report.level is not Level.OK
    assert report.stage == "resampler"

    def other_frames(audio: np.ndarray) -> np.ndarray:
        return np.roll(encoder.running.frames(audio), 1, axis=2)

    def other_mel(window: np.ndarray) -> np.ndarray:
        return np.roll(encoder.running.mel(window), 1, axis=0)

    def with_running(**changes: object) -> Encoder:
        return replace(encoder, running=replace(encoder.running, **changes))

    loaded(with_running(frames=other_frames))
    report = check(home, HERE)
    assert (report.level, report.stage) == (Level.ERROR, "encoder")
    loaded(with_running(frames=other_frames, mel=other_mel))
    report = check(home, HERE)
    assert (report.level, report.stage) == (Level.ERROR, "features")


def test_the_features_of_both_engines_are_one_spectrogram(encoder, small):
    torch = reference(str(small), small.parent / "cache")
    (window,) = muq_tools.sweeps(1)
    assert mel_of(encoder, window).shape == mel_of(torch, window).shape == (128, 200)
    assert (
        fingerprint(mel_of(encoder, window)).differs_by(fingerprint(mel_of(torch, window))) < 1e-3
    )


def test_short_tracks_of_mulan_are_cut_as_when_they_were_embedded(small_mulan, tmp_path):
    encoder_config = EncoderConfig(
        "muq-mulan", str(small_mulan), "cpu", small_mulan.parent / "cache"
    )
    report = check(embed(tmp_path, 3, encoder_config, window_seconds=10.0), HERE)
    assert (report.level, report.tracks, report.skipped) == (Level.OK, 3, 0), report
    assert report.distance < 1e-5
