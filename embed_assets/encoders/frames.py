"""What MuQ hears and what is kept of what it says: the mel spectrogram, and statistics over frames.

Both are in float32 whatever the engine: in float16 the quiet mel bins underflow, and the log
of 0 makes every vector NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 24_000
MIN_SAMPLES = 1025
"""The mel spectrogram reflects 1024 samples at each end, and needs one more than that."""

N_FFT = 2048
N_MELS = 128

FRAME_STATS = ("mean", "iqr", "diff")
IQR_TO_SIGMA = 1.349
"""The interquartile range of a normal distribution, in standard deviations."""


def mel_spectrogram(config: Mapping[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """What `muq` computes before its encoder, without importing muq, from a model's config.

    float32 [B, T] at 24 kHz -> normalised decibels float32 [B, 128, T // hop]; both on the CPU.
    """
    from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

    hop = config.get("hop_length", 240)
    mel = MelSpectrogram(sample_rate=SAMPLE_RATE, n_fft=N_FFT, hop_length=hop, n_mels=N_MELS)
    decibel = AmplitudeToDB()
    mean, std = (config["stat"][f"melspec_2048_{name}"] for name in ("mean", "std"))

    def spectrogram(audio: torch.Tensor) -> torch.Tensor:
        return (decibel(mel(audio))[..., :-1] - mean) / std

    return spectrogram


def frame_statistics(frames: torch.Tensor) -> torch.Tensor:
    """Mean, IQR / 1.349 and mean step over frames: [B, F, dim] -> [B, 3, dim], float32.

    Quantiles are interpolated linearly, as numpy's are; one frame has an IQR and a step of 0.
    """
    import torch

    last = frames.shape[1] - 1
    # torch.quantile refuses more than 16 million values, a few minutes of audio.
    ordered = _sorted(frames)
    low, high = (
        torch.lerp(
            ordered[:, int(q * last)], ordered[:, min(int(q * last) + 1, last)], q * last % 1
        )
        for q in (0.25, 0.75)
    )
    # The mean of all steps is the way from the first to the last over their number.
    step = (frames[:, -1] - frames[:, 0]) / max(last, 1)
    return torch.stack([frames.mean(dim=1), (high - low) / IQR_TO_SIGMA, step], dim=1)


def _sorted(frames: torch.Tensor) -> torch.Tensor:
    """The values of each dimension in their order: [B, F, dim] -> [B, F, dim]."""
    import numpy as np
    import torch

    if frames.device.type != "cpu":
        return frames.sort(dim=1).values
    # One after the other in memory numpy sorts them in 1 ms a window, and torch in 18, or 32 as
    # they are: a thirtieth of what the encoder takes in int8.
    ordered = np.sort(frames.transpose(1, 2).contiguous().numpy(), axis=2)
    return torch.from_numpy(ordered).transpose(1, 2)
