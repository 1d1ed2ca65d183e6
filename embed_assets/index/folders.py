"""Indexing folders: what the tables and the store say of them becomes rows of the collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from embed_assets import catalogue
from embed_assets.errors import TransientError
from embed_assets.identity import IndexSpec, Recipe, display_path, folder_id
from embed_assets.index import collection
from embed_assets.index.row import TrackRow
from embed_assets.index.write import (
    FOLDERS_PER_CHUNK,
    FolderFailed,
    FolderRows,
    FolderWritten,
    index_folders,
)
from embed_assets.library.manifest import Library
from embed_assets.library.plan import EMPTY
from embed_assets.reports import readiness
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
    address: str,
) -> Iterator[FolderIndexed | tuple[bytes, Exception]]:
    """Bring folders of the collection in step with tables and store; streams what became of each.

    `address` is where the client is connected to. Who serves the collection is decided elsewhere.

    A folder with no track left gets version `empty`; one that is being scanned, or of which
    tracks have no embedding yet, `dirty`, and its rows stay as they are. A folder that fails
    comes as (path, error) and holds no other back.

    Raises:
        ConfigurationError: the collection does not fit the spec.
        TransientError: the index could not be written.
    """
    place = spec.place(address)
    catalogue.note_collection(tables, address, spec)
    by_id = {folder_id(library.name, p): p for p in paths}
    told = readiness(tables, by_id, spec.recipe.digest)
    ready = {f: digest for f, (digest, _, pending) in told.items() if digest and not pending}
    for folder in by_id.keys() - ready.keys():
        yield FolderIndexed(by_id[folder], DIRTY)
    sources = [FolderRows(f, lambda f=f: index_rows(tables, f, spec)) for f in ready]
    pooled: Pooled | None = None
    reports = index_folders(client, spec, sources, _vectors(spec, tables, store))
    for chunk in _chunks(reports):
        now = readiness(tables, [r.folder_id for r in chunk], spec.recipe.digest)
        written = {}
        for report in chunk:
            digest, tracks, _ = now.get(report.folder_id, (None, 0, 0))
            if isinstance(report, FolderWritten) and digest == ready[report.folder_id]:
                version = version_of(digest, spec) if tracks else EMPTY
                written[report.folder_id] = version
        if any(isinstance(r, FolderWritten) and r.written for r in chunk):
            # Here it is paid for once, and no search waits for it.
            pooled = pooled or Pooled(store, spec, check=False)
            for report in chunk:
                if report.folder_id in written and report.written:
                    pooled.keep(tables.embedded_at(report.folder_id, spec.recipe.digest))
        # Before anybody is told: what Dagster knows of must be in the tables.
        tables.put_indexed(
            place,
            [(r.folder_id, written[r.folder_id], r.rows) for r in chunk if r.folder_id in written],
        )
        for report in chunk:
            path = by_id[report.folder_id]
            if isinstance(report, FolderFailed):
                yield path, report.error
            elif version := written.get(report.folder_id):
                yield FolderIndexed(
                    path, version, report.rows, report.written, report.deleted, report.unchanged
                )
            else:
                yield FolderIndexed(path, DIRTY)


def _chunks(
    reports: Iterator[FolderWritten | FolderFailed],
) -> Iterator[list[FolderWritten | FolderFailed]]:
    """The reports as they come: they come by the chunk, and so cost one transaction, not many."""
    while chunk := list(islice(reports, FOLDERS_PER_CHUNK)):
        yield chunk


def follow(
    client: MilvusClient,
    library: Library,
    paths: Iterable[bytes],
    spec: IndexSpec,
    tables: Tables,
    store: Store,
    address: str,
) -> int:
    """Keep the served collection true while that of `spec` is being filled; rows written, deleted.

    What was moved, retagged or removed is so in the served collection too, as far as its own
    recipe has embeddings: a track that is new waits for the new collection. Costs nothing for
    folders that did not change since they were written there.
    """
    now = collection.served(client)
    if now is None or now == spec.collection:
        return 0
    other = catalogue.spec_of(tables, address, now)
    if other is None or other.row_schema != spec.row_schema:
        return 0
    place = other.place(address)
    there = tables.indexed(place)
    by_id = {folder_id(library.name, p): p for p in paths}
    told = readiness(tables, by_id, other.recipe.digest)
    digests = {
        folder: digest
        for folder, (digest, _, _) in told.items()
        if digest and there.get(by_id[folder]) != version_of(digest, other)
    }
    touched = 0
    sources = [FolderRows(f, lambda f=f: index_rows(tables, f, other)) for f in digests]
    # Lost vectors are not this one's to mend: they are embedded under the recipe that is wanted.
    vectors = _vectors(other, tables, store, mend=False)
    for chunk in _chunks(index_folders(client, other, sources, vectors)) if sources else ():
        now = readiness(tables, [r.folder_id for r in chunk], other.recipe.digest)
        written = []
        for report in chunk:
            if isinstance(report, FolderFailed):
                continue
            touched += report.written + report.deleted
            digest, tracks, pending = now.get(report.folder_id, (None, 0, 0))
            if digest == digests[report.folder_id] and not pending:
                version = version_of(digest, other) if tracks else EMPTY
                written.append((report.folder_id, version, report.rows))
        tables.put_indexed(place, written)
    return touched


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


def _vectors(
    spec: IndexSpec, tables: Tables, store: Store, *, mend: bool = True
) -> Callable[[str], np.ndarray]:
    def vector_of(audio_hash: str) -> np.ndarray:
        try:
            windows = store.read(spec.recipe.digest, audio_hash)
        except VectorsLost as e:
            if not mend:
                raise
            store.delete(spec.recipe.digest, audio_hash)
            tables.forget_embedding(spec.recipe.digest, audio_hash)
            raise TransientError(f"{e}; it is embedded again at the next try") from e
        return pool(windows, spec.pooling)

    return vector_of
