"""Decoding ahead for a GPU: worker processes decode for the one process that has the model.

Used if one device does all the encoding (`EncoderConfig.uses_single_device`). Decoded tracks are
collected into batches of some minutes of audio, at most three at a time, so memory stays bounded;
`device_pipeline.py` encodes them. Not measured on a GPU; the results are tested on a CPU.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count

from embed_assets.embedding.device_pipeline import Batch, DecodedTrack, submit
from embed_assets.embedding.embed_track import Done, Job, from_store, same_audio
from embed_assets.encoders.config import EncoderConfig
from embed_assets.errors import DeviceFailed, TrackRejected, TransientError
from embed_assets.library.unchanged import unchanged
from embed_assets.workers import Pool, cpu_count, open_pool

BATCH_SECONDS = 240.0
"""Audio per batch, unless a single track has more."""

LONGEST_SECONDS = 600.0
"""Longest track that is passed between processes; the device's process decodes longer ones."""

MOST_DECODERS = 16
"""One core decodes some 800 seconds of audio per second; an H100 should need twelve."""

MOST_READY = 64
"""Tracks that need no device, after which the results of the device are collected too."""

LOST = "the process of the device died while it processed this track; it will be retried"


@dataclass(frozen=True)
class DecodeAhead:
    """Two pools that do together what `Pool.run(embed_track, jobs)` does."""

    decoders: Pool
    device: Pool
    batch_seconds: float = BATCH_SECONDS

    def allowing(self, more_seconds: Callable[[Job], float]) -> DecodeAhead:
        """As `Pool.allowing`; a batch gets the time of its tracks."""
        return replace(
            self,
            decoders=self.decoders.allowing(more_seconds),
            device=self.device.allowing(lambda b: sum(map(more_seconds, _jobs(b)))),
        )

    def run(
        self, function: Callable[[Job], Done], jobs: Iterable[Job]
    ) -> Iterator[tuple[Job, Done | BaseException]]:
        """As `Pool.run`; `function` is for tracks that are too long to be passed on decoded."""
        ready: deque[tuple[Job, Done | BaseException]] = deque()
        under_way: dict[int, Batch] = {}
        batches = self._batches(function, jobs, ready)
        # An empty batch returns what the device still has at the end.
        for items in (batches, _rest(under_way)):
            for batch, outcome in self.device.run(submit, _noting(items, under_way)):
                while ready:
                    yield ready.popleft()
                if isinstance(outcome, BaseException):
                    yield from _failed(under_way.pop(batch.number, batch), outcome)
                    continue
                for number, outcomes in outcome.items():
                    yield from zip(_jobs(under_way.pop(number)), outcomes, strict=True)
                    for failed in outcomes:
                        if isinstance(failed, DeviceFailed):
                            raise failed
        for batch in under_way.values():
            yield from _failed(batch, TransientError(LOST))
        yield from ready

    def _batches(
        self,
        function: Callable[[Job], Done],
        jobs: Iterable[Job],
        ready: deque[tuple[Job, Done | BaseException]],
    ) -> Iterator[Batch]:
        """Collect decoded tracks into batches; results that need no device go to `ready`."""
        numbers = count()
        tracks: list[DecodedTrack] = []
        seconds = 0.0
        for job, outcome in self.decoders.run(decode_track, jobs):
            if isinstance(outcome, Done | BaseException):
                ready.append((job, outcome))
                if len(ready) >= MOST_READY:
                    yield Batch(next(numbers))
            elif isinstance(outcome, Job):
                yield Batch(next(numbers), job=job, function=function)
            else:
                tracks.append(outcome)
                seconds += outcome.seconds
            if seconds >= self.batch_seconds:
                yield Batch(next(numbers), tracks)
                tracks, seconds = [], 0.0
        if tracks:
            yield Batch(next(numbers), tracks)


@contextmanager
def open_embedders(
    encoder_config: EncoderConfig, window_seconds: float, failed_tries: int = 0
) -> Iterator[Pool | DecodeAhead]:
    """The processes that embed tracks with this encoder: one per core, or decoders and one device.

    Half as many after each failed attempt.
    """
    if not encoder_config.uses_single_device():
        workers = max(1, encoder_config.workers(window_seconds) >> failed_tries)
        with open_pool(workers) as pool:
            yield pool
        return
    workers = max(1, min(cpu_count() - 1, MOST_DECODERS) >> failed_tries)
    with open_pool(workers) as decoders, open_pool(1) as device:
        yield DecodeAhead(decoders, device)


def decode_track(job: Job) -> DecodedTrack | Job | Done:
    """Decode a track, in a worker without a model; returns the job if the device should decode it.

    Raises:
        TrackRejected, FolderChanged, OSError: as `embed_track`.
    """
    import numpy as np

    from embed_assets.audio.decode import read_windows
    from embed_assets.audio.windows import plan

    if not job.force and (kept := from_store(job)):
        return kept
    policy = job.policy
    duration = job.track.duration
    if duration <= 0 or sum(s for _, s in plan(duration, policy)) > LONGEST_SECONDS:
        return job
    started = time.perf_counter()
    with unchanged(job.path, job.track.file_stat, job.track.path, lambda: same_audio(job)):
        heard = read_windows(job.path, duration, policy, job.recipe.sample_rate)
    if len({len(window) for window in heard.windows}) != 1:
        return job
    windows = np.stack(heard.windows)
    spent = time.perf_counter() - started
    audio, samples = windows.tobytes(), windows.shape[1]
    return DecodedTrack(job, audio, samples, heard.decoded_seconds, heard.notes, spent)


def _noting(batches: Iterable[Batch], under_way: dict[int, Batch]) -> Iterator[Batch]:
    for batch in batches:
        under_way[batch.number] = batch
        yield batch


def _rest(under_way: dict[int, Batch]) -> Iterator[Batch]:
    if under_way:
        yield Batch(-1)


def _jobs(batch: Batch) -> list[Job]:
    return [batch.job] if batch.job else [track.job for track in batch.tracks]


def _failed(batch: Batch, error: BaseException) -> Iterator[tuple[Job, BaseException]]:
    if batch.tracks and isinstance(error, TrackRejected):
        # The previous batch was in the same process, so these tracks need not be at fault.
        error = TransientError(f"{LOST} ({error.message})")
    return ((job, error) for job in _jobs(batch))
