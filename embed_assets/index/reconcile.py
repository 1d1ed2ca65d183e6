"""Comparing the whole index with the tables, per folder, by track id and content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.identity import IndexSpec, digest
from embed_assets.index.collection import ensure, rows_by_folder
from embed_assets.index.folders import index_rows
from embed_assets.index.write import FolderRows, index_folders
from embed_assets.tables import Tables

if TYPE_CHECKING:
    from pymilvus import MilvusClient


@dataclass(frozen=True)
class Drift:
    """Where index and tables differ: folders to index again, and rows of folders that are gone."""

    rows: int
    folders: int
    differing: tuple[bytes, ...]
    orphans: tuple[str, ...]


def compare(client: MilvusClient, spec: IndexSpec, tables: Tables) -> Drift:
    """Read the collection of `spec` once and compare each folder's rows with the tables.

    Folders that are being scanned are left out. Memory holds a count and a sum a folder.
    """
    ensure(client, spec)
    there: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    rows = 0
    for folder, track, row_digest in rows_by_folder(client, spec.collection):
        rows += 1
        there[folder] = _plus(there[folder], track, row_digest)
    differing: list[bytes] = []
    folders = 0
    for folder, path, whole in tables.folders():
        folders += 1
        found = there.pop(folder, (0, 0))
        if whole:
            wanted = (0, 0)
            for row in index_rows(tables, folder, spec):
                wanted = _plus(wanted, row.track_id, row.row_digest)
            if wanted != found:
                differing.append(path)
    return Drift(rows, folders, tuple(differing), tuple(sorted(there)))


def remove_orphans(client: MilvusClient, spec: IndexSpec, folder_ids: Iterable[str]) -> int:
    """Delete the rows of folders that no table knows; returns how many folders."""
    gone = [FolderRows(f, tuple) for f in folder_ids]
    return sum(1 for _ in index_folders(client, spec, gone, lambda audio_hash: np.zeros(0)))


def _plus(total: tuple[int, int], track: str, row_digest: str) -> tuple[int, int]:
    """Add a row to an order-free digest of a folder: (rows, sum of their hashes)."""
    return total[0] + 1, (total[1] + int(digest(track, row_digest), 16)) % (1 << 128)
