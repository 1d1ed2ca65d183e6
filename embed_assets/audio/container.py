"""Opens an audio file with FFmpeg or libsndfile, and says in words why one cannot be opened.

A file of a library is not trusted: neither its name nor its content may make FFmpeg open anything
else. So FFmpeg never gets a name, only the bytes of a file that was opened here, only demuxers
that hold their audio themselves, and no protocol. (A Python file object costs nothing measurable
against a path: 125 MB/s demuxed either way.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embed_assets.audio.framing import audio_end, flac_frame_bytes, frame_bytes, ogg_links
from embed_assets.audio.quiet import quiet_stderr
from embed_assets.audio.source import Source
from embed_assets.audio.unreadable import unreadable
from embed_assets.errors import Reason, TrackRejected

if TYPE_CHECKING:
    from av import Packet
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from soundfile import SoundFile

DEMUXERS = (
    "mp3,ogg,flac,wav,w64,aiff,mov,mp4,m4a,aac,ac3,eac3,asf,ape,wv,mpc,mpc8,tta,tak,dsf,iff,"
    "matroska,webm,caf,au,amr,dts,dtshd,shn,oma"
)
"""FFmpeg's demuxers that may read a library; playlists (hls, concat, dash) are not among them."""

ENCRYPTED_TAGS = frozenset({"drms", "enca", "aavd", "aaxc"})
"""Sample entries of MP4 whose packets are encrypted (FairPlay, CENC, Audible)."""

ENCRYPTED_ASF = tuple(
    bytes.fromhex(guid)
    for guid in (
        "fbb3112223bdd211b4b700a0c955fc6e",
        "14e68a292226174cb935dae07ee9289c",
        "b69b077aa4da124ea5ca91d38dc11a8d",
    )
)
"""Content encryption objects in the header of a WMA file."""

FFMPEG, LIBSNDFILE = "ffmpeg", "libsndfile"
"""What can read a file: FFmpeg first, libsndfile where FFmpeg cannot."""

UNREADABLE = (Reason.CORRUPT, Reason.NOT_AUDIO)
"""Why FFmpeg may reject a file that libsndfile can read."""

FRAMED = (b"ID3", b"fLaC", b"\xff", b"MAC ", b"wvpk", b"TTA", b"MPCK", b"MP+", b"tBaK", b"\x0bw")
"""How files begin whose audio ends with the file, or before the tags at its end."""

SAME_SECONDS = 0.5
"""An Ogg file whose header says another length than the probe measured is looked through."""


@dataclass(frozen=True)
class Opened:
    """One open stream of audio: FFmpeg's container, the audio stream that counts, its bytes."""

    container: InputContainer
    stream: AudioStream
    source: Source


@dataclass(frozen=True)
class Sndfile:
    """One open stream of audio that libsndfile reads, and its bytes."""

    file: SoundFile
    source: Source


@dataclass(frozen=True)
class Audio:
    """An open audio file; `links` are heard one after the other: one, but for a chained Ogg file.

    `source` has all bytes of the file, the tags behind the audio included; `unread_links` counts
    the links that nothing could open.
    """

    links: tuple[Opened | Sndfile, ...]
    source: Source
    unread_links: int = 0

    @property
    def header_seconds(self) -> float:
        """How long the header of the first link says that it is; 0 where it does not say."""
        first = self.links[0]
        return (first.container.duration or 0) / 1e6 if isinstance(first, Opened) else 0.0

    @property
    def decoder(self) -> str:
        """What reads it: `ffmpeg` or `libsndfile`."""
        return FFMPEG if isinstance(self.links[0], Opened) else LIBSNDFILE


@contextmanager
def open_audio(path: bytes, seconds: float = 0.0, decoder: str = FFMPEG) -> Iterator[Audio]:
    """Open a file of the library for demuxing or decoding its audio.

    `seconds`: how long it is, if that is known; only where an Ogg file's header says otherwise, or
    nothing is known, are all its pages looked at for further links. With FFMPEG as `decoder`
    libsndfile has its turn where FFmpeg cannot open it; with LIBSNDFILE FFmpeg is not asked.

    Raises:
        TrackRejected: EMPTY, NOT_AUDIO, CORRUPT or PROTECTED, in words.
        OSError: the file could not be read; it says nothing about the track.
    """
    with ExitStack() as stack:
        source = Source(path)
        stack.callback(source.close)
        head = _readable_head(source)
        if decoder == LIBSNDFILE:
            audio = Audio((_open_sndfile(source, stack),), source)
        else:
            audio = _open_links(source, head, seconds, stack)
        name = "FFmpeg" if audio.decoder == FFMPEG else "libsndfile"
        with _errors_in_words(name, source, *(link.source for link in audio.links)):
            yield audio


@contextmanager
def _errors_in_words(name: str, *sources: Source) -> Iterator[None]:
    """What a decoder raises as a rejection; what the disk said as an OSError, also at the end."""
    import av
    import soundfile

    def check() -> None:
        # Some demuxers step over what they could not read, and go on behind it.
        for source in sources:
            source.check()

    of_decoders = (av.FFmpegError, soundfile.SoundFileError)
    try:
        yield
    except TrackRejected:
        check()
        raise
    except (*of_decoders, ValueError, ArithmeticError, LookupError) as e:
        # What PyAV raises on a header that nobody would write, e.g. over a name of no letters.
        check()
        why = f"{name} cannot make sense of it ({e}); copy it again"
        raise TrackRejected(Reason.CORRUPT, why) from e
    check()


def _open_links(source: Source, head: bytes, seconds: float, stack: ExitStack) -> Audio:
    end = audio_end(source) if head.startswith(FRAMED) else source.size
    try:
        first: Opened | None = _open_ffmpeg(source.part(0, end), head, stack)
    except TrackRejected as e:
        first, rejected = None, e
    if first is not None:
        is_ogg = first.container.format.name == "ogg"
        audio = Audio((first,), source)
        if not is_ogg or (seconds > 0 and abs(audio.header_seconds - seconds) <= SAME_SECONDS):
            return audio
    elif rejected.reason not in UNREADABLE:
        raise rejected
    parts = ogg_links(source) if first is not None or head.startswith(b"OggS") else []
    if len(parts) <= 1 and first is not None:
        return Audio((first,), source)
    links: list[Opened | Sndfile] = []
    parts = parts or [(0, source.size)]
    for part in parts:
        with suppress(TrackRejected):
            links.append(_open_either(source.part(*part), head, stack))
    if not links:
        raise rejected if first is None else unreadable(head)
    return Audio(tuple(links), source, len(parts) - len(links))


def _open_either(part: Source, head: bytes, stack: ExitStack) -> Opened | Sndfile:
    try:
        return _open_ffmpeg(part, head, stack)
    except TrackRejected:
        return _open_sndfile(part, stack)


def _open_ffmpeg(source: Source, head: bytes, stack: ExitStack) -> Opened:
    import av

    stack.callback(source.close)
    try:
        container = av.open(
            source,
            metadata_errors="surrogateescape",
            buffer_size=1 << 16,
            container_options={"format_whitelist": DEMUXERS, "protocol_whitelist": "none"},
        )
    except (av.FFmpegError, ValueError) as e:
        source.check()
        raise unreadable(head) from e
    stack.callback(container.close)
    with _errors_in_words("FFmpeg", source):
        return Opened(container, _choose(container, head), source)


def _open_sndfile(source: Source, stack: ExitStack) -> Sndfile:
    import soundfile

    source.seek(0)
    with _errors_in_words("libsndfile", source), quiet_stderr():
        file = soundfile.SoundFile(source)
    stack.callback(file.close)
    return Sndfile(file, source)


def audio_of(opened: Opened, packet: Packet) -> memoryview:
    """The audio in a packet; FFmpeg has the last one of some formats end where the file ends."""
    data = memoryview(packet)
    context = opened.stream.codec_context
    if opened.container.format.name == "flac":
        longest = int.from_bytes((context.extradata or b"")[7:10], "big")
        return data[: flac_frame_bytes(bytes(data), longest)]
    return data[: frame_bytes(context.codec.canonical_name, data)]


def claimed_seconds(audio: Audio) -> float:
    """What the file's header says of its length; 0 where it says nothing that can be relied upon.

    Truncated files raise no error anywhere: only this tells that something is missing. Ogg, Opus
    and ADTS have no such header; FFmpeg estimates an MP3 without Xing header from its bit rate.
    """
    opened = audio.links[0]
    if len(audio.links) > 1 or not isinstance(opened, Opened):
        return 0.0
    name, source = opened.container.format.name, opened.source
    seconds = (opened.container.duration or 0) / 1e6
    if name == "mp3":
        head = source.peek(10)
        tag = sum(b << s for b, s in zip(head[6:10], (21, 14, 7, 0), strict=True))
        first = source.peek(4096, tag + 10 if head.startswith(b"ID3") else 0)
        return seconds if b"Xing" in first or b"Info" in first else 0.0
    if name == "wav":
        # FFmpeg reports what is there. Streamed files have no length, or the largest one.
        size = int.from_bytes(source.peek(4, 4), "little") + 8
        return seconds * max(1.0, size / source.size) if size < 0x7FFFFF00 else 0.0
    if name == "w64":
        size = int.from_bytes(source.peek(8, 16), "little")
        return seconds * max(1.0, size / source.size) if size < 1 << 40 else 0.0
    return 0.0 if name in ("ogg", "aac") else seconds


def _readable_head(source: Source) -> bytes:
    if not source.regular:
        raise TrackRejected(Reason.NOT_AUDIO, "not a regular file")
    if source.size == 0:
        raise TrackRejected(Reason.EMPTY, "the file holds 0 bytes; copy it again")
    return source.peek(1 << 16)


def _choose(container: InputContainer, head: bytes) -> AudioStream:
    streams = container.streams.audio
    if not streams:
        held = "video only" if container.streams.video else "no sound"
        raise TrackRejected(Reason.NOT_AUDIO, f"no audio stream: it holds {held}")
    stream = streams[0]
    context = stream.codec_context
    if context is None:
        raise TrackRejected(Reason.NOT_AUDIO, "its audio is in a format that FFmpeg cannot decode")
    encrypted = context.codec_tag in ENCRYPTED_TAGS or (
        container.format.name == "asf" and any(guid in head for guid in ENCRYPTED_ASF)
    )
    if encrypted:
        raise TrackRejected(
            Reason.PROTECTED, "its audio is encrypted (DRM); only the shop's own player can read it"
        )
    context.thread_count = 1
    return stream
