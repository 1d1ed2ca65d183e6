"""What MuQ hears and what is kept of what it says: the mel spectrogram, and statistics over frames.

Both are in float32 whatever the engine: in float16 the quiet mel bins underflow, and the log
of 0 makes every vector NaN. Where OpenVINO does the rest they are numpy's: torch, imported for them
alone, would cost each worker a second and a quarter of a gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_assets.encoders.muq.card import MUQ

if TYPE_CHECKING:
    import torch

    Frames = np.ndarray | torch.Tensor

SAMPLE_RATE = MUQ.sample_rate
MIN_SAMPLES = 1025
"""The mel spectrogram reflects 1024 samples at each end, and needs one more than that."""

N_FFT = 2048
N_MELS = 128
SMALLEST_POWER = 1e-10
AT_ONCE = 256
"""Frames of the spectrogram; all of a long window's would take gigabytes."""

FRAME_STATS = ("mean", "iqr", "diff")
IQR_TO_SIGMA = 1.349
"""The interquartile range of a normal distribution, in standard deviations."""


def mel_spectrogram(config: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """What `muq` computes before its encoder, by torchaudio, from a model's config.

    float32 [T] at 24 kHz -> normalised decibels float32 [128, T // hop].
    """
    hop = config.get("hop_length", 240)
    filters = mel_filters()
    hann = np.float32(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT))
    mean, std = (np.float32(config["stat"][f"melspec_2048_{name}"]) for name in ("mean", "std"))

    @np.errstate(invalid="ignore", over="ignore")  # `encode` reports bad samples, by track.
    def spectrogram(audio: np.ndarray) -> np.ndarray:
        reflected = np.pad(audio, N_FFT // 2, mode="reflect")
        # The one more that the last samples would give is dropped by muq.
        frames = np.lib.stride_tricks.sliding_window_view(reflected, N_FFT)[::hop]
        frames = frames[: len(audio) // hop]
        mels = np.empty((N_MELS, len(frames)), np.float32)
        for i in range(0, len(frames), AT_ONCE):
            spectrum = np.fft.rfft(frames[i : i + AT_ONCE] * hann)
            power = np.float32(spectrum.real**2 + spectrum.imag**2)
            mels[:, i : i + AT_ONCE] = (power @ filters).T
        return (10 * np.log10(np.maximum(mels, SMALLEST_POWER)) - mean) / std

    return spectrogram


def mel_filters() -> np.ndarray:
    """Triangles of height 1 over the bins of the spectrum, as torchaudio's: float32 [1025, 128].

    Between them the steps are equal in mel as HTK has it: 2595 log10(1 + f / 700).
    """
    highest = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, N_MELS + 2) / 2595) - 1)
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)[:, None]
    up = (bins - corners[:-2]) / np.diff(corners)[:-1]
    down = (corners[2:] - bins) / np.diff(corners)[1:]
    return np.asarray(np.maximum(0, np.minimum(up, down)), np.float32)


def frame_statistics(frames: Frames) -> Frames:
    """Mean, IQR / 1.349 and mean step over frames: [B, F, dim] -> [B, 3, dim], float32.

    Of numpy's or of torch's, on its device. Quantiles are interpolated linearly, as numpy's are;
    one frame has an IQR and a step of 0.
    """
    last = frames.shape[1] - 1
    ordered = _sorted(frames)
    low, high = (
        ordered[:, i] + (ordered[:, min(i + 1, last)] - ordered[:, i]) * (at - i)
        for at, i in ((q * last, int(q * last)) for q in (0.25, 0.75))
    )
    # The mean of all steps is the way from the first to the last over their number.
    step = (frames[:, -1] - frames[:, 0]) / max(last, 1)
    return _stacked(frames.mean(1), (high - low) / IQR_TO_SIGMA, step)


def to_numpy(vectors: Frames) -> np.ndarray:
    """What an engine gave, on the CPU."""
    return vectors if isinstance(vectors, np.ndarray) else vectors.cpu().numpy()


def _sorted(frames: Frames) -> Frames:
    """The values of each dimension in their order: [B, F, dim] -> [B, F, dim]."""
    if not isinstance(frames, np.ndarray):
        # torch.quantile refuses more than 16 million values, a few minutes of audio.
        return frames.sort(dim=1).values
    # One after the other in memory they are sorted in 1 ms a window; as they are, in 18.
    return np.swapaxes(np.sort(np.ascontiguousarray(np.swapaxes(frames, 1, 2)), axis=2), 1, 2)


def _stacked(*each: Frames) -> Frames:
    if isinstance(each[0], np.ndarray):
        return np.stack(each, axis=1)
    import torch

    return torch.stack(each, dim=1)  # type: ignore[arg-type]  # all are what the first is
