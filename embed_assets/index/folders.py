"""Indexing folders: turns tables and stored vectors into rows of the collections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeGuard

from embed_assets.context import IndexContext
from embed_assets.encoders.cards import wants_words
from embed_assets.identity import PARTS, WORDS, FolderId, IndexSpec, folder_id
from embed_assets.index import collection
from embed_assets.index.backend import backend_of
from embed_assets.index.expected_rows import index_rows
from embed_assets.index.row_kinds import kind_of
from embed_assets.index.row_vectors import Windows
from embed_assets.index.tuning import apply_options
from embed_assets.index.writer import (
    FOLDERS_PER_CHUNK,
    FolderFailed,
    FolderRows,
    FolderWritten,
    index_folders,
)
from embed_assets.storage import collection_registry
from embed_assets.storage.queries import FolderState, folder_states
from embed_assets.storage.records import EMPTY, IndexedFolder
from embed_assets.storage.tables import Tables

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient

FOLDERS_PER_RECORD = 128
"""Folders that are reported, and then recorded, together; what a kill leaves unrecorded is
repeated."""

DIRTY = "dirty"
"""Version of a folder that changed while it was processed; it is evaluated again."""


@dataclass(frozen=True)
class FolderIndexed:
    """A folder whose rows are in the collection and were read back.

    `version` says from which files. The figures count rows of tracks; `parts`: rows of windows, and
    `words`: rows for `find`, if they are wanted too.
    """

    path: bytes
    version: str
    rows: int = 0
    written: int = 0
    deleted: int = 0
    unchanged: int = 0
    parts: int = 0
    words: int = 0


def version_of(digest: str, spec: IndexSpec) -> str:
    """The version of a folder that is indexed under a spec from files with this digest."""
    return f"{digest}.{spec.digest[:12]}"


def written_versions(tables: Tables, spec: IndexSpec, uri: str) -> dict[bytes, str]:
    """Path of each folder -> the version of its rows, if all collections of the spec have it.

    Left out are folders that are missing or out of date in any of them, and all folders of a Lite
    index whose files are gone.
    """
    backend = backend_of(uri)
    first, *others = (
        tables.indexed(one.collection_key(uri)) if backend.may_have(one.collection) else {}
        for one in spec.every_collection
    )
    whole = dict(first)
    for one, there in zip(spec.every_collection[1:], others, strict=True):
        for path, version in first.items():
            digest = version.rpartition(".")[0]
            if there.get(path) not in (EMPTY, version_of(digest, one)):
                whole.pop(path, None)
    return whole


def index_library(
    client: IndexClient, index: IndexContext, paths: Iterable[bytes]
) -> Iterator[FolderIndexed | tuple[bytes, Exception]]:
    """Index these folders as `index_in_batches` does; yields one outcome at a time."""
    return chain.from_iterable(index_in_batches(client, index, paths))


def index_in_batches(
    client: IndexClient, index: IndexContext, paths: Iterable[bytes]
) -> Iterator[list[FolderIndexed | tuple[bytes, Exception]]]:
    """Make the rows of these folders match tables and store; yields the outcome of each folder.

    The folders of a batch are recorded as indexed when the next one is asked for, so that the
    caller can report them first. This function does not change which collection is served.

    A folder without tracks gets version `empty`. A folder that is being scanned, or that has tracks
    without an embedding, gets version `dirty` and keeps its rows. A folder that fails is yielded as
    (path, error) and does not hold back others. If the spec has several collections, they are
    written one after the other, and a folder is yielded once it is in all of them.

    Raises:
        ConfigurationError: the collection does not fit the spec.
        TransientError: the index could not be written.
    """
    apply_options(client, index)
    # While one connection is open, no other is the last: SQLite tidies up behind each last one.
    with index.tables.connect():
        *first, last = index.spec.every_collection
        done: dict[bytes, FolderIndexed] = {}
        left = list(paths)
        for spec in first:
            written: dict[bytes, FolderIndexed] = {}
            for batch in _index_collection(client, index.of(spec), left, last=False):
                written |= {r.path: _joined(done, r, spec) for r in batch if _is_written(r)}
                yield [r for r in batch if not _is_written(r)]
            done, left = written, list(written)
        for batch in _index_collection(client, index.of(last), left, last=True):
            yield [_joined(done, r, last) if _is_written(r) else r for r in batch]


def _joined(
    done: Mapping[bytes, FolderIndexed], report: FolderIndexed, spec: IndexSpec
) -> FolderIndexed:
    """The report of a folder on its tracks, with the rows that another collection has of it."""
    if report.path not in done:
        return report
    tracks = done[report.path]
    if spec.rows == PARTS:
        return replace(tracks, parts=report.rows)
    return replace(tracks, words=report.rows)


def _is_written(
    report: FolderIndexed | tuple[bytes, Exception],
) -> TypeGuard[FolderIndexed]:
    return isinstance(report, FolderIndexed) and report.version != DIRTY


def _index_collection(
    client: IndexClient, index: IndexContext, paths: Iterable[bytes], *, last: bool
) -> Iterator[list[FolderIndexed | tuple[bytes, Exception]]]:
    spec, tables, store = index.spec, index.tables, index.store
    collection_registry.note_collection(tables, index.uri, spec)
    by_id = {folder_id(index.library.name, p): p for p in paths}
    states = folder_states(tables, by_id, spec.recipe.digest)
    ready = {folder: state for folder, state in states.items() if state.ready}
    yield [FolderIndexed(by_id[folder], DIRTY) for folder in by_id.keys() - ready.keys()]
    sources = [FolderRows(f, partial(index_rows, tables, f, spec)) for f in ready]
    vectors = kind_of(spec).vectors(spec, Windows(tables, store, forget_lost=True))
    reports = index_folders(client, spec, sources, vectors)
    for chunk in _chunks(reports):
        now = folder_states(tables, [r.folder_id for r in chunk], spec.recipe.digest)
        written = {}
        for report in chunk:
            state = ready[report.folder_id]
            if isinstance(report, FolderWritten) and now.get(report.folder_id) == state:
                written[report.folder_id] = _indexed(report, state, spec)
        stored = [r.folder_id for r in chunk if isinstance(r, FolderWritten) and r.written]
        if stored:
            # Here it is paid for once, and no search waits for it.
            new = [folder for folder in stored if folder in written]
            vectors.keep(tables.embedded_at(new, spec.recipe.digest))
        for batch in _batches(chunk):
            yield [_outcome(by_id[r.folder_id], r, written) for r in batch]
            # Recorded only after the batch was consumed: by then Dagster has stored the events of
            # its folders, so that what the tables call done is green in the UI.
            consumed = [written[r.folder_id] for r in batch if r.folder_id in written]
            if consumed:
                tables.put_indexed(index.collection_key, consumed, finished=last)


def _outcome(
    path: bytes, report: FolderWritten | FolderFailed, written: Mapping[FolderId, IndexedFolder]
) -> FolderIndexed | tuple[bytes, Exception]:
    if isinstance(report, FolderFailed):
        return path, report.error
    if report.folder_id not in written:
        return FolderIndexed(path, DIRTY)
    version = written[report.folder_id].version
    return FolderIndexed(
        path, version, report.rows, report.written, report.deleted, report.unchanged
    )


def _indexed(report: FolderWritten, state: FolderState, spec: IndexSpec) -> IndexedFolder:
    version = version_of(state.digest or "", spec) if state.tracks else EMPTY
    return IndexedFolder(report.folder_id, version, report.rows, state.revision)


def _chunks(
    reports: Iterator[FolderWritten | FolderFailed],
) -> Iterator[list[FolderWritten | FolderFailed]]:
    """The reports, in the chunks in which they come."""
    while chunk := list(islice(reports, FOLDERS_PER_CHUNK)):
        yield chunk


def _batches(
    chunk: list[FolderWritten | FolderFailed],
) -> Iterator[list[FolderWritten | FolderFailed]]:
    for i in range(0, len(chunk), FOLDERS_PER_RECORD):
        yield chunk[i : i + FOLDERS_PER_RECORD]


def mirror_to_served(client: IndexClient, index: IndexContext, paths: Iterable[bytes]) -> int:
    """Apply changes to the served collections too while other ones are being filled.

    Moved, retagged and removed tracks change there as well, as far as its own recipe has
    embeddings; new tracks wait for the new collection. Folders that did not change since they were
    written there cost nothing. Returns the number of rows written and deleted.
    """
    by_id = {folder_id(index.library.name, p): p for p in paths}
    others = served_beside(client, index)
    return sum(_mirror(client, index.of(one), by_id) for one in others)


def served_beside(client: IndexClient, index: IndexContext) -> list[IndexSpec]:
    """The collections that are served and not of the spec, as far as they have the same fields."""
    spec = index.spec
    filled = {one.collection for one in spec.every_collection}
    found: dict[str, IndexSpec] = {}
    with_words = wants_words(spec) or index.words_missing
    for alias in (collection.ALIAS, WORDS) if with_words else (collection.ALIAS,):
        now = collection.served(client, alias)
        if now is None or now in filled:
            continue
        other = collection_registry.spec_of(index.tables, index.uri, now, parts=spec.parts)
        if other is not None and other.row_schema == spec.row_schema:
            found |= {one.collection: one for one in other.collection_specs}
    return list(found.values())


def _mirror(client: IndexClient, index: IndexContext, by_id: dict[FolderId, bytes]) -> int:
    spec, tables, store = index.spec, index.tables, index.store
    there = tables.indexed(index.collection_key)
    states = {
        folder: state
        for folder, state in folder_states(tables, by_id, spec.recipe.digest).items()
        if state.digest and there.get(by_id[folder]) != version_of(state.digest, spec)
    }
    touched = 0
    sources = [FolderRows(f, partial(index_rows, tables, f, spec)) for f in states]
    # Lost vectors stay recorded: what is embedded is what the recipe of the settings needs.
    vectors = kind_of(spec).vectors(spec, Windows(tables, store, forget_lost=False))
    for chunk in _chunks(index_folders(client, spec, sources, vectors)) if sources else ():
        now = folder_states(tables, [r.folder_id for r in chunk], spec.recipe.digest)
        written = []
        for report in chunk:
            if isinstance(report, FolderFailed):
                continue
            touched += report.written + report.deleted
            state = states[report.folder_id]
            if state.ready and now.get(report.folder_id) == state:
                written.append(_indexed(report, state, spec))
        # The collection that is wanted is another: what is to be done there is not done by this.
        tables.put_indexed(index.collection_key, written, finished=False)
    return touched
