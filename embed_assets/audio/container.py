"""Opens an audio file with FFmpeg, safely, and says in words why one cannot be opened.

A file of a library is not trusted: neither its name nor its content may make FFmpeg open anything
else. So FFmpeg never gets a name, only the bytes of a file that was opened here, only demuxers
that hold their audio themselves, and no protocol. (A Python file object costs nothing measurable
against a path: 125 MB/s demuxed either way.)
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embed_assets.errors import Reason, TrackRejected

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

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

OTHER_KINDS = (
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"MThd", "a MIDI file, which holds notes and no sound"),
    (b"#EXTM3U", "a playlist"),
    (b"ffconcat", "a playlist"),
    (b"[playlist]", "a playlist"),
    (b"<?xml", "an XML document"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"SQLite format 3", "a database"),
)

AUDIO_MARKS = (
    b"ID3",
    b"fLaC",
    b"OggS",
    b"RIFF",
    b"RIFX",
    b"FORM",
    b"MAC ",
    b"wvpk",
    b"MPCK",
    b"MP+",
)


class Source:
    """A file's bytes for FFmpeg: a reader without a name that remembers what the disk said.

    FFmpeg takes a read error for the end of a file in places; `error` tells one from the other.
    """

    def __init__(self, path: bytes) -> None:
        # A named pipe would otherwise block the open until somebody writes to it.
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self.error: OSError | None = None
        info = os.fstat(self._fd)
        self.size = info.st_size
        self.regular = stat.S_ISREG(info.st_mode)

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end and after an error.

        After an error for good: FFmpeg's FLAC parser crashes on an end that was none (8.0).
        """
        if self.error is not None:
            return b""
        try:
            return os.read(self._fd, size)
        except OSError as e:
            self.error = self.error or e
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, as `io` does; -1, which FFmpeg takes for a failure, where no file can have that."""
        try:
            return os.lseek(self._fd, offset, whence)
        except (OSError, OverflowError) as e:
            # A damaged header may name any place: that says nothing about the disk.
            if not isinstance(e, OverflowError) and e.errno != errno.EINVAL:
                self.error = self.error or e
            return -1

    def tell(self) -> int:
        """Where it stands."""
        return os.lseek(self._fd, 0, os.SEEK_CUR)

    def peek(self, size: int, offset: int = 0) -> bytes:
        """Bytes from `offset`, without moving. Raises OSError."""
        return os.pread(self._fd, size, offset)

    def check(self) -> None:
        """Raise the OSError that a read met, if any: then it is not the track that is bad."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Give the file back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(frozen=True)
class Opened:
    """An open audio file: FFmpeg's container, the audio stream that counts, the bytes below."""

    container: InputContainer
    stream: AudioStream
    source: Source


@contextmanager
def open_audio(path: bytes) -> Iterator[Opened]:
    """Open a file of the library for demuxing or decoding its first audio stream.

    Raises:
        TrackRejected: EMPTY, NOT_AUDIO, CORRUPT or PROTECTED, in words.
        OSError: the file could not be read; it says nothing about the track.
    """
    import av

    source = Source(path)
    container = None
    try:
        head = _readable_head(source)
        try:
            container = av.open(
                source,
                metadata_errors="replace",
                buffer_size=1 << 16,
                container_options={
                    "format_whitelist": DEMUXERS,
                    "protocol_whitelist": "none",
                },
            )
        except (av.FFmpegError, ValueError) as e:
            source.check()
            raise _unreadable(head) from e
        source.check()
        try:
            yield Opened(container, _choose(container, head), source)
        except TrackRejected:
            source.check()
            raise
        except (av.FFmpegError, ValueError, ArithmeticError, LookupError) as e:
            # What PyAV raises on a header that nobody would write, e.g. over a name of no letters.
            source.check()
            raise TrackRejected(
                Reason.CORRUPT, f"FFmpeg cannot make sense of it ({e}); copy it again"
            ) from e
        # Some demuxers step over what they could not read, and go on behind it.
        source.check()
    finally:
        if container is not None:
            container.close()
        source.close()


def claimed_seconds(opened: Opened) -> float:
    """What the file's header says of its length; 0 where it says nothing that can be relied upon.

    Truncated files raise no error anywhere: only this tells that something is missing. Ogg, Opus
    and ADTS have no such header; FFmpeg estimates an MP3 without Xing header from its bit rate.
    """
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


def _unreadable(head: bytes) -> TrackRejected:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for mark, kind in OTHER_KINDS:
        if start[: len(mark)].lower() == mark.lower():
            return TrackRejected(Reason.NOT_AUDIO, f"no audio stream: this looks like {kind}")
    if not head.strip(b"\0"):
        return TrackRejected(
            Reason.CORRUPT, "it begins with nothing but zero bytes; copy it again from its source"
        )
    if head.startswith(AUDIO_MARKS) or head[4:8] == b"ftyp":
        return TrackRejected(
            Reason.CORRUPT,
            "it begins like audio, but FFmpeg finds what follows damaged; copy it again",
        )
    if _is_text(head):
        return TrackRejected(Reason.NOT_AUDIO, "no audio stream: this looks like a text file")
    return TrackRejected(
        Reason.NOT_AUDIO,
        "in no audio format that FFmpeg knows; is it damaged, or something else under this name?",
    )


def _is_text(head: bytes) -> bool:
    sample = head[:4096]
    return not any(byte < 9 or 13 < byte < 32 for byte in sample) and sample.isascii()
