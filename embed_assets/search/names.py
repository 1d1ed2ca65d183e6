"""Finding tracks by name: a path, a folder, a track id, or words of title and artist."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embed_assets.errors import NotFound, NothingIndexed, NotIndexedYet
from embed_assets.formats import counted
from embed_assets.identity import TrackId, display_path, track_id
from embed_assets.index.track_rows import row_of
from embed_assets.library.walk import is_audio
from embed_assets.project import Project
from embed_assets.search.snapshot import Snapshot
from embed_assets.storage import find_tracks, queries
from embed_assets.storage.records import Track

LONGEST_QUERY = 300
"""Characters of a query that are used."""

OTHERS = 20
"""Most other matching tracks that are counted in a note."""


@dataclass(frozen=True)
class Found:
    """The tracks that a name means, a name to show, and other tracks that the words match."""

    tracks: tuple[Track, ...]
    name: str
    others: tuple[Track, ...] = ()

    @property
    def note(self) -> str:
        """For people: which track was taken if the words match several; otherwise empty."""
        if not self.others:
            return ""
        others = "; ".join(map(name_of, self.others[:5]))
        more = len(self.others) - 5
        if more > 0:
            others += f"; and {more}{' or more' if len(self.others) >= OTHERS else ''} others"
        return f"took {self.name}. It also fits: {others}. Use a path to choose one."


def notes_of(found: Iterable[Found]) -> tuple[str, ...]:
    """All notes that are not empty."""
    return tuple(one.note for one in found if one.note)


class Names:
    """Finds the tracks of the tables, indexed or not, by path, folder, id and words."""

    def __init__(self, project: Project) -> None:
        self.tables = project.tables
        self.library = project.library

    def at(self, path: bytes) -> Track | None:
        """The track at a library-relative path."""
        return find_tracks.track_by_path(self.tables, path)

    def below(self, folder: bytes) -> list[Track]:
        """The tracks of a folder and its subfolders, ordered by path; b"" is the library."""
        return find_tracks.tracks_below(self.tables, folder)

    def with_id(self, track: str) -> Track | None:
        """The track with an id."""
        if not isinstance(track, str) or not re.fullmatch("[0-9a-f]{32}", track):
            return None  # SQLite does not accept every text.
        known = TrackId(track)
        return find_tracks.tracks_by_id(self.tables, [known]).get(known)

    def called(self, name: str) -> Track | None:
        """The track whose file has this name, as `errors` prints it."""
        return find_tracks.track_by_name(self.tables, name)

    def by_words(self, words: str, limit: int) -> list[Track]:
        """The tracks whose title, artist, album or path contains all these words, best first."""
        return find_tracks.tracks_by_words(self.tables, words, limit=limit)


class SnapshotNames(Names):
    """Finds tracks of a snapshot, else in the tables, so that errors can say what is missing."""

    def __init__(self, project: Project, snapshot: Snapshot) -> None:
        super().__init__(project)
        self.snapshot = snapshot

    def at(self, path: bytes) -> Track | None:
        """The track at a library-relative path."""
        return self._indexed(track_id(self.library.name, path)) or super().at(path)

    def below(self, folder: bytes) -> list[Track]:
        """The tracks of a folder and its subfolders, ordered by path; b"" means all."""
        ordered = self.snapshot.once("by raw path", self._by_path)
        # "0" comes after "/".
        low, high = (folder + b"/", folder + b"0") if folder else (b"", b"\xff" * 16)
        first, last = (bisect_left(ordered, end, key=_path_of) for end in (low, high))
        return ordered[first:last] or super().below(folder)

    def _by_path(self) -> list[Track]:
        return sorted((t for _, t in self.snapshot.tracks()), key=_path_of)

    def with_id(self, track: str) -> Track | None:
        """The track with an id."""
        return self._indexed(track) or super().with_id(track)

    def by_words(self, words: str, limit: int) -> list[Track]:
        """The tracks whose title, artist, album or path contains all these words, best first."""
        tracks = (t for _, t in self.snapshot.tracks())
        return find_tracks.best_by_words(tracks, words, limit) or super().by_words(words, limit)

    def _indexed(self, track: str) -> Track | None:
        positions = self.snapshot.find([track])
        return self.snapshot.track(positions[0]) if positions else None


def _path_of(track: Track) -> bytes:
    return track.path


def name_of(track: Track) -> str:
    """Title, artist and path of a track."""
    row = row_of(track)
    return f"{row.title} - {row.artist or 'unknown artist'} ({row.path})"


def find_each(
    names: Names, query: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
) -> tuple[Found, ...]:
    """What one query or several queries name; see `find`."""
    several = [query] if isinstance(query, (str, os.PathLike)) else query
    return tuple(find(names, os.fspath(one)) for one in several)


def each_or_one(names: Names, arguments: list[str]) -> list[str]:
    """The names in arguments of a command line: each of them, or all of them as one.

    A shell passes words without quotes one by one. Each argument is a name if one has a space in
    it, or is a path with a slash, or if all are paths or ids. If only some are, as `Kraftwerk` in
    `Kraftwerk autobahn`, together they are one name, provided that it matches a track.
    """
    if len(arguments) < 2 or any(len(one.split()) > 1 for one in arguments):
        return arguments
    known = [one for one in arguments if at_path(names, one) or names.with_id(one)]
    if len(known) == len(arguments) or any("/" in one.strip("/") for one in known):
        return arguments
    phrase = " ".join(arguments)
    if not known or at_path(names, phrase) or names.by_words(_as_words(phrase), 1):
        return [phrase]
    return arguments


def find(names: Names, query: str, *, here: bool = True) -> Found:
    """The track or folder at a path, with an id, or by words.

    A path is relative to the library or, if `here`, to this directory.

    Raises:
        NotFound: no track matches.
        NothingIndexed: the library was never scanned.
    """
    if not query.strip(" /"):
        raise NotFound("name a track by its path, or by words of its title and artist")
    if not _may_be_a_name(query):
        raise NotFound(f"no track can be named {query!r}: it has characters that no file name has")
    # An id first: it is found at once, and no path looks like one.
    if track := names.with_id(query):
        return Found((track,), name_of(track))
    if found := at_path(names, query, here=here):
        return found
    if is_audio(os.fsencode(query)) and (track := names.called(display_path(os.fsencode(query)))):
        return Found((track,), name_of(track))
    if tracks := names.by_words(_as_words(query), OTHERS + 1):
        return Found((tracks[0],), name_of(tracks[0]), tuple(tracks[1:]))
    if not queries.any_track(names.tables):
        raise NothingIndexed("nothing is indexed yet: run `embed-assets sync`")
    raise NotFound(
        f"no track matches {query!r}: try fewer words of its title and artist, or its path"
        " relative to the library"
    )


def at_path(names: Names, query: str, *, here: bool = True) -> Found | None:
    """The track at a path, or the tracks of a folder; None if there is neither.

    A file that was never scanned is not found. `here`: paths relative to this directory too.
    """
    if not query.strip() or not _may_be_a_name(query):
        return None
    root = names.library.root
    candidates = [os.fsencode(query.rstrip("/") or "/")]
    if here and root is not None:
        full = os.path.realpath(os.path.join(os.getcwd(), query))
        inside = os.path.relpath(full, os.path.realpath(root))
        candidates.insert(0, os.fsencode(inside))
    for path in candidates:
        if track := names.at(path):
            return Found((track,), name_of(track))
    for path in candidates:
        if below := names.below(b"" if path == b"." else path):
            return Found(
                tuple(below), f"the {counted(len(below), 'track')} of {display_path(path)}"
            )
    return None


def _as_words(query: str) -> str:
    return display_path(os.fsencode(query))[:LONGEST_QUERY]


def _may_be_a_name(query: str) -> bool:
    """Whether a file can have this name: it has no NUL and no lone surrogate."""
    try:
        return b"\0" not in os.fsencode(query)
    except UnicodeEncodeError:
        return False


def with_ids(names: Names, track_ids: Sequence[str]) -> tuple[Found, ...]:
    """The tracks with these ids.

    Raises:
        NotFound: no track has one of the ids.
    """
    found = []
    for one in [track_ids] if isinstance(track_ids, str) else track_ids:
        track = names.with_id(one)
        if track is None:
            raise NotFound(
                f"no track has the id {one!r}: `tracks()` lists all tracks with their ids"
            )
        found.append(Found((track,), name_of(track)))
    return tuple(found)


def not_indexed(found: Found) -> NotFound:
    """The error for tracks that have no vector."""
    track = found.tracks[0]
    name = display_path(track.path)
    if track.reason:
        return NotFound(f"{name} was rejected ({track.reason}: {track.message}); it has no vector")
    return NotIndexedYet(
        f"{name} is not indexed yet: see `embed-assets status` and `embed-assets errors`"
    )
