"""Finds and decodes samples of a stream by position: mono, native rate, then the encoder's rate.

Packet by packet, so that damage costs the packets it hit and is counted; only what is asked for is
decoded, by seeking; native channels are averaged (FFmpeg's own mono is 3 dB louder, which moves a
vector to cosine .96) and resampled with soxr at HQ (torchaudio's default: cosine .984).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.audio.container import Opened

if TYPE_CHECKING:
    from av import AudioFrame

PRE_ROLL = 0.35
"""Seconds decoded before a window after a seek, until every codec's memory is right."""

CONTEXT = 0.02
"""Seconds around a window for the resampler, so that a window's edges are those of the track."""

LOUDEST = 16.0
"""Bound of a sample: float formats can hold anything, infinities included."""


class Reader:
    """Native mono samples of a stream by position, decoded forwards and found by seeking."""

    def __init__(self, opened: Opened) -> None:
        self._container, self._stream = opened.container, opened.stream
        self._source = opened.source
        self.rate = 0
        self.damaged = self.not_finite = 0
        self.loudest = 0.0
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
        window = samples[offset : offset + wanted].astype(np.float32, copy=False)
        self.loudest = max(self.loudest, float(np.ptp(window)) if len(window) else 0.0)
        return window

    def _span(self, first: int, last: int) -> tuple[int, np.ndarray]:
        """Samples [first, last) as far as they are there, and where they begin."""
        pre_roll = round(PRE_ROLL * self.rate)
        if not self._begin <= first <= self._end + 2 * pre_roll:
            for seconds in (PRE_ROLL, 10.0, math.inf):
                self._seek(max(0.0, first / self.rate - seconds))
                if self._advance() and self._begin <= first:
                    break
        # One span before this one stays: a track that ends early is cut from its end.
        keep = 2 * first - last
        while self._end < last and self._advance():
            # Where seeking is no help, hours may lie before the span.
            while len(self._chunks) > 1 and self._begin + len(self._chunks[0]) <= keep:
                self._begin += len(self._chunks.pop(0))
        begin = max(first, self._begin)
        if begin >= self._end:
            return begin, np.empty(0, np.float32)
        whole = self._chunks[0] if len(self._chunks) == 1 else np.concatenate(self._chunks)
        keep = max(self._begin, keep)
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
        samples = self._bounded(_mono(frame))
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

    def _bounded(self, samples: np.ndarray) -> np.ndarray:
        """Samples within bounds, before a resampler spreads one that is no number over others."""
        if np.abs(samples).max(initial=0.0) <= LOUDEST:
            return samples
        bad = ~np.isfinite(samples)
        self.not_finite += int(bad.sum())
        return np.clip(np.where(bad, np.float32(0), samples), -LOUDEST, LOUDEST)

    def _blame(self, error: Exception) -> None:
        self._source.check()
        self.damaged += 1
        self.first_error = self.first_error or getattr(error, "strerror", "") or str(error)


def _mono(frame: AudioFrame) -> np.ndarray:
    """The mean of a frame's channels, float32 [samples], full scale at 1."""
    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, frame.layout.nb_channels).T
    # Adding rows is several times faster than numpy's mean over the short axis.
    with np.errstate(all="ignore"):
        total = data[0].astype(np.float32)
        for channel in data[1:]:
            total += channel
        total /= len(data)
    if data.dtype == np.uint8:
        return (total - 128.0) / 128.0
    if data.dtype.kind == "f":
        return total
    return total * np.float32(1.0 / (1 << (8 * data.dtype.itemsize - 1)))
