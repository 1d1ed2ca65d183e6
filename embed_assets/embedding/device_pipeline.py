"""The pipeline of the process that has a GPU: it receives a batch while it encodes another.

A batch of audio comes through a pipe into memory that the device can read directly, while the
previous batch is encoded. The vectors of that batch are written to the disk while the device
continues, so it waits for neither. Not measured on a GPU; tested on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from embed_assets.embedding.embed_track import Done, Job, embedded, load_encoder
from embed_assets.encoders import devices
from embed_assets.errors import TrackRejected

WRITERS = 16
"""Threads that write vectors; each waits for the disk."""

AHEAD = 2
"""Batches in progress: one is encoded, the vectors of another are written."""


@dataclass(frozen=True)
class DecodedTrack:
    """A decoded track on its way to the device.

    `audio`: its windows, float32 [n, T], as bytes, which pass a pipe ten times as fast as an array.
    """

    job: Job
    audio: bytes
    samples: int
    decoded_seconds: float
    note: str
    decode_seconds: float

    @property
    def windows(self) -> np.ndarray:
        """The windows, float32 [n, T], read-only."""
        return np.frombuffer(self.audio, np.float32).reshape(-1, self.samples)

    @property
    def seconds(self) -> float:
        """Audio in its windows."""
        return len(self.audio) / 4 / self.job.recipe.sample_rate


@dataclass(frozen=True)
class Batch:
    """A message to the device's process: decoded tracks, or a job that it does with `function`."""

    number: int
    tracks: list[DecodedTrack] = field(default_factory=list)
    job: Job | None = None
    function: Callable[[Job], Done] | None = None


Outcome: TypeAlias = Done | Exception
Settling: TypeAlias = Outcome | Future[Outcome]


def submit(batch: Batch) -> dict[int, list[Outcome]]:
    """Encode and store a batch; returns the results of earlier batches, by their numbers.

    For a batch with a job, and for an empty one, returns all results including its own. A new
    process does not know the batches of one that died.
    """
    return _pipeline().submit(batch)


@lru_cache(maxsize=1)
def _pipeline() -> DevicePipeline:
    return DevicePipeline()


class DevicePipeline:
    """The batches in a process, in order."""

    def __init__(self) -> None:
        # One thread: no engine promises to be safe with two.
        self.encoding = ThreadPoolExecutor(1)
        self.writing = ThreadPoolExecutor(WRITERS)
        self.under_way: dict[int, Future[list[Settling]]] = {}
        self.device = ""

    def submit(self, batch: Batch) -> dict[int, list[Outcome]]:
        """As the function `submit`."""
        gathered = _gathered(batch.tracks, self.device)
        before = list(self.under_way.values())
        self.under_way[batch.number] = self.encoding.submit(self._encode, batch, gathered)
        wait(before)
        keep = AHEAD if batch.tracks else 0
        return {
            number: [_settled(x) for x in self.under_way.pop(number).result()]
            for number in list(self.under_way)[: max(0, len(self.under_way) - keep)]
        }

    def _encode(self, batch: Batch, gathered: list[tuple[list[int], np.ndarray]]) -> list[Settling]:
        if batch.job and batch.function:
            return [_attempt(batch.function, batch.job)]
        settling: dict[int, Settling] = {}
        for places, windows in gathered:
            tracks = [batch.tracks[place] for place in places]
            settling |= zip(places, self._encode_equal(tracks, windows), strict=True)
        return [settling[place] for place in range(len(batch.tracks))]

    def _encode_equal(self, tracks: list[DecodedTrack], windows: np.ndarray) -> list[Settling]:
        """Encode tracks together whose windows, float32 [n, T], have the same length."""
        ends = np.cumsum([len(track.audio) // (4 * track.samples) for track in tracks])[:-1]
        started = time.perf_counter()
        try:
            encoder = load_encoder(tracks[0].job)
            self.device, loaded = encoder.device, time.perf_counter()
            vectors = encoder.encode(windows)
        except TrackRejected as error:
            if len(tracks) == 1:
                return [error]
            each = zip(tracks, np.split(windows, ends), strict=True)
            return [self._encode_equal([track], mine)[0] for track, mine in each]
        except Exception as error:  # noqa: BLE001
            # Kept until it is collected; its traceback would keep memory of the device.
            failed = error.with_traceback(None)
            return [failed for _ in tracks]
        a_window = (time.perf_counter() - loaded) / len(vectors)
        loading = loaded - started
        settling: list[Settling] = []
        for track, mine in zip(tracks, np.split(vectors, ends), strict=True):
            encoding = a_window * len(mine)
            spent = {"load": loading, "decode": track.decode_seconds, "encode": encoding}
            arguments = track.job, encoder, mine, track.decoded_seconds, track.note, spent
            settling.append(self.writing.submit(_attempt, embedded, *arguments))
            loading = 0.0
        return settling


def _gathered(tracks: list[DecodedTrack], device: str) -> list[tuple[list[int], np.ndarray]]:
    """Windows grouped by length, float32 [n, T], and the tracks that they belong to."""
    by_length: dict[int, list[int]] = {}
    for place, track in enumerate(tracks):
        by_length.setdefault(track.samples, []).append(place)
    gathered = []
    for length, places in by_length.items():
        each = [tracks[place].windows for place in places]
        room = devices.alloc_pinned((sum(map(len, each)), length), device)
        gathered.append((places, np.concatenate(each, out=room)))
    return gathered


def _attempt(function: Callable[..., Done], *arguments: Any) -> Outcome:
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001  # it is the track's outcome
        return error


def _settled(outcome: Settling) -> Outcome:
    return outcome.result() if isinstance(outcome, Future) else outcome
