"""Writing folders to the index until it has exactly the expected rows, checked by reading back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_assets.errors import ConfigurationError, Reason, TrackRejected, TransientError
from embed_assets.identity import FolderId, IndexSpec, TrackId
from embed_assets.index.collection import (
    READ,
    count,
    ensure,
    load,
    rows_by_folder,
)
from embed_assets.index.nearest import vectors_of
from embed_assets.index.options import VECTOR_TYPES
from embed_assets.index.row import Row
from embed_assets.index.row_kinds import kind_of
from embed_assets.index.row_vectors import VectorSource

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient

FOLDERS_PER_CHUNK = 512
"""Folders that are read back together; each read-back waits for a server's clock or Lite's file."""

ROWS_PER_BATCH = 500
BATCHES_PER_FLUSH = 8
"""Lite keeps unflushed rows in memory, several times over."""

ROUNDS = 4
SAMPLE = 3
SAMPLE_COSINE = 0.999

RowChecksum = tuple[int, int]
"""Checksum of all rows of a track: how many, and the sum of their digests."""


@dataclass(frozen=True)
class FolderRows:
    """The rows that a folder should have; none if it is gone or has no good track.

    `rows` may be called more than once. It must return the same rows each time, with those of a
    track one after the other.
    """

    folder_id: FolderId
    rows: Callable[[], Iterable[Row]]


@dataclass(frozen=True)
class FolderWritten:
    """A folder whose rows were read back from the index and are exactly the expected ones."""

    folder_id: FolderId
    rows: int
    written: int
    deleted: int
    unchanged: int


@dataclass(frozen=True)
class FolderFailed:
    """A folder whose rows or vectors could not be read; it does not hold back others."""

    folder_id: FolderId
    error: Exception


@dataclass
class _Work:
    """One folder while its chunk is processed: per track, the expected and the present rows.

    `written`, `deleted`: rows of each track. Memory is per track, however many rows it has.
    """

    source: FolderRows
    want: dict[TrackId, RowChecksum] = field(default_factory=dict)
    have: dict[TrackId, RowChecksum] = field(default_factory=dict)
    written: dict[TrackId, int] = field(default_factory=dict)
    deleted: dict[TrackId, int] = field(default_factory=dict)
    error: Exception | None = None

    def in_step(self) -> bool:
        return self.have == self.want

    def surplus(self) -> list[TrackId]:
        """Tracks with rows that writing does not replace: duplicated, or no longer wanted."""
        return [t for t, (n, _) in self.have.items() if n > self.want.get(t, (0, 0))[0]]

    def report(self) -> FolderWritten | FolderFailed:
        if self.error is not None:
            return FolderFailed(self.source.folder_id, self.error)
        rows, written = sum(n for n, _ in self.want.values()), sum(self.written.values())
        deleted = sum(self.deleted.values())
        return FolderWritten(self.source.folder_id, rows, written, deleted, rows - written)


def index_folders(
    client: IndexClient,
    spec: IndexSpec,
    folders: Iterable[FolderRows],
    vectors: VectorSource,
    *,
    rewrite: bool = False,
) -> Iterator[FolderWritten | FolderFailed]:
    """Make the rows of these folders in the collection of `spec` exactly the expected ones.

    Processes up to 512 folders at a time: reads their rows from the index, writes what differs
    (`rewrite`: everything), deletes what is not expected, flushes, and reads back; only then are
    the folders reported. A call that was killed or failed can simply be repeated. Between batches
    and reports other processes can use a Lite index.

    `vectors` is asked by `row.vector_key`, and only for rows that have to be written, a batch at a
    time, so memory holds one batch of vectors. They are normalised.

    Raises:
        ConfigurationError: the collection or a vector has another width than `spec`.
        TransientError: the index cannot be brought in step; what was reported holds.
    """
    ensure(client, spec)
    todo = iter(folders)
    ours = 0
    while chunk := [_Work(f) for f in islice(todo, FOLDERS_PER_CHUNK)]:
        _step_aside(client, spec)
        # All rows are those that this call has written: there is nothing of the others to look for.
        level = READ if ours else "Strong"
        unknown = count(client, spec.collection, level) != ours
        _settle(client, spec, chunk, vectors, force=rewrite, unknown=unknown)
        ours += sum(n for work in chunk for n, _ in work.have.values())
        for work in chunk:
            yield work.report()
            _step_aside(client, spec)


def _settle(
    client: IndexClient,
    spec: IndexSpec,
    chunk: list[_Work],
    vectors: VectorSource,
    *,
    force: bool,
    unknown: bool,
) -> None:
    if unknown:
        _read(client, spec, chunk)
    pending = chunk
    for _ in range(ROUNDS):
        sample: dict[str, np.ndarray] = {}
        touched = _bring(client, spec, pending, vectors, sample, force=force)
        if not touched:
            return
        client.persist(spec.collection)
        _read(client, spec, touched, written=True)
        force = not _sample_holds(client, spec, sample)
        pending = [w for w in touched if w.error is None and (force or not w.in_step())]
        if not pending:
            return
    raise TransientError(
        f"collection {spec.collection}: {len(pending)} folders differ from what was written, even"
        f" after {ROUNDS} rounds (first: folder_id {pending[0].source.folder_id}); is another"
        " program writing to it? Stop it and run `embed-assets sync` again"
    )


def _read(
    client: IndexClient, spec: IndexSpec, chunk: list[_Work], *, written: bool = False
) -> None:
    """Record what the index has of each folder; `written`: this call has written some."""
    works = {w.source.folder_id: w for w in chunk}
    if len(works) < len(chunk):
        raise ValueError("the same folder was given twice")
    # pymilvus has a reader wait for what it wrote itself, but not for what it deleted.
    only_written = written and not any(w.surplus() for w in chunk)
    if only_written:
        known = {t for w in chunk for t in (w.have.keys() | w.want.keys())}
        rows = kind_of(spec).read_written(client, spec.collection, list(works), known)
    else:
        rows = rows_by_folder(client, spec.collection, list(works))
    have: dict[FolderId, dict[TrackId, RowChecksum]] = defaultdict(dict)
    for folder, track, row_digest in rows:
        there = have[folder]
        there[track] = _plus(there.get(track, (0, 0)), row_digest)
    for folder, work in works.items():
        work.have = have.get(folder, {})


def _plus(mark: RowChecksum, row_digest: str) -> RowChecksum:
    return mark[0] + 1, mark[1] + int(row_digest, 16)


def _bring(
    client: IndexClient,
    spec: IndexSpec,
    chunk: list[_Work],
    vectors: VectorSource,
    sample: dict[str, np.ndarray],
    *,
    force: bool,
) -> list[_Work]:
    """Write and delete what differs; returns the folders in which anything changed."""
    touched: set[FolderId] = set()
    kind = kind_of(spec)
    for number, batch in enumerate(_batches(spec, chunk, vectors, force=force), 1):
        client.upsert(spec.collection, [_encoded(spec, row) for _, row in batch])
        for work, row in batch:
            work.written[row["track_id"]] = work.want[row["track_id"]][0]
            touched.add(work.source.folder_id)
        for _, row in batch[:: max(1, len(batch) // SAMPLE)]:
            if len(sample) < SAMPLE:
                sample[row[kind.primary_key]] = row["vector"]
        if number % BATCHES_PER_FLUSH == 0:
            client.persist(spec.collection)
        if len(batch) == ROWS_PER_BATCH:
            _step_aside(client, spec)
    extra = []
    for work in chunk:
        if work.error is None and (gone := work.surplus()):
            # What is doubled (by a kill inside flush) goes with all its copies, and is written
            # anew in the next round.
            extra += gone
            work.deleted |= {t: work.have[t][0] for t in gone if t not in work.want}
            touched.add(work.source.folder_id)
    if extra:
        kind.delete(client, spec.collection, extra)
    return [w for w in chunk if w.source.folder_id in touched]


def _batches(
    spec: IndexSpec, chunk: list[_Work], vectors: VectorSource, *, force: bool
) -> Iterator[list[tuple[_Work, dict[str, Any]]]]:
    """The rows to write, with their vectors, folder by folder, in full batches.

    If a folder's rows or vectors cannot be read, the error is recorded and the folder ends there.
    """
    due = _due_rows(chunk, force=force)
    while rows := list(islice(due, ROWS_PER_BATCH)):
        batch: list[tuple[_Work, dict[str, Any]]] = []
        found = vectors.of([row.vector_key for _, row in rows])
        for (work, row), vector in zip(rows, found, strict=True):
            if work.error is not None:
                continue
            try:
                batch.append((work, row.stored() | {"vector": _unit(spec, row, vector)}))
            except ConfigurationError:
                raise
            except Exception as e:  # noqa: BLE001  # it is the folder's, and reported with it
                work.error = e
        if whole := [(work, row) for work, row in batch if work.error is None]:
            yield whole


def _due_rows(chunk: list[_Work], *, force: bool) -> Iterator[tuple[_Work, Row]]:
    """The rows that have to be written, folder by folder."""
    for work in chunk:
        work.want = {}
        try:
            for track, group in groupby(work.source.rows(), attrgetter("track_id")):
                rows, mark = list(group), (0, 0)
                for row in rows:
                    mark = _plus(mark, row.row_digest)
                twice = track in work.want or len({row.key for row in rows}) < len(rows)
                if twice or rows[0].folder_id != work.source.folder_id:
                    raise ValueError(
                        f"track {rows[0].path!r} is listed twice or under another folder"
                    )
                if work.error is not None:
                    break
                work.want[track] = mark
                have = work.have.get(track, (0, 0))
                if have[0] <= mark[0] and (have != mark or force):
                    yield from ((work, row) for row in rows)
        except ConfigurationError:
            raise
        except Exception as e:  # noqa: BLE001  # it is the folder's, and reported with it
            work.error = e


def _unit(spec: IndexSpec, row: Row, vector: np.ndarray | Exception) -> np.ndarray:
    if isinstance(vector, Exception):
        raise vector
    if vector.shape != (spec.dim,):
        raise ConfigurationError(
            f"{row.path}: its vector has shape {vector.shape}, but collection {spec.collection}"
            f" has width {spec.dim}: the stored embeddings do not fit EMBED_ENCODER, EMBED_MODEL"
            " and EMBED_POOLING; embed this folder again"
        )
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not (np.isfinite(norm) and norm > 0):
        raise TrackRejected(
            Reason.BAD_VECTOR, f"{row.path}: the stored vector has norm {norm}; embed it again"
        )
    return (vector / norm).astype(np.float32)


def _encoded(spec: IndexSpec, row: dict[str, Any]) -> dict[str, Any]:
    """The row as pymilvus takes it."""
    return row | {"vector": VECTOR_TYPES[spec.vector_type].encode(row["vector"])}


def _sample_holds(client: IndexClient, spec: IndexSpec, sample: dict[str, np.ndarray]) -> bool:
    """Whether vectors that were read back are those that were written, as they are stored."""
    there = vectors_of(client, list(sample), spec.collection, kind_of(spec).primary_key)
    stored = VECTOR_TYPES[spec.vector_type]
    return all(
        key in there and float(there[key] @ stored.rounded(vector)) > SAMPLE_COSINE
        for key, vector in sample.items()
    )


def _step_aside(client: IndexClient, spec: IndexSpec) -> None:
    if client.give_way():
        load(client, spec.collection)
