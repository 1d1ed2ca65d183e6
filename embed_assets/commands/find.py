"""Which tracks a person means: by a path, a folder, or words of title and artist."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from embed_assets import reports
from embed_assets.errors import ConfigurationError, EmbedAssetsError
from embed_assets.identity import display_path
from embed_assets.index.wanted import row_of
from embed_assets.project import Project
from embed_assets.rows import Track

LONGEST_QUERY = 300
"""Characters of a question in words that count."""

OTHERS = 20
"""Other tracks that fit the words as well, of which people are told."""


class NotFound(EmbedAssetsError):
    """No track of the library fits what was asked for."""


@dataclass(frozen=True)
class Found:
    """The tracks that are meant, what to call them, and those that the words fit as well."""

    tracks: tuple[Track, ...]
    name: str
    others: tuple[Track, ...] = ()

    @property
    def note(self) -> str:
        """Which track was taken of several that fit, for people; empty if it was clear."""
        if not self.others:
            return ""
        told = "; ".join(map(name_of, self.others[:5]))
        more = len(self.others) - 5
        if more > 0:
            told += f"; and {more}{' or more' if len(self.others) >= OTHERS else ''} others"
        return f"took {self.name}. It also fits: {told}. A path says which one is meant."


def name_of(track: Track) -> str:
    """Title, artist and path of a track."""
    row = row_of(track)
    return f"{row.title} - {row.artist or 'unknown artist'} ({row.path})"


def find_all(project: Project, words: Sequence[str]) -> list[Found]:
    """What the words of a command line mean: several paths, if each of them is one; else one track.

    Raises:
        NotFound: no track fits.
        ConfigurationError: the library was never scanned.
    """
    if len(words) > 1:
        each = [_at_path(project, word) for word in words]
        if all(each):
            return [one for one in each if one]
    return [find(project, " ".join(words))]


def find(project: Project, query: str) -> Found:
    """The track or folder at a path (of this directory, or of the library), or the best by words.

    Raises:
        NotFound: none fits.
        ConfigurationError: the library was never scanned.
    """
    if not query.strip(" /"):
        raise NotFound("ask with a path, or with words of title and artist")
    if found := _at_path(project, query):
        return found
    if track := reports.track_by_name(project.tables, display_path(os.fsencode(query))):
        return Found((track,), name_of(track))
    words = display_path(os.fsencode(query))[:LONGEST_QUERY]
    tracks = reports.tracks_by_words(project.tables, words, limit=OTHERS + 1)
    if tracks:
        return Found((tracks[0],), name_of(tracks[0]), tuple(tracks[1:]))
    if not reports.any_track(project.tables):
        raise ConfigurationError("nothing is indexed yet: run `embed-assets sync`")
    raise NotFound(
        f"no track of the library is called or lies at {query!r}: try fewer words of its title and"
        " artist, or its path relative to the library"
    )


def not_indexed(found: Found) -> NotFound:
    """The error for tracks that have no vector."""
    track = found.tracks[0]
    name = display_path(track.path)
    if track.reason:
        return NotFound(f"{name} was rejected ({track.reason}: {track.message}); it has no vector")
    return NotFound(
        f"{name} is not indexed yet: see `embed-assets status` and `embed-assets errors`"
    )


def _at_path(project: Project, query: str) -> Found | None:
    if not query.strip():
        return None
    root = project.library.root
    candidates = [os.fsencode(query.rstrip("/") or "/")]
    if root is not None:
        full = os.path.realpath(os.path.join(os.getcwd(), query))
        inside = os.path.relpath(full, os.path.realpath(root))
        candidates.insert(0, os.fsencode(inside))
    for path in candidates:
        if track := reports.track_by_path(project.tables, path):
            return Found((track,), name_of(track))
    for path in candidates:
        below = reports.tracks_below(project.tables, b"" if path == b"." else path)
        if below:
            return Found(tuple(below), f"the {len(below)} tracks of {display_path(path)}")
    return None
