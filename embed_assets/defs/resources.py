"""Resources: each turns configuration into a plain domain object.

The Milvus token and the password of the tables are each an `EnvVar`: a plain string would be shown
in the webserver's snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from embed_assets.context import IndexContext
from embed_assets.encoders.config import EncoderConfig, VectorConfig
from embed_assets.identity import IndexSpec
from embed_assets.index.options import AUTO, FLOAT32, IndexOptions
from embed_assets.library.manifest import MusicFolder
from embed_assets.project import store_in, tables_in, vectors_of
from embed_assets.settings import Settings
from embed_assets.storage.postgres_address import PostgresAddress
from embed_assets.storage.tables import Tables
from embed_assets.storage.vector_store import Store

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient


class LibraryResource(dg.ConfigurableResource[Any]):
    """The music folder, and how often it is scanned."""

    root: str
    settle_seconds: float
    folders_per_run: int

    def library(self) -> MusicFolder:
        """The library; `require_library` checks whether its root exists."""
        return MusicFolder(Path(self.root) if self.root else None)


class StateResource(dg.ConfigurableResource[Any]):
    """The state beside the Dagster instance: in EMBED_HOME, or where the settings say."""

    home: str
    vectors: str = ""
    vectors_cache_bytes: int = 0
    tables_address: str = ""
    tables_password: str = ""
    tables_password_file: str = ""

    def tables(self) -> Tables:
        """The manifest and embeddings tables."""
        if not self.tables_address:
            return tables_in(Path(self.home))
        file = Path(self.tables_password_file) if self.tables_password_file else None
        address = PostgresAddress(self.tables_address, self.tables_password, file)
        return tables_in(Path(self.home), address)

    def store(self) -> Store:
        """The store of window vectors."""
        return store_in(Path(self.home), self.vectors, self.vectors_cache_bytes)


class EncoderResource(dg.ConfigurableResource[Any]):
    """The encoder, the windows and the pooling; `words`: the encoder for `find` beside it."""

    name: str
    model: str
    device: str
    cache: str
    window_seconds: float
    windows: int
    pooling: str
    parts: bool = False
    words: str = ""
    words_model: str = ""

    @classmethod
    def of(cls, vectors: VectorConfig) -> EncoderResource:
        """The resource that gives these `vectors` again."""
        tracks, words = vectors.tracks, vectors.words
        return cls(
            name=tracks.name,
            model=tracks.model,
            device=tracks.device,
            cache=str(tracks.cache),
            window_seconds=vectors.window_seconds,
            windows=vectors.windows,
            pooling=vectors.pooling,
            parts=vectors.parts,
            words=words.name if words else "",
            words_model=words.model if words else "",
        )

    def vectors(self) -> VectorConfig:
        """Which vectors the workers make."""
        device, cache = self.device, Path(self.cache)
        return VectorConfig(
            EncoderConfig(self.name, self.model, device, cache),
            self.window_seconds,
            self.windows,
            self.pooling,
            self.parts,
            EncoderConfig(self.words, self.words_model, device, cache) if self.words else None,
        )

    def spec(self) -> IndexSpec:
        """The index spec, as far as the encoder decides it; `wanted_spec` is the whole.

        Raises:
            ConfigurationError: no such encoder, or no weights.
        """
        return self.vectors().spec()


class MilvusResource(dg.ConfigurableResource[Any]):
    """The vector index, and how a server is to hold it."""

    uri: str
    token: str
    vector_type: str = FLOAT32.name
    shards: int = 1
    index: str = AUTO
    replicas: int | None = None
    mmap: bool | None = None

    def options(self) -> IndexOptions:
        """What a server can change without filling a collection anew."""
        return IndexOptions(self.index, self.replicas, self.mmap)

    @contextmanager
    def get_client(self) -> Iterator[IndexClient]:
        """A client; on Milvus Lite no other process can use the index until the block ends."""
        from embed_assets.index.connection import connect

        token, options = self.token or None, self.options()
        with connect(self.uri, token, options=options, wait_seconds=120.0) as client:
            yield client


def index_context(
    library: LibraryResource,
    state: StateResource,
    encoder: EncoderResource,
    milvus: MilvusResource,
) -> IndexContext:
    """The context of indexing; raises what `encoder.spec` does."""
    spec = wanted_spec(encoder, milvus)
    music, tables, store = library.library(), state.tables(), state.store()
    missing = bool(encoder.vectors().words_missing())
    options = milvus.options()
    return IndexContext(music, tables, store, spec, milvus.uri, options, words_missing=missing)


def wanted_spec(encoder: EncoderResource, milvus: MilvusResource) -> IndexSpec:
    """The index spec that all folders should have; raises what `encoder.spec` does."""
    return replace(encoder.spec(), vector_type=milvus.vector_type, shards=milvus.shards)


def resources(settings: Settings) -> dict[str, dg.ConfigurableResource[Any]]:
    """The resources for these settings, by the names that assets and sensor use."""
    return {
        "library": LibraryResource(
            root=str(settings.library or ""),
            settle_seconds=settings.settle_seconds,
            folders_per_run=settings.folders_per_run,
        ),
        "state": StateResource(
            home=str(settings.home),
            vectors=settings.vectors,
            vectors_cache_bytes=settings.vectors_cache_bytes,
            tables_address=settings.tables,
            tables_password=(
                dg.EnvVar("EMBED_TABLES_PASSWORD") if settings.tables_password else ""
            ),
            tables_password_file=str(settings.tables_password_file or ""),
        ),
        "encoder": EncoderResource.of(vectors_of(settings)),
        "milvus": MilvusResource(
            uri=settings.index_uri,
            token=dg.EnvVar("EMBED_MILVUS_TOKEN") if settings.milvus_token else "",
            vector_type=settings.milvus_vector_type,
            shards=settings.milvus_shards,
            index=settings.milvus_index,
            replicas=settings.milvus_replicas,
            mmap=settings.milvus_mmap,
        ),
    }
