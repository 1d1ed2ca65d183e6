"""What the tags of tracks say belongs together: artists, albums and genres as numbers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from embed_assets.storage.records import Track
from embed_assets.words import name_key, names_in

UNKNOWN = -1
"""The number of an artist or a genre without a name."""

_NOBODY = ("", "Unknown", "Unknown Artist", "Various", "Various Artists", "VA")

NOBODY = frozenset(map(name_key, _NOBODY))
"""What tags say if there is no single artist."""


@dataclass(frozen=True)
class Labels:
    """Equal numbers are equal names: int `[tracks]` each; `UNKNOWN` if there is no name.

    `group`: the artist, or the folder of a track without one; confidence intervals draw groups.
    """

    artist: np.ndarray
    album: np.ndarray
    genre: np.ndarray
    group: np.ndarray

    def __len__(self) -> int:
        return len(self.artist)

    def take(self, kept: np.ndarray) -> Labels:
        """The labels of some of the tracks; `kept`: positions, or bool `[tracks]`."""
        return Labels(self.artist[kept], self.album[kept], self.genre[kept], self.group[kept])


def labels_of(tracks: Sequence[Track]) -> Labels:
    """The labels of tracks.

    Of a tag with several names the first counts. An album is its title with its album artist, or
    with its folder if that tag is empty; the folder alone is the album of tracks without a title of
    one. Spelling, case and accents do not matter.
    """
    keys: dict[str, str] = {}

    def first(tag: str) -> str:
        if tag not in keys:
            names = names_in(tag)
            keys[tag] = name_key(names[0]) if names else ""
        return keys[tag]

    artists: list[Hashable] = []
    albums: list[Hashable] = []
    genres: list[Hashable] = []
    groups: list[Hashable] = []
    for track in tracks:
        artist = next(
            (a for a in map(first, (track.artist, track.album_artist)) if a not in NOBODY), ""
        )
        album = first(track.album)
        artists.append(artist)
        albums.append((album, (album and first(track.album_artist)) or track.folder_id))
        genres.append(first(track.genre))
        groups.append(artist or (track.folder_id,))
    return Labels(_numbers(artists), _numbers(albums), _numbers(genres), _numbers(groups))


def _numbers(names: Sequence[Hashable]) -> np.ndarray:
    known: dict[Hashable, int] = {}
    return np.array(
        [known.setdefault(name, len(known)) if name else UNKNOWN for name in names], np.int32
    )
