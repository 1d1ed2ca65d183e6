"""Finding tracks in the tables: by path, folder, id, file name, or words of their tags."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from embed_assets.identity import TrackId, display_path
from embed_assets.storage.records import TRACK_SELECT, Track
from embed_assets.storage.tables import Tables
from embed_assets.words import holding, name_key


def track_by_path(tables: Tables, path: bytes) -> Track | None:
    """The track at a library-relative path."""
    with tables.connect() as db:
        row = db.execute(
            f"SELECT {TRACK_SELECT} FROM tracks t WHERE t.path = ?", (path,)
        ).fetchone()
    return Track(*row) if row else None


def tracks_below(tables: Tables, folder: bytes) -> list[Track]:
    """The readable tracks of a folder and its subfolders, ordered by path; b"" means all."""
    low, high = (folder + b"/", folder + b"0") if folder else (b"", b"\xff" * 16)
    with tables.connect() as db:
        rows = db.execute(
            f"SELECT {TRACK_SELECT} FROM tracks t WHERE t.path >= ? AND t.path < ?"
            " AND t.audio_hash IS NOT NULL ORDER BY t.path",
            (low, high),
        )
        return [Track(*row) for row in rows]


def tracks_by_id(tables: Tables, track_ids: Iterable[TrackId]) -> dict[TrackId, Track]:
    """Id -> track, for those of these ids that the manifest has."""
    with tables.connect() as db:
        query = f"SELECT {TRACK_SELECT} FROM tracks t WHERE t.track_id = ?"
        found = (db.execute(query, (t,)).fetchone() for t in track_ids)
        return {row[0]: Track(*row) for row in found if row}


def track_by_name(tables: Tables, name: str) -> Track | None:
    """The track whose file has this name, as `errors` prints it; it may be a rejected one."""
    with tables.connect() as db:
        end = f"/{name}".casefold()
        for (path,) in db.stream("SELECT path FROM tracks"):
            shown = display_path(path)
            if shown == name or shown.casefold().endswith(end):
                return track_by_path(tables, path)
    return None


def tracks_by_words(tables: Tables, words: str, limit: int = 10) -> list[Track]:
    """Tracks whose title, artist, album or path contains every word, best matches first.

    Case, accents and alphabet do not matter; see `words.py`.
    """
    columns = ", ".join(_Named._fields)
    with tables.connect() as db:
        rows = db.stream(f"SELECT {columns} FROM tracks WHERE audio_hash IS NOT NULL")
        best = best_by_words(map(_Named._make, rows), words, limit)
    return list(tracks_by_id(tables, [t.track_id for t in best]).values())


class _Named(NamedTuple):
    """The columns that are searched for words; making a `Track` takes three times as long."""

    track_id: TrackId
    path: bytes
    title: str
    artist: str
    album: str
    album_artist: str


_Words = TypeVar("_Words", Track, _Named)


def best_by_words(tracks: Iterable[_Words], words: str, limit: int) -> list[_Words]:
    """The tracks that contain every word, best matches first; see `tracks_by_words`."""
    parts = words.split()
    if not parts:
        return []
    holds, name, spelled = holding(parts), name_key(words), [p.casefold() for p in parts]

    def names(track: _Words) -> str:
        return f"{track.title} {track.artist} {track.album_artist}"

    def fits(track: _Words) -> bool:
        path = display_path(track.path).replace("/", " ")
        return holds(f"{names(track)} {track.album} {path}") == len(parts)

    def rank(track: _Words) -> tuple[Any, ...]:
        there = names(track).casefold()
        return (
            track.title.casefold() != words.casefold(),
            name_key(track.title) != name,
            -holds(names(track)),
            -sum(p in there for p in spelled),
            len(track.path),
            track.path,
        )

    return heapq.nsmallest(limit, filter(fits, tracks), key=rank)
