"""Copies of entries of an object store on this machine's disk, bounded in size.

A copy is named after the entry and the time at which it was embedded according to the tables, so
that a copy of vectors that were embedded again elsewhere is never used. The caller verifies
checksums. Several processes share a cache; losing it costs nothing but time.
"""

from __future__ import annotations

import os
import time
import uuid
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embed_assets.identity import AudioHash, RecipeDigest

FOLDERS = 256
"""Folders of the cache; each is bounded by itself, so that nobody has to look through all."""

SLACK = 8
"""A folder is looked through each time it has grown by about this part of its share."""

TOUCHED_SECONDS = 3600.0
"""A copy that is used notes it at most this often; the copies used last stay."""

FREE_BYTES = 1 << 30
"""A disk with less than this is left to others."""


@dataclass(frozen=True)
class VectorCache:
    """Copies under `folder`, of about `most_bytes` together at most; 0: none.

    A failing, full or read-only disk only loses copies: no method raises.
    """

    folder: Path
    most_bytes: int

    @property
    def _share(self) -> int:
        return self.most_bytes // FOLDERS

    def get(self, recipe: RecipeDigest, audio_hash: AudioHash, embedded_at: int) -> bytes | None:
        """The bytes of an entry that was embedded then, unverified; None if there is no copy."""
        if not self.most_bytes:
            return None
        path = self._path(recipe, audio_hash, embedded_at)
        try:
            with open(path, "rb", buffering=0) as file:
                raw = file.read()
                if os.fstat(file.fileno()).st_mtime < time.time() - TOUCHED_SECONDS:
                    with suppress(OSError):
                        os.utime(file.fileno())
            return raw
        except OSError:
            return None

    def put(
        self, recipe: RecipeDigest, audio_hash: AudioHash, embedded_at: int, raw: bytes
    ) -> None:
        """Keep a copy, and delete those that were not used for longest if there is no room."""
        if len(raw) > self._share:
            return
        path = self._path(recipe, audio_hash, embedded_at)
        making = f"{path}.{uuid.uuid4().hex}.tmp"
        with suppress(OSError):
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                disk = os.statvfs(os.path.dirname(path))
                if disk.f_bavail * disk.f_frsize < FREE_BYTES:
                    return
                Path(making).write_bytes(raw)
                os.replace(making, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(making)
                raise
            # Counting would need a file that all processes write; names are as good as dice.
            if zlib.crc32(path.encode()) % max(1, self._share // (SLACK * len(raw))) == 0:
                self._make_room(Path(path).parent)

    def _path(self, recipe: RecipeDigest, audio_hash: AudioHash, embedded_at: int) -> str:
        name = f"{recipe}-{audio_hash}-{embedded_at}"
        return f"{self.folder}/{zlib.crc32(audio_hash.encode()) % FOLDERS:02x}/{name}"

    def _make_room(self, folder: Path) -> None:
        copies = []
        with os.scandir(folder) as there:
            for entry in there:
                with suppress(FileNotFoundError):
                    stat = entry.stat()
                    copies.append((stat.st_mtime, stat.st_size, entry.path))
        room = self._share - self._share // SLACK
        for _, size, path in sorted(copies, reverse=True):
            room -= size
            if room < 0:
                with suppress(FileNotFoundError):
                    os.unlink(path)
