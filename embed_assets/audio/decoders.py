"""Decoders: what turns an open file into chunks of mono samples, forwards from any place in it.

Native channels are averaged here (FFmpeg's own mono is 3 dB louder, which moves a vector to cosine
.96). How samples are buffered, cut and resampled stands in `reader`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

import numpy as np

from embed_assets.audio.container import Audio, Opened, Sndfile
from embed_assets.audio.framing import FRAME_CODECS, frame_bytes
from embed_assets.audio.quiet import quiet_stderr
from embed_assets.errors import TrackRejected

if TYPE_CHECKING:
    from av import AudioFrame

MOST_PLANES = 8
"""Channels of which PyAV 18 finds each one's own plane."""

BLOCK = 1 << 14
"""Frames that libsndfile decodes at once."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Decoded audio: mono float32 [n] at `rate` Hz, full scale at 1.

    `at`: its place in the track in seconds, where that is known.
    """

    samples: np.ndarray
    rate: int
    at: Fraction | None = None


class Decoder(Protocol):
    """Decodes a track chunk by chunk; damage is left out and counted."""

    damaged: int
    first_error: str
    unread_links: int

    def seek(self, seconds: float) -> bool:
        """Go on near `seconds`; False: seeking failed, and it goes on at the beginning."""
        ...

    def read(self) -> Chunk | None:
        """The next chunk; None at the end.

        Raises OSError: the disk failed.
        """
        ...

    def close(self) -> None:
        """Close what the decoder itself has opened."""
        ...


def decoder_of(audio: Audio) -> Decoder:
    """The decoder of an open file, all of its links one after the other."""
    return _link_decoder(audio.first) if len(audio.parts) == 1 else ChainDecoder(audio)


def _link_decoder(link: Opened | Sndfile) -> FFmpegDecoder | SndfileDecoder:
    return FFmpegDecoder(link) if isinstance(link, Opened) else SndfileDecoder(link)


class FFmpegDecoder:
    """One stream by FFmpeg, packet by packet, so that damage costs the packets that it hit."""

    unread_links = 0

    def __init__(self, opened: Opened) -> None:
        self._container, self._stream = opened.container, opened.stream
        self._source = opened.source
        self.damaged = 0
        self.first_error = ""
        self._frames = self._decode()

    @property
    def rate(self) -> int:
        """The stream's sample rate in Hz, by its header."""
        return self._stream.codec_context.sample_rate

    @property
    def seconds(self) -> float:
        """The stream's length by its header or its last packet."""
        return (self._container.duration or 0) / 1e6

    def seek(self, seconds: float) -> bool:
        """See `Decoder`."""
        import av

        start = self._stream.start_time or 0
        try:
            offset = round(seconds / self._stream.time_base) + start
            self._container.seek(offset, stream=self._stream)
            found = True
        except av.FFmpegError:
            self._container.seek(start, stream=self._stream)
            found = False
        self._source.check()
        self._frames = self._decode()
        return found

    def read(self) -> Chunk | None:
        """See `Decoder`."""
        frame = next(self._frames, None)
        if frame is None:
            self._source.check()
            return None
        at = None
        if frame.pts is not None:
            start = (self._stream.start_time or 0) * self._stream.time_base
            at = frame.pts * frame.time_base - start
        return Chunk(_mono(frame), frame.sample_rate, at)

    def close(self) -> None:
        """See `Decoder`."""

    def _decode(self) -> Iterator[AudioFrame]:
        import av

        context = self._stream.codec_context
        codec = context.codec.canonical_name
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
            if packet.size and codec in FRAME_CODECS and not frame_bytes(codec, memoryview(packet)):
                continue
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
        self.first_error = self.first_error or getattr(error, "strerror", "") or str(error)


class SndfileDecoder:
    """One stream by libsndfile, which does not say what it left out."""

    unread_links = 0

    def __init__(self, opened: Sndfile) -> None:
        self._file, self._source = opened.file, opened.source
        self.damaged = 0
        self.first_error = ""
        self._position = 0

    @property
    def rate(self) -> int:
        """The stream's sample rate in Hz."""
        return self._file.samplerate

    @property
    def seconds(self) -> float:
        """The stream's length: decoded, for what the header says may be anything."""
        frames = 0
        self.seek(0.0)
        while (chunk := self.read()) is not None:
            frames += len(chunk.samples)
        self.seek(0.0)
        return frames / self._file.samplerate

    def seek(self, seconds: float) -> bool:
        """See `Decoder`."""
        import soundfile

        wanted = max(0, int(seconds * self._file.samplerate))
        with quiet_stderr():
            try:
                self._position = self._file.seek(wanted)
            except soundfile.SoundFileError:
                self._position = self._file.seek(0)
        self._source.check()
        return True

    def read(self) -> Chunk | None:
        """See `Decoder`."""
        import soundfile

        try:
            with quiet_stderr():
                block = self._file.read(BLOCK, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as e:
            self._source.check()
            self.damaged += 1
            self.first_error = self.first_error or str(e)
            return None
        self._source.check()
        if not len(block):
            return None
        at = Fraction(self._position, self._file.samplerate)
        self._position += len(block)
        return Chunk(block.mean(axis=1, dtype=np.float32), self._file.samplerate, at)

    def close(self) -> None:
        """See `Decoder`."""


class ChainDecoder:
    """The links of a chained file one after the other, each opened when it is its turn.

    All are resampled to the rate of the first one, each as a whole.
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
                    decoder = _link_decoder(link)
                    self._rate = self._rate or decoder.rate
                    more = decoder.seconds
            except TrackRejected:
                self.unread_links += 1
                continue
            self._numbers.append(number)
            self._starts.append(seconds)
            seconds += more
        self._open = ExitStack()
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
        self._leave()

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
        self._leave()
        self._current, self._resampler, self._at = current, None, None
        link = self._open.enter_context(self._audio.open_link(self._numbers[current]))
        self._link = _link_decoder(link)

    def _leave(self) -> None:
        link = getattr(self, "_link", None)
        if link is not None:
            self.damaged += link.damaged
            self.first_error = self.first_error or link.first_error
            self._link = None
        self._open.close()


def _mono(frame: AudioFrame) -> np.ndarray:
    """The mean of a frame's channels, float32 [samples], full scale at 1."""
    if frame.layout.nb_channels > MOST_PLANES:
        frame = _packed(frame)
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


def _packed(frame: AudioFrame) -> AudioFrame:
    """The same frame with its channels in turns: PyAV reads beyond the planes of more than 8."""
    import av

    to_packed = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
    (packed,) = to_packed.resample(frame)
    return packed
