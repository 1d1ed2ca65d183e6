"""Turns any track into audio that browsers play; run as a process, since a bad file may crash it.

    python -m embed_assets.audio.transcode FORMAT START < FILE > AUDIO

It writes no faster than its reader reads, holds a few frames at a time, and ends with its reader.
`serve` starts one for each stream that needs it.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embed_assets.audio.container import FFMPEG, Audio, Opened, Sndfile, open_audio
from embed_assets.audio.decoders import BLOCK, FFmpegDecoder
from embed_assets.errors import TrackRejected

if TYPE_CHECKING:
    from av import AudioFrame


@dataclass(frozen=True)
class PlayFormat:
    """What a track is turned into: FFmpeg's names, and the media type.

    `rates`: sample rates that the encoder takes; any other is resampled to the first one.
    """

    media_type: str
    muxer: str
    encoder: str
    sample_format: str
    rates: tuple[int, ...]
    bit_rate: int | None = None
    options: tuple[tuple[str, str], ...] = ()


PLAY_FORMATS = {
    "opus": PlayFormat("audio/ogg; codecs=opus", "ogg", "libopus", "flt", (48_000,), 160_000),
    "mp3": PlayFormat(
        # A pipe cannot be rewound to write the header with the length.
        *("audio/mpeg", "mp3", "libmp3lame", "s16p", (44_100, 48_000, 32_000), 256_000),
        options=(("write_xing", "0"), ("id3v2_version", "0")),
    ),
    "wav": PlayFormat("audio/wav", "wav", "pcm_s16le", "s16", (44_100, 48_000)),
}
"""By the name that `as` of `/v1/audio` has."""

MOST_BYTES, MOST_CPU_SECONDS = 2 << 30, 3600
"""Limits of the process: a bad file may ask for any amount. A day of audio takes a quarter hour."""

_STDIN = b"/dev/fd/0"


def transcode(path: bytes, out: Any, play_format: PlayFormat, start: float = 0.0) -> None:
    """Write a track from `start` seconds on to a binary file, in stereo at most.

    Raises:
        TrackRejected: it cannot be decoded.
        OSError: it cannot be read, or the reader has gone.
    """
    import av

    with open_audio(path, decoder=FFMPEG) as audio:
        frames = _frames(audio, start)
        first = next(frames, None)
        if first is None:
            return
        rate = first.sample_rate
        rate = rate if rate in play_format.rates else play_format.rates[0]
        layout = "mono" if first.layout.nb_channels == 1 else "stereo"
        options = dict(play_format.options)
        with av.open(out, "w", format=play_format.muxer, options=options) as container:
            stream: Any = container.add_stream(play_format.encoder, rate=rate, layout=layout)
            if play_format.bit_rate:
                stream.bit_rate = play_format.bit_rate
            stream.codec_context.format = play_format.sample_format
            kept: dict[tuple[str, str, int], Any] = {}
            for frame in _with(first, frames):
                # The links of a chained file may differ.
                kind = (frame.format.name, frame.layout.name, frame.sample_rate)
                if kind not in kept:
                    _drain(kept, stream, container)
                    kept[kind] = av.AudioResampler(
                        format=play_format.sample_format, layout=layout, rate=rate
                    )
                frame.pts = None
                for resampled in kept[kind].resample(frame):
                    container.mux(stream.encode(resampled))
            _drain(kept, stream, container)
            container.mux(stream.encode(None))


def _drain(kept: dict[tuple[str, str, int], Any], stream: Any, container: Any) -> None:
    for resampler in kept.values():
        for frame in resampler.resample(None):
            container.mux(stream.encode(frame))
    kept.clear()


def _with(first: AudioFrame, rest: Iterator[AudioFrame]) -> Iterator[AudioFrame]:
    yield first
    yield from rest


def _frames(audio: Audio, start: float) -> Iterator[AudioFrame]:
    """The frames from `start` seconds on, of all links."""
    if len(audio.parts) == 1:
        yield from _frames_of(audio.first, start)
        return
    left = start
    for number in range(len(audio.parts)):
        try:
            with audio.open_link(number) as link:
                for frame in _frames_of(link, 0.0):
                    left -= frame.samples / frame.sample_rate
                    if left <= 0.0:
                        yield frame
        except TrackRejected:
            continue


def _frames_of(link: Opened | Sndfile, start: float) -> Iterator[AudioFrame]:
    return _of_ffmpeg(link, start) if isinstance(link, Opened) else _of_sndfile(link, start)


def _of_ffmpeg(link: Opened, start: float) -> Iterator[AudioFrame]:
    decoder = FFmpegDecoder(link)
    if start > 0.0:
        decoder.seek(start)
    begin = (link.stream.start_time or 0) * link.time_base
    for frame in decoder.frames():
        if frame.pts is not None:
            seconds = float(frame.pts * (frame.time_base or link.time_base) - begin)
            if seconds + frame.samples / frame.sample_rate <= start:
                continue
        yield frame
    link.source.check()


def _of_sndfile(link: Sndfile, start: float) -> Iterator[AudioFrame]:
    import av

    link.file.seek(min(int(start * link.file.samplerate), link.file.frames))
    while len(block := link.file.read(BLOCK, dtype="float32", always_2d=True)):
        two = block if block.shape[1] <= 2 else block[:, :2]
        layout = "mono" if two.shape[1] == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(two.reshape(1, -1).copy(), format="flt", layout=layout)
        frame.sample_rate = link.file.samplerate
        yield frame


def main(arguments: list[str]) -> int:
    """Transcode standard input to standard output; returns the exit code."""
    name, start = arguments
    with suppress(OSError, ValueError):  # Not every system has each limit.
        resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_SECONDS, MOST_CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    with os.fdopen(1, "wb", buffering=0, closefd=False) as out:
        try:
            transcode(_STDIN, out, PLAY_FORMATS[name], float(start))
        except TrackRejected:
            return 1
        except OSError:
            return 2  # The disk failed, or the reader has gone.
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
