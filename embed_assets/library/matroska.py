"""The tags of a Matroska file (`.mka`) by level, which neither mutagen nor FFmpeg offers.

Each tag has a level: 30 is the track, 50 the album. Both can have a TITLE, and FFmpeg's
dictionary keeps the last one. See RFC 9559 and
https://www.matroska.org/technical/tagging.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embed_assets.audio.source import Source

SEGMENT, TAGS, TAG, TARGETS = 0x18538067, 0x1254C367, 0x7373, 0x63C0
LEVEL, SIMPLE_TAG, NAME, STRING = 0x68CA, 0x67C8, 0x45A3, 0x4487
OF_SOMETHING_ELSE = (0x63C9, 0x63C4, 0x63C6)
"""Targets that are an edition, a chapter or an attachment."""

MOST_BYTES = 1 << 20
"""Longer tags are not read."""

MOST_ELEMENTS = 100_000

_ALBUM, _PART, _TRACK = 50, 40, 30
_AT_LEVEL = {
    (_ALBUM, "title"): "album",
    (_ALBUM, "artist"): "albumartist",
    (_PART, "partnumber"): "discnumber",
    (_TRACK, "partnumber"): "tracknumber",
    (0, "partnumber"): "tracknumber",
}
"""What a name means at a level; level 0: the tag names none, as FFmpeg writes them."""

_ANYWHERE = {"datereleased": "date", "daterecorded": "date"}
_OF_THE_ALBUM = ("genre", "date", "musicbrainzalbumid", "album", "albumartist", "discnumber")
"""Fields of the album's level that hold for each of its tracks."""


def matroska_tags(source: Source) -> dict[str, list[str]]:
    """The values of each name, in `tag_formats`' names. Raises OSError."""
    values: dict[str, list[str]] = {}
    of_album: dict[str, list[str]] = {}
    for level, name, text in _simple_tags(source):
        canonical = _AT_LEVEL.get((level, name)) or _ANYWHERE.get(name, name)
        if level in (0, _TRACK) or (level, name) in _AT_LEVEL:
            values.setdefault(canonical, []).append(text)
        elif level >= _PART and canonical in _OF_THE_ALBUM:
            of_album.setdefault(canonical, []).append(text)
    return of_album | values


def _simple_tags(source: Source) -> Iterator[tuple[int, str, str]]:
    """(level, name, text) of each simple tag of the file."""
    for data in _tags_elements(source):
        for kind, tag in _children(data):
            if kind != TAG:
                continue
            parts = list(_children(tag))
            targets = [t for k, body in parts if k == TARGETS for t in _children(body)]
            if any(k in OF_SOMETHING_ELSE and any(v) for k, v in targets):
                continue
            level = next((int.from_bytes(v, "big") for k, v in targets if k == LEVEL), 0)
            for k, body in parts:
                if k == SIMPLE_TAG:
                    fields = dict(reversed(list(_children(body))))
                    name = fields.get(NAME, b"").decode("utf-8", "replace").lower()
                    text = fields.get(STRING, b"").decode("utf-8", "replace").strip("\0 ")
                    if text:
                        yield level, "".join(c for c in name if c.isalnum()), text


def _tags_elements(source: Source) -> Iterator[bytes]:
    """The contents of the Tags elements; other elements are skipped."""
    position, end = 0, source.size
    for _ in range(MOST_ELEMENTS):
        if position >= end:
            return
        head = source.peek(12, position)
        kind, used = _number(head, 0, keep_mark=True)
        size, used = _number(head, used)
        if not used:
            return
        if kind == SEGMENT:
            position += used  # its children are what counts
        elif size is None:
            return  # of unknown length: a live stream, whose tags come first
        else:
            if kind == TAGS and size <= MOST_BYTES:
                yield source.peek(size, position + used)
            position += used + size


def _children(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, begin = _number(data, at, keep_mark=True)
        size, begin = _number(data, begin) if begin else (None, 0)
        if kind is None or size is None:
            return
        yield kind, data[begin : begin + size]
        at = begin + size


def _number(data: bytes, at: int, *, keep_mark: bool = False) -> tuple[int | None, int]:
    """An EBML number of variable length, and where it ends; None: unknown, 0: incomplete."""
    if at >= len(data) or not data[at]:
        return None, 0
    length = 9 - data[at].bit_length()
    raw = data[at : at + length]
    if len(raw) < length:
        return None, 0
    number = int.from_bytes(raw, "big")
    if keep_mark:
        return number, at + length
    number &= (1 << 7 * length) - 1
    unknown = number == (1 << 7 * length) - 1
    return None if unknown else number, at + length
