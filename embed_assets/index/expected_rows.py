"""The rows that the index should have according to the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from embed_assets.identity import FolderId, IndexSpec
from embed_assets.index.row import Row
from embed_assets.index.row_kinds import kind_of
from embed_assets.storage.tables import Tables


def index_rows(tables: Tables, folder: FolderId, spec: IndexSpec) -> Iterator[Row]:
    """The rows that the collection of `spec` should have for a folder, without vectors."""
    kind = kind_of(spec)
    for track, embedding in tables.indexable(folder, spec.recipe.digest):
        yield from kind.rows(track, embedding, spec.recipe)


def vocabulary(tables: Tables, spec: IndexSpec) -> Callable[[str], set[str]]:
    """Field -> its distinct values in the rows of a spec, for `filters.expression`."""

    def values(field: str) -> set[str]:
        folders = [folder for folder, _, _ in tables.folders()]
        return {getattr(row, field) for f in folders for row in index_rows(tables, f, spec)}

    return values
