"""MuQ gives the vectors of the weights it was given, or says what is wrong before any work.

Random weights retrieve about as well as simple features, so that good retrieval proves nothing
about weights having been loaded: numbers do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embed_assets import encoders
from embed_assets.encoders import Encoder
from embed_assets.errors import Reason, TrackRejected
from embed_assets_tests import small_muq
from embed_assets_tests.muq_tools import RATE, run, statistics, sweeps

# The first four means of each sweep, from float64. Means over 50 frames differ little between
# CPUs; spreads of frames that hardly move would differ by percents.
CANONICAL = [
    [0.718484, -0.254070, -1.842044, -1.071505],
    [0.692339, -0.232571, -1.763724, -1.182411],
    [0.663195, -0.281052, -1.802796, -1.151495],
]

# float32 was off by 1e-6 at most, with AVX2 alone and with AVX-512; bfloat16 by 0.01.
WITHIN = {"float32": 1e-5, "bfloat16": 0.05, "float32_int8": 0.05}


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    """What the weights give for the sweeps, computed in float64."""
    return statistics(small_muq.exact_frames(sweeps()))


def test_it_gives_the_numbers_that_its_weights_give(muq: Encoder, exact: np.ndarray) -> None:
    vectors = muq.encode(sweeps())
    assert vectors.shape == (3, 3, small_muq.DIM)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, exact, rtol=0, atol=WITHIN[muq.dtype])


def test_the_numbers_are_the_same_with_every_version_of_torch_and_muq(exact: np.ndarray) -> None:
    np.testing.assert_allclose(exact[:, 0, :4], CANONICAL, rtol=0, atol=1e-5)


def test_other_weights_have_another_digest_and_give_other_vectors(
    muq: Encoder, tmp_path: Path
) -> None:
    other = encoders.load("muq", str(small_muq.save(tmp_path / "m", seed=1)), "cpu", tmp_path)
    assert other.info.weights != muq.info.weights
    difference = np.abs(other.encode(sweeps()) - muq.encode(sweeps()))
    assert difference.max() > 0.1


def test_dropout_is_off(muq: Encoder) -> None:
    import torch

    np.testing.assert_array_equal(muq.encode(sweeps()), muq.encode(sweeps()))
    with torch.inference_mode():
        audio = torch.from_numpy(sweeps())
        training = small_muq.build().train()
        assert not torch.equal(*(training(audio).last_hidden_state for _ in range(2)))


def test_a_window_does_not_depend_on_its_batch(muq: Encoder) -> None:
    audio = sweeps(5)
    together = muq.encode(audio)
    alone = np.concatenate([muq.encode(window[None]) for window in audio])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", [1025, 1919, 1920, 2000, 24_000, 24_001])
def test_windows_of_any_length_from_the_shortest_on(muq: Encoder, samples: int) -> None:
    vectors = muq.encode(sweeps(2)[:, :samples])
    assert vectors.shape == (2, 3, small_muq.DIM)
    assert np.isfinite(vectors).all()


def test_a_single_frame_has_no_spread_and_no_step(muq: Encoder) -> None:
    assert round(muq.info.min_seconds * RATE) == 1025
    vectors = muq.encode(sweeps(1)[:, :1025])
    assert vectors[:, 0].any()
    assert not vectors[:, 1:].any()


def test_a_shorter_window_is_rejected_as_too_short(muq: Encoder) -> None:
    with pytest.raises(TrackRejected, match="1024 samples") as caught:
        muq.encode(sweeps(1)[:, :1024])
    assert caught.value.reason is Reason.TOO_SHORT


def test_silence_and_clipping_are_ordinary_audio(muq: Encoder) -> None:
    audio = np.stack([np.zeros(RATE), np.sign(np.sin(np.arange(RATE)))]).astype(np.float32)
    assert np.isfinite(muq.encode(audio)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_rejects_the_track(muq: Encoder, bad: float) -> None:
    audio = sweeps(2)
    audio[1, 500] = bad
    with pytest.raises(TrackRejected) as caught:
        muq.encode(audio)
    assert caught.value.reason is Reason.BAD_VECTOR


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 7, 250])
def test_statistics_over_frames_are_those_of_numpy(frames: int) -> None:
    import torch

    from embed_assets.encoders.muq.frames import frame_statistics

    array = np.random.default_rng(frames).standard_normal((2, frames, 5)).astype(np.float32)
    expected = statistics(array)
    for ours in (frame_statistics(array), frame_statistics(torch.from_numpy(array)).numpy()):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("samples", [1025, 24_000, 24_001, 24_239, 61_680])
def test_the_mel_spectrogram_is_that_of_muq(small: Path, samples: int) -> None:
    import torch

    from embed_assets.encoders.muq.frames import mel_spectrogram

    audio = sweeps(1, seconds=3.0)[0, :samples]
    muq = small_muq.build().model
    with torch.inference_mode():
        mel = muq.preprocessing(torch.from_numpy(audio[None]), features=["melspec_2048"])
        theirs = muq.normalize(mel)["melspec_2048"][0].numpy()
    ours = mel_spectrogram(small_muq.config())(audio)
    assert ours.dtype == np.float32
    # In standard deviations; between the harmonics of a loud tone float32 rounds.
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    silence = mel_spectrogram(small_muq.config())(np.zeros(samples, np.float32))
    assert np.isfinite(silence).all()


def test_it_describes_itself_and_its_licence(muq: Encoder, small: Path, tmp_path: Path) -> None:
    info = encoders.describe("muq", str(small), tmp_path)
    assert info == muq.info
    assert (info.name, info.sample_rate, info.dim) == ("muq", 24_000, small_muq.DIM)
    assert info.frame_stats == ("mean", "iqr", "diff")
    assert "CC-BY-NC 4.0" in info.note
    assert muq.device == "cpu"


def test_describing_imports_nothing_heavy_and_prints_nothing(small: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from embed_assets import encoders\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "encoders.describe('muq', sys.argv[1], Path(sys.argv[2]))\n"
        "try: encoders.describe('muq', 'OpenMuQ/MuQ-large-msd-iter', Path(sys.argv[2]))\n"
        "except encoders.ConfigurationError: pass\n"
        "heavy = {'torch', 'muq', 'librosa', 'transformers', 'torchaudio', 'pymilvus', 'dagster'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = run(code, small, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_loading_prints_nothing(small: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from embed_assets import encoders\n"
        "encoders.load('muq', sys.argv[1], 'cpu', Path(sys.argv[2]))\n"
    )
    done = run(code, small, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
