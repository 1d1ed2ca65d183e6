"""What each stage of embedding makes of one track; runs in a worker, and stores nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from embed_assets.embedding.embed_track import (
    BATCH_SECONDS,
    Job,
    equal_lengths,
    load_encoder,
    same_audio,
)
from embed_assets.encoders.base import call
from embed_assets.errors import FolderChanged
from embed_assets.identity import digest

POINTS = 64
"""Values of each array that are kept, evenly spaced: enough to measure by how much two differ."""


@dataclass(frozen=True)
class Fingerprint:
    """Arrays in brief. `digest`: of all their bytes, empty if unknown; `points`: some values."""

    digest: str
    points: tuple[float, ...]

    def differs_by(self, other: Fingerprint) -> float:
        """The difference from another, relative to it (RMS); 1 if the lengths differ."""
        if self.digest and self.digest == other.digest:
            return 0.0
        a, b = np.array(self.points), np.array(other.points)
        if a.shape != b.shape or not np.isfinite(a).all():
            return 1.0
        scale = float(np.sqrt(np.mean(b * b)))
        return float(np.sqrt(np.mean((a - b) ** 2))) / max(scale, 1e-9)


@dataclass(frozen=True)
class Subject:
    """What is embedded again: a track, or the clip, whose decoded samples are noted as well."""

    name: str
    job: Job
    is_clip: bool = False


@dataclass(frozen=True)
class Stages:
    """What a subject gave: fingerprints by stage, in order, and its window vectors [n, S, dim]."""

    stages: dict[str, Fingerprint]
    vectors: np.ndarray
    engine: str
    device: str
    dtype: str


DECODER, SAMPLES, FEATURES = "decoder", "samples", "features"
"""Stages with fingerprints: decoded samples, the same at the encoder's rate, its input to a model.
"""


def embed_stages(subject: Subject) -> Stages:
    """Embed a subject as `embed_track` does, and note what each stage gave.

    Raises:
        FolderChanged: the file has other audio than when it was scanned.
        TrackRejected, TransientError, ConfigurationError, OSError: as `embed_track`.
    """
    from embed_assets.audio.decode import iter_windows

    job = subject.job
    if not subject.is_clip and not same_audio(job):
        raise FolderChanged(f"{subject.name}: has other audio now")
    encoder = load_encoder(job)
    of_features = job.encoder_config.card.features
    made: dict[str, list[Fingerprint]] = {SAMPLES: [], FEATURES: []}
    if subject.is_clip:
        made = {DECODER: [_decoded(job)]} | made
    limit = max(1, int(BATCH_SECONDS // job.recipe.window_seconds))
    vectors: list[np.ndarray] = []
    stream = iter_windows(job.path, job.track.duration, job.policy, job.recipe.sample_rate)
    for batch in equal_lengths(stream.windows, limit):
        vectors.append(encoder.encode(np.stack(batch)))
        made[SAMPLES] += map(fingerprint, batch)
        if of_features:
            made[FEATURES] += map(fingerprint, map(partial(call, of_features, encoder), batch))
    return Stages(
        {stage: _joined(each) for stage, each in made.items() if each},
        np.concatenate(vectors),
        encoder.engine,
        encoder.device,
        encoder.dtype,
    )


def fingerprint(array: np.ndarray, points: int = POINTS) -> Fingerprint:
    """The fingerprint of an array of numbers."""
    flat = np.ascontiguousarray(array, np.float32).ravel()
    chosen = flat[np.linspace(0, len(flat) - 1, points).astype(int)]
    return Fingerprint(digest(flat.tobytes()), tuple(float(f"{x:.7g}") for x in chosen))


def sample_fingerprint(file: Path, seconds: float, rate: int) -> Fingerprint:
    """The fingerprint of a file's samples at a rate in Hz, as one window."""
    from embed_assets.audio.decode import read_windows
    from embed_assets.audio.windows import WindowPolicy

    (window,) = read_windows(os.fsencode(file), seconds, WindowPolicy(seconds, 1), rate).windows
    return fingerprint(window)


def _joined(each: Iterable[Fingerprint]) -> Fingerprint:
    each = list(each)
    together = each[0].digest if len(each) == 1 else digest(*(f.digest for f in each))
    return Fingerprint(together, tuple(point for f in each for point in f.points))


def _decoded(job: Job) -> Fingerprint:
    """All samples of a file, mono at its own rate."""
    from embed_assets.audio.chain import decoder_of
    from embed_assets.audio.container import open_audio

    with open_audio(job.path, job.track.duration) as audio:
        decoder = decoder_of(audio)
        chunks = []
        while (chunk := decoder.read()) is not None:
            chunks.append(chunk.samples)
        decoder.close()
    return fingerprint(np.concatenate(chunks), 8 * POINTS)
