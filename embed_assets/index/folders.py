"""Indexing folders: what the tables and the store say of them becomes rows of the collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embed_assets.errors import TransientError
from embed_assets.identity import IndexSpec, Recipe, display_path, folder_id
from embed_assets.index import collection
from embed_assets.index.row import TrackRow
from embed_assets.index.write import FolderFailed, FolderRows, index_folders
from embed_assets.library.manifest import Library
from embed_assets.library.plan import EMPTY
from embed_assets.rows import Embedding, Track
from embed_assets.tables import Tables
from embed_assets.vectors.pooled import Pooled
from embed_assets.vectors.pooling import pool
from embed_assets.vectors.store import Store, VectorsLost

if TYPE_CHECKING:
    import numpy as np
    from pymilvus import MilvusClient

DIRTY = "dirty"
"""Version of a folder that changed while it was worked on: the sensor looks at it again."""


@dataclass(frozen=True)
class FolderIndexed:
    """A folder's rows are in the collection and were read back; `version` says of which files."""

    path: bytes
    version: str
    rows: int = 0
    written: int = 0
    deleted: int = 0
    unchanged: int = 0


def version_of(digest: str, spec: IndexSpec) -> str:
    """What a folder's index version is, once files of this digest are indexed under the spec."""
    return f"{digest}.{spec.digest[:12]}"


def index_library(
    client: MilvusClient,
    library: Library,
    paths: Iterable[bytes],
    spec: IndexSpec,
    tables: Tables,
    store: Store,
    place: str,
) -> Iterator[FolderIndexed | tuple[bytes, Exception]]:
    """Bring folders of the collection in step with tables and store; streams what became of each.

    A folder with no track left gets version `empty`; one that is being scanned, or of which
    tracks have no embedding yet, `dirty`, and its rows stay as they are. A folder that fails
    comes as (path, error) and holds no other back. Serves the collection once it has every folder.

    Raises:
        ConfigurationError: the collection does not fit the spec.
        TransientError: the index could not be written.
    """
    by_id = {folder_id(library.name, p): p for p in paths}
    digests = {f: tables.digest(f) for f in by_id}
    ready = {}
    for folder, digest in digests.items():
        if digest is None or tables.folder_totals(folder, spec.recipe.digest).pending:
            yield FolderIndexed(by_id[folder], DIRTY)
        else:
            ready[folder] = digest
    sources = [FolderRows(f, lambda f=f: index_rows(tables, f, spec)) for f in ready]
    pooled: Pooled | None = None
    for report in index_folders(client, spec, sources, _vectors(spec, tables, store)):
        folder = report.folder_id
        path = by_id[folder]
        if isinstance(report, FolderFailed):
            yield path, report.error
            continue
        if tables.digest(folder) != ready[folder]:
            yield FolderIndexed(path, DIRTY)
            continue
        empty = tables.folder_totals(folder).tracks == 0
        version = EMPTY if empty else version_of(ready[folder], spec)
        if report.written:
            # Here it is paid for once, and no search waits for it.
            pooled = pooled or Pooled(store, spec, check=False)
            pooled.keep(tables.embedded_at(folder, spec.recipe.digest))
        tables.put_indexed(place, folder, version, report.rows)
        tables.clear_failure(folder)
        yield FolderIndexed(
            path, version, report.rows, report.written, report.deleted, report.unchanged
        )
    if collection.served(client) is None or tables.is_complete(place):
        collection.serve(client, spec)


def index_rows(tables: Tables, folder: str, spec: IndexSpec) -> Iterator[TrackRow]:
    """The rows that the collection of `spec` should have of a folder, without their vectors."""
    for track, embedding in tables.indexable(folder, spec.recipe.digest):
        yield row_of(track, embedding, spec.recipe)


def vocabulary(tables: Tables, spec: IndexSpec) -> Callable[[str], set[str]]:
    """Field -> its different values in the rows of a spec, for `filters.expression`."""

    def values(field: str) -> set[str]:
        folders = [folder for folder, _, _ in tables.folders()]
        return {getattr(row, field) for f in folders for row in index_rows(tables, f, spec)}

    return values


def row_of(
    track: Track, embedding: Embedding | None = None, recipe: Recipe | None = None
) -> TrackRow:
    """What the index says of a track of the manifest, and of how its vector was made if given."""
    folder, _, name = track.path.rpartition(b"/")
    return TrackRow(
        track_id=track.track_id,
        audio_hash=track.audio_hash or "",
        folder_id=track.folder_id,
        folder=display_path(folder),
        path=display_path(track.path),
        # Half of real libraries have untagged files: people then know a track by its file's name.
        title=track.title or display_path(name.rpartition(b".")[0]),
        artist=track.artist or track.album_artist,
        album=track.album,
        album_artist=track.album_artist,
        genre=track.genre,
        year=track.year,
        duration=track.duration,
        track_number=track.track_number,
        disc_number=track.disc_number,
        container=track.container,
        codec=track.codec,
        sample_rate=track.sample_rate,
        channels=track.channels,
        bit_rate=track.bit_rate,
        recording_id=track.recording_id,
        release_id=track.release_id,
        artist_id=track.artist_id,
        added_at=int(track.added_at),
        changed_at=track.mtime_ns // 10**9,
        encoder=recipe.encoder if recipe else "",
        weights=recipe.weights[:16] if recipe else "",
        engine=embedding.engine if embedding else "",
        device=embedding.device if embedding else "",
        dtype=embedding.dtype if embedding else "",
        embedded_at=int(embedding.at) if embedding else 0,
        run_id=embedding.run_id if embedding else "",
    )


def _vectors(spec: IndexSpec, tables: Tables, store: Store) -> Callable[[str], np.ndarray]:
    def vector_of(audio_hash: str) -> np.ndarray:
        try:
            windows = store.read(spec.recipe.digest, audio_hash)
        except VectorsLost as e:
            store.delete(spec.recipe.digest, audio_hash)
            tables.forget_embedding(spec.recipe.digest, audio_hash)
            raise TransientError(f"{e}; it is embedded again at the next try") from e
        return pool(windows, spec.pooling)

    return vector_of
