"""What indexing works with, as one value: it is assembled in `project.py` and handed on whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embed_assets.identity import CollectionKey, IndexSpec
from embed_assets.library.manifest import MusicFolder
from embed_assets.storage.tables import Tables
from embed_assets.storage.vector_store import Store

if TYPE_CHECKING:
    from embed_assets.index.options import IndexOptions


@dataclass(frozen=True)
class IndexContext:
    """A library, its tables and vectors, and the spec and address of the index that is wanted.

    `options`: how a server is to hold the collections; None leaves them as they are.
    `words_missing`: the settings want a collection for `find`, and the spec is without one, as the
    weights for it are missing. What is served for `find` then stays, and follows the library.
    """

    library: MusicFolder
    tables: Tables
    store: Store
    spec: IndexSpec
    uri: str
    options: IndexOptions | None = None
    words_missing: bool = False

    @property
    def collection_key(self) -> CollectionKey:
        """Names the collection of tracks at this address in the tables."""
        return self.spec.collection_key(self.uri)

    def of(self, spec: IndexSpec) -> IndexContext:
        """The same for another spec."""
        return replace(self, spec=spec)
