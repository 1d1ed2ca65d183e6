"""The tags of a file as fields of a track, for all containers.

mutagen reads all values of a name, and all tags of a file. FFmpeg's dictionary has one text per
name and rewrites some; it is used for what mutagen does not read. Most names are those of
MusicBrainz Picard's table, https://picard-docs.musicbrainz.org/en/appendices/tag_mapping.html;
docs/tags.md shows them container by container.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embed_assets.library.id3 import Values
from embed_assets.library.tag_formats import tags_of

if TYPE_CHECKING:
    from embed_assets.audio.container import Audio

LONGEST_TEXT = 1000
"""Characters of a tag that are kept."""

JOINED = "; "
"""Separates several artists or genres of a track."""

NAMES = {
    "title": ("title",),
    "artist": ("artist", "artists"),
    "album": ("album",),
    "album_artist": ("albumartist",),
    "genre": ("genre",),
    "year": ("date", "year", "recordeddate", "releasedate", "originaldate", "originalyear"),
    "track_number": ("tracknumber", "track"),
    "disc_number": ("discnumber", "disc", "disk"),
    "recording_id": ("musicbrainztrackid",),
    "release_id": ("musicbrainzalbumid",),
    "artist_id": ("musicbrainzartistid",),
}
"""The names of each field, as in `tag_formats.py`; the first one with a value counts."""

_YEAR = re.compile(r"(?<!\d)([12]\d{3})(?:(?!\d)|(?=(?:0[1-9]|1[0-2])(?:[0-3]\d)?(?!\d)))")
"""A year alone, or at the head of YYYYMM or YYYYMMDD."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REFERENCES = re.compile(r"((?:\((?:\d{1,3}|RX|CR)\))*)(.*)", re.S)
_SPECIAL_GENRES = {"RX": "Remix", "CR": "Cover"}


@dataclass(frozen=True, kw_only=True)
class Tags:
    """The tags of a file. Missing texts are empty, missing numbers None.

    Several artists or genres are joined by `; `. The ids are MusicBrainz ids.
    """

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


def read_tags(audio: Audio) -> Tags:
    """The tags of an open file.

    Raises OSError: the file could not be read; this says nothing about the track.
    """
    found = list(tags_of(audio))
    audio.source.check()
    return Tags(
        title=_text(found, "title"),
        artist=_text(found, "artist"),
        album=_text(found, "album"),
        album_artist=_text(found, "album_artist"),
        genre=_joined(genre_names(next(_values(found, "genre"), []))),
        year=next(filter(None, map(year_of, _each(found, "year"))), None),
        track_number=next(filter(None, map(_number, _each(found, "track_number"))), None),
        disc_number=next(filter(None, map(_number, _each(found, "disc_number"))), None),
        recording_id=_id(found, "recording_id"),
        release_id=_id(found, "release_id"),
        artist_id=_id(found, "artist_id"),
    )


def genre_names(texts: Iterable[str]) -> list[str]:
    """Genres by name: a text of nothing but digits, or `(n)`, refers to ID3v1's list.

    `80s` and `2 Tone` are names; `17` and `(17)` are Rock, `(51)(39)` are two genres, and
    `(4)Eurodisco` is Disco and, more closely, Eurodisco.
    """
    found = []
    for text in texts:
        if text.isdecimal() and text.isascii():
            found.append(_referred(text) or text)
            continue
        match = _REFERENCES.fullmatch(text)
        references, rest = match.groups() if match else ("", text)
        found += [_referred(one) for one in references.strip("()").split(")(") if one]
        found.append(rest[1:] if rest.startswith("((") else rest)
    return found


def year_of(text: str) -> int | None:
    """The year in a date, however it is written: `2006-02-03`, `20060203`, `28.02.2022`."""
    found = _YEAR.search(unicodedata.normalize("NFKC", text))
    return int(found[1]) if found else None


def _referred(number: str) -> str:
    from mutagen.id3 import TCON

    if number in _SPECIAL_GENRES:
        return _SPECIAL_GENRES[number]
    known = len(number) <= 3 and int(number) < len(TCON.GENRES)
    return TCON.GENRES[int(number)] if known else ""


def _values(found: Sequence[Values], field: str) -> Iterator[list[str]]:
    """The values of each name of a field, in each tag of the file, most important first."""
    for name in NAMES[field]:
        for values in found:
            texts = [
                text[:LONGEST_TEXT].replace("\0", " ").strip() for text in values.get(name, ())
            ]
            if any(texts):
                yield texts


def _each(found: Sequence[Values], field: str) -> Iterator[str]:
    for texts in _values(found, field):
        yield from texts


def _text(found: Sequence[Values], field: str) -> str:
    return _joined(next(_values(found, field), []))


def _joined(texts: Iterable[str]) -> str:
    return JOINED.join(dict.fromkeys(filter(None, texts)))[:LONGEST_TEXT]


def _number(text: str) -> int | None:
    found = re.match(r"#?\s*(\d{1,6})", text)
    return int(found[1]) if found else None


def _id(found: Sequence[Values], field: str) -> str:
    """The first id of a tag: a track by several artists has several."""
    ids = (_UUID.search(text.lower()) for text in _each(found, field))
    return next((one[0] for one in ids if one), "")
