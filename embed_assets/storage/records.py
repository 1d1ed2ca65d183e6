"""The rows of the tables as plain values."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from embed_assets.identity import AudioHash, FolderId, RecipeDigest, TrackId

PROBE_VERSION = 3
"""Increased when the probe reads more than before: the next scan then reads all files again.

`database._upgrade` raises the revision of folders that an older probe read.
"""

CHANGED, NOT_DONE = "changed meanwhile", "not done"
"""Values of `stage` for folders that changed while they were read, or whose run ended early."""

UNKNOWN_CTIME = -1
"""The ctime of files that were read by a version that did not store it."""


class FileStat(NamedTuple):
    """Size of a file in bytes, and the times of its last content and status changes.

    Without the inode, which FUSE, CIFS and some NFS servers change with every look-up.
    """

    size: int
    mtime_ns: int
    ctime_ns: int = UNKNOWN_CTIME


@dataclass(frozen=True, slots=True)
class Track:
    """A row of the manifest: an audio file and its tags, or why it could not be read.

    `audio_hash` is None if, and only if, the probe rejected the file; `reason` says why. Missing
    tags are empty or 0. `duration` is in seconds; the ids are MusicBrainz ids. `added_at`: when
    this audio, or other audio at this path, first came into the library, in seconds since 1970;
    retags, moves and a temporary absence do not change it. `run_id`: the run that read the file.
    `decoder`: `ffmpeg` or `libsndfile`.
    """

    track_id: TrackId
    folder_id: FolderId
    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    audio_hash: AudioHash | None = None
    reason: str | None = None
    message: str | None = None
    duration: float = 0.0
    container: str = ""
    codec: str = ""
    sample_rate: int = 0
    channels: int = 0
    bit_rate: int = 0
    title: str = ""
    artist: str = ""
    album: str = ""
    album_artist: str = ""
    genre: str = ""
    year: int = 0
    track_number: int = 0
    disc_number: int = 0
    recording_id: str = ""
    release_id: str = ""
    artist_id: str = ""
    added_at: float = 0.0
    run_id: str = ""
    decoder: str = ""

    @property
    def audio(self) -> AudioHash:
        """The audio hash; empty if the track could not be read."""
        return self.audio_hash or AudioHash("")

    @property
    def file_stat(self) -> FileStat:
        """Size and times of the file when it was probed, to detect later changes."""
        return FileStat(self.size, self.mtime_ns, self.ctime_ns)


@dataclass(frozen=True, slots=True)
class Embedding:
    """The result of embedding an audio under a recipe: `windows` stored vectors, or a `reason`."""

    recipe: RecipeDigest
    audio_hash: AudioHash
    windows: int = 0
    decoded_seconds: float = 0.0
    note: str = ""
    reason: str | None = None
    message: str | None = None
    engine: str = ""
    device: str = ""
    dtype: str = ""
    run_id: str = ""
    at: float = 0.0


class IndexedFolder(NamedTuple):
    """What was written of a folder to a collection, and read back."""

    folder_id: FolderId
    version: str
    rows: int
    revision: int


FOUND_IN_STORE = "found in the store"
"""The `note` of an embedding whose vectors were there when the tables had been lost."""

EMPTY = "empty"
"""Version of a folder that was removed from the index."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A rejected track (`path` is the file) or a failed folder (`path` is the folder)."""

    path: bytes
    folder: bytes
    reason: str
    message: str
    at: float
    run_id: str


@dataclass(frozen=True, slots=True)
class FolderTotals:
    """Counts for one folder under a recipe; `pending` tracks are not embedded yet."""

    tracks: int
    unreadable: int
    rejected: int
    embedded: int
    pending: int
    audio_seconds: float


TRACK_COLUMNS = tuple(f.name for f in fields(Track))
EMBEDDING_COLUMNS = tuple(f.name for f in fields(Embedding))

TRACK_SELECT = ", ".join(f"t.{c}" for c in TRACK_COLUMNS)
EMBEDDING_SELECT = ", ".join(f"e.{c}" for c in EMBEDDING_COLUMNS)
"""The columns of tracks t and embeddings e, as queries name them."""
