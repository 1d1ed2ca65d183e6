"""The tags of a file, format by format, as values by name.

A name is what Vorbis comments call it, in lower case and without anything but letters and digits:
`ALBUM ARTIST`, `album_artist` and `MusicBrainz/Album Artist` need no mapping of their own. Which
names make which field of a row stands in `tags`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

from embed_assets.audio.container import Opened
from embed_assets.audio.framing import APE, ID3V1, ID3V2, syncsafe, trailing_tags
from embed_assets.library.matroska import matroska_tags

if TYPE_CHECKING:
    from embed_assets.audio.container import Audio
    from embed_assets.audio.source import Source

Values = dict[str, list[str]]
"""The values of each name, in the order in which the file has them."""

ID3_NAMES = {
    "TIT2": "title",
    "TPE1": "artist",
    "TALB": "album",
    "TPE2": "albumartist",
    "TCON": "genre",
    "TDRC": "date",
    "TYER": "date",
    "TDRL": "releasedate",
    "TDOR": "originaldate",
    "TORY": "originalyear",
    "TRCK": "tracknumber",
    "TPOS": "discnumber",
}
"""ID3v2 frames; TXXX go by their description, and UFID of MusicBrainz is the recording."""

ID3_2_NAMES = {
    "TT2": "TIT2",
    "TP1": "TPE1",
    "TAL": "TALB",
    "TP2": "TPE2",
    "TCO": "TCON",
    "TYE": "TYER",
    "TOR": "TORY",
    "TRK": "TRCK",
    "TPA": "TPOS",
    "TXX": "TXXX",
    "UFI": "UFID",
}
"""What ID3v2.2 calls them."""

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

FFMPEG_NAMES = {
    "author": "artist",
    "tyer": "date",
    "icrd": "date",
    "tdrl": "releasedate",
    "tdor": "originaldate",
    "tory": "originalyear",
}
"""What FFmpeg's dictionary calls otherwise, of AIFF's text chunks and of frames it does not map."""

_ANYTHING_ELSE = re.compile(r"[^a-z0-9]")
_MUSICBRAINZ = b"http://musicbrainz.org"
_MOST_ID3 = 8


def tags_of(audio: Audio) -> Iterator[Values]:
    """The tags of a file one after the other, those that count more first.

    A tag that cannot be read is left out. Raises nothing: the source remembers what the disk said.
    """
    first = audio.links[0]
    if isinstance(first, Opened):
        container = first.container.format.name.split(",")[0]
        codec = first.stream.codec_context.codec.canonical_name
    else:
        container, codec = first.file.format.lower(), first.file.subtype.lower()
    for read in _readers(container, codec):
        try:
            yield from read(audio.source)
        except Exception:
            # Whatever mutagen trips over in a tag that nobody would write.
            continue
    if isinstance(first, Opened):
        yield _ffmpeg_values(first.container.metadata)
        yield _ffmpeg_values(first.stream.metadata)


Reader = Callable[["Source"], Iterable[Values]]


def _readers(container: str, codec: str) -> list[Reader]:
    """What is read of a container, by FFmpeg's name of it."""
    of_container: dict[str, list[Reader]] = {
        "flac": [_vorbis("flac", "FLAC"), _id3_at_the_beginning, _at_the_end],
        "ogg": [_vorbis(*OGG.get(codec, OGG["vorbis"])), _id3_at_the_beginning],
        "mov": [_mp4_tags],
        "asf": [_asf_tags],
        "matroska": [lambda source: [matroska_tags(source)]],
        "wav": [_id3_chunk("wave", "WAVE")],
        "aiff": [_id3_chunk("aiff", "AIFF")],
        "dsf": [_id3_chunk("dsf", "DSF")],
        "iff": [_id3_chunk("dsdiff", "DSDIFF")],
    }
    if container in ("ape", "wv", "mpc", "mpc8", "tak"):
        return [_at_the_end, _id3_at_the_beginning]
    return of_container.get(container, [_id3_at_the_beginning, _at_the_end])


OGG = {
    "vorbis": ("oggvorbis", "OggVorbis"),
    "opus": ("oggopus", "OggOpus"),
    "flac": ("oggflac", "OggFLAC"),
    "speex": ("oggspeex", "OggSpeex"),
}
"""mutagen's module and class for each codec in Ogg."""


def _add(values: Values, name: str, more: Iterable[str]) -> None:
    values.setdefault(name, []).extend(more)


def plain_name(name: str) -> str:
    """A name in lower case, without anything but letters and digits."""
    return _ANYTHING_ELSE.sub("", name.lower())


# ID3


def _frames() -> Mapping[str, Any]:
    """The frames that mutagen reads, as bytes: it takes the first of some, and drops odd dates."""
    from mutagen.id3 import BinaryFrame, Frames

    class Wanted(dict[str, Any]):
        """Of all other frames mutagen knows the name alone, which tells how sizes are written."""

        def __contains__(self, name: object) -> bool:
            return name in Frames or super().__contains__(name)

    class Each(BinaryFrame):
        """Kept beside others of its name."""

        @property
        def HashKey(self) -> str:
            return f"{self.FrameID}:{id(self)}"

    wanted = Wanted()
    for name in (*ID3_NAMES, "TXXX", "UFID"):
        wanted[name] = type(name, (Each,), {})
    for old, name in ID3_2_NAMES.items():
        wanted[old] = type(old, (wanted[name],), {})
    return wanted


def _id3_values(tags: Any) -> Values:
    values: Values = {}
    for frame, name in ID3_NAMES.items():
        for one in tags.getall(frame):
            _add(values, name, text_values(one.data))
    for one in tags.getall("TXXX"):
        description, *texts = text_values(one.data, keep_empty=True) or [""]
        _add(values, plain_name(description), texts)
    for one in tags.getall("UFID"):
        owner, _, data = one.data.partition(b"\0")
        if owner.rstrip(b"/") == _MUSICBRAINZ:
            _add(values, "musicbrainztrackid", [data.decode("ascii", "replace")])
    return values


def _id3_tag(data: bytes) -> Values:
    from mutagen.id3 import ID3

    return _id3_values(ID3(BytesIO(data), known_frames=_frames(), translate=False, load_v1=False))


def _id3_at_the_beginning(source: Source) -> Iterator[Values]:
    """ID3v2 tags in front of the audio: some programs add one to that which is there."""
    position = 0
    for _ in range(_MOST_ID3):
        head = source.peek(10, position)
        if len(head) < 10 or not head.startswith(b"ID3"):
            return
        size = 10 + syncsafe(head[6:10])
        values: Values = {}
        # One of an unknown version, say: another tag may lie behind it.
        with suppress(Exception):
            values = _id3_tag(source.peek(size, position))
        yield values
        position += size + (10 if head[5] & 0x10 else 0)


def _id3_chunk(module: str, name: str) -> Reader:
    def read(source: Source) -> Iterator[Values]:
        file = _mutagen(module, name)(
            source.as_file(), known_frames=_frames(), translate=False, load_v1=False
        )
        if file.tags is not None:
            yield _id3_values(file.tags)

    return read


def _id3v1(data: bytes) -> Values:
    from mutagen.id3 import TCON

    found = data[-128:]
    values: Values = {}
    for name, begin, end in (("title", 3, 33), ("artist", 33, 63), ("album", 63, 93)):
        _add(values, name, [latin(found[begin:end].split(b"\0")[0])])
    _add(values, "date", [latin(found[93:97])])
    if found[125] == 0 and found[126]:
        _add(values, "tracknumber", [str(found[126])])
    if found[127] < len(TCON.GENRES):
        _add(values, "genre", [TCON.GENRES[found[127]]])
    return values


def text_values(data: bytes, keep_empty: bool = False) -> list[str]:
    """The values of an ID3v2 text frame: a byte that names the encoding, texts with zeros between.

    Known are the sins of taggers: UTF-16 without a byte order mark, UTF-8 or Windows-1252 said to
    be Latin-1, and no byte for the encoding at all.
    """
    if data[:1] in (b"\1", b"\2"):
        texts = _utf16(data[1:], big=data[:1] == b"\2")
    else:
        body = data[1:] if data[:1] in (b"\0", b"\3") else data
        texts = [latin(part) for part in body.split(b"\0")]
    return texts if keep_empty else [text for text in texts if text.strip()]


def latin(data: bytes) -> str:
    """Text of one byte a character: Windows-1252, unless it is UTF-8."""
    for encoding in ("utf-8", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _utf16(data: bytes, big: bool) -> list[str]:
    texts = []
    units = [data[i : i + 2] for i in range(0, len(data) - 1, 2)]
    order = "utf-16-be" if big else ""
    part: list[bytes] = []
    for unit in [*units, b"\0\0"]:
        if unit != b"\0\0":
            part.append(unit)
            continue
        if part[:1] in ([b"\xff\xfe"], [b"\xfe\xff"]):
            order = "utf-16-le" if part[0] == b"\xff\xfe" else "utf-16-be"
            part = part[1:]
        raw = b"".join(part)
        texts.append(raw.decode(order or _byte_order(raw), "replace"))
        part = []
    return texts[:-1] if texts and not texts[-1] and len(texts) > 1 else texts


def _byte_order(raw: bytes) -> str:
    """UTF-16's byte order where no mark says it: high bytes differ less than low ones."""
    return "utf-16-be" if len(set(raw[0::2])) < len(set(raw[1::2])) else "utf-16-le"


# APE, and what else lies behind the audio


def _at_the_end(source: Source) -> Iterator[Values]:
    """Tags behind the audio, APE before ID3v1, which cuts texts at 30 characters."""
    from mutagen.apev2 import APEv2

    kinds = (ID3V2, APE, ID3V1)
    tags = [tag for tag in trailing_tags(source) if tag.kind in kinds]
    for tag in sorted(tags, key=lambda tag: kinds.index(tag.kind)):
        data = source.peek(tag.end - tag.begin, tag.begin)
        if tag.kind == ID3V1:
            yield _id3v1(data)
        elif tag.kind == ID3V2:
            yield _id3_tag(data)
        else:
            yield _ape_values(APEv2(BytesIO(data)))


def _ape_values(tags: Mapping[str, Any]) -> Values:
    values: Values = {}
    for name, value in tags.items():
        if value.kind == 0:  # text: several values have zeros between them
            _add(values, plain_name(name), list(value))
    return values


# Other containers


def _mutagen(module: str, name: str) -> Any:
    from importlib import import_module

    return getattr(import_module(f"mutagen.{module}"), name)


def _vorbis(module: str, name: str) -> Reader:
    def read(source: Source) -> Iterator[Values]:
        values: Values = {}
        for key, value in _mutagen(module, name)(source.as_file()).tags or ():
            _add(values, plain_name(key), [value])
        yield values

    return read


def _mp4_tags(source: Source) -> Iterator[Values]:
    values: Values = {}
    for name, found in (_mutagen("mp4", "MP4")(source.as_file()).tags or {}).items():
        if name.startswith("----:"):
            texts = [bytes(v).decode("utf-8", "replace") for v in found]
            _add(values, plain_name(name.rpartition(":")[2]), texts)
        elif name in MP4_NAMES:
            numbers = (str(v[0]) if isinstance(v, tuple) else str(v) for v in found)
            _add(values, MP4_NAMES[name], (n for n in numbers if n != "0"))
    yield values


def _asf_tags(source: Source) -> Iterator[Values]:
    values: Values = {}
    for name, value in _mutagen("asf", "ASF")(source.as_file()).tags or ():
        text = str(value)
        if name == "WM/Track" and text.isdigit():
            _add(values, "track", [str(int(text) + 1)])
        else:
            _add(values, ASF_NAMES.get(name) or plain_name(name), [text])
    yield values


def _ffmpeg_values(metadata: Mapping[str, str]) -> Values:
    values: Values = {}
    for key, value in metadata.items():
        name = plain_name(key)
        # Bytes that are no UTF-8, as in RIFF chunks, were kept as surrogates.
        text = latin(value.encode("utf-8", "surrogateescape"))
        _add(values, FFMPEG_NAMES.get(name, name), [text])
    return values
