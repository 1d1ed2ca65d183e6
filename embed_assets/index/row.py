"""The fields of a row of the index, for a track or a segment of one, except its vector.

A change needs a new schema version.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from operator import attrgetter, le
from typing import Any, ClassVar

from embed_assets.identity import PARTS, TRACKS, AudioHash, digest

TEXT_BYTES = {
    "track_id": 32,
    "part_id": 40,
    "audio_hash": 128,
    "folder_id": 32,
    "folder": 16_384,
    "path": 16_384,
    "title": 2_048,
    "artist": 2_048,
    "album": 2_048,
    "album_artist": 2_048,
    "genre": 1_024,
    "container": 128,
    "codec": 128,
    "recording_id": 36,
    "release_id": 36,
    "artist_id": 36,
    "encoder": 64,
    "weights": 64,
    "engine": 64,
    "device": 64,
    "dtype": 32,
    "run_id": 64,
    "row_digest": 32,
}
"""Longest value of each text field in UTF-8 bytes, as servers count (Lite: characters)."""


NUMBERS = (
    "year",
    "track_number",
    "disc_number",
    "sample_rate",
    "channels",
    "bit_rate",
    "added_at",
    "changed_at",
    "embedded_at",
)
"""The whole-number fields, stored as INT64."""

SECONDS = ("duration", "start", "end")
"""The fields in seconds, stored as FLOAT."""

_TEXTS = tuple((k, v) for k, v in TEXT_BYTES.items() if k not in ("row_digest", "part_id"))
_MOST = tuple((name, 2**53 if name.endswith("_at") else 2**31 - 1) for name in NUMBERS)
_texts_of = attrgetter(*(name for name, _ in _TEXTS))
_numbers_of = attrgetter(*NUMBERS)


def fit(text: str, max_bytes: int) -> str:
    r"""Cut text to `max_bytes` of UTF-8 between characters; lone surrogates become `\udcXX`."""
    if len(text) <= max_bytes and text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace")[:max_bytes].decode("utf-8", "ignore")


def _texts_fit(texts: tuple[str, ...]) -> bool:
    try:
        sizes = map(len, map(str.encode, texts))
        return all(map(le, sizes, (size for _, size in _TEXTS)))
    except UnicodeEncodeError:
        return False


def _numbers_fit(numbers: tuple[int, ...]) -> bool:
    return (
        set(map(type, numbers)) == {int}
        and min(numbers) >= 0
        and all(map(le, numbers, (top for _, top in _MOST)))
    )


@dataclass(frozen=True)
class VectorKey:
    """Which vector a row has: that of an audio, or of one of its windows, counted from 0.

    `embedded_at`: when that was embedded which the row is about, in whole seconds since 1970; None
    if that is not known.
    """

    audio_hash: AudioHash
    number: int | None = None
    embedded_at: int | None = None


@dataclass(frozen=True)
class TrackRow:
    """The row of a track, except its vector; long tags are cut to fit.

    `track_id`, `audio_hash` and `folder_id` are hex; `folder` and `path` are relative to the
    library, as shown to people; unknown numbers are 0. `duration` is in seconds, `sample_rate` in
    Hz, `bit_rate` in bit/s; `added_at`, `changed_at` (the file) and `embedded_at` are seconds since
    1970. The ids are MusicBrainz ids. The fields from `encoder` on say how the vector was made:
    encoder, weights (16 hex digits), settings and run.
    """

    primary_key: ClassVar[str] = "track_id"
    """The field that tells the rows of a collection apart."""

    track_id: str
    audio_hash: str
    folder_id: str
    folder: str
    path: str
    title: str = ""
    artist: str = ""
    album: str = ""
    album_artist: str = ""
    genre: str = ""
    year: int = 0
    duration: float = 0.0
    track_number: int = 0
    disc_number: int = 0
    container: str = ""
    codec: str = ""
    sample_rate: int = 0
    channels: int = 0
    bit_rate: int = 0
    recording_id: str = ""
    release_id: str = ""
    artist_id: str = ""
    added_at: int = 0
    changed_at: int = 0
    encoder: str = ""
    weights: str = ""
    engine: str = ""
    device: str = ""
    dtype: str = ""
    embedded_at: int = 0
    run_id: str = ""

    def __post_init__(self) -> None:
        # Nearly all values fit; there are many rows, with many fields.
        if not _texts_fit(_texts_of(self)):
            for name, size in _TEXTS:
                object.__setattr__(self, name, fit(getattr(self, name), size))
        if not _numbers_fit(_numbers_of(self)):
            for name, top in _MOST:
                number = min(max(int(getattr(self, name)), 0), top)
                object.__setattr__(self, name, number)
        if not 0 <= self.duration < 1e9:
            object.__setattr__(self, "duration", 0.0)

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """The fields of such rows except the vector, in order."""
        return (*(f.name for f in fields(cls)), "row_digest")

    @property
    def key(self) -> str:
        """Value of the primary key."""
        return self.track_id

    @property
    def vector_key(self) -> VectorKey:
        """Identifies its vector: equal audio has the same."""
        return VectorKey(AudioHash(self.audio_hash), embedded_at=self.embedded_at)

    @cached_property
    def row_digest(self) -> str:
        """32 hex digits over all fields: a row with an equal digest need not be written."""
        return digest("row", *(str(getattr(self, f.name)) for f in fields(self)))

    def stored(self) -> dict[str, Any]:
        """The row as it is stored, without its vector."""
        row = {f.name: getattr(self, f.name) for f in fields(self)}
        return row | {"row_digest": self.row_digest}


@dataclass(frozen=True)
class SegmentRow:
    """The row of a window of a track: the track's fields, and the window's position in seconds."""

    primary_key: ClassVar[str] = "part_id"
    """The field that tells the rows of a collection apart."""

    track: TrackRow
    number: int
    start: float
    end: float

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """The fields of such rows except the vector, in order."""
        return (*TrackRow.columns()[:-1], "part_id", "start", "end", "row_digest")

    @property
    def key(self) -> str:
        """Value of the primary key."""
        return part_id(self.track.track_id, self.number)

    @property
    def track_id(self) -> str:
        """The track's id."""
        return self.track.track_id

    @property
    def folder_id(self) -> str:
        """The id of the track's folder."""
        return self.track.folder_id

    @property
    def path(self) -> str:
        """The track's path."""
        return self.track.path

    @property
    def vector_key(self) -> VectorKey:
        """Identifies its vector: equal audio has the same."""
        return VectorKey(AudioHash(self.track.audio_hash), self.number, self.track.embedded_at)

    @property
    def row_digest(self) -> str:
        """32 hex digits over all fields: a row with an equal digest need not be written."""
        where = f"{self.number} {self.start} {self.end}"
        return digest("part", self.track.row_digest, where)

    def stored(self) -> dict[str, Any]:
        """The row as it is stored, without its vector."""
        row = self.track.stored() | {"part_id": self.key, "start": self.start, "end": self.end}
        return row | {"row_digest": self.row_digest}


Row = TrackRow | SegmentRow

ROW_TYPES: dict[str, type[TrackRow] | type[SegmentRow]] = {TRACKS: TrackRow, PARTS: SegmentRow}
"""`IndexSpec.rows` -> the class of the rows of its collection."""


def part_id(track_id: str, number: int) -> str:
    """Key of the row of a window: the track's id, then the number of the window in 6 hex digits.

    Windows are counted from 0, in order of time.
    """
    return f"{track_id}{number:06x}"
