"""Does an engine give torch's vectors? Made-up audio, and the smallest cosine over its windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.encoders.muq.frames import MIN_SAMPLES, SAMPLE_RATE, frame_statistics, to_numpy

if TYPE_CHECKING:
    from embed_assets.encoders.muq.frames import Frames

_SECONDS = (10.0, 3.1, MIN_SAMPLES / SAMPLE_RATE)


SMALLEST_COSINE = {"float32": 0.9999} | dict.fromkeys(
    ("bfloat16", "float16", "float32_int8"), 0.9995
)
"""Between a vector of an engine and torch's, below which the engine is refused, by dtype."""


def vectors(frames: Callable[[np.ndarray], Frames], sounds: slice = slice(None)) -> np.ndarray:
    """Statistics over frames of the check audio, or of some of it: float32 [n, 3, dim]."""
    each = [to_numpy(frame_statistics(frames(sound))) for sound in audio()[sounds]]
    return np.concatenate(each)


def audio(seed: int = 0) -> list[np.ndarray]:
    """Something like music, of several lengths down to the shortest: float32 [1, T] each.

    That of seed 0 is what engines are checked with.
    """
    random = np.random.default_rng(seed)
    t = np.arange(round(max(_SECONDS) * SAMPLE_RATE)) / SAMPLE_RATE
    beat = np.exp(-6 * (t % 0.5))
    roots = 110 * 2 ** (random.integers(0, 12, 32) / 12)
    pitch = roots[(t // 0.5).astype(int) % len(roots)]
    chord = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in (1, 2, 3, 5, 8))
    sound = 0.1 * chord * (0.3 + beat) + 0.05 * beat * random.standard_normal(len(t))
    lengths = [round(s * SAMPLE_RATE) for s in _SECONDS]
    return [sound[None, :n].astype(np.float32) for n in lengths]


def refused(worst: list[str], dtype: str) -> str:
    """A warning for people where dtypes before this one gave other vectors; empty if none did."""
    if not worst:
        return ""
    return (
        f"vectors differed from torch's (cosine {', '.join(worst)}): using {dtype} instead, which"
        " is slower"
    )


def smallest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Over the windows, of their means and of all their statistics; NaN counts as -1."""
    if a.shape != b.shape:
        return -1.0
    cosines = [
        np.sum(x * y, axis=1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
        for x, y in ((a[:, 0], b[:, 0]), (a.reshape(len(a), -1), b.reshape(len(b), -1)))
    ]
    return float(np.nan_to_num(np.min(cosines), nan=-1.0))
