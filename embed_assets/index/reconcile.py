"""Comparing a whole collection with the tables, folder by folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from embed_assets.context import IndexContext
from embed_assets.identity import CollectionName, FolderId, IndexSpec, TrackId, digest
from embed_assets.index.collection import ensure, rows_by_folder
from embed_assets.index.folders import served_beside
from embed_assets.index.row_kinds import kind_of
from embed_assets.index.row_vectors import NoVectors
from embed_assets.index.tuning import apply_options
from embed_assets.index.writer import FOLDERS_PER_CHUNK, FolderRows, index_folders
from embed_assets.storage import collection_registry, embedded_tracks
from embed_assets.storage.tables import Tables

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient

_Sum = tuple[int, int]


@dataclass(frozen=True)
class IndexDiff:
    """Where index and tables differ: folders to index again, and rows of unknown folders.

    `waiting`: folders that are not recorded as written; the sensor requests runs for them anyway.
    """

    rows: int
    folders: int
    waiting: int
    differing: tuple[bytes, ...]
    orphans: tuple[FolderId, ...]

    @property
    def none(self) -> bool:
        """Whether the collection contains exactly what the tables say."""
        return not self.differing and not self.orphans


def reconcile(client: IndexClient, index: IndexContext) -> dict[CollectionName, IndexDiff]:
    """Compare the wanted and the served collections with the tables, and start the repair.

    Returns the differences by collection name. Orphaned rows are deleted at once. Folders that
    differ are marked as not written, so that the next evaluation requests ordinary runs for them.
    """
    spec, tables, uri = index.spec, index.tables, index.uri
    apply_options(client, index)
    wanted = spec.every_collection
    found = {}
    for one in (*wanted, *served_beside(client, index)):
        diff = compare(client, one, tables, uri)
        repair(client, one, tables, uri, diff)
        if one not in wanted:
            # Its folders are written along with the wanted collection's.
            collection_registry.forget_written(tables, uri, wanted[0], diff.differing)
        found[one.collection] = diff
    return found


def compare(client: IndexClient, spec: IndexSpec, tables: Tables, uri: str) -> IndexDiff:
    """Read the collection of `spec` once, and compare each folder's rows with the tables.

    Compares ids and contents: the audio hash and all fields. A folder that is recorded as written
    differs if its rows do, or if one of its tracks has no embedding. Everything is streamed; memory
    holds a count and a sum per folder.
    """
    ensure(client, spec)
    there = _sums(rows_by_folder(client, spec.collection))
    rows = sum(n for n, _ in there.values())
    differing: dict[FolderId, bytes] = {}
    folders = waiting = 0
    wanted = _wanted(tables, spec)
    none: tuple[FolderId, _Sum | None] = (FolderId(""), None)
    next_folder, next_sum = next(wanted, none)
    for folder, path, written in collection_registry.written_folders(tables, uri, spec):
        folders += 1
        while next_folder and next_folder < folder:
            next_folder, next_sum = next(wanted, none)
        want = next_sum if next_folder == folder else (0, 0)
        found = there.pop(folder, (0, 0))
        if not written:
            waiting += 1
        elif want != found:
            differing[folder] = path
    orphans = sorted(there)
    if rows:
        still = _still_differing(client, spec, tables, uri, [*differing, *orphans])
        differing = {folder: path for folder, path in differing.items() if folder in still}
        orphans = [folder for folder in orphans if folder in still]
    return IndexDiff(rows, folders, waiting, tuple(differing.values()), tuple(orphans))


def _still_differing(
    client: IndexClient, spec: IndexSpec, tables: Tables, uri: str, folders: list[FolderId]
) -> set[FolderId]:
    """Which of these folders differ when each is read at once, and not while it is written.

    Reading a whole collection and then the tables takes a while, in which other processes index
    folders: on a server, several at once.
    """
    found: set[FolderId] = set()
    for i in range(0, len(folders), FOLDERS_PER_CHUNK):
        some = folders[i : i + FOLDERS_PER_CHUNK]
        before = collection_registry.written_states(tables, uri, spec, some)
        have = _sums(rows_by_folder(client, spec.collection, some))
        want = dict(_wanted(tables, spec, some))
        after = collection_registry.written_states(tables, uri, spec, some)
        for folder in some:
            rows = have.get(folder, (0, 0))
            if folder not in before and folder not in after:
                found.update([folder] if rows != (0, 0) else [])
            elif before.get(folder) == after.get(folder) is not None:
                found.update([folder] if rows != want.get(folder, (0, 0)) else [])
    return found


def _sums(rows: Iterable[tuple[FolderId, TrackId, str]]) -> dict[FolderId, _Sum]:
    """The order-independent digest of the rows of each folder."""
    sums: dict[FolderId, _Sum] = defaultdict(lambda: (0, 0))
    for folder, track, row_digest in rows:
        sums[folder] = _plus(sums[folder], track, row_digest)
    return sums


def _wanted(
    tables: Tables, spec: IndexSpec, folders: Sequence[FolderId] | None = None
) -> Iterator[tuple[FolderId, _Sum | None]]:
    """(folder id, sum of the rows it should have), ordered by id; None: not all embedded yet.

    `folders`: only of these.
    """
    kind = kind_of(spec)
    tracks = embedded_tracks.embeddable_tracks(tables, spec.recipe.digest, folders)
    for folder, group in groupby(tracks, key=lambda t: t[0].folder_id):
        total: _Sum | None = (0, 0)
        for track, embedding in group:
            if embedding is None:
                total = None
            elif total is not None:
                for row in kind.rows(track, embedding, spec.recipe):
                    total = _plus(total, row.track_id, row.row_digest)
        yield folder, total


def remove_orphans(client: IndexClient, spec: IndexSpec, folder_ids: Iterable[FolderId]) -> int:
    """Delete the rows of folders that no table knows; returns the number of folders."""
    gone = [FolderRows(f, tuple) for f in folder_ids]
    return sum(1 for _ in index_folders(client, spec, gone, NoVectors()))


def repair(client: IndexClient, spec: IndexSpec, tables: Tables, uri: str, diff: IndexDiff) -> None:
    """Mark folders that differ as not written, and delete orphaned rows.

    Later runs write the folders again.
    """
    if diff.orphans:
        remove_orphans(client, spec, diff.orphans)
    collection_registry.forget_written(tables, uri, spec, diff.differing)


def _plus(total: _Sum, track: str, row_digest: str) -> _Sum:
    """Add a row to the order-independent digest of a folder: (rows, sum of their hashes)."""
    return total[0] + 1, (total[1] + int(digest(track, row_digest), 16)) % (1 << 128)
