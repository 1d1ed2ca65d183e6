"""The clip: three seconds of made-up music in several formats, and what each stage makes of them.

The formats and `expected.npz` are shipped; `embed_assets_tests/make_canary_clip.py` makes them. The
music is computed with integers only, so it is the same on every machine.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from embed_assets.embedding.canary.stages import DECODER, FEATURES, SAMPLES, Fingerprint, Subject
from embed_assets.embedding.embed_track import Job
from embed_assets.encoders.config import EncoderConfig
from embed_assets.identity import FolderId, Recipe, TrackId
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.records import Track

SECONDS = 3

FORMATS = {"flac": 44_100, "mp3": 44_100, "opus": 48_000}
"""Endings of the shipped files, and their sample rates in Hz."""

EXPECTED = Path(__file__).with_name("expected.npz")

CHORDS = (
    (110_000, 220_000, 277_183, 329_628, 1_318_510),
    (146_832, 293_665, 369_994, 440_000, 1_760_000),
    (164_814, 329_628, 415_305, 493_883, 2_637_020),
    (123_471, 246_942, 293_665, 369_994, 5_919_911),
    (98_000, 196_000, 246_942, 392_000, 9_397_273),
    (110_000, 220_000, 329_628, 554_365, 880_000),
)
"""Half a second each, as frequencies in mHz."""


def music(rate: int) -> np.ndarray:
    """The clip at a sample rate in Hz: int16 [SECONDS * rate], exactly the same everywhere.

    Noise lies under the tones: without it, the quiet mel bins would hold rounding errors, which
    differ between CPUs.
    """
    at = np.arange(SECONDS * rate, dtype=np.int64)
    beat = rate // 2
    inside = at % beat
    decay = ((beat - inside) * (beat - inside) << 12) // (beat * beat)
    chords = np.array(CHORDS, np.int64)[np.minimum(at // beat, len(CHORDS) - 1)]
    sound = np.zeros(len(at), np.int64)
    for voice, loudness in enumerate((5, 4, 3, 3, 1)):
        turn = at * ((chords[:, voice] << 32) // (1000 * rate)) & 0xFFFFFFFF
        wave = (turn >> 16) - 0x8000
        sound += loudness * (wave * (0x8000 - np.abs(wave)) >> 13)
    sound = (sound >> 5) * (1024 + decay) >> 12
    drum = (_noise(at) >> 4) * decay * decay * decay >> 36
    return (sound + drum + (_noise(at + len(at)) >> 9)).astype(np.int16)


def _noise(at: np.ndarray) -> np.ndarray:
    """White noise by position: int64 in [-32768, 32767]."""
    bits = (at * 0x9E3779B1) & 0xFFFFFFFF
    for factor in (0x45D9F3B, 0x119DE1F3):
        bits = ((bits ^ (bits >> 16)) * factor) & 0xFFFFFFFF
    return ((bits ^ (bits >> 16)) & 0xFFFF) - 0x8000


def file_of(ending: str) -> Path:
    """The shipped file of a format."""
    return Path(__file__).with_name(f"clip.{ending}")


@cache
def _expected() -> dict[str, np.ndarray]:
    with np.load(EXPECTED) as shipped:
        return {name: shipped[name] for name in shipped.files}


def expected(name: str) -> Fingerprint | None:
    """What a stage gave where the clip was made; None if nothing is shipped for it.

    `name`: "decoder mp3", "samples mp3 24000", or "features mp3 acoustic WEIGHTS".
    """
    points = _expected().get(name)
    return None if points is None else Fingerprint("", tuple(points.tolist()))


def expected_stages(ending: str, recipe: Recipe) -> dict[str, Fingerprint]:
    """What is shipped of a format for a recipe, by stage; mel spectrograms of MuQ are not."""
    found = {
        DECODER: expected(f"{DECODER} {ending}"),
        SAMPLES: expected(f"{SAMPLES} {ending} {recipe.sample_rate}"),
        FEATURES: expected(f"{FEATURES} {ending} {recipe.encoder} {recipe.weights}"),
    }
    return {stage: fingerprint for stage, fingerprint in found.items() if fingerprint}


def expected_vectors(ending: str, encoder: str, weights: str) -> np.ndarray | None:
    """The window vectors of a format, float32 [n, S, dim], of an encoder whose weights are shipped.

    None for other encoders and weights.
    """
    return _expected().get(f"vectors {ending} {encoder} {weights}")


def subject(ending: str, recipe: Recipe, encoder_config: EncoderConfig) -> Subject:
    """A format of the clip as one window of its own length, whatever windows the recipe has."""
    path = os.fsencode(file_of(ending))
    track = Track(
        track_id=TrackId(""),
        folder_id=FolderId(""),
        path=path,
        size=0,
        mtime_ns=0,
        ctime_ns=0,
        duration=float(SECONDS),
    )
    whole = replace(recipe, window_seconds=float(SECONDS), windows=1)
    job = Job(track, path, whole, encoder_config, FolderStore(Path()), "", force=True)
    return Subject(f"clip.{ending}", job, is_clip=True)
