"""Portable shards: vectors on their way to another machine, some thousands of tracks in a file.

A shard is a .npz file: `numpy.load(file)[audio_hash]` gives float32 [n_windows, S, dim]. Beside the
vectors it has `manifest.json` (`shard_manifest.py`), with a SHA-256 of each; the SHA-256 of the
manifest is the comment of the zip file. It is written under another name and renamed, so that a
shard is complete or absent. Reading trusts nothing: no entry is unpacked, unpickled, named by a
path, or larger than the file.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from embed_assets.errors import TransientError
from embed_assets.identity import AudioHash, Recipe
from embed_assets.storage.records import Embedding
from embed_assets.storage.shard_manifest import (
    Origin,
    ShardClip,
    ShardManifest,
    ShardRefused,
    ShardReject,
    ShardTrack,
    parse_manifest,
)
from embed_assets.storage.vector_format import from_npy, to_npy
from embed_assets.storage.vector_store import Store, VectorsLost
from embed_assets.storage.whole_file import whole_file

if TYPE_CHECKING:
    import numpy as np

MANIFEST = "manifest.json"
MANIFEST_BYTES = 64 << 20
"""Most bytes of a manifest that is read: some 150,000 tracks."""

HEADER_BYTES = 16 << 10
"""Most bytes of a .npy that are not numbers."""

_BROKEN = (zipfile.BadZipFile, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError)
"""What Python's zipfile raises for a damaged file."""


class EntryDamaged(ValueError):
    """The vectors of one audio in a shard are not what its manifest says; others may be."""


@dataclass(frozen=True)
class Shard:
    """An open shard."""

    path: Path
    manifest: ShardManifest
    archive: zipfile.ZipFile

    def read(self, track: ShardTrack) -> np.ndarray:
        """The vectors of an audio, float32 [n_windows, S, dim], finite, read-only.

        Raises:
            EntryDamaged: they are missing or not those of the manifest; says what is wrong.
            OSError: the disk fails.
        """
        return self._read(track.audio_hash, track.windows, track.sha256)

    def read_clip(self, clip: ShardClip) -> np.ndarray:
        """The vectors of a format of the clip, as `read`."""
        return self._read(clip.name, clip.windows, clip.sha256)

    def _read(self, name: str, windows: int, sha256: str) -> np.ndarray:
        recipe = self.manifest.recipe
        shape = windows, len(recipe.frame_stats), recipe.dim
        try:
            info = self.archive.getinfo(f"{name}.npy")
            if info.file_size > 4 * shape[0] * shape[1] * shape[2] + HEADER_BYTES:
                raise EntryDamaged("it is too large")
            raw = self.archive.read(info)
            if hashlib.sha256(raw).hexdigest() != sha256:
                raise EntryDamaged("its checksum differs")
            found = from_npy(raw)
        except KeyError:
            raise EntryDamaged("it is missing") from None
        except EntryDamaged:
            raise
        except _BROKEN as e:
            raise EntryDamaged(f"it cannot be read ({e})") from None
        if found.shape != shape:
            raise EntryDamaged(f"it is {list(found.shape)} instead of {list(shape)}")
        return found


def shards_in(folder: Path) -> list[Path]:
    """The shards of a folder, by name. Raises OSError: it cannot be listed."""
    return sorted(p for p in folder.iterdir() if p.suffix == ".npz" and p.name[:1] != ".")


@contextmanager
def open_shard(path: Path) -> Iterator[Shard]:
    """Open a shard and check its manifest; entries are checked when they are read.

    Raises:
        ShardRefused: it is no shard, or damaged as a whole.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise ShardRefused("it is not a file")
    try:
        archive = zipfile.ZipFile(path)
    except _BROKEN as e:
        raise ShardRefused(f"it is cut off, damaged or not a shard ({e}): copy it again") from None
    with archive:
        yield Shard(path, _manifest_of(archive, path.stat().st_size), archive)


def _manifest_of(archive: zipfile.ZipFile, size: int) -> ShardManifest:
    entries = archive.infolist()
    if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in entries):
        raise ShardRefused("it is not a shard: it has compressed or encrypted entries")
    if sum(e.file_size for e in entries) > size:
        raise ShardRefused("it is damaged: its entries are larger than the file")
    try:
        if archive.getinfo(MANIFEST).file_size > MANIFEST_BYTES:
            raise ShardRefused("its manifest is too large")
        raw = archive.read(MANIFEST)
    except KeyError:
        raise ShardRefused("it is not a shard: it has no manifest.json") from None
    except _BROKEN as e:
        raise ShardRefused(f"its manifest is damaged ({e}): copy it again") from None
    if _comment(raw) != archive.comment:
        raise ShardRefused("its manifest is damaged, as its checksum differs: copy it again")
    return parse_manifest(raw)


@dataclass(frozen=True)
class Contents:
    """What goes into a shard: embeddings and rejections, with vectors from the store.

    `durations`: seconds of each audio. `clips`: vectors of the canary's clip, by their names in its
    notes, which hold format, engine and dtype.
    """

    recipe: Recipe
    origin: Origin
    rows: Iterable[Embedding]
    durations: Mapping[AudioHash, float]
    clips: Mapping[str, np.ndarray]
    store: Store


def write_shard(folder: Path, contents: Contents) -> tuple[Path, ShardManifest]:
    """Write one shard.

    Vectors that are missing or damaged in the store are left out.

    Raises:
        TransientError: the disk fails or is full; no partial shard is left under its name.
    """
    name = f"shard-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}.npz"
    path, making = folder / name, folder / f".{name}.tmp"
    try:
        with whole_file(path, making) as file:
            manifest = _write(file, contents)
        _sync(folder)
    except OSError as e:
        raise TransientError(
            f"could not write {path}: {e.strerror or e}; make room, or check the disk. What was"
            " embedded is kept, and written as a shard next time"
        ) from e
    return path, manifest


def _write(file: IO[bytes], contents: Contents) -> ShardManifest:
    recipe = contents.recipe
    tracks: list[ShardTrack] = []
    rejected: list[ShardReject] = []
    clips: list[ShardClip] = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for row in contents.rows:
            if row.reason is not None:
                rejected.append(ShardReject.of(row))
                continue
            try:
                windows = contents.store.read(recipe.digest, row.audio_hash)
            except VectorsLost:
                continue
            sha256 = _add(archive, row.audio_hash, windows)
            duration = contents.durations.get(row.audio_hash, 0.0)
            tracks.append(ShardTrack.of(row, duration, sha256))
        for clip, windows in contents.clips.items():
            clips.append(ShardClip.of(clip, len(windows), _add(archive, clip, windows)))
        manifest = ShardManifest(
            recipe_digest=recipe.digest,
            recipe=recipe,
            origin=contents.origin,
            tracks=tracks,
            rejected=rejected,
            clips=clips,
        )
        text = manifest.dump()
        archive.writestr(zipfile.ZipInfo(MANIFEST), text)
        archive.comment = _comment(text)
    return manifest


def _add(archive: zipfile.ZipFile, name: str, windows: np.ndarray) -> str:
    """Add vectors under a name; returns the SHA-256 of what was written."""
    raw = to_npy(windows)
    archive.writestr(zipfile.ZipInfo(f"{name}.npy"), raw)
    return hashlib.sha256(raw).hexdigest()


def _comment(manifest: bytes) -> bytes:
    return b"SHA-256 of manifest.json: " + hashlib.sha256(manifest).hexdigest().encode()


def _sync(folder: Path) -> None:
    """Have a rename in this folder survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
