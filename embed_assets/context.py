"""What indexing works with, as one value: it is assembled in `project.py` and handed on whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

from embed_assets.identity import CollectionKey, IndexSpec
from embed_assets.library.manifest import MusicFolder
from embed_assets.storage.tables import Tables
from embed_assets.storage.vector_store import Store


@dataclass(frozen=True)
class IndexContext:
    """A library, its tables and vectors, and the spec and address of the index that is wanted."""

    library: MusicFolder
    tables: Tables
    store: Store
    spec: IndexSpec
    uri: str

    @property
    def collection_key(self) -> CollectionKey:
        """Names the collection of tracks at this address in the tables."""
        return self.spec.collection_key(self.uri)

    def of(self, spec: IndexSpec) -> IndexContext:
        """The same for another spec."""
        return replace(self, spec=spec)
