"""How much the neighbours of tracks change between two engines, measured on a few tracks.

Worker processes embed the tracks with one engine after the other, so that no process holds two;
nothing is stored. The comparison is plain numpy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.audio.windows import WindowPolicy
from embed_assets.encoders.base import call
from embed_assets.encoders.config import EncoderConfig
from embed_assets.errors import ConfigurationError, TrackRejected
from embed_assets.storage.pooling import pool as pool_windows
from embed_assets.workers import open_pool

if TYPE_CHECKING:
    from embed_assets.encoders import Encoder


@dataclass(frozen=True)
class EngineConfig:
    """An engine to measure; `exact`: float32 on the CPU, which others are compared with."""

    encoder: EncoderConfig
    exact: bool = False

    def load(self) -> Encoder:
        """The encoder on this engine; raises ConfigurationError if it cannot be loaded."""
        config = self.encoder
        if self.exact:
            return call(config.card.load_exact, config.model, config.cache)
        return config.load()


@dataclass(frozen=True)
class EncodedTrack:
    """Window vectors of a track, float32 [n, S, dim], and the seconds that they took."""

    windows: np.ndarray
    audio_seconds: float
    cpu_seconds: float
    engine: str
    dtype: str
    warning: str


@dataclass(frozen=True)
class Pass:
    """The results of one engine, by position of the track, without rejected tracks."""

    tracks: dict[int, EncodedTrack]

    @property
    def speed(self) -> float:
        """Median over the tracks of seconds of audio per second of one core, encoder only."""
        return float(np.median([t.audio_seconds / t.cpu_seconds for t in self.tracks.values()]))

    @property
    def engine(self) -> str:
        """E.g. `openvino, float32`."""
        return next(f"{t.engine}, {t.dtype}" for t in self.tracks.values())


@dataclass(frozen=True)
class Distance:
    """How vectors `b` differ from vectors `a` of the same tracks.

    `overlap` is the mean share of a track's `k` nearest by `a` that are among those by `b`, and
    `overlap_error` its standard error; `overlap_half` the same among half of the tracks, since the
    overlap falls with the number of tracks. Cosines are per track.
    """

    k: int
    overlap: float
    overlap_error: float
    overlap_half: float
    same_nearest: float
    smallest_cosine: float
    median_cosine: float


def calibrate(model: str, cache: Path, paths: Sequence[bytes], seconds: float) -> int:
    """Make the model of `muq-int8` from the decodable tracks, in a process of its own.

    Returns the number of decodable tracks, at least one. Raises:
        ConfigurationError: the model cannot be made, or no track can be decoded.
        TransientError: the process was killed, or the disk is full.
    """
    with open_pool(1, seconds_a_task=3600.0) as pool:
        for _, outcome in pool.run(_calibrate, [(model, cache, tuple(paths), seconds)]):
            if isinstance(outcome, int):
                return outcome
            raise outcome
    raise AssertionError("a pool gives an outcome for each item")


def embed(
    engine: EngineConfig,
    paths: Sequence[bytes],
    policy: WindowPolicy,
    workers: int,
    on_track: Callable[[], None],
) -> Pass:
    """Embed tracks with an engine, in processes of its own.

    Tracks that cannot be read or are rejected are left out. Raises:
        ConfigurationError: the engine cannot be loaded.
        TransientError: the processes were killed, or the disk is full.
    """
    heard = {}
    jobs = [(i, path, engine, policy) for i, path in enumerate(paths)]
    with open_pool(workers) as pool:
        more = pool.allowing(lambda _: 5.0 * policy.count * policy.seconds)
        for (i, *_), outcome in more.run(_embed, jobs):
            if isinstance(outcome, EncodedTrack):
                heard[i] = outcome
            elif not isinstance(outcome, TrackRejected | OSError):
                raise outcome
            on_track()
    return Pass(heard)


def pooled(passed: Pass, tracks: Sequence[int], pooling: str) -> np.ndarray:
    """The vectors as they would be indexed: float32 [n, dim], normalised."""
    return np.stack([pool_windows(passed.tracks[i].windows, pooling) for i in tracks])


def distance(a: np.ndarray, b: np.ndarray, k: int) -> Distance:
    """Compare `b` with `a`, both float32 [n, dim] and normalised, n above 2 * k."""
    shares = _shares(a, b, k)
    half = _shares(a[::2], b[::2], k)
    cosines = np.sum(a * b, axis=1)
    return Distance(
        k=k,
        overlap=float(shares.mean()),
        overlap_error=float(shares.std() / np.sqrt(len(shares))),
        overlap_half=float(half.mean()),
        same_nearest=float(_shares(a, b, 1).mean()),
        smallest_cosine=float(cosines.min()),
        median_cosine=float(np.median(cosines)),
    )


def _shares(a: np.ndarray, b: np.ndarray, k: int) -> np.ndarray:
    """Share of each track's `k` nearest by `a` that are among those by `b`: [n]."""
    near = [_nearest(vectors, k) for vectors in (a, b)]
    return np.array([len(set(x) & set(y)) / k for x, y in zip(*near, strict=True)])


def _nearest(vectors: np.ndarray, k: int) -> np.ndarray:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _calibrate(job: tuple[str, Path, tuple[bytes, ...], float]) -> int:
    """Runs in a worker."""
    from embed_assets.audio.decode import read_windows
    from embed_assets.encoders.muq.encoder import make_int8
    from embed_assets.encoders.muq.frames import SAMPLE_RATE

    model, cache, paths, seconds = job
    music: list[np.ndarray] = []
    for path in paths:
        with suppress(TrackRejected, OSError):
            music += read_windows(path, 0.0, WindowPolicy(seconds, 1), SAMPLE_RATE).windows
    if not music:
        raise ConfigurationError(
            f"none of {len(paths)} tracks, the first {os.fsdecode(paths[0])!r}, can be read: is"
            " EMBED_LIBRARY the right folder?"
        )
    make_int8(model, cache, music)
    return len(music)


def _embed(job: tuple[int, bytes, EngineConfig, WindowPolicy]) -> EncodedTrack:
    """Runs in a worker."""
    from embed_assets.audio.decode import read_windows

    _, path, engine, policy = job
    encoder = _encoder(engine)
    windows = read_windows(path, 0.0, policy, encoder.info.sample_rate).windows
    vectors, cpu = [], 0.0
    for window in windows:
        started = time.process_time()
        vectors.append(encoder.encode(window[None]))
        cpu += time.process_time() - started
    pool_windows(np.concatenate(vectors), "mean")
    seconds = sum(map(len, windows)) / encoder.info.sample_rate
    return EncodedTrack(
        np.concatenate(vectors), seconds, cpu, encoder.engine, encoder.dtype, encoder.warning
    )


@lru_cache(maxsize=1)
def _encoder(engine: EngineConfig) -> Encoder:
    return engine.load()
