"""Vectors of phrases: remembered on disk, else computed by a text side that is loaded at need.

A process that stays up releases the text side, up to a gigabyte and a half, ten minutes after its
last use. Each phrase that was asked once costs a file of a few kilobytes and no model.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import unicodedata
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

from embed_assets import encoders
from embed_assets.encoders.base import Words
from embed_assets.errors import ConfigurationError
from embed_assets.identity import digest

IDLE_SECONDS = 600.0

MOST_KEPT = 10_000
"""Files of phrases, 20 MB; beyond that the oldest one goes for each new one."""

LONGEST = 1_000
"""Characters of a phrase."""


class Phrases:
    """The vectors of phrases under one text side; safe for threads."""

    def __init__(
        self, load: Callable[[], Words], folder: Path, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        """`folder`: where vectors are remembered, for these weights only."""
        self.folder, self.idle_seconds = folder, idle_seconds
        self._load = load
        self._words: Words | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        """Whether the text side is in memory."""
        return self._words is not None

    def vectors(self, phrases: Sequence[str]) -> np.ndarray:
        """float32 [n, dim], each of length 1; raises ConfigurationError as `Words.vectors`."""
        return np.stack([self._vector(normal(phrase)) for phrase in phrases])

    def release(self) -> None:
        """Give back the memory of the text side."""
        with self._lock:
            self._words = None
        gc.collect()
        # Otherwise the C library keeps what a tokenizer freed, a third of a gigabyte.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)

    def _vector(self, phrase: str) -> np.ndarray:
        file = self.folder / f"{digest('phrase', phrase)}.npy"
        known = _read(file)
        if known is not None:
            return known
        with self._lock:
            if self._timer:
                self._timer.cancel()
            try:
                if self._words is None:
                    self._words = self._load()
                vector = self._words.vectors([phrase])[0]
            finally:
                # Also after a phrase that it refuses.
                self._timer = threading.Timer(self.idle_seconds, self.release)
                self._timer.daemon = True
                self._timer.start()
        # On a full or read-only disk it is computed each time.
        with suppress(OSError):
            _write(file, vector)
        return vector


def phrases_of(name: str, model: str, cache: Path) -> Phrases:
    """The phrases of an encoder with these weights; one for all queries of this process.

    Raises ConfigurationError: the encoder knows no words, or its weights are not here.
    """
    encoders.require_words(name)
    weights = encoders.describe(name, model, cache).weights
    return _phrases_of(name, model, cache, weights)


def unused(in_use: Collection[str], cache: Path) -> list[Path]:
    """Folders of phrases of other weights than these values of `EncoderInfo.weights`."""
    return [
        folder for folder in sorted((cache / "phrases").glob("*/")) if folder.name not in in_use
    ]


def normal(phrase: str) -> str:
    """A phrase as it is embedded: of the texts that look alike only one.

    Raises ConfigurationError: it is empty, too long, or no text.
    """
    phrase = " ".join(unicodedata.normalize("NFKC", phrase).split())
    if not phrase:
        raise ConfigurationError("a phrase is empty: say what is to be heard, e.g. 'calm piano'")
    if len(phrase) > LONGEST:
        raise ConfigurationError(
            f"a phrase has {len(phrase)} characters, at most {LONGEST}: two to four short phrases"
            " find more than a long text"
        )
    try:
        phrase.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{phrase!r} is not a text in UTF-8") from None
    return phrase


@lru_cache(maxsize=2)
def _phrases_of(name: str, model: str, cache: Path, weights: str) -> Phrases:
    return Phrases(lambda: encoders.words(name, model, cache), cache / "phrases" / weights)


def _read(file: Path) -> np.ndarray | None:
    try:
        vector = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = vector.dtype == np.float32 and vector.ndim == 1
    return vector if whole and abs(float(vector @ vector) - 1) < 1e-3 else None


def _write(file: Path, vector: np.ndarray) -> None:
    folder = file.parent
    folder.mkdir(parents=True, exist_ok=True)
    there = [entry for entry in os.scandir(folder) if entry.name.endswith(".npy")]
    if len(there) >= MOST_KEPT:
        with suppress(OSError):
            os.unlink(min(there, key=lambda entry: entry.stat().st_mtime).path)
    making = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        with open(making, "wb") as out:
            np.save(out, vector)
        making.replace(file)
    finally:
        making.unlink(missing_ok=True)
