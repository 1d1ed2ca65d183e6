"""MuQ-MuLan's text side as `Words`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embed_assets.encoders.mulan import text_engine, weights
from embed_assets.errors import ConfigurationError


@dataclass(frozen=True)
class MulanWords:
    """The loaded text tower."""

    tower: text_engine.TextEngine

    def vectors(self, phrases: Sequence[str]) -> np.ndarray:
        """float32 [n, dim], each of length 1; each phrase goes through the tower alone."""
        for phrase in phrases:
            if not phrase.strip():
                raise ConfigurationError("a phrase is empty: say what is to be heard")
        return np.stack([self.tower.vector(phrase) for phrase in phrases])


def load(model: str, cache: Path) -> MulanWords:
    """Load the text side of the weights `model`; see `embed_assets.encoders.words`."""
    return MulanWords(text_engine.load(weights.find(model, cache), model, cache))
