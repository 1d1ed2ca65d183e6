"""The two kinds of collections, as types: one with a row per track, one with a row per segment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from embed_assets.identity import (
    PARTS,
    TRACKS,
    AudioHash,
    FolderId,
    IndexSpec,
    Recipe,
    TrackId,
)
from embed_assets.index.collection import IDS_PER_CALL, READ, id_list, rows_by_folder, rows_of
from embed_assets.index.row import Row, SegmentRow, TrackRow, VectorKey, part_id
from embed_assets.index.row_vectors import SegmentVectors, TrackVectors, Windows
from embed_assets.index.track_rows import row_of, windows_of
from embed_assets.storage.records import Embedding, Track

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient


class RowKind(Protocol):
    """What a collection has a row for."""

    primary_key: str
    gate_prefix: str
    """What the names of its gates begin with."""
    self_queries: int
    """Searches with a stored vector, as a gate."""

    def rows(self, track: Track, embedding: Embedding, recipe: Recipe) -> Iterator[Row]:
        """The rows that an embedded track should have."""

    def vectors(self, spec: IndexSpec, windows: Windows) -> TrackVectors | SegmentVectors:
        """What reads the vectors of rows by their `vector_key`."""

    def sample(self, tracks: Iterable[tuple[str, AudioHash, int]]) -> dict[str, VectorKey]:
        """Row key -> `vector_key`: a row for each (track id, audio hash, number of windows)."""

    def read_written(
        self,
        client: IndexClient,
        collection: str,
        folders: Sequence[FolderId],
        tracks: Iterable[TrackId],
    ) -> Iterator[tuple[FolderId, TrackId, str]]:
        """Stream (folder_id, track_id, row_digest) of rows that this process wrote or found."""

    def delete(self, client: IndexClient, collection: str, tracks: Iterable[TrackId]) -> None:
        """Delete every row of these tracks."""


class TrackKind:
    """A row per track."""

    primary_key = TrackRow.primary_key
    gate_prefix = ""
    self_queries = 200

    def rows(self, track: Track, embedding: Embedding, recipe: Recipe) -> Iterator[Row]:
        """See `RowKind`."""
        yield row_of(track, embedding, recipe)

    def vectors(self, spec: IndexSpec, windows: Windows) -> TrackVectors:
        """See `RowKind`."""
        return TrackVectors(spec, windows)

    def sample(self, tracks: Iterable[tuple[str, AudioHash, int]]) -> dict[str, VectorKey]:
        """See `RowKind`."""
        return {track: VectorKey(audio) for track, audio, _ in tracks}

    def read_written(
        self,
        client: IndexClient,
        collection: str,
        folders: Sequence[FolderId],
        tracks: Iterable[TrackId],
    ) -> Iterator[tuple[FolderId, TrackId, str]]:
        """By key: it shows no duplicated row, but where none was there, none has come."""
        return rows_of(client, collection, sorted(tracks))

    def delete(self, client: IndexClient, collection: str, tracks: Iterable[TrackId]) -> None:
        """See `RowKind`."""
        for ids in _in_calls(tracks):
            client.delete(collection, ids=ids)


class SegmentKind:
    """A row per embedded window of a track."""

    primary_key = SegmentRow.primary_key
    gate_prefix = f"{PARTS}_"
    self_queries = 50  # Lite scans all rows for each search, and there are many more.

    def rows(self, track: Track, embedding: Embedding, recipe: Recipe) -> Iterator[Row]:
        """See `RowKind`."""
        row = row_of(track, embedding, recipe)
        for number, (start, length) in enumerate(windows_of(track, embedding, recipe)):
            yield SegmentRow(row, number, start, round(start + length, 2))

    def vectors(self, spec: IndexSpec, windows: Windows) -> SegmentVectors:
        """See `RowKind`."""
        return SegmentVectors(spec, windows)

    def sample(self, tracks: Iterable[tuple[str, AudioHash, int]]) -> dict[str, VectorKey]:
        """Any of the windows: the track's id, which is a hash, chooses it."""
        chosen = ((track, audio, int(track[:8], 16) % max(n, 1)) for track, audio, n in tracks)
        return {part_id(track, k): VectorKey(audio, k) for track, audio, k in chosen}

    def read_written(
        self,
        client: IndexClient,
        collection: str,
        folders: Sequence[FolderId],
        tracks: Iterable[TrackId],
    ) -> Iterator[tuple[FolderId, TrackId, str]]:
        """By folder: the keys of a track's rows are not known here."""
        return rows_by_folder(client, collection, folders, READ)

    def delete(self, client: IndexClient, collection: str, tracks: Iterable[TrackId]) -> None:
        """See `RowKind`."""
        for ids in _in_calls(tracks):
            client.delete(collection, filter=f"track_id in {id_list(ids)}")


_KINDS: dict[str, RowKind] = {TRACKS: TrackKind(), PARTS: SegmentKind()}


def kind_of(spec: IndexSpec) -> RowKind:
    """What the collection of a spec has a row for."""
    return _KINDS[spec.rows]


def _in_calls(tracks: Iterable[TrackId]) -> Iterator[list[TrackId]]:
    rest = iter(sorted(tracks))
    while ids := list(islice(rest, IDS_PER_CALL)):
        yield ids
