"""The built-in encoder: it needs nothing, takes any sound, and hears which music is the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embed_assets import encoders
from embed_assets.encoders.acoustic import encoder as acoustic
from embed_assets.errors import Reason, TrackRejected
from embed_assets_tests import synth

RATE = acoustic.SAMPLE_RATE


@pytest.fixture(scope="module")
def encoder():
    return acoustic.load()


def tune(seed: int, seconds: float = 6.0) -> np.ndarray:
    return synth.music(seconds, seed, RATE, 1)[0].copy()


def encode(encoder, *windows: np.ndarray) -> np.ndarray:
    return encoder.encode(np.stack(windows).astype(np.float32))


def test_it_says_what_it_is_and_gives_that(encoder):
    info = acoustic.info()
    assert info == encoder.info
    assert (info.name, info.sample_rate, info.frame_stats) == ("acoustic", RATE, ("mean",))
    assert "MuQ" in info.note
    out = encode(encoder, tune(0), tune(1))
    assert out.shape == (2, 1, info.dim)
    assert out.dtype == np.float32
    assert np.linalg.norm(out, axis=2) == pytest.approx(1, abs=1e-5)


def test_it_is_the_encoder_that_the_project_loads_by_name(tmp_path):
    assert encoders.describe("acoustic", "", tmp_path) == acoustic.info()
    assert encoders.load("acoustic", "", "auto", tmp_path).info == acoustic.info()


def test_its_weights_name_changes_with_its_constants(monkeypatch):
    before = acoustic.info().weights
    changed = dict(acoustic.constants(), mean=acoustic.constants()["mean"] + 1)
    acoustic.info.cache_clear()
    monkeypatch.setattr(acoustic, "constants", lambda: changed)
    try:
        assert acoustic.info().weights != before
    finally:
        acoustic.info.cache_clear()


def test_another_part_of_a_tune_is_nearer_than_any_other_tune(encoder):
    first = encode(encoder, *(tune(seed, 12)[: 6 * RATE] for seed in range(24)))[:, 0]
    second = encode(encoder, *(tune(seed, 12)[6 * RATE :] for seed in range(24)))[:, 0]
    assert ((first @ second.T).argmax(axis=1) == np.arange(24)).all()


def test_a_window_does_not_depend_on_its_batch(encoder):
    alone = encode(encoder, tune(3))
    assert np.array_equal(alone[0], encode(encoder, tune(1), tune(3), tune(2))[1])


def test_gain_and_dc_change_nothing(encoder):
    plain = encode(encoder, tune(4))[0, 0]
    for changed in (tune(4) * 1.41, tune(4) * 0.05, tune(4) + 0.3, -tune(4)):
        assert float(plain @ encode(encoder, changed)[0, 0]) > 0.999


@pytest.mark.parametrize(
    "window",
    [
        np.zeros(RATE),
        np.full(2 * RATE, 0.7),
        np.r_[np.zeros(RATE), 1.0, np.zeros(RATE)],
        np.full(RATE, 16.0) * (-1) ** np.arange(RATE),
        np.random.default_rng(0).standard_normal(RATE),
        np.full(RATE, 1e-30),
        np.sin(np.arange(3 * RATE) * 0.1),
    ],
    ids=["silence", "dc", "click", "full scale", "noise", "denormal", "tone"],
)
def test_any_sound_gives_a_finite_unit_vector(encoder, window):
    vector = encode(encoder, window)[0, 0]
    assert np.isfinite(vector).all()
    assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-5)


def test_average_music_has_a_vector_too():
    vector = acoustic.project(acoustic.constants()["mean"][None])
    assert float(np.linalg.norm(vector)) == pytest.approx(1)


def test_what_it_cannot_encode_is_rejected_in_words(encoder):
    with pytest.raises(TrackRejected, match=r"0\.50 s") as caught:
        encode(encoder, tune(0, 0.5))
    assert caught.value.reason is Reason.TOO_SHORT
    broken = tune(0)
    broken[100] = np.nan
    with pytest.raises(TrackRejected) as caught:
        encode(encoder, broken)
    assert caught.value.reason is Reason.BAD_VECTOR


def test_its_features_are_librosas():
    import librosa

    samples = tune(7) * np.linspace(0.1, 1, len(tune(7)), dtype=np.float32)
    samples += 0.01 * np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    magnitude = np.abs(
        librosa.stft(
            samples - samples.mean(),
            n_fft=acoustic.N_FFT,
            hop_length=acoustic.HOP,
            center=False,
        )
    )
    assert np.allclose(acoustic.spectrogram(samples), magnitude, atol=1e-4)
    expected = librosa.feature.spectral_contrast(S=magnitude, sr=RATE)
    assert np.allclose(acoustic.contrast(magnitude), expected, atol=1e-3)
    shipped = acoustic.constants()
    mel = librosa.filters.mel(sr=RATE, n_fft=2048, n_mels=48, fmin=30, fmax=11000)
    assert np.allclose(shipped["mel"], mel, atol=1e-6)
    assert np.allclose(
        shipped["chroma"], librosa.filters.chroma(sr=RATE, n_fft=2048, tuning=0.0), atol=1e-6
    )
    decibel = np.random.default_rng(0).standard_normal((48, 9))
    mfcc = librosa.feature.mfcc(S=decibel, n_mfcc=20)
    assert np.allclose(shipped["dct"] @ decibel, mfcc, atol=1e-5)


def test_it_starts_without_librosa_and_ships_little():
    code = (
        "import sys; from embed_assets.encoders.acoustic import encoder as acoustic;"
        " acoustic.load(); import numpy;"
        "acoustic.load().encode(numpy.zeros((1, 30000), 'f4'));"
        "print([m for m in ('librosa', 'numba', 'scipy', 'torch') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == "[]"
    assert acoustic.CONSTANTS.stat().st_size < 300_000
