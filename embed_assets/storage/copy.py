"""Copying all tables from one database to another, e.g. from SQLite to PostgreSQL and back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.storage import schema
from embed_assets.storage.database import Connection, Database

ROWS_AT_ONCE = 500
"""Rows in a statement; SQLite takes 32,766 values. PostgreSQL is twice as fast as with one row."""


def copy_tables(
    source: Database,
    target: Database,
    *,
    replace: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Copy every row, as it was when the copy began; returns the number of rows by table.

    The target is written in one transaction: it has all rows or is as before. `replace`: rows that
    it has already are deleted.

    Raises:
        ConfigurationError: the target has rows already.
        TransientError: a database cannot be used, or other rows arrived than were sent.
    """
    with source.snapshot() as there, target.transaction() as here:
        for table in schema.TABLES:
            if replace:
                here.execute(f"DELETE FROM {table}")
            elif _count(here, table):
                raise ConfigurationError(
                    f"there are tables already: {table} has {_count(here, table)} rows. Choose an"
                    " empty database, or say --replace to delete what is there"
                )
        found = {}
        for table in schema.TABLES:
            found[table] = _copy(there, here, table)
            if found[table] != _count(here, table):
                raise TransientError(
                    f"{table}: {found[table]} rows were sent, and {_count(here, table)} arrived;"
                    " nothing was copied"
                )
            progress(f"{table}: {found[table]} rows")
        target.continue_numbers(here)
        target.note_change(here)
    return found


def _copy(there: Connection, here: Connection, table: str) -> int:
    # By name: older files have their columns in another sequence.
    columns = [c[0] for c in here.execute(f"SELECT * FROM {table} LIMIT 0").description]
    rows = there.stream(f"SELECT {', '.join(columns)} FROM {table}")
    marks = f"({', '.join('?' * len(columns))})"
    n = 0
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        here.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([marks] * len(batch))}",
            [value for row in batch for value in row],
        )
        n += len(batch)
    return n


def _count(db: Connection, table: str) -> int:
    return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
