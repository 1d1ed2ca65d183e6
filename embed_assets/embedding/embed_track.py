"""Embedding one track, in a worker process: decode, encode, store.

A worker loads its encoder once and keeps it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from embed_assets.audio.windows import WindowPolicy
from embed_assets.encoders.config import EncoderConfig
from embed_assets.errors import ConfigurationError, Reason, TrackRejected
from embed_assets.identity import Recipe
from embed_assets.library.unchanged import unchanged
from embed_assets.storage.records import FOUND_IN_STORE, Embedding, Track
from embed_assets.storage.vector_store import Store, VectorsLost

if TYPE_CHECKING:
    import numpy as np

    from embed_assets.encoders import Encoder

BATCH_SECONDS = 120.0
"""Most seconds of audio per call of the encoder: bounds memory for any length of track."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to embed one track."""

    track: Track
    path: bytes
    recipe: Recipe
    encoder_config: EncoderConfig
    store: Store
    run_id: str
    force: bool

    @property
    def policy(self) -> WindowPolicy:
        """Which windows of the track are embedded."""
        recipe = self.recipe
        wraps = self.encoder_config.card.wraps_short_windows
        return WindowPolicy(recipe.window_seconds, recipe.windows, wraps)


@dataclass(frozen=True)
class Done:
    """The result of a worker: the row for the table, and the seconds of each stage."""

    row: Embedding
    decode_seconds: float
    encode_seconds: float
    store_seconds: float
    found: bool = False
    load_seconds: float = 0.0
    warning: str = ""


def embed_track(job: Job) -> Done:
    """Decode, encode and store one track; runs in a worker.

    Raises:
        TrackRejected, FolderChanged, TransientError, ConfigurationError, OSError: see the module.
    """
    import numpy as np

    from embed_assets.audio.decode import iter_windows

    if not job.force and (kept := from_store(job)):
        return kept
    clock = _Clock()
    encoder = load_encoder(job)
    clock.lap("load")
    policy = job.policy
    vectors: list[np.ndarray] = []
    with unchanged(job.path, job.track.file_stat, job.track.path, lambda: same_audio(job)):
        stream = iter_windows(job.path, job.track.duration, policy, job.recipe.sample_rate)
        limit = max(1, int(BATCH_SECONDS // job.recipe.window_seconds))
        for batch in equal_lengths(stream.windows, limit):
            clock.lap("decode")
            vectors.append(encoder.encode(np.stack(batch)))
            clock.lap("encode")
    clock.lap("decode")
    return embedded(
        job,
        encoder,
        np.concatenate(vectors),
        stream.decoded_seconds,
        stream.note,
        clock.spent,
    )


def same_audio(job: Job) -> bool:
    """Whether the file of a job has the same audio as when it was scanned; reads all of it."""
    from embed_assets.library.probe import probe

    try:
        return probe(job.path).audio_hash == job.track.audio_hash
    except TrackRejected:
        return False


def load_encoder(job: Job) -> Encoder:
    """The encoder of a job; this process keeps it.

    Raises:
        ConfigurationError: it cannot be loaded, or has other weights than the job's recipe.
    """
    encoder = _encoder(job.encoder_config)
    if encoder.info.weights != job.recipe.weights:
        raise ConfigurationError(
            f"EMBED_MODEL={job.encoder_config.model}: the weights changed while this run waited."
            " Start it again: vectors of new weights must not be stored under the old ones' name"
        )
    return encoder


def embedded(
    job: Job,
    encoder: Encoder,
    windows: np.ndarray,
    decoded_seconds: float,
    note: str,
    spent: dict[str, float],
) -> Done:
    """Store a track's window vectors, [n_windows, S, dim]; `spent` is in seconds.

    Raises:
        TrackRejected: the vectors are not usable.
        TransientError: the store cannot be written.
    """
    from embed_assets.storage.pooling import pool as pool_windows

    pool_windows(windows, "mean")
    started, at = time.perf_counter(), time.time()
    audio_hash = job.track.audio
    job.store.write(job.recipe.digest, audio_hash, windows, embedded_at=int(at), replace=job.force)
    row = Embedding(
        recipe=job.recipe.digest,
        audio_hash=audio_hash,
        windows=len(windows),
        decoded_seconds=decoded_seconds,
        note=note,
        engine=encoder.engine,
        device=encoder.device,
        dtype=encoder.dtype,
        run_id=job.run_id,
        at=at,
    )
    return Done(
        row,
        spent["decode"],
        spent["encode"],
        time.perf_counter() - started,
        load_seconds=spent["load"],
        warning=encoder.warning,
    )


def from_store(job: Job) -> Done | None:
    """Stored vectors of this audio that the tables do not know: the tables were lost."""
    recipe, audio = job.recipe, job.track.audio
    try:
        windows = job.store.read(recipe.digest, audio)
    except VectorsLost:
        return None
    seconds = min(len(windows) * recipe.window_seconds, job.track.duration)
    row = Embedding(
        recipe=recipe.digest,
        audio_hash=audio,
        windows=len(windows),
        decoded_seconds=seconds,
        note=FOUND_IN_STORE,
        run_id=job.run_id,
        at=time.time(),
    )
    return Done(row, 0.0, 0.0, 0.0, found=True)


class _Clock:
    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.spent = {"load": 0.0, "decode": 0.0, "encode": 0.0}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.spent[name] += now - self.last
        self.last = now


@lru_cache(maxsize=1)
def _encoder(encoder_config: EncoderConfig) -> Encoder:
    return encoder_config.load()


def equal_lengths(windows: Iterator[np.ndarray], limit: int) -> Iterator[list[np.ndarray]]:
    """Group consecutive windows of the same length: a batch is never padded."""
    batch: list[np.ndarray] = []
    for window in windows:
        if batch and (len(batch) >= limit or len(window) != len(batch[0])):
            yield batch
            batch = []
        batch.append(window)
    if not batch:
        raise TrackRejected(Reason.CORRUPT, "none of it could be decoded")
    yield batch
