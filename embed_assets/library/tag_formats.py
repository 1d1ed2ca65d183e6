"""The tags of a file, format by format, as values by name.

Names are those of Vorbis comments, in lower case, with only letters and digits: `ALBUM ARTIST`,
`album_artist` and `MusicBrainz/Album Artist` need no mapping of their own. `tags.py` maps names to
fields of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from embed_assets.audio.container import Opened
from embed_assets.audio.framing import APE, ID3V1, ID3V2, trailing_tags
from embed_assets.library.id3 import (
    Values,
    add,
    id3_at_the_beginning,
    id3_frames,
    id3_tag,
    id3_values,
    id3v1_tag,
    latin,
    plain_name,
)
from embed_assets.library.matroska import matroska_tags

if TYPE_CHECKING:
    from embed_assets.audio.container import Audio
    from embed_assets.audio.source import Source

MP4_NAMES = {
    "\xa9nam": "title",
    "\xa9ART": "artist",
    "\xa9alb": "album",
    "aART": "albumartist",
    "\xa9gen": "genre",
    "\xa9day": "date",
    "trkn": "tracknumber",
    "disk": "discnumber",
}
"""MP4 atoms; `gnre` is \xa9gen by its number, and ----:com.apple.iTunes:NAME go by NAME."""

ASF_NAMES = {
    "Author": "artist",
    "WM/AlbumTitle": "album",
    "WM/AlbumArtist": "albumartist",
    "WM/ARTISTS": "artists",
    "WM/Genre": "genre",
    "WM/Year": "date",
    "WM/OriginalReleaseTime": "originaldate",
    "WM/OriginalReleaseYear": "originalyear",
    "WM/TrackNumber": "tracknumber",
    "WM/PartOfSet": "discnumber",
}
"""Attributes of ASF (WMA); others go by their own name. WM/Track counts from 0."""

MOST_ITEMS = 10_000
"""Items of an APE tag that are read."""

LONGEST_TAG = 64 << 20
"""Bytes of a tag behind the audio, including pictures; longer tags are not read."""

FFMPEG_NAMES = {
    "author": "artist",
    "tyer": "date",
    "icrd": "date",
    "tdrl": "releasedate",
    "tdor": "originaldate",
    "tory": "originalyear",
}
"""Other names in FFmpeg's dictionary: of AIFF's text chunks, and of frames that it does not map."""


def tags_of(audio: Audio) -> Iterator[Values]:
    """The tags of a file, most important first.

    A tag that cannot be read is left out. Raises nothing: the source keeps errors of the disk.
    """
    first = audio.first
    if isinstance(first, Opened):
        container = first.container.format.name.split(",")[0]
        codec = first.stream.codec_context.codec.canonical_name
    else:
        container, codec = first.file.format.lower(), first.file.subtype.lower()
    for read in _readers(container, codec):
        try:
            yield from read(audio.source)
        except Exception:  # noqa: BLE001, S112
            # mutagen fails in many ways on a malformed tag.
            continue
    if isinstance(first, Opened):
        yield _ffmpeg_values(first.container.metadata)
        yield _ffmpeg_values(first.stream.metadata)


Reader = Callable[["Source"], Iterable[Values]]


def _readers(container: str, codec: str) -> list[Reader]:
    """The tag readers of a container, by FFmpeg's name of it."""
    of_container: dict[str, list[Reader]] = {
        "flac": [_vorbis("flac", "FLAC"), id3_at_the_beginning, _at_the_end],
        "ogg": [_vorbis(*OGG.get(codec, OGG["vorbis"])), id3_at_the_beginning],
        "mov": [_mp4_tags],
        "asf": [_asf_tags],
        "matroska": [lambda source: [matroska_tags(source)]],
        "wav": [_id3_chunk("wave", "WAVE")],
        "aiff": [_id3_chunk("aiff", "AIFF")],
        "dsf": [_id3_chunk("dsf", "DSF")],
        "iff": [_id3_chunk("dsdiff", "DSDIFF")],
    }
    if container in ("ape", "wv", "mpc", "mpc8", "tak"):
        return [_at_the_end, id3_at_the_beginning]
    return of_container.get(container, [id3_at_the_beginning, _at_the_end])


OGG = {
    "vorbis": ("oggvorbis", "OggVorbis"),
    "opus": ("oggopus", "OggOpus"),
    "flac": ("oggflac", "OggFLAC"),
    "speex": ("oggspeex", "OggSpeex"),
}
"""mutagen's module and class for each codec in Ogg."""


# APE, and what else lies behind the audio


def _at_the_end(source: Source) -> Iterator[Values]:
    """Tags behind the audio, APE before ID3v1, which cuts texts at 30 characters."""
    read = {ID3V2: id3_tag, APE: _ape_tag, ID3V1: id3v1_tag}
    tags = [t for t in trailing_tags(source) if t.kind in read and t.end - t.begin <= LONGEST_TAG]
    for tag in sorted(tags, key=lambda tag: list(read).index(tag.kind)):
        values: Values = {}
        with suppress(Exception):
            values = read[tag.kind](source.peek(tag.end - tag.begin, tag.begin))
        yield values


def _ape_tag(data: bytes) -> Values:
    """The texts of an APE tag, item by item: mutagen drops them all if one is not UTF-8."""
    values: Values = {}
    at = 32 if data.startswith(b"APETAGEX") else 0
    items = int.from_bytes(data[-16:-12], "little")
    for _ in range(min(items, MOST_ITEMS)):
        if at + 8 >= len(data) - 32:
            break
        size, flags = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (0, 4))
        name, found, _ = data[at + 8 : at + 264].partition(b"\0")
        begin = at + 8 + len(name) + 1
        if not found or begin + size > len(data) - 32:
            break
        if flags >> 1 & 3 == 0:  # text
            texts = data[begin : begin + size].split(b"\0")
            add(values, plain_name(latin(name)), map(latin, texts))
        at = begin + size
    return values


# Other containers


def _mutagen(module: str, name: str) -> Any:
    from importlib import import_module

    return getattr(import_module(f"mutagen.{module}"), name)


def _id3_chunk(module: str, name: str) -> Reader:
    def read(source: Source) -> Iterator[Values]:
        file = _mutagen(module, name)(
            source.as_file(), known_frames=id3_frames(), translate=False, load_v1=False
        )
        if file.tags is not None:
            yield id3_values(file.tags)

    return read


def _vorbis(module: str, name: str) -> Reader:
    def read(source: Source) -> Iterator[Values]:
        values: Values = {}
        for key, value in _mutagen(module, name)(source.as_file()).tags or ():
            add(values, plain_name(key), [value])
        yield values

    return read


def _mp4_tags(source: Source) -> Iterator[Values]:
    values: Values = {}
    for name, found in (_mutagen("mp4", "MP4")(source.as_file()).tags or {}).items():
        if name.startswith("----:"):
            texts = [bytes(v).decode("utf-8", "replace") for v in found]
            add(values, plain_name(name.rpartition(":")[2]), texts)
        elif name in MP4_NAMES:
            numbers = (str(v[0]) if isinstance(v, tuple) else str(v) for v in found)
            add(values, MP4_NAMES[name], (n for n in numbers if n != "0"))
    yield values


def _asf_tags(source: Source) -> Iterator[Values]:
    values: Values = {}
    for name, value in _mutagen("asf", "ASF")(source.as_file()).tags or ():
        text = str(value)
        if name == "WM/Track":
            if text.isdecimal() and len(text) < 6:
                add(values, "track", [str(int(text) + 1)])
        else:
            add(values, ASF_NAMES.get(name) or plain_name(name), [text])
    yield values


def _ffmpeg_values(metadata: Mapping[str, str]) -> Values:
    values: Values = {}
    for key, value in metadata.items():
        name = plain_name(key)
        # Bytes that are not UTF-8, e.g. in RIFF chunks, are kept as surrogates.
        text = latin(value.encode("utf-8", "surrogateescape"))
        add(values, FFMPEG_NAMES.get(name, name), [text])
    return values
