"""The encoder `toy`: how a window's power is spread over 24 bands, in decibels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embed_assets.encoders.base import EncoderInfo
from embed_assets_tests.toy_encoder.card import TOY


def describe(model: str, cache: Path) -> EncoderInfo:
    return EncoderInfo(TOY.name, "version 1", TOY.sample_rate, TOY.dim, ("mean",), 1.0, TOY.note)


def load(model: str, device: str, cache: Path) -> ToyEncoder:
    return ToyEncoder(describe(model, cache))


@dataclass(frozen=True)
class ToyEncoder:
    info: EncoderInfo
    device: str = "cpu"
    engine: str = "numpy"
    dtype: str = "float32"
    warning: str = ""

    def encode(self, windows: np.ndarray) -> np.ndarray:
        return np.stack([bands(window)[None] for window in windows])


def bands(window: np.ndarray) -> np.ndarray:
    """float32 [T] at 16 kHz -> float32 [24]: decibels above and below the mean of the bands."""
    power = np.abs(np.fft.rfft(window)) ** 2
    edges = np.geomspace(50, 8000, TOY.dim + 1) * len(window) / TOY.sample_rate
    level = [power[int(a) : int(b) + 1].mean() for a, b in itertools.pairwise(edges)]
    decibels = 10 * np.log10(np.array(level) + 1e-9)
    return (decibels - decibels.mean()).astype(np.float32)
