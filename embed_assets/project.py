"""Makes plain objects from the settings; decides where files are in EMBED_HOME."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embed_assets.context import IndexContext
from embed_assets.encoders.cards import OF_WORDS
from embed_assets.encoders.config import EncoderConfig, VectorConfig
from embed_assets.errors import ConfigurationError
from embed_assets.identity import IndexSpec
from embed_assets.index.backend import Backend, backend_of
from embed_assets.index.connection import connect
from embed_assets.index.options import DEFAULT_OPTIONS, FLOAT32, IndexOptions
from embed_assets.library.manifest import MusicFolder
from embed_assets.settings import Settings
from embed_assets.storage.folder_store import FolderStore
from embed_assets.storage.object_store import ObjectStore
from embed_assets.storage.postgres_address import PostgresAddress
from embed_assets.storage.postgres_database import PostgresDatabase
from embed_assets.storage.sqlite_database import SqliteDatabase
from embed_assets.storage.tables import Tables
from embed_assets.storage.vector_store import Store
from embed_assets.storage.vectors_address import is_folder

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient


def tables_in(home: Path, address: PostgresAddress | None = None) -> Tables:
    """The manifest and embeddings tables: those at an address, or else those of an EMBED_HOME."""
    return Tables(PostgresDatabase(address) if address else SqliteDatabase(home / "tables.sqlite"))


def store_in(home: Path, address: str = "", cache_bytes: int = 0) -> Store:
    """The store of window vectors at an address in normal form, or else that of an EMBED_HOME.

    `cache_bytes`: how much of the disk copies of an object store may take.
    """
    if not address:
        return FolderStore(home / "vectors")
    if is_folder(address):
        return FolderStore(Path(address), home)
    return ObjectStore(address, home, cache_bytes)


FOLDERS_PER_GPU_RUN = 1024
"""A GPU may embed 64 folders in seconds, and loading the model for each run takes longer.

In runs of this size that is a small part; larger ones would gain little.
"""


def fitted(settings: Settings) -> Settings:
    """The settings, with a run size that suits this machine unless one is set."""
    chosen = "folders_per_run" in settings.model_fields_set
    if chosen or not any(one.uses_nvidia() for one in vectors_of(settings).encoders()):
        return settings
    return settings.model_copy(update={"folders_per_run": FOLDERS_PER_GPU_RUN})


def vectors_of(settings: Settings) -> VectorConfig:
    """Which vectors the settings ask for."""
    device, cache = settings.device, settings.model_cache
    words = EncoderConfig(OF_WORDS.name, settings.words_model, device, cache)
    return VectorConfig(
        EncoderConfig(settings.encoder, settings.model, device, cache),
        settings.window_seconds,
        settings.windows,
        settings.pooling,
        settings.parts,
        words if settings.words else None,
    )


@dataclass(frozen=True)
class Project:
    """The objects that commands work with, made from the settings."""

    library: MusicFolder
    tables: Tables
    store: Store
    vectors: VectorConfig
    uri: str
    token: str | None
    vector_type: str = FLOAT32.name
    shards: int = 1
    options: IndexOptions = DEFAULT_OPTIONS

    @classmethod
    def of(cls, settings: Settings) -> Project:
        """The project of these settings; opens no files."""
        return cls(
            library=MusicFolder(settings.library),
            tables=tables_in(settings.home, settings.tables_address),
            store=store_in(settings.home, settings.vectors, settings.vectors_cache_bytes),
            vectors=vectors_of(settings),
            uri=settings.index_uri,
            token=settings.milvus_token or None,
            vector_type=settings.milvus_vector_type,
            shards=settings.milvus_shards,
            options=settings.index_options,
        )

    @property
    def backend(self) -> Backend:
        """The kind of Milvus that stores the index."""
        return backend_of(self.uri)

    def spec(self) -> IndexSpec:
        """The index spec that all folders should have.

        Raises:
            ConfigurationError: no such encoder, or its weights are not on this machine.
        """
        return replace(self.vectors.spec(), vector_type=self.vector_type, shards=self.shards)

    def index(self, spec: IndexSpec | None = None) -> IndexContext:
        """The context of runs over folders, under a spec; default: `spec`, with its errors."""
        return IndexContext(
            self.library,
            self.tables,
            self.store,
            spec or self.spec(),
            self.uri,
            self.options,
            words_missing=bool(self.vectors.words_missing()),
        )

    def open_index(self, *, wait_seconds: float = 60.0) -> AbstractContextManager[IndexClient]:
        """A client of the index; see `connect`."""
        return connect(self.uri, self.token, options=self.options, wait_seconds=wait_seconds)


def for_reading(settings: Settings) -> Project:
    """The project for commands that only read; tables that were never made count as empty.

    Raises:
        ConfigurationError: EMBED_HOME or the database cannot be read.
        TransientError: the server of the database is away.
    """
    project = Project.of(settings)
    try:
        there = project.tables.database.exists()
    except OSError as e:
        raise ConfigurationError(
            f"EMBED_HOME={settings.home} cannot be read ({e.strerror}): change its permissions"
        ) from None
    return project if there else replace(project, tables=Tables(None))
