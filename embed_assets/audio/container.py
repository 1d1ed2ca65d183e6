"""Opens an audio file with FFmpeg or libsndfile; a file that cannot be opened gets a reason.

A file of a library is not trusted: neither its name nor its content may make FFmpeg open anything
else. So FFmpeg never gets a name, only the bytes of a file that was opened here, only demuxers
that hold their audio themselves, and no protocol. (A Python file object costs nothing measurable
against a path: 125 MB/s demuxed either way.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING

from embed_assets.audio.framing import audio_end, ogg_links, syncsafe
from embed_assets.audio.quiet import quiet_stderr
from embed_assets.audio.source import Source
from embed_assets.audio.unreadable import unreadable
from embed_assets.errors import Reason, TrackRejected

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from soundfile import SoundFile

DEMUXERS = (
    "mp3,ogg,flac,wav,w64,aiff,mov,mp4,m4a,aac,ac3,eac3,asf,ape,wv,mpc,mpc8,tta,tak,dsf,iff,"
    "matroska,webm,caf,au,amr,dts,dtshd,shn,oma"
)
"""FFmpeg's demuxers that may read a library; playlists (hls, concat, dash) are excluded."""

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
"""The decoders: FFmpeg first, libsndfile if FFmpeg cannot read a file."""

UNREADABLE = (Reason.CORRUPT, Reason.NOT_AUDIO)
"""Reasons for which FFmpeg may reject a file that libsndfile can read."""

SNDFILE_FORMATS = frozenset(
    ["FLAC", "OGG", "WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "MP3"]
)
"""Formats that libsndfile may read; it mistakes arbitrary bytes for other formats."""

HEADS_OF_BARE_AUDIO = (
    *(b"ID3", b"fLaC", b"\xff", b"MAC ", b"wvpk", b"TTA", b"MPCK", b"MP+", b"tBaK", b"\x0bw"),
    *(b"\x7f\xfe\x80\x01", b".snd", b"#!AMR", b"ajkg"),
)
"""First bytes of files whose audio ends at the end of the file, or before the tags there."""

MOST_LINKS = 10_000
"""Links of a chained Ogg file that are read; later ones are left out."""

SAME_SECONDS = 0.5
"""If the header of an Ogg file differs from the measured length by more, all pages are read."""


@dataclass(frozen=True)
class Opened:
    """An open stream of audio: FFmpeg's container, its audio stream, and its bytes."""

    container: InputContainer
    stream: AudioStream
    source: Source

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick of the stream's timestamps; FFmpeg's own unit if it has none."""
        return self.stream.time_base or Fraction(1, 1_000_000)


@dataclass(frozen=True)
class Sndfile:
    """An open stream of audio that libsndfile reads, and its bytes."""

    file: SoundFile
    source: Source


@dataclass(frozen=True)
class Audio:
    """An open audio file; `source` has all of its bytes, including the tags behind the audio.

    `parts`: the links of a chained Ogg file as (begin, end) in bytes, in order; any other file is a
    single part. `first`: the first one that can be read.
    """

    first: Opened | Sndfile
    source: Source
    parts: tuple[tuple[int, int], ...]
    head: bytes

    @property
    def header_seconds(self) -> float:
        """Length of the first link by its header, in seconds; 0 if the header does not say."""
        first = self.first
        return (first.container.duration or 0) / 1e6 if isinstance(first, Opened) else 0.0

    @property
    def decoder(self) -> str:
        """The decoder that reads it: `ffmpeg` or `libsndfile`."""
        return FFMPEG if isinstance(self.first, Opened) else LIBSNDFILE

    @contextmanager
    def open_link(self, number: int) -> Iterator[Opened | Sndfile]:
        """Open one link of a chained file, which may have thousands.

        Raises TrackRejected: neither FFmpeg nor libsndfile can read it.
        """
        with ExitStack() as stack:
            yield _open_either(self.source.part(*self.parts[number]), self.head, stack)


@contextmanager
def open_audio(path: bytes, seconds: float = 0.0, decoder: str = FFMPEG) -> Iterator[Audio]:
    """Open a file of the library for demuxing or decoding its audio.

    `seconds`: its length, if it is known. Only if it is unknown, or the header of an Ogg file
    differs, all pages are read to find further links. With FFMPEG as `decoder`, libsndfile is tried
    if FFmpeg cannot open the file; with LIBSNDFILE, FFmpeg is not tried.

    Raises:
        TrackRejected: its reason is EMPTY, NOT_AUDIO, CORRUPT or PROTECTED.
        OSError: the file could not be read; this says nothing about the track.
    """
    with ExitStack() as stack:
        source = Source(path)
        stack.callback(source.close)
        head = _readable_head(source)
        if decoder == LIBSNDFILE:
            audio = Audio(_open_sndfile(source, stack), source, ((0, source.size),), head)
        else:
            audio = _open_by_either(source, head, seconds, stack)
        name = "FFmpeg" if audio.decoder == FFMPEG else "libsndfile"
        with _errors_in_words(name, source):
            yield audio


@contextmanager
def _errors_in_words(name: str, source: Source) -> Iterator[None]:
    """Raise errors of a decoder as a rejection, and those of the disk as an OSError."""
    import av
    import soundfile

    of_decoders = (av.FFmpegError, soundfile.SoundFileError)
    try:
        yield
    except TrackRejected:
        source.check()
        raise
    except (*of_decoders, ValueError, ArithmeticError, LookupError) as e:
        # PyAV raises these on malformed headers, e.g. for an empty name.
        source.check()
        why = f"{name} cannot read it ({e}); copy it again"
        raise TrackRejected(Reason.CORRUPT, why) from e
    # Some demuxers skip what they could not read.
    source.check()


def _open_by_either(source: Source, head: bytes, seconds: float, stack: ExitStack) -> Audio:
    end = audio_end(source) if head.startswith(HEADS_OF_BARE_AUDIO) else source.size
    whole = ((0, source.size),)
    audio: Audio | None = None
    rejected: TrackRejected | None = None
    try:
        opened = _open_ffmpeg(source.part(0, end), head, stack)
        audio = Audio(opened, source, whole, head)
    except TrackRejected as e:
        if e.reason not in UNREADABLE:
            raise
        rejected = e
    if audio is not None:
        is_ogg = opened.container.format.name == "ogg"
        if not is_ogg or (seconds > 0 and abs(audio.header_seconds - seconds) <= SAME_SECONDS):
            return audio
    elif not head.startswith(b"OggS"):
        with suppress(TrackRejected):
            return Audio(_open_sndfile(source, stack), source, whole, head)
        raise rejected or unreadable(head)
    parts = tuple(islice(ogg_links(source), MOST_LINKS))
    if audio is not None and len(parts) == 1:
        return audio
    for part in parts:
        with suppress(TrackRejected):
            return Audio(_open_either(source.part(*part), head, stack), source, parts, head)
    raise rejected or unreadable(head)


def _open_either(part: Source, head: bytes, stack: ExitStack) -> Opened | Sndfile:
    try:
        return _open_ffmpeg(part, head, stack)
    except TrackRejected:
        return _open_sndfile(part, stack)


def _open_ffmpeg(source: Source, head: bytes, stack: ExitStack) -> Opened:
    import av

    try:
        container = av.open(
            source,
            "r",
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
    if file.format not in SNDFILE_FORMATS:
        raise unreadable(b"")
    return Sndfile(file, source)


def claimed_seconds(audio: Audio) -> float:
    """Length by the file's header, in seconds; 0 if the header is missing or unreliable.

    Truncated files raise no error anywhere: only this shows that something is missing. Ogg, Opus
    and ADTS have no such header; FFmpeg estimates an MP3 without Xing header from its bit rate.
    """
    opened = audio.first
    if len(audio.parts) > 1 or not isinstance(opened, Opened):
        return 0.0
    name, source = opened.container.format.name, opened.source
    seconds = (opened.container.duration or 0) / 1e6
    if name == "mp3":
        head = source.peek(10)
        first = source.peek(4096, syncsafe(head[6:10]) + 10 if head.startswith(b"ID3") else 0)
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
        raise TrackRejected(Reason.NOT_AUDIO, f"no audio stream: it contains {held}")
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
