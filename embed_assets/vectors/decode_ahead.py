"""Keeping a GPU fed: other processes decode, ahead of the one process that has the model.

Used where one device does all the encoding (`EncoderChoice.one_process`). Decoded tracks are
gathered over track borders into batches of some minutes of audio, of which two are under way at
most, so that memory stays bounded. Unmeasured on a GPU; its results are tested on a CPU.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from embed_assets.errors import TrackRejected, TransientError
from embed_assets.library.manifest import check_unchanged
from embed_assets.vectors.embed_track import (
    Done,
    EncoderChoice,
    Job,
    embedded,
    from_store,
    load_encoder,
)
from embed_assets.workers import Pool, cpu_count, open_pool

if TYPE_CHECKING:
    import numpy as np

BATCH_SECONDS = 240.0
"""Audio that goes to the device at once, unless a single track has more."""

LONGEST_SECONDS = 600.0
"""Audio of one track that is handed from process to process; the device's decodes more itself."""


MOST_DECODERS = 16
"""A core decodes some 800 seconds of audio a second; on paper an H100 wants twelve."""


@dataclass(frozen=True)
class Heard:
    """A decoded track on its way to the device: `windows` is float32 [n, T]."""

    job: Job
    windows: np.ndarray
    decoded_seconds: float
    note: str
    decode_seconds: float

    @property
    def seconds(self) -> float:
        """Audio in its windows."""
        return self.windows.size / self.job.recipe.sample_rate


@dataclass(frozen=True)
class Batch:
    """What the device's process gets: decoded tracks, and at most one to decode itself."""

    function: Callable[[Job], Done]
    tracks: list[Heard | Job]


@dataclass(frozen=True)
class DecodeAhead:
    """Two pools that together do what `Pool.run(embed_track, jobs)` does."""

    decoders: Pool
    device: Pool
    batch_seconds: float = BATCH_SECONDS

    def allowing(self, more_seconds: Callable[[Job], float]) -> DecodeAhead:
        """As `Pool.allowing`; a batch gets what its tracks get."""
        return replace(
            self,
            decoders=self.decoders.allowing(more_seconds),
            device=self.device.allowing(lambda b: sum(more_seconds(_job(t)) for t in b.tracks)),
        )

    def run(
        self, function: Callable[[Job], Done], jobs: Iterable[Job]
    ) -> Iterator[tuple[Job, Done | BaseException]]:
        """As `Pool.run`; `function` is for tracks that are too long to be handed on decoded."""
        ready: deque[tuple[Job, Done | BaseException]] = deque()
        batches = self._batches(function, jobs, ready)
        for batch, outcome in self.device.run(encode_tracks, batches):
            while ready:
                yield ready.popleft()
            if not isinstance(outcome, BaseException):
                yield from zip(map(_job, batch.tracks), outcome, strict=True)
            elif len(batch.tracks) > 1 and isinstance(outcome, TrackRejected):
                # Which of them it was is not known; alone, in a smaller chunk, it will be.
                why = f"the process of the device died or hung over {len(batch.tracks)} tracks"
                lost = TransientError(f"{why}: {outcome.message}; they are tried again")
                yield from ((_job(track), lost) for track in batch.tracks)
            else:
                yield from ((_job(track), outcome) for track in batch.tracks)
        yield from ready

    def _batches(
        self,
        function: Callable[[Job], Done],
        jobs: Iterable[Job],
        ready: deque[tuple[Job, Done | BaseException]],
    ) -> Iterator[Batch]:
        """Gather what decoders hand on; what needs no device goes to `ready`."""
        tracks: list[Heard | Job] = []
        seconds = 0.0
        for job, outcome in self.decoders.run(decode_track, jobs):
            if isinstance(outcome, Done | BaseException):
                ready.append((job, outcome))
                continue
            tracks.append(outcome)
            seconds += outcome.seconds if isinstance(outcome, Heard) else self.batch_seconds
            if seconds >= self.batch_seconds:
                yield Batch(function, tracks)
                tracks, seconds = [], 0.0
        if tracks:
            yield Batch(function, tracks)


@contextmanager
def open_embedders(
    choice: EncoderChoice, window_seconds: float, failed_tries: int = 0
) -> Iterator[Pool | DecodeAhead]:
    """The processes that embed tracks with this encoder: one a core, or decoders and one device.

    Half as many after each failed try.
    """
    if not choice.one_process():
        workers = max(1, choice.workers(window_seconds) >> failed_tries)
        with open_pool(workers) as pool:
            yield pool
        return
    with open_pool(min(max(1, cpu_count() - 1), MOST_DECODERS)) as decoders, open_pool(1) as device:
        yield DecodeAhead(decoders, device)


def decode_track(job: Job) -> Heard | Job | Done:
    """Decode a track, in a worker without a model; the job itself if the device's should do it.

    Raises:
        TrackRejected, FolderChanged, OSError: as `embed_track`.
    """
    import numpy as np

    from embed_assets.audio.decode import read_windows
    from embed_assets.audio.windows import WindowPolicy, plan

    if not job.again and (kept := from_store(job)):
        return kept
    policy = WindowPolicy(job.recipe.window_seconds, job.recipe.windows)
    duration = job.track.duration
    if duration <= 0 or sum(s for _, s in plan(duration, policy)) > LONGEST_SECONDS:
        return job
    started = time.perf_counter()
    check_unchanged(job.path, job.track.stamp, job.track.path)
    try:
        heard = read_windows(job.path, duration, policy, job.recipe.sample_rate)
    finally:
        check_unchanged(job.path, job.track.stamp, job.track.path)
    if len({len(window) for window in heard.windows}) != 1:
        return job
    windows = np.stack(heard.windows)
    spent = time.perf_counter() - started
    return Heard(job, windows, heard.decoded_seconds, heard.notes, spent)


def encode_tracks(batch: Batch) -> list[Done | Exception]:
    """Encode and store the tracks of a batch, in the process of the device."""
    by_length: dict[int, list[Heard]] = {}
    outcomes: dict[int, Done | Exception] = {}
    for track in batch.tracks:
        if isinstance(track, Heard):
            by_length.setdefault(track.windows.shape[1], []).append(track)
        else:
            outcomes[id(track)] = _attempt(batch.function, track)
    for tracks in by_length.values():
        outcomes |= _encode(tracks)
    return [outcomes[id(track)] for track in batch.tracks]


def _encode(tracks: list[Heard]) -> dict[int, Done | Exception]:
    """Encode tracks whose windows have one length, together."""
    import numpy as np

    started = time.perf_counter()
    try:
        encoder = load_encoder(tracks[0].job)
        loaded = time.perf_counter()
        vectors = encoder.encode(np.concatenate([track.windows for track in tracks]))
    except TrackRejected as error:
        if len(tracks) == 1:
            return {id(tracks[0]): error}
        alone = [_encode([track]) for track in tracks]
        return {key: outcome for each in alone for key, outcome in each.items()}
    except Exception as error:
        return {id(track): error for track in tracks}
    spent = (time.perf_counter() - loaded) / len(vectors)
    outcomes: dict[int, Done | Exception] = {}
    first, loading = 0, loaded - started
    for track in tracks:
        mine = vectors[first : first + len(track.windows)]
        first += len(track.windows)
        outcomes[id(track)] = _attempt(
            embedded,
            track.job,
            encoder,
            mine,
            track.decoded_seconds,
            track.note,
            {"load": loading, "decode": track.decode_seconds, "encode": spent * len(mine)},
        )
        loading = 0.0
    return outcomes


def _attempt(function: Callable[..., Done], *arguments: Any) -> Done | Exception:
    try:
        return function(*arguments)
    except Exception as error:
        return error


def _job(track: Heard | Job) -> Job:
    return track.job if isinstance(track, Heard) else track
