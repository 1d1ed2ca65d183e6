"""ID3 tags as values by name, for all versions, and for texts that break the standard.

mutagen splits a tag into frames. The contents of frames are read here, since mutagen drops dates
and texts that do not follow the standard.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

from embed_assets.audio.framing import syncsafe

if TYPE_CHECKING:
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

LONGEST_FRAME = 1 << 16
"""Bytes of a frame that are read; far less of its text is kept."""

_ANYTHING_ELSE = re.compile(r"[^a-z0-9]")
_MUSICBRAINZ = b"http://musicbrainz.org"
_MOST_TAGS = 8
"""ID3v2 tags in front of the audio that are read."""


def add(values: Values, name: str, more: Iterable[str]) -> None:
    """Add values of a name."""
    values.setdefault(name, []).extend(more)


def plain_name(name: str) -> str:
    """A name in lower case, without anything but letters and digits."""
    return _ANYTHING_ELSE.sub("", name.lower())


def id3_frames() -> Mapping[str, Any]:
    """The frames that mutagen reads, as bytes: it takes the first of some, and drops odd dates."""
    from mutagen.id3 import BinaryFrame, Frames

    class Wanted(dict[str, Any]):
        """For all other frames mutagen needs only the name, which tells how sizes are encoded."""

        def __contains__(self, name: object) -> bool:
            return name in Frames or super().__contains__(name)

    class Each(BinaryFrame):
        """Kept beside others of its name."""

        @property
        def HashKey(self) -> str:  # noqa: N802  # mutagen's name
            return f"{self.FrameID}:{id(self)}"

    wanted = Wanted()
    for name in (*ID3_NAMES, "TXXX", "UFID"):
        wanted[name] = type(name, (Each,), {})
    for old, name in ID3_2_NAMES.items():
        wanted[old] = type(old, (wanted[name],), {})
    return wanted


def id3_values(tags: Any) -> Values:
    """The values of mutagen's tags, read with `id3_frames`."""
    values: Values = {}
    for frame, name in ID3_NAMES.items():
        for one in tags.getall(frame):
            add(values, name, text_values(one.data))
    for one in tags.getall("TXXX"):
        description, *texts = text_values(one.data, keep_empty=True) or [""]
        add(values, plain_name(description), texts)
    for one in tags.getall("UFID"):
        owner, _, data = one.data.partition(b"\0")
        if owner.rstrip(b"/") == _MUSICBRAINZ:
            add(values, "musicbrainztrackid", [data.decode("ascii", "replace")])
    return values


def id3_tag(data: bytes) -> Values:
    """The values of an ID3v2 tag. Raises what mutagen raises where it is none."""
    from mutagen.id3 import ID3

    return id3_values(ID3(BytesIO(data), known_frames=id3_frames(), translate=False, load_v1=False))


def id3_at_the_beginning(source: Source) -> Iterator[Values]:
    """The ID3v2 tags before the audio: some programs add a second one."""
    position = 0
    for _ in range(_MOST_TAGS):
        head = source.peek(10, position)
        if len(head) < 10 or not head.startswith(b"ID3"):
            return
        size = 10 + syncsafe(head[6:10])
        values: Values = {}
        # E.g. of an unknown version: another tag may follow.
        with suppress(Exception):
            values = id3_tag(source.peek(size, position))
        yield values
        position += size + (10 if head[5] & 0x10 else 0)


def id3v1_tag(data: bytes) -> Values:
    """The values of an ID3v1 tag, its 128 bytes; text is Windows-1252, or UTF-8 if it can be."""
    from mutagen.id3 import TCON

    found = data[-128:]
    values: Values = {}
    for name, begin, end in (("title", 3, 33), ("artist", 33, 63), ("album", 63, 93)):
        add(values, name, [latin(found[begin:end].split(b"\0")[0])])
    add(values, "year", [latin(found[93:97])])
    if found[125] == 0 and found[126]:
        add(values, "tracknumber", [str(found[126])])
    if found[127] < len(TCON.GENRES):
        add(values, "genre", [TCON.GENRES[found[127]]])
    return values


def text_values(data: bytes, *, keep_empty: bool = False) -> list[str]:
    """The values of an ID3v2 text frame: a byte that names the encoding, texts with zeros between.

    Handles what taggers get wrong: UTF-16 without a byte order mark, UTF-8 or Windows-1252 declared
    as Latin-1, and a missing encoding byte.
    """
    data = data[:LONGEST_FRAME]
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


def _utf16(data: bytes, *, big: bool) -> list[str]:
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
    """Byte order of UTF-16 without a mark: the high bytes vary less than the low ones."""
    return "utf-16-be" if len(set(raw[0::2])) < len(set(raw[1::2])) else "utf-16-le"
