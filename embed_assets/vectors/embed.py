"""Embedding one folder: the window vectors of every track that has none yet under the recipe.

Decode, encode and store happen in worker processes, a track at a time; here is decided what is
embedded, what is reused, and how a failure becomes a rejected row or a retry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from embed_assets.errors import ConfigurationError, Reason, TrackRejected, TransientError
from embed_assets.identity import Recipe, display_path, folder_id, local_path
from embed_assets.library.manifest import Library, check_unchanged
from embed_assets.library.walk import require_library
from embed_assets.rows import Embedding, Track
from embed_assets.tables import Tables
from embed_assets.vectors.store import Store, VectorsLost
from embed_assets.workers import Pool, cpu_count

if TYPE_CHECKING:
    import numpy as np

    from embed_assets.encoders import Encoder

BATCH_SECONDS = 120.0
"""Audio encoded in one call, at most, in seconds: bounds memory whatever a track's length."""

BYTES_A_MODEL = 4 << 30
"""Memory that a worker with MuQ takes, generously: 1.3 GB of weights and its activations."""


@dataclass(frozen=True)
class EncoderChoice:
    """Which encoder the workers load: the values of EMBED_ENCODER, EMBED_MODEL, EMBED_DEVICE."""

    name: str
    model: str
    device: str
    cache: Path

    def recipe(self, window_seconds: float, windows: int) -> Recipe:
        """The recipe of this encoder with a window policy; loads nothing.

        Raises:
            ConfigurationError: no such encoder, or its weights are not on this machine.
        """
        from embed_assets import encoders

        info = encoders.describe(self.name, self.model, self.cache)
        return Recipe(
            encoder=info.name,
            weights=info.weights,
            sample_rate=info.sample_rate,
            dim=info.dim,
            window_seconds=window_seconds,
            windows=windows,
            frame_stats=info.frame_stats,
        )

    def workers(self) -> int:
        """Worker processes for this machine: one a core, as far as memory holds their models."""
        if self.name == "acoustic":
            return cpu_count()
        if self.device.startswith(("cuda", "mps")):
            return 1
        return max(1, min(cpu_count(), _available_bytes() // BYTES_A_MODEL))


@dataclass(frozen=True)
class EmbedResult:
    """What became of a folder's tracks; the seconds are summed over the workers."""

    embedded: int = 0
    reused: int = 0
    rejected: int = 0
    audio_seconds: float = 0.0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    store_seconds: float = 0.0
    engine: str = ""
    device: str = ""
    dtype: str = ""


@dataclass(frozen=True)
class Job:
    """What a worker needs to embed one track."""

    track: Track
    path: bytes
    recipe: Recipe
    choice: EncoderChoice
    store: Path
    run_id: str
    again: bool


@dataclass(frozen=True)
class Done:
    """What a worker gives back: the row for the table, and where the seconds went."""

    row: Embedding
    decode_seconds: float
    encode_seconds: float
    store_seconds: float
    found: bool = False


def embed_folder(
    library: Library,
    path: bytes,
    recipe: Recipe,
    choice: EncoderChoice,
    tables: Tables,
    store: Store,
    pool: Pool,
    *,
    run_id: str = "",
    again: bool = False,
    on_track: Callable[[Embedding], None] = lambda row: None,
) -> EmbedResult:
    """Embed the tracks of a folder that have no vectors under the recipe; `again` embeds all.

    Audio that is known under its hash is never embedded again, wherever it lies now.

    Raises:
        FolderChanged: a file changed since it was scanned; its vectors were not stored.
        TransientError: a file or the store could not be read or written.
        ConfigurationError: the encoder cannot be loaded.
    """
    root = require_library(library.root)
    folder = folder_id(library.name, path)
    known: set[str] = set()
    result = EmbedResult()
    problem: BaseException | None = None
    _forget_lost(tables, store, folder, recipe)
    total = tables.folder_totals(folder, recipe.digest)
    pending = tables.pending(folder, recipe.digest, again)
    jobs = (
        Job(t, local_path(root, t.path), recipe, choice, store.root, run_id, again)
        for t in pending
        if not (t.audio_hash in known or known.add(t.audio_hash))
    )
    for job, outcome in pool.run(embed_track, jobs):
        if isinstance(outcome, TrackRejected):
            done = Done(_rejected(job, outcome), 0.0, 0.0, 0.0)
        elif isinstance(outcome, BaseException):
            # The others go on: what is finished needs no second try.
            problem = problem or _as_problem(job, outcome)
            continue
        else:
            done = outcome
        tables.put_embeddings([done.row])
        on_track(done.row)
        result = _add(result, done)
    if problem is not None:
        raise problem
    reused = max(total.embedded - (result.embedded if again else 0), 0)
    return replace(result, reused=result.reused + reused + len(pending) - len(known))


def _forget_lost(tables: Tables, store: Store, folder: str, recipe: Recipe) -> None:
    """Have audio embedded again whose vectors are gone from the store, all of it at once."""
    for track in list(tables.embeddable(folder, recipe.digest)):
        if not store.has(recipe.digest, track.audio_hash or ""):
            tables.forget_embedding(recipe.digest, track.audio_hash or "")


def embed_track(job: Job) -> Done:
    """Decode, encode and store one track; runs in a worker.

    Raises:
        TrackRejected, FolderChanged, TransientError, ConfigurationError, OSError: see the module.
    """
    import numpy as np

    from embed_assets.audio.decode import iter_windows
    from embed_assets.audio.windows import WindowPolicy
    from embed_assets.vectors.pooling import pool as pool_windows

    if not job.again and (kept := _from_store(job)):
        return kept
    encoder = _encoder(job.choice)
    if encoder.info.weights != job.recipe.weights:
        raise ConfigurationError(
            f"EMBED_MODEL={job.choice.model}: the weights changed while this run waited; start it"
            " again, so that no vector of the new ones is kept under the old ones' name"
        )
    check_unchanged(job.path, job.track.stamp, job.track.path)
    policy = WindowPolicy(job.recipe.window_seconds, job.recipe.windows)
    clock = _Clock()
    vectors: list[np.ndarray] = []
    try:
        stream = iter_windows(job.path, job.track.duration, policy, job.recipe.sample_rate)
        limit = max(1, int(BATCH_SECONDS // job.recipe.window_seconds))
        for batch in _equal_lengths(stream.windows, limit):
            clock.lap("decode")
            vectors.append(encoder.encode(np.stack(batch)))
            clock.lap("encode")
        windows = np.concatenate(vectors)
        pool_windows(windows, "mean")
    finally:
        check_unchanged(job.path, job.track.stamp, job.track.path)
    clock.lap("decode")
    Store(job.store).write(job.recipe.digest, job.track.audio_hash, windows)
    clock.lap("store")
    row = Embedding(
        recipe=job.recipe.digest,
        audio_hash=job.track.audio_hash,
        windows=len(windows),
        decoded_seconds=stream.decoded_seconds,
        note=stream.note,
        engine=encoder.engine,
        device=encoder.device,
        dtype=encoder.dtype,
        run_id=job.run_id,
        at=time.time(),
    )
    return Done(row, clock.spent["decode"], clock.spent["encode"], clock.spent["store"])


def _from_store(job: Job) -> Done | None:
    """Vectors of this audio that no table names: the tables were lost, and the store was not."""
    store, recipe, audio = Store(job.store), job.recipe, job.track.audio_hash or ""
    if not store.has(recipe.digest, audio):
        return None
    try:
        windows = store.read(recipe.digest, audio)
    except VectorsLost:
        return None
    seconds = min(len(windows) * recipe.window_seconds, job.track.duration)
    row = Embedding(
        recipe=recipe.digest,
        audio_hash=audio,
        windows=len(windows),
        decoded_seconds=seconds,
        note="found in the store",
        run_id=job.run_id,
        at=time.time(),
    )
    return Done(row, 0.0, 0.0, 0.0, found=True)


class _Clock:
    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.spent = {"decode": 0.0, "encode": 0.0, "store": 0.0}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.spent[name] += now - self.last
        self.last = now


@lru_cache(maxsize=1)
def _encoder(choice: EncoderChoice) -> Encoder:
    from embed_assets import encoders

    return encoders.load(choice.name, choice.model, choice.device, choice.cache)


def _equal_lengths(windows: Iterator[np.ndarray], limit: int) -> Iterator[list[np.ndarray]]:
    """Group neighbours of one length: a batch is never padded."""
    batch: list[np.ndarray] = []
    for window in windows:
        if batch and (len(batch) >= limit or len(window) != len(batch[0])):
            yield batch
            batch = []
        batch.append(window)
    if not batch:
        raise TrackRejected(Reason.CORRUPT, "nothing in it could be decoded")
    yield batch


def _rejected(job: Job, error: TrackRejected) -> Embedding:
    return Embedding(
        recipe=job.recipe.digest,
        audio_hash=job.track.audio_hash or "",
        reason=str(error.reason),
        message=error.message,
        run_id=job.run_id,
        at=time.time(),
    )


def _as_problem(job: Job, error: BaseException) -> BaseException:
    if isinstance(error, OSError):
        name = display_path(job.track.path)
        return TransientError(
            f"{name}: cannot be read: {error.strerror or error}; check its permissions and the"
            " disk; it is tried again"
        )
    return error


def _add(result: EmbedResult, done: Done) -> EmbedResult:
    ok = done.row.reason is None
    return replace(
        result,
        embedded=result.embedded + (ok and not done.found),
        reused=result.reused + done.found,
        rejected=result.rejected + (not ok),
        audio_seconds=result.audio_seconds + done.row.decoded_seconds,
        decode_seconds=result.decode_seconds + done.decode_seconds,
        encode_seconds=result.encode_seconds + done.encode_seconds,
        store_seconds=result.store_seconds + done.store_seconds,
        engine=done.row.engine or result.engine,
        device=done.row.device or result.device,
        dtype=done.row.dtype or result.dtype,
    )


def _available_bytes() -> int:
    """Memory to be had, by the kernel's estimate and the cgroup's limit."""
    figures = []
    try:
        with open("/proc/meminfo") as lines:
            figures += [int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")]
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        figures += [int(limit) - int(used)] if limit.isdigit() else []
    except (OSError, ValueError):
        pass
    return min(figures, default=BYTES_A_MODEL)
