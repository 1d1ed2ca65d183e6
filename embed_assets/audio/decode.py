"""Decodes the windows of a track to mono float32 at the encoder's sample rate.

Packet by packet, so that damage costs the packets it hit and is counted; only the windows are
decoded, by seeking; native channels are averaged (FFmpeg's own mono is 3 dB louder, which moves a
vector to cosine .96) and resampled with soxr at HQ (torchaudio's default: cosine .984).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.audio.container import Opened, open_audio
from embed_assets.audio.windows import SHORTEST_TAIL, WindowPolicy, plan
from embed_assets.errors import Reason, TrackRejected

if TYPE_CHECKING:
    from av import AudioFrame

SHORTEST = 1.0
"""Seconds that must decode for a track to be embedded."""

PRE_ROLL = 0.35
"""Seconds decoded before a window after a seek, until every codec's memory is right."""

CONTEXT = 0.02
"""Seconds around a window for the resampler, so that a window's edges are those of the track."""

LOUDEST = 16.0
"""Bound of a sample: float formats can hold anything, infinities included."""


@dataclass(frozen=True)
class Decoded:
    """A track's windows: float32 mono arrays, their starts in seconds, and what was lost.

    `decoded_seconds` is how much of the track the windows cover; `notes` is empty for a sound file.
    """

    windows: list[np.ndarray]
    starts: list[float]
    decoded_seconds: float
    damaged_packets: int
    notes: str


@dataclass
class WindowStream:
    """A track's windows as they are decoded; the figures are final when `windows` is exhausted."""

    windows: Iterator[np.ndarray] = field(default_factory=lambda: iter(()))
    starts: list[float] = field(default_factory=list)
    decoded_seconds: float = 0.0
    damaged_packets: int = 0
    note: str = ""


def read_windows(path: bytes, duration: float, policy: WindowPolicy, sample_rate: int) -> Decoded:
    """Decode all windows of a track at once; see `iter_windows`, which holds one at a time."""
    stream = iter_windows(path, duration, policy, sample_rate)
    windows = list(stream.windows)
    return Decoded(
        windows, stream.starts, stream.decoded_seconds, stream.damaged_packets, stream.note
    )


def iter_windows(
    path: bytes, duration: float, policy: WindowPolicy, sample_rate: int
) -> WindowStream:
    """Decode the windows that `policy` plans for a track, one by one, in order of time.

    Each is float32 mono [round(seconds * sample_rate)] at `sample_rate` Hz; a track shorter than
    one window is one window at its own length. `duration` is the probe's, in seconds; where less
    than that decodes, the windows are planned over what there is, and `note` says so. Memory stays
    at a few windows, whatever the track's length. While iterating it raises:

        TrackRejected: CORRUPT (nothing decodes), TOO_SHORT (under 1 s does), or as `open_audio`.
        OSError: the file could not be read; it says nothing about the track.
    """
    stream = WindowStream()
    stream.windows = _windows(stream, path, duration, policy, sample_rate)
    return stream


def _windows(
    stream: WindowStream, path: bytes, duration: float, policy: WindowPolicy, sample_rate: int
) -> Iterator[np.ndarray]:
    with open_audio(path) as opened:
        reader = _Reader(opened)
        if not (math.isfinite(duration) and duration > 0):
            duration = (opened.container.duration or 0) / 1e6
        _require_length(reader, duration)
        covered = 0.0
        try:
            for start, window in _cut_all(reader, duration, policy, sample_rate):
                end = start + len(window) / sample_rate
                stream.decoded_seconds += end - max(start, covered)
                covered = end
                stream.starts.append(start)
                yield window
        finally:
            stream.damaged_packets = reader.damaged
            stream.note = _note(reader, duration)


def _require_length(reader: _Reader, seconds: float) -> None:
    if seconds <= 0:
        why = f" ({reader.first_error})" if reader.first_error else ""
        raise TrackRejected(Reason.CORRUPT, f"none of its audio could be decoded{why}")
    if seconds < SHORTEST:
        raise TrackRejected(
            Reason.TOO_SHORT, f"{seconds:.2f} s of audio; at least {SHORTEST:g} s are needed"
        )


def _cut_all(
    reader: _Reader, duration: float, policy: WindowPolicy, sample_rate: int
) -> Iterator[tuple[float, np.ndarray]]:
    while not policy.covers(duration):
        windows = plan(duration, policy)
        # The last one first: if the track ends before it, nothing has been handed out yet.
        last = reader.cut(*windows[-1], sample_rate)
        if last is None:
            _require_length(reader, reader.end_seconds)
            if reader.end_seconds >= duration:
                raise TrackRejected(Reason.CORRUPT, "its parts cannot be found by seeking")
            duration = reader.end_seconds
            continue
        for start, length in windows[:-1]:
            window = reader.cut(start, length, sample_rate)
            if window is not None:
                yield start, window
        yield windows[-1][0], last
        return

    handed_out = 0.0
    for start, length in plan(duration, policy):
        window = reader.cut(start, length, sample_rate)
        if window is None:
            end = reader.end_seconds
            if handed_out == 0.0 or end - handed_out >= SHORTEST_TAIL:
                _require_length(reader, end)
                start, length = max(0.0, end - length), min(length, end)
                window = reader.cut(start, length, sample_rate)
                if window is not None:
                    yield start, window
                elif handed_out == 0.0:
                    raise TrackRejected(Reason.CORRUPT, "none of its audio could be decoded")
            return
        yield start, window
        handed_out = start + length


def _note(reader: _Reader, duration: float) -> str:
    notes = []
    if reader.end_seconds and reader.end_seconds < duration - 0.5:
        notes.append(f"{reader.end_seconds:.0f} of {duration:.0f} s could be decoded")
    if reader.damaged:
        notes.append(f"{reader.damaged} damaged packets were left out")
    return "; ".join(notes)


class _Reader:
    """Native mono samples of a stream by position, decoded forwards and found by seeking."""

    def __init__(self, opened: Opened) -> None:
        self._container, self._stream, self._source = (
            opened.container,
            opened.stream,
            opened.source,
        )
        self.rate = 0
        self.damaged = 0
        self.first_error = ""
        self.end_seconds = 0.0
        self._chunks: list[np.ndarray] = []
        self._begin = self._end = 0
        self._placed = True
        self._frames = self._decode()

    def cut(self, start: float, length: float, sample_rate: int) -> np.ndarray | None:
        """Window [start, start + length) in seconds at `sample_rate`, or None: the track ends."""
        import soxr

        if not self.rate and not self._advance():
            return None
        wanted = round(length * sample_rate)
        first = max(0, round((start - CONTEXT) * self.rate))
        begin, samples = self._span(first, math.ceil((start + length + CONTEXT) * self.rate))
        if not len(samples):
            return None
        if self.rate != sample_rate:
            samples = soxr.resample(samples, self.rate, sample_rate, quality="HQ")
        offset = max(0, round((start - begin / self.rate) * sample_rate))
        short = offset + wanted - len(samples)
        if short > 0:
            if short > offset or short > 0.005 * sample_rate:
                return None
            offset -= short
        window = np.nan_to_num(samples[offset : offset + wanted], nan=0.0)
        return np.clip(window, -LOUDEST, LOUDEST).astype(np.float32, copy=False)

    def _span(self, first: int, last: int) -> tuple[int, np.ndarray]:
        """Samples [first, last) as far as they are there, and where they begin."""
        pre_roll = round(PRE_ROLL * self.rate)
        if not self._begin <= first <= self._end + 2 * pre_roll:
            for seconds in (PRE_ROLL, 10.0, math.inf):
                self._seek(max(0.0, first / self.rate - seconds))
                if self._advance() and self._begin <= first:
                    break
        while self._end < last and self._advance():
            pass
        begin = max(first, self._begin)
        if begin >= self._end:
            return begin, np.empty(0, np.float32)
        whole = self._chunks[0] if len(self._chunks) == 1 else np.concatenate(self._chunks)
        # One span before this one stays: a track that ends early is cut from its end.
        keep = max(self._begin, 2 * first - last)
        self._chunks = [whole[keep - self._begin :]]
        samples = whole[begin - self._begin : last - self._begin]
        self._begin = keep
        return begin, samples

    def _seek(self, seconds: float) -> None:
        import av

        offset = round(seconds / self._stream.time_base) + (self._stream.start_time or 0)
        try:
            self._container.seek(offset, stream=self._stream)
        except av.FFmpegError:
            self._container.seek(self._stream.start_time or 0, stream=self._stream)
            seconds = 0.0
        self._source.check()
        self._chunks.clear()
        self._begin = self._end = 0
        self._placed = seconds == 0.0
        self._frames = self._decode()

    def _advance(self) -> bool:
        """Decode one more frame into the buffer; False at the track's end."""
        frame = next(self._frames, None)
        if frame is None:
            self._source.check()
            self.end_seconds = self._end / self.rate if self.rate else 0.0
            return False
        samples = _mono(frame)
        if not self.rate:
            self.rate = frame.sample_rate
        elif frame.sample_rate != self.rate:
            import soxr

            samples = soxr.resample(samples, frame.sample_rate, self.rate, quality="HQ")
        if not self._placed:
            self._placed = True
            if frame.pts is not None:
                ticks = frame.pts * frame.time_base
                ticks -= (self._stream.start_time or 0) * self._stream.time_base
                self._begin = self._end = max(0, round(ticks * self.rate))
        self._chunks.append(samples)
        self._end += len(samples)
        return True

    def _decode(self) -> Iterator[AudioFrame]:
        import av

        context = self._stream.codec_context
        packets = self._container.demux(self._stream)
        failures = 0
        while failures < 100:
            try:
                packet = next(packets, None)
            except av.FFmpegError as e:
                self._blame(e)
                failures += 1
                packets = self._container.demux(self._stream)
                continue
            if packet is None:
                return
            try:
                frames = context.decode(packet)
            except av.EOFError:
                return
            except (av.FFmpegError, ValueError) as e:
                self._blame(e)
                continue
            failures = 0
            for frame in frames:
                if frame.samples and frame.sample_rate:
                    yield frame

    def _blame(self, error: Exception) -> None:
        self._source.check()
        self.damaged += 1
        self.first_error = self.first_error or str(error).split(":")[0]


def _mono(frame: AudioFrame) -> np.ndarray:
    """The mean of a frame's channels, float32 [samples], full scale at 1."""
    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, frame.layout.nb_channels).T
    if data.dtype.kind == "f":
        return data.mean(axis=0, dtype=np.float32)
    if data.dtype == np.uint8:
        return (data.mean(axis=0, dtype=np.float32) - 128.0) / 128.0
    scale = np.float32(1.0 / (1 << (8 * data.dtype.itemsize - 1)))
    return data.mean(axis=0, dtype=np.float32) * scale
