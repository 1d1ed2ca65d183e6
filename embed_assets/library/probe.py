"""Looks into one file: what its audio is (hash, duration, format) and what its tags say.

One pass over the file's packets, nothing is decoded.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embed_assets.audio.container import Opened, open_audio
from embed_assets.errors import Reason, TrackRejected

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_TEXT = 1000
"""Characters of a tag that are kept."""

UFID = re.compile(rb"http://musicbrainz\.org\0([0-9a-fA-F-]{36})")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
YEAR = re.compile(r"(?<!\d)([12]\d{3})(?!\d)")


@dataclass(frozen=True)
class Probe:
    """What a file holds. Text is empty and numbers are None where the file has no such tag.

    `audio_hash`: 32 hex digits over the encoded audio packets as demuxed, with codec, sample rate
    and channels: a retag, another cover or a move leaves it, other audio changes it. `duration` in
    seconds, of the packets that are there, whatever the header says; `sample_rate` in Hz,
    `bit_rate` in bit/s; the three ids are MusicBrainz's, or empty.
    """

    audio_hash: str
    duration: float
    container: str
    codec: str
    sample_rate: int
    channels: int
    bit_rate: int
    title: str = ""
    artist: str = ""
    album: str = ""
    album_artist: str = ""
    genre: str = ""
    year: int | None = None
    track_number: int | None = None
    disc_number: int | None = None
    recording_id: str = ""
    release_id: str = ""
    artist_id: str = ""


def probe(path: bytes) -> Probe:
    """Look into the file at `path`, reading it once.

    Raises:
        TrackRejected: EMPTY, NOT_AUDIO, CORRUPT or PROTECTED, in words.
        OSError: the file could not be read; it says nothing about the track.
    """
    with open_audio(path) as opened:
        stream = opened.stream
        codec = stream.codec_context.codec.canonical_name
        sample_rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        digest, seconds, size = _packets(opened, f"{codec} {sample_rate} {channels}")
        if not size:
            raise TrackRejected(Reason.CORRUPT, "it has an audio header and no audio after it")
        if seconds <= 0:
            seconds = (opened.container.duration or 0) / 1e6
        tags = _tags(opened.container.metadata, stream.metadata)
        return Probe(
            audio_hash=digest,
            duration=seconds,
            container=opened.container.format.name,
            codec=codec,
            sample_rate=sample_rate,
            channels=channels,
            bit_rate=round(8 * size / seconds) if seconds > 0 else 0,
            title=_text(tags, "title"),
            artist=_text(tags, "artist"),
            album=_text(tags, "album"),
            album_artist=_text(tags, "album_artist", "albumartist", "album artist"),
            genre=_text(tags, "genre"),
            year=_year(tags),
            track_number=_number(tags, "track", "tracknumber"),
            disc_number=_number(tags, "disc", "discnumber"),
            recording_id=_recording_id(opened, tags),
            release_id=_uuid(tags, "musicbrainz_albumid", "musicbrainz album id"),
            artist_id=_uuid(tags, "musicbrainz_artistid", "musicbrainz artist id"),
        )


def _packets(opened: Opened, kind: str) -> tuple[str, float, int]:
    """Hash, seconds and bytes of the stream's packets; damage in the middle is passed over."""
    import av

    h = hashlib.blake2b(kind.encode(), digest_size=16)
    ticks = end = size = failures = 0
    start = opened.stream.start_time or 0
    packets = opened.container.demux(opened.stream)
    while failures < 100:
        try:
            for packet in packets:
                if packet.size:
                    h.update(packet)
                    size += packet.size
                    duration = packet.duration or 0
                    ticks += duration
                    if packet.pts is not None and packet.pts + duration - start > end:
                        end = packet.pts + duration - start
            break
        except av.FFmpegError:
            opened.source.check()
            failures += 1
            packets = opened.container.demux(opened.stream)
    opened.source.check()
    # Vorbis packets understate their durations (up to 25 %); a damaged timestamp may say years.
    length = end if ticks <= end <= 1.5 * ticks else ticks
    return h.hexdigest(), float(length * opened.stream.time_base), size


def _tags(container: Mapping[str, str], stream: Mapping[str, str]) -> dict[str, str]:
    """Tags by lower-case name; those of the container go before those of its stream."""
    merged: dict[str, str] = {}
    for source in (container, stream):
        for name, value in source.items():
            text = value.replace("\0", " ").strip()[:LONGEST_TEXT]
            if text:
                merged.setdefault(name.lower(), text)
    return merged


def _text(tags: dict[str, str], *names: str) -> str:
    return next((tags[name] for name in names if name in tags), "")


def _number(tags: dict[str, str], *names: str) -> int | None:
    found = re.match(r"\d{1,6}", _text(tags, *names))
    return int(found[0]) if found else None


def _year(tags: dict[str, str]) -> int | None:
    for name in ("date", "year", "tyer", "originaldate", "tdor"):
        if found := YEAR.search(tags.get(name, "")):
            return int(found[1])
    return None


def _uuid(tags: dict[str, str], *names: str) -> str:
    """The first id of a tag: a track of several artists has several, one after the other."""
    found = UUID.match(_text(tags, *names).lower())
    return found[0] if found else ""


def _recording_id(opened: Opened, tags: dict[str, str]) -> str:
    if named := _uuid(tags, "musicbrainz_trackid", "musicbrainz track id"):
        return named
    # ID3 keeps it in an UFID frame, which FFmpeg does not show.
    head = opened.source.peek(1 << 18)
    found = UFID.search(head) if head.startswith(b"ID3") else None
    return found[1].decode().lower() if found else ""
