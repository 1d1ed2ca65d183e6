"""Probes one file: its audio (hash, duration, format) and its tags.

One pass over the packets; nothing is decoded, unless only libsndfile can read the file.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from embed_assets.audio.container import (
    FFMPEG,
    LIBSNDFILE,
    UNREADABLE,
    Audio,
    Opened,
    Sndfile,
    open_audio,
)
from embed_assets.audio.decoders import BLOCK
from embed_assets.audio.framing import FRAME_CODECS, flac_frame_bytes, frame_bytes, frames_of
from embed_assets.audio.quiet import quiet_stderr
from embed_assets.errors import Reason, TrackRejected
from embed_assets.identity import AudioHash
from embed_assets.library.tags import Tags, read_tags

if TYPE_CHECKING:
    from av import AudioStream, Packet
    from typing_extensions import Buffer

LAST_PACKETS = 1024
"""Packets at the end of a file that are checked for data that is not audio; some 500 bytes each."""


@dataclass(frozen=True, kw_only=True)
class Probe(Tags):
    """What a file holds: its audio and its tags.

    `audio_hash`: 32 hex digits over the encoded audio packets as demuxed, with codec, sample rate
    and channels: a retag, another cover or a move keeps it, other audio changes it. `duration` in
    seconds, measured over the packets, whatever the header says; `sample_rate` in Hz,
    `bit_rate` in bit/s. `decoder`: what read it, `ffmpeg` or `libsndfile`. If only
    libsndfile can read it, the hash is over the decoded samples.
    """

    audio_hash: AudioHash
    duration: float
    container: str
    codec: str
    sample_rate: int
    channels: int
    bit_rate: int
    decoder: str = FFMPEG


def probe(path: bytes) -> Probe:
    """Probe the file at `path`, reading it once.

    Raises:
        TrackRejected: its reason is EMPTY, NOT_AUDIO, CORRUPT or PROTECTED.
        OSError: the file could not be read; this says nothing about the track.
    """
    try:
        return _probe(path, FFMPEG)
    except TrackRejected as e:
        if e.reason not in UNREADABLE:
            raise
        rejected = e
    try:
        return _probe(path, LIBSNDFILE)
    except TrackRejected:
        raise rejected from None


def _probe(path: bytes, decoder: str) -> Probe:
    with open_audio(path, decoder=decoder) as audio:
        found = _measure(audio)
        if not found.size:
            raise TrackRejected(Reason.CORRUPT, "it has an audio header, but no audio after it")
        seconds = found.seconds if found.seconds > 0 else audio.header_seconds
        container, codec, sample_rate, channels = _format(audio.first)
        if seconds <= 0 or sample_rate <= 0 or channels <= 0:
            raise TrackRejected(Reason.CORRUPT, "its audio has no length, rate or channels")
        return Probe(
            audio_hash=AudioHash(found.digest),
            duration=seconds,
            container=container,
            codec=codec,
            sample_rate=sample_rate,
            channels=channels,
            bit_rate=round(8 * found.size / seconds) if seconds > 0 else 0,
            decoder=audio.decoder,
            **asdict(read_tags(audio)),
        )


@dataclass(frozen=True)
class _Measured:
    digest: str
    seconds: float
    size: int


def _measure(audio: Audio) -> _Measured:
    """Hash, seconds and bytes of the audio of all links; damage in the middle is skipped."""
    h = hashlib.blake2b(digest_size=16)
    seconds, size, links = 0.0, 0, 0
    for link in _links(audio):
        _, codec, sample_rate, channels = _format(link)
        kind = f"{codec} {sample_rate} {channels}"
        h.update((f"\0link {kind}" if links else kind).encode())
        more_seconds, more = (
            _packets(link, h.update) if isinstance(link, Opened) else _samples(link, h.update)
        )
        seconds, size, links = seconds + more_seconds, size + more, links + 1
    return _Measured(h.hexdigest(), seconds, size)


def _links(audio: Audio) -> Iterator[Opened | Sndfile]:
    """The links of a file in order, without those that cannot be read."""
    if len(audio.parts) == 1:
        yield audio.first
        return
    for number in range(len(audio.parts)):
        with suppress(TrackRejected), audio.open_link(number) as link:
            yield link


def _format(link: Opened | Sndfile) -> tuple[str, str, int, int]:
    """Container, codec, sample rate and channels."""
    if isinstance(link, Opened):
        context = link.stream.codec_context
        name = context.codec.canonical_name
        return link.container.format.name, name, context.sample_rate, context.channels
    file = link.file
    return file.format.lower(), file.subtype.lower(), file.samplerate, file.channels


def _packets(opened: Opened, update: Callable[[Buffer], None]) -> tuple[float, int]:
    """Seconds and bytes of the stream's packets; each packet is passed to `update`."""
    stream = opened.stream
    start = stream.start_time or 0
    ticks = end = size = 0
    keep = LAST_PACKETS if _frame_codec(opened) else 1
    held: deque[Packet[AudioStream]] = deque()

    def count(packet: Packet[AudioStream], data: Buffer, length: int) -> None:
        nonlocal ticks, end, size
        update(data)
        size += length
        duration = packet.duration or 0
        ticks += duration
        if packet.pts is not None and packet.pts + duration - start > end:
            end = packet.pts + duration - start

    for packet in _demuxed(opened):
        held.append(packet)
        if len(held) > keep:
            first = held.popleft()
            count(first, first, first.size)
    for packet, data in _without_what_is_behind(opened, list(held)):
        count(packet, data, len(data))
    opened.source.check()
    # Vorbis packets understate their durations (up to 25 %); a damaged timestamp may say years.
    length = end if ticks <= end <= 1.5 * ticks else ticks
    return float(length * opened.time_base), size


def _frame_codec(opened: Opened) -> str:
    """The codec, if FFmpeg cuts its frames out of a byte stream; else empty."""
    codec = opened.stream.codec_context.codec.canonical_name
    if opened.container.format.name == "aac":
        return "adts"
    return codec if codec in FRAME_CODECS else ""


def _without_what_is_behind(
    opened: Opened, last: list[Packet[AudioStream]]
) -> Iterator[tuple[Packet[AudioStream], memoryview]]:
    """The last packets of a stream, without data behind the audio.

    In some formats FFmpeg extends the last packet to the end of the file.
    """
    codec = _frame_codec(opened)
    packets = [memoryview(packet) for packet in last]
    if opened.container.format.name == "flac":
        header = opened.stream.codec_context.extradata or b""
        longest = int.from_bytes(header[7:10], "big")
        packets = [data[: flac_frame_bytes(bytes(data), longest)] for data in packets]
    elif codec:
        n = frames_of(codec, packets)
        packets = [data[: frame_bytes(codec, data)] for data in packets[:n]]
    yield from ((packet, data) for packet, data in zip(last, packets, strict=False) if data)


def _demuxed(opened: Opened) -> Iterator[Packet[AudioStream]]:
    """The packets of the stream; damage in the middle is skipped."""
    import av

    failures = 0
    while failures < 100:
        try:
            for packet in opened.container.demux(opened.stream):
                if packet.size:
                    yield packet
            return
        except av.FFmpegError:
            opened.source.check()
            failures += 1


def _samples(opened: Sndfile, update: Callable[[Buffer], None]) -> tuple[float, int]:
    """Seconds of the decoded samples, and bytes of the file; `update` gets 16-bit samples."""
    import soundfile

    file, frames = opened.file, 0
    try:
        with quiet_stderr():
            while len(block := file.read(BLOCK, dtype="int16", always_2d=True)):
                update(block.tobytes())
                frames += len(block)
    except soundfile.SoundFileError:
        opened.source.check()
    opened.source.check()
    return frames / file.samplerate, opened.source.size if frames else 0
