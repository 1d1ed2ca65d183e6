"""Chained files: their links are decoded one after the other, as one track."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import ExitStack
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.audio.container import Audio
from embed_assets.audio.decoders import Chunk, Decoder, link_decoder
from embed_assets.errors import TrackRejected

if TYPE_CHECKING:
    from soxr import ResampleStream


def decoder_of(audio: Audio) -> Decoder:
    """The decoder of an open file, over all of its links."""
    return link_decoder(audio.first) if len(audio.parts) == 1 else ChainDecoder(audio)


class ChainDecoder:
    """Decodes the links of a chained file in order; each is opened when it is needed.

    Every link is resampled as a whole, to the rate of the first one.
    """

    def __init__(self, audio: Audio) -> None:
        self._audio = audio
        self.damaged = self.unread_links = 0
        self.first_error = ""
        self._rate = 0
        self._numbers: list[int] = []
        self._starts: list[float] = []
        seconds = 0.0
        for number in range(len(audio.parts)):
            try:
                with audio.open_link(number) as link:
                    decoder = link_decoder(link)
                    self._rate = self._rate or decoder.rate
                    more = decoder.seconds
            except TrackRejected:
                self.unread_links += 1
                continue
            self._numbers.append(number)
            self._starts.append(seconds)
            seconds += more
        self._open = ExitStack()
        self._resampler: ResampleStream | None = None
        self._at: Fraction | None = None
        self._enter(0)

    def seek(self, seconds: float) -> bool:
        """See `Decoder`."""
        current = max(0, bisect_right(self._starts, seconds) - 1)
        self._enter(current)
        return self._link.seek(max(0.0, seconds - self._starts[current])) or current > 0

    def read(self) -> Chunk | None:
        """See `Decoder`."""
        while True:
            chunk = self._link.read()
            if chunk is None and self._current + 1 == len(self._numbers):
                return self._resampled(None) if self._resampler else None
            more = self._resampled(chunk)
            if chunk is None:
                self._enter(self._current + 1)
            if more is not None:
                return more

    def close(self) -> None:
        """See `Decoder`."""
        self._open.close()

    def _resampled(self, chunk: Chunk | None) -> Chunk | None:
        """A chunk of the current link at the rate of the chain; None for the rest of the link."""
        if chunk is not None and self._at is None and chunk.at is not None:
            self._at = chunk.at + Fraction(self._starts[self._current])
        if chunk is not None and chunk.rate == self._rate and self._resampler is None:
            samples = chunk.samples
        else:
            if self._resampler is None and chunk is not None:
                import soxr

                self._resampler = soxr.ResampleStream(chunk.rate, self._rate, 1, quality="HQ")
            if self._resampler is None:
                return None
            rest = np.zeros(0, np.float32) if chunk is None else chunk.samples
            samples = self._resampler.resample_chunk(rest, last=chunk is None)
            if chunk is None:
                self._resampler = None
        if not len(samples):
            return None
        at = self._at
        if at is not None:
            self._at = at + Fraction(len(samples), self._rate)
        return Chunk(samples, self._rate, at)

    def _enter(self, current: int) -> None:
        self._open.close()
        self._current, self._resampler, self._at = current, None, None
        link = self._open.enter_context(self._audio.open_link(self._numbers[current]))
        self._link = link_decoder(link)
        self._open.callback(self._count_damage, self._link)

    def _count_damage(self, link: Decoder) -> None:
        self.damaged += link.damaged
        self.first_error = self.first_error or link.first_error
