"""The vector of any audio file, as the index would have it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embed_assets.embedding.embed_track import Job, embed_track
from embed_assets.encoders.config import EncoderConfig
from embed_assets.errors import TransientError
from embed_assets.identity import FolderId, IndexSpec, TrackId
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.pooling import pool
from embed_assets.storage.records import Track
from embed_assets.workers import open_pool

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class _File:
    path: bytes
    encoder_config: EncoderConfig
    spec: IndexSpec


def embed_file(file: Path, encoder_config: EncoderConfig, spec: IndexSpec) -> np.ndarray:
    """Embed a file: float32 `[dim]`. Uses a process of its own, as the file may crash a decoder.

    Raises:
        TrackRejected: it cannot be embedded; says why.
        ConfigurationError: the encoder cannot be loaded.
        OSError: it cannot be read.
    """
    file = file.absolute()
    file.stat()
    with open_pool(1) as workers:
        for _, vector in workers.run(_embed, [_File(os.fsencode(file), encoder_config, spec)]):
            if isinstance(vector, BaseException):
                raise vector
            return vector
    raise TransientError(f"{file} was not embedded: the process that reads it ended; try again")


def _embed(file: _File) -> np.ndarray:
    from embed_assets.library.probe import probe

    stat, found, recipe = os.stat(file.path), probe(file.path), file.spec.recipe
    track = Track(
        track_id=TrackId(""),
        folder_id=FolderId(""),
        path=file.path,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        ctime_ns=stat.st_ctime_ns,
        audio_hash=found.audio_hash,
        duration=found.duration,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = FolderStore(Path(folder))
        embed_track(Job(track, file.path, recipe, file.encoder_config, store, "", force=True))
        return pool(store.read(recipe.digest, found.audio_hash), file.spec.pooling)
