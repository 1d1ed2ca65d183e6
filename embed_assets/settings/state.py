"""Settings of the music, and of where all state is kept: tables, vectors, Dagster's instance."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from embed_assets.settings.area import AbsolutePath, Area
from embed_assets.storage.postgres_address import PostgresAddress, normal_postgres_url
from embed_assets.storage.vectors_address import normal_vectors_address


def _for_databases(value: Path) -> Path:
    # Dagster puts it into the address of its database as it is; Milvus wants UTF-8.
    try:
        text = str(value).encode().decode()
    except UnicodeEncodeError:
        raise ValueError("the path is not UTF-8: choose another folder") from None
    if "?" in text or re.search(r"%[0-9a-fA-F]{2}", text):
        raise ValueError(
            "Dagster cannot keep its database below a folder with `?`, or `%` and two digits,"
            " in its name: choose another"
        )
    return value


DatabaseFolder = Annotated[AbsolutePath, AfterValidator(_for_databases)]
"""A folder in which Dagster and Milvus can keep databases."""


class StateSettings(Area):
    """The music folder, EMBED_HOME, and what is kept elsewhere for several machines."""

    library: AbsolutePath | None = Field(None, description="The music folder. Required.")
    home: DatabaseFolder = Field(
        Path("~/.local/share/embed_assets"),
        description="Folder for all state: Dagster instance, tables, embeddings, Milvus Lite index,"
        " model cache.",
    )
    tables: str = Field(
        "",
        description="PostgreSQL database of the tables, for several machines:"
        " `postgresql://user@host/database` (docs/cluster.md). Empty: `tables.sqlite` in"
        " `EMBED_HOME`.",
    )
    tables_password: str = Field(
        "",
        description="Password for `EMBED_TABLES`. Empty: PGPASSWORD, PGPASSFILE or `~/.pgpass`.",
        repr=False,
    )
    tables_password_file: AbsolutePath | None = Field(
        None, description="A file with this password, instead of `EMBED_TABLES_PASSWORD`."
    )
    vectors: str = Field(
        "",
        description="Where the vectors of all windows are stored, for several machines:"
        " `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, or a folder"
        " (docs/vectors.md). Empty: `vectors` in `EMBED_HOME`.",
    )
    vectors_cache_gb: float = Field(
        2.0,
        ge=0.0,
        le=100_000.0,
        allow_inf_nan=False,
        description="How many GB of copies of an object store are kept in `EMBED_HOME`, on each"
        " machine. 0: none.",
    )
    dagster_home: DatabaseFolder | None = Field(
        None,
        description="A folder with your own `dagster.yaml`, which is never changed, e.g. for runs"
        " on several machines (docs/cluster.md). Empty: `$EMBED_HOME/dagster`.",
    )

    @field_validator("tables")
    @classmethod
    def _of_postgres(cls, value: str) -> str:
        return normal_postgres_url(value) if value else value

    @field_validator("vectors")
    @classmethod
    def _a_folder_or_a_bucket(cls, value: str) -> str:
        return normal_vectors_address(value) if value else value

    @property
    def tables_address(self) -> PostgresAddress | None:
        """Where the tables are; None if in EMBED_HOME."""
        if not self.tables:
            return None
        return PostgresAddress(self.tables, self.tables_password, self.tables_password_file)

    @property
    def vectors_cache_bytes(self) -> int:
        """EMBED_VECTORS_CACHE_GB in bytes."""
        return int(self.vectors_cache_gb * 1e9)

    @property
    def instance_home(self) -> Path:
        """Folder of the Dagster instance: its dagster.yaml is ours, or a person's own."""
        return self.dagster_home or self.home / "dagster"

    @property
    def up_folder(self) -> Path:
        """Folder in which `up` notes what it started on this machine."""
        return self.home / "dagster"

    @property
    def model_cache(self) -> Path:
        """Folder of downloaded weights."""
        return self.home / "models"
