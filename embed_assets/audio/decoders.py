"""Decoders: they turn an open file into chunks of mono samples, forwards from any position.

Native channels are averaged here (FFmpeg's own mono is 3 dB louder, which moves a vector to cosine
.96). `reader.py` buffers, cuts and resamples the samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

import numpy as np

from embed_assets.audio.container import Opened, Sndfile
from embed_assets.audio.framing import FRAME_CODECS, frame_bytes
from embed_assets.audio.quiet import quiet_stderr

if TYPE_CHECKING:
    from av import AudioFrame

MOST_PLANES = 8
"""PyAV 18 finds a plane for each channel up to this number of channels."""

BLOCK = 1 << 14
"""Frames that libsndfile decodes at once."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Decoded audio: mono float32 [n] at `rate` Hz, full scale at 1.

    `at`: its position in the track in seconds, if it is known.
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
        """Continue near `seconds`; False: seeking failed, and it continues at the beginning."""
        ...

    def read(self) -> Chunk | None:
        """The next chunk; None at the end.

        Raises OSError: the disk failed.
        """
        ...

    def close(self) -> None:
        """Close what the decoder has opened."""
        ...


def link_decoder(link: Opened | Sndfile) -> FFmpegDecoder | SndfileDecoder:
    """The decoder of one link."""
    return FFmpegDecoder(link) if isinstance(link, Opened) else SndfileDecoder(link)


class FFmpegDecoder:
    """Decodes one stream with FFmpeg, packet by packet: damage costs only the damaged packets."""

    unread_links = 0

    def __init__(self, opened: Opened) -> None:
        self._container, self._stream = opened.container, opened.stream
        self._source, self._time_base = opened.source, opened.time_base
        self.damaged = 0
        self.first_error = ""
        self._frames = self.frames()

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
            offset = round(seconds / self._time_base) + start
            self._container.seek(offset, stream=self._stream)
            found = True
        except av.FFmpegError:
            self._container.seek(start, stream=self._stream)
            found = False
        self._source.check()
        self._frames = self.frames()
        return found

    def read(self) -> Chunk | None:
        """See `Decoder`."""
        frame = next(self._frames, None)
        if frame is None:
            self._source.check()
            return None
        at = None
        if frame.pts is not None:
            start = (self._stream.start_time or 0) * self._time_base
            at = frame.pts * (frame.time_base or self._time_base) - start
        return Chunk(_mono(frame), frame.sample_rate, at)

    def close(self) -> None:
        """See `Decoder`."""

    def frames(self) -> Iterator[AudioFrame]:
        """What follows, as FFmpeg's frames with all channels, for callers that play it."""
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
    """Decodes one stream with libsndfile, which does not report what it left out."""

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
        """The stream's length in seconds, measured by decoding, since headers may be wrong."""
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
    """The same frame, interleaved: PyAV reads out of bounds for more than 8 planes."""
    import av

    to_packed = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
    (packed,) = to_packed.resample(frame)
    return packed
