"""The rows of the tables, as values; what they mean is decided where they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from embed_assets.identity import AudioHash, FolderId, RecipeDigest, TrackId

PROBE_VERSION = 3
"""Raised when the probe learns to read more: files are read again when their folder is scanned,
and `database._upgrade` has the folders of a version before scanned."""

CHANGED, NOT_DONE = "changed meanwhile", "not done"
"""In place of the stage that failed: a folder changed while it was read, or its run ended early."""

UNKNOWN_CTIME = -1
"""Of a file that a version read which did not keep the time of its last change of status."""


class Stamp(NamedTuple):
    """What `stat` says of a file that was read: bytes, and when content and status changed last.

    No inode: FUSE, CIFS and some NFS servers give a file another one at each look.
    """

    size: int
    mtime_ns: int
    ctime_ns: int = UNKNOWN_CTIME


@dataclass(frozen=True, slots=True)
class Track:
    """A row of the manifest: an audio file, what is in it, or why that cannot be told.

    `audio_hash` is None exactly where `reason` says why the file was rejected at its probe. Text
    is empty and numbers are 0 where the file has no such tag; duration is in seconds; the ids are
    MusicBrainz's. `added_at`: when this audio, or another under this path, first came into the
    library, in seconds of the system's clock; neither a retag nor a move changes it, even if the
    file was away for a while. `run_id` names the run that read the file, `decoder` what read it:
    `ffmpeg` or `libsndfile`.
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
        """The audio hash of a track that could be read; empty for any other."""
        return self.audio_hash or AudioHash("")

    @property
    def stamp(self) -> Stamp:
        """What the file must still be when it is read again."""
        return Stamp(self.size, self.mtime_ns, self.ctime_ns)


@dataclass(frozen=True, slots=True)
class Embedding:
    """What became of an audio under a recipe: `windows` vectors in the store, or a `reason`."""

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
    """What a collection holds of a folder, as read back: of which files, of which revision."""

    folder_id: FolderId
    version: str
    rows: int
    revision: int


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
    """What the tables say of one folder under a recipe; `pending` were not embedded yet."""

    tracks: int
    unreadable: int
    rejected: int
    embedded: int
    pending: int
    audio_seconds: float
