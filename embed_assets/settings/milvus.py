"""Settings of the index: which Milvus has it, and how a server stores it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from embed_assets.index.address import is_server, normal_address
from embed_assets.index.options import IndexOptions
from embed_assets.settings.area import Area


class MilvusSettings(Area):
    """Address and login of Milvus, and what is for a server only."""

    milvus_uri: str = Field(
        "",
        description="A Milvus Lite file that ends in `.db`, or the `http(s)://` address of a"
        " server.",
    )
    milvus_token: str = Field(
        "",
        description="Token of the Milvus server: `user:password`, or an API key.",
        repr=False,
    )
    milvus_database: str = Field(
        "", description="Database of the Milvus server; it must exist. Empty: the default database."
    )
    milvus_index: Literal[
        "auto", "FLAT", "HNSW", "IVF_FLAT", "IVF_SQ8", "IVF_RABITQ", "DISKANN", "AUTOINDEX"
    ] = Field(
        "auto",
        description="Index of the vectors on a Milvus server. `auto`: HNSW, and what a collection"
        " has already. Which one for how many tracks: docs/milvus.md.",
    )
    milvus_vector_type: Literal["float32", "float16", "bfloat16"] = Field(
        "float32",
        description="How a Milvus server stores vectors; `float16` and `bfloat16` take half the"
        " memory, and Milvus 2.4. A change fills another collection.",
    )
    milvus_shards: int = Field(
        1,
        ge=1,
        le=64,
        description="Shards of a collection on a Milvus server, which are written in parallel. A"
        " change fills another collection.",
    )
    milvus_replicas: int | None = Field(
        None,
        ge=1,
        le=64,
        description="On how many groups of query nodes a Milvus server loads a collection. Empty:"
        " one, or what it has.",
    )
    milvus_mmap: bool | None = Field(
        None,
        description="Whether a Milvus server maps a collection from its disk instead of holding it"
        " in memory (Milvus 2.4). Empty: as the server is configured.",
    )

    @field_validator("milvus_uri")
    @classmethod
    def _lite_or_server(cls, value: str) -> str:
        return normal_address(value) if value else value

    @field_validator("milvus_database")
    @classmethod
    def _of_the_server(cls, value: str, info: ValidationInfo) -> str:
        if value and "milvus_uri" in info.data:
            normal_address(info.data["milvus_uri"] or "milvus.db", value)
        return value

    @field_validator(
        "milvus_index", "milvus_vector_type", "milvus_shards", "milvus_replicas", "milvus_mmap"
    )
    @classmethod
    def _of_a_server(cls, value: object, info: ValidationInfo) -> object:
        default = cls.model_fields[info.field_name or ""].default
        # What is wrong with the address is said of it.
        uri = info.data.get("milvus_uri")
        if uri is not None and value != default and not is_server(uri):
            raise ValueError(
                "is for a Milvus server, and Milvus Lite stores vectors in one way: leave"
                f" EMBED_{(info.field_name or '').upper()} empty, or name a server in"
                " EMBED_MILVUS_URI"
            )
        return value

    @property
    def index_options(self) -> IndexOptions:
        """How a Milvus server is to hold the collections."""
        return IndexOptions(self.milvus_index, self.milvus_replicas, self.milvus_mmap)
