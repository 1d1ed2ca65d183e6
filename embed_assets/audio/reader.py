"""Reads samples of a track by position: mono, at the native rate, then at the encoder's rate.

Only the requested part is decoded, by seeking, and resampled with soxr at HQ (torchaudio's default:
cosine .984).
"""

from __future__ import annotations

import math

import numpy as np

from embed_assets.audio.decoders import Decoder

PRE_ROLL = 0.35
"""Seconds decoded before a window after a seek, until the state of every codec is right."""

CONTEXT = 0.02
"""Seconds around a window for the resampler, so that its edges sound as in the track."""

LOUDEST = 16.0
"""Bound of a sample: float formats can hold anything, infinities included."""


class Reader:
    """Native mono samples of a track by position, by seeking and decoding forwards."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.rate = 0
        self.not_finite = 0
        self.loudest = 0.0
        self.end_seconds = 0.0
        self._chunks: list[np.ndarray] = []
        self._begin = self._end = 0
        self._placed = True

    @property
    def damaged(self) -> int:
        """Packets that could not be decoded and were left out."""
        return self._decoder.damaged

    @property
    def first_error(self) -> str:
        """The error of the first of them."""
        return self._decoder.first_error

    def cut(self, start: float, length: float, sample_rate: int) -> np.ndarray | None:
        """The window [start, start + length) in seconds; None past the end of the track."""
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
        """Samples [first, last) as far as they exist, and where they begin."""
        pre_roll = round(PRE_ROLL * self.rate)
        if not self._begin <= first <= self._end + 2 * pre_roll:
            for seconds in (PRE_ROLL, 10.0, math.inf):
                self._seek(max(0.0, first / self.rate - seconds))
                if self._advance() and self._begin <= first:
                    break
        # One span before this one stays: a track that ends early is cut from its end.
        keep = 2 * first - last
        while self._end < last and self._advance():
            # If seeking does not work, hours of audio may precede the span.
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
        found = self._decoder.seek(seconds)
        self._chunks.clear()
        self._begin = self._end = 0
        self._placed = not found or seconds == 0.0

    def _advance(self) -> bool:
        """Decode one more chunk into the buffer; False at the track's end."""
        chunk = self._decoder.read()
        if chunk is None:
            self.end_seconds = self._end / self.rate if self.rate else 0.0
            return False
        samples = self._bounded(chunk.samples)
        if not self.rate:
            self.rate = chunk.rate
        elif chunk.rate != self.rate:
            import soxr

            samples = soxr.resample(samples, chunk.rate, self.rate, quality="HQ")
        if not self._placed:
            self._placed = True
            if chunk.at is not None:
                self._begin = self._end = max(0, round(chunk.at * self.rate))
        self._chunks.append(samples)
        self._end += len(samples)
        return True

    def _bounded(self, samples: np.ndarray) -> np.ndarray:
        """Samples within bounds: a resampler would spread NaN or infinity over their neighbours."""
        if np.abs(samples).max(initial=0.0) <= LOUDEST:
            return samples
        bad = ~np.isfinite(samples)
        self.not_finite += int(bad.sum())
        return np.clip(np.where(bad, np.float32(0), samples), -LOUDEST, LOUDEST)
