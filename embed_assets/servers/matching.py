"""Which of our tracks an item of a music server is: unique, or none.

In this order: by path, after the prefixes of both sides; by the end of the path and the size; by
recording id and duration; by title, artist, album and duration. Text is compared in NFC, paths
first with their case.
"""

from __future__ import annotations

import sqlite3
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from embed_assets.identity import TrackId
from embed_assets.servers.base import Item
from embed_assets.storage.records import Track
from embed_assets.words import name_key

PATH, TAIL, RECORDING, TAGS = "path", "end of path and size", "recording id", "tags"
HOW = (PATH, TAIL, RECORDING, TAGS)
"""How an item was matched, best first."""

SAME_RECORDING_SECONDS, SAME_TAGS_SECONDS = 1.0, 2.0
"""Most that durations may differ; servers round them to seconds."""

TAILS = (3, 2)
"""Parts at the end of a path that are compared, longest first."""

MOST_PREFIXES = 16

_COLUMNS = "track_id, path, folded, tail3, tail2, size, duration, recording_id, tags"


class Prefix(NamedTuple):
    """What paths of the server begin with where ours begin otherwise; each may be empty."""

    theirs: str
    ours: str


class Ours:
    """The tracks of the library, by what items are matched by; on disk, not in memory."""

    def __init__(self, tracks: Iterable[Track]) -> None:
        # Without a name SQLite makes a temporary file, which it deletes.
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        self._db.execute(f"CREATE TABLE ours ({_COLUMNS}, PRIMARY KEY (track_id))")
        marks = ", ".join("?" * len(_COLUMNS.split(",")))
        self._db.execute("BEGIN")
        self._db.executemany(f"INSERT INTO ours VALUES ({marks})", map(_row, tracks))
        for column in ("path", "folded", "tail3", "tail2", "recording_id", "tags"):
            self._db.execute(f"CREATE INDEX ours_by_{column} ON ours ({column})")
        self._db.execute("COMMIT")

    def prefixes(self, items: Iterable[Item]) -> list[Prefix]:
        """The prefixes that items have whose path ends as that of one track of equal size."""
        votes: Counter[Prefix] = Counter()
        for item in items:
            if track := self._by_tail(item):
                (path,) = self._one("SELECT path FROM ours WHERE track_id = ?", (track,))
                votes[_prefix(_parts(item.path), _parts(path))] += 1
        # A few that agree by chance are outvoted.
        least = sum(votes.values()) / 100
        return [prefix for prefix, n in votes.most_common(MOST_PREFIXES) if n >= least]

    def has(self, track: str) -> bool:
        """Whether the library has a track."""
        return self._unique("track_id = ?", (track,)) is not None

    def find(self, item: Item, prefixes: Sequence[Prefix]) -> tuple[TrackId, str] | None:
        """The one track that an item is, and how that is known; None if none, or several, fit."""
        if track := self._by_path(item, prefixes):
            return track, PATH
        if track := self._by_tail(item):
            return track, TAIL
        if track := self._by_recording(item):
            return track, RECORDING
        if track := self._by_tags(item):
            return track, TAGS
        return None

    def _by_path(self, item: Item, prefixes: Sequence[Prefix]) -> TrackId | None:
        path = "/".join(_parts(item.path))
        found = set()
        for theirs, ours in prefixes if path else ():
            if theirs and not path.startswith(f"{theirs}/"):
                continue
            there = "/".join(filter(None, (ours, path.removeprefix(theirs).lstrip("/"))))
            same = self._unique("path = ?", (there,))
            found.add(same or self._unique("folded = ?", (there.casefold(),)))
        found.discard(None)
        return found.pop() if len(found) == 1 else None

    def _by_tail(self, item: Item) -> TrackId | None:
        for n in TAILS:
            tail = _tail(_parts(item.path), n)
            if not tail:
                continue
            if item.size:
                found = self._unique(f"tail{n} = ? AND size = ?", (tail, item.size))
            else:
                found = self._near(f"tail{n}", tail, item.duration, SAME_RECORDING_SECONDS)
            if found:
                return found
        return None

    def _by_recording(self, item: Item) -> TrackId | None:
        key = item.recording_id.lower()
        return self._near("recording_id", key, item.duration, SAME_RECORDING_SECONDS)

    def _by_tags(self, item: Item) -> TrackId | None:
        key = _tags(item.title, item.artist, item.album)
        return self._near("tags", key, item.duration, SAME_TAGS_SECONDS)

    def _near(self, column: str, key: str, duration: float, seconds: float) -> TrackId | None:
        if not key or not duration:
            return None
        return self._unique(f"{column} = ? AND abs(duration - ?) <= ?", (key, duration, seconds))

    def _unique(self, condition: str, values: tuple[object, ...]) -> TrackId | None:
        with self._lock:
            sql = f"SELECT track_id FROM ours WHERE {condition} LIMIT 2"
            rows = self._db.execute(sql, values).fetchall()
        return TrackId(rows[0][0]) if len(rows) == 1 else None

    def _one(self, sql: str, values: tuple[object, ...]) -> tuple[str, ...]:
        with self._lock:
            found: tuple[str, ...] = self._db.execute(sql, values).fetchone()
        return found


def _row(track: Track) -> tuple[object, ...]:
    try:
        parts = _parts(track.path.decode())
    except UnicodeDecodeError:
        parts = []  # What a server makes of such a name is its own.
    path = "/".join(parts)
    return (
        track.track_id,
        path,
        path.casefold(),
        *(_tail(parts, n) for n in TAILS),
        track.size,
        track.duration,
        track.recording_id.lower(),
        _tags(track.title, track.artist or track.album_artist, track.album),
    )


def _parts(path: str) -> list[str]:
    return [part for part in unicodedata.normalize("NFC", path).split("/") if part not in ("", ".")]


def _tail(parts: list[str], n: int) -> str:
    """The last parts; the whole of a path that has fewer, but only for the shortest tail."""
    if len(parts) < n and n != TAILS[-1]:
        return ""
    return "/".join(parts[-n:]).casefold()


def _tags(title: str, artist: str, album: str) -> str:
    """A key of tags; empty unless there are title and artist."""
    keys = name_key(title), name_key(artist), name_key(album)
    return "\n".join(keys) if keys[0] and keys[1] else ""


def _prefix(theirs: list[str], ours: list[str]) -> Prefix:
    """What is left of both paths without their common end."""
    n = 0
    while n < min(len(theirs), len(ours)) and theirs[-1 - n].casefold() == ours[-1 - n].casefold():
        n += 1
    return Prefix("/".join(theirs[: len(theirs) - n]), "/".join(ours[: len(ours) - n]))
