"""`copy-tables`: moves a library from SQLite to PostgreSQL, or back."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from embed_assets.errors import ConfigurationError
from embed_assets.project import Project
from embed_assets.settings import Settings
from embed_assets.storage import copy
from embed_assets.storage.database import Database
from embed_assets.storage.postgres_address import PostgresAddress, normal_postgres_url
from embed_assets.storage.postgres_database import PostgresDatabase
from embed_assets.storage.sqlite_database import SqliteDatabase


def copy_tables(
    settings: Settings, target: str, progress: Callable[[str], None], *, replace: bool = False
) -> dict[str, int]:
    """Copy the tables of the settings to `target`; returns the number of rows by table.

    `target`: the address of a PostgreSQL database, or the path of a SQLite file.

    Raises:
        ConfigurationError: there is nothing to copy, or the target is wrong or has tables already.
        TransientError: a database cannot be used just now.
    """
    source, to = Project.of(settings).tables.database, _database(target, settings)
    if source.place == to.place:
        raise ConfigurationError(f"{target} is where the tables are already: name another database")
    if not source.exists():
        raise ConfigurationError(
            "there are no tables to copy: check EMBED_HOME and EMBED_TABLES, which say where they"
            " are now"
        )
    return copy.copy_tables(source, to, replace=replace, progress=progress)


def _database(target: str, settings: Settings) -> Database:
    if not re.match(r"\w+(\+\w+)?://", target):
        return SqliteDatabase(Path(os.path.expanduser(target)).absolute())
    try:
        url = normal_postgres_url(target)
    except ValueError as e:
        raise ConfigurationError(f"the target {e}") from None
    return PostgresDatabase(
        PostgresAddress(url, settings.tables_password, settings.tables_password_file)
    )
