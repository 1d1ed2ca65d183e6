"""Indexing folders: what the tables and the store say of them becomes rows of the collections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from embed_assets import catalogue
from embed_assets.identity import PARTS, IndexSpec, folder_id
from embed_assets.index import collection
from embed_assets.index.address import is_there
from embed_assets.index.wanted import Vectors, index_rows
from embed_assets.index.write import (
    FOLDERS_PER_CHUNK,
    FolderFailed,
    FolderRows,
    FolderWritten,
    index_folders,
)
from embed_assets.library.manifest import MusicFolder
from embed_assets.library.plan import EMPTY
from embed_assets.reports import readiness
from embed_assets.tables import Tables
from embed_assets.vectors.pooled import Pooled
from embed_assets.vectors.store import Store
from embed_assets.vectors.windowed import Windowed

if TYPE_CHECKING:
    from pymilvus import MilvusClient

DIRTY = "dirty"
"""Version of a folder that changed while it was worked on: the sensor looks at it again."""


@dataclass(frozen=True)
class FolderIndexed:
    """A folder's rows are in the collection and were read back; `version` says of which files.

    The figures are of rows of tracks; `parts`: rows of windows, where these are wanted too.
    """

    path: bytes
    version: str
    rows: int = 0
    written: int = 0
    deleted: int = 0
    unchanged: int = 0
    parts: int = 0


def version_of(digest: str, spec: IndexSpec) -> str:
    """What a folder's index version is, once files of this digest are indexed under the spec."""
    return f"{digest}.{spec.digest[:12]}"


def written_versions(tables: Tables, spec: IndexSpec, address: str) -> dict[bytes, str]:
    """Path of each folder -> the version of its tracks' rows, as far as all layers are of it.

    Left out are folders whose parts are of other files or not written, where the spec has parts,
    and all folders of a Lite index whose files are gone.
    """
    first, *others = (
        tables.indexed(one.place(address)) if is_there(address, one) else {} for one in spec.layers
    )
    whole = dict(first)
    for one, there in zip(spec.layers[1:], others, strict=True):
        for path, version in first.items():
            digest = version.rpartition(".")[0]
            if there.get(path) not in (EMPTY, version_of(digest, one)):
                whole.pop(path, None)
    return whole


def index_library(
    client: MilvusClient,
    library: MusicFolder,
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
    comes as (path, error) and holds no other back. Where the spec asks for parts, a folder is
    reported when its parts are in step as well.

    Raises:
        ConfigurationError: the collection does not fit the spec.
        TransientError: the index could not be written.
    """
    # While one connection is open, no other is the last: SQLite tidies up behind each last one.
    with tables.connect():
        yield from _index_layers(client, library, paths, spec, tables, store, address)


def _index_layers(
    client: MilvusClient,
    library: MusicFolder,
    paths: Iterable[bytes],
    spec: IndexSpec,
    tables: Tables,
    store: Store,
    address: str,
) -> Iterator[FolderIndexed | tuple[bytes, Exception]]:
    of_tracks, *of_parts = spec.layers
    last = not of_parts
    found = _index_layer(client, library, paths, of_tracks, tables, store, address, last)
    if not of_parts:
        yield from found
        return
    done: dict[bytes, FolderIndexed] = {}
    for told in found:
        if isinstance(told, tuple) or told.version == DIRTY:
            yield told
        else:
            done[told.path] = told
    of_windows = _index_layer(
        client, library, list(done), of_parts[0], tables, store, address, last=True
    )
    for told in of_windows:
        if isinstance(told, tuple) or told.version == DIRTY:
            yield told
        else:
            yield replace(done[told.path], parts=told.rows)


def _index_layer(
    client: MilvusClient,
    library: MusicFolder,
    paths: Iterable[bytes],
    spec: IndexSpec,
    tables: Tables,
    store: Store,
    address: str,
    last: bool,
) -> Iterator[FolderIndexed | tuple[bytes, Exception]]:
    place = spec.place(address)
    catalogue.note_collection(tables, address, spec)
    by_id = {folder_id(library.name, p): p for p in paths}
    told = readiness(tables, by_id, spec.recipe.digest)
    ready = {f: digest for f, (digest, _, pending) in told.items() if digest and not pending}
    for folder in by_id.keys() - ready.keys():
        yield FolderIndexed(by_id[folder], DIRTY)
    sources = [FolderRows(f, lambda f=f: index_rows(tables, f, spec)) for f in ready]
    pooled: Pooled | None = None
    windowed: Windowed | None = None
    vector_of = Vectors(spec, tables, store)
    reports = index_folders(client, spec, sources, vector_of)
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
            new = [r.folder_id for r in chunk if r.folder_id in written and r.written]
            embedded = tables.embedded_at(new, spec.recipe.digest)
            if spec.rows == PARTS:
                windowed = windowed or Windowed(store, spec)
                windowed.keep(embedded)
            else:
                pooled = pooled or Pooled(store, spec, check=False)
                pooled.keep(embedded, vector_of.recent)
        # Before anybody is told: what Dagster knows of must be in the tables.
        tables.put_indexed(
            place,
            [(r.folder_id, written[r.folder_id], r.rows) for r in chunk if r.folder_id in written],
            finished=last,
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
    library: MusicFolder,
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
    other = catalogue.spec_of(tables, address, now, parts=spec.parts)
    if other is None or other.row_schema != spec.row_schema:
        return 0
    by_id = {folder_id(library.name, p): p for p in paths}
    return sum(_follow_layer(client, by_id, one, tables, store, address) for one in other.layers)


def _follow_layer(
    client: MilvusClient,
    by_id: dict[str, bytes],
    spec: IndexSpec,
    tables: Tables,
    store: Store,
    address: str,
) -> int:
    place = spec.place(address)
    there = tables.indexed(place)
    told = readiness(tables, by_id, spec.recipe.digest)
    digests = {
        folder: digest
        for folder, (digest, _, _) in told.items()
        if digest and there.get(by_id[folder]) != version_of(digest, spec)
    }
    touched = 0
    sources = [FolderRows(f, lambda f=f: index_rows(tables, f, spec)) for f in digests]
    # Lost vectors are not this one's to mend: they are embedded under the recipe that is wanted.
    vector_of = Vectors(spec, tables, store, mend=False)
    for chunk in _chunks(index_folders(client, spec, sources, vector_of)) if sources else ():
        now = readiness(tables, [r.folder_id for r in chunk], spec.recipe.digest)
        written = []
        for report in chunk:
            if isinstance(report, FolderFailed):
                continue
            touched += report.written + report.deleted
            digest, tracks, pending = now.get(report.folder_id, (None, 0, 0))
            if digest == digests[report.folder_id] and not pending:
                version = version_of(digest, spec) if tracks else EMPTY
                written.append((report.folder_id, version, report.rows))
        # The collection that is wanted is another: what is to be done there is not done by this.
        tables.put_indexed(place, written, finished=False)
    return touched
