"""What the process that has a GPU does: it encodes a batch while it takes the next in.

A batch of audio comes through a pipe and is gathered in memory that the device can fetch from
while the one before it is encoded, and the vectors of that one are written to the disk while the
device goes on, so that it waits for neither. Unmeasured on a GPU; tested on a CPU.
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
"""Threads that write vectors: each waits for the disk, a file at a time."""

AHEAD = 2
"""Batches that `submit` holds back: one that is encoded, and one whose vectors are written."""


@dataclass(frozen=True)
class DecodedTrack:
    """A decoded track on its way to the device.

    `audio` are its windows, float32 [n, T], as bytes: these go through a pipe ten times as fast as
    an array.
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
    """What the device's process gets: decoded tracks, or a job that it does by `function` alone."""

    number: int
    tracks: list[DecodedTrack] = field(default_factory=list)
    job: Job | None = None
    function: Callable[[Job], Done] | None = None


Outcome: TypeAlias = Done | Exception
Settling: TypeAlias = Outcome | Future[Outcome]


def submit(batch: Batch) -> dict[int, list[Outcome]]:
    """Have a batch encoded and stored; gives what became of earlier ones, by their numbers.

    All of them, and of itself, for a batch with a job, and for one with nothing in it. What a
    process that died had taken is not known to the next one.
    """
    return _pipeline().submit(batch)


@lru_cache(maxsize=1)
def _pipeline() -> DevicePipeline:
    return DevicePipeline()


class DevicePipeline:
    """The batches in a process, in the order of their coming."""

    def __init__(self) -> None:
        # One thread: no engine promises to bear two.
        self.encoding = ThreadPoolExecutor(1)
        self.writing = ThreadPoolExecutor(WRITERS)
        self.under_way: dict[int, Future[list[Settling]]] = {}
        self.device = ""

    def submit(self, batch: Batch) -> dict[int, list[Outcome]]:
        """As the function."""
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
        """Encode tracks whose windows, float32 [n, T], have one length, together."""
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
            # Kept until it is asked for; its traceback would keep what is on the device, too.
            told = error.with_traceback(None)
            return [told for _ in tracks]
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
    """Windows of one length together, float32 [n, T], and which tracks they are of."""
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
