"""What the tables need of a database, and the SQL that several modules share.

Statements are written once, for SQLite 3.34 and PostgreSQL 13: `?` or `:name` for values, ON
CONFLICT for rows that exist, no functions of Python's. `sqlite_database.py` and
`postgres_database.py` have what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

HASHES_PER_CALL = 500
"""Audio hashes in one statement; SQLite takes some thousands of values."""


class Rows(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """How many rows were changed."""

    @property
    def description(self) -> Any:
        """A sequence for each column; its first item is the name."""

    def fetchone(self) -> Any:
        """The next row, or None."""

    def fetchall(self) -> list[Any]:
        """All remaining rows."""

    def __iter__(self) -> Iterator[Any]:
        """The remaining rows."""


class Connection(Protocol):
    """A connection; each statement commits by itself, except within `Database.transaction`."""

    def execute(self, sql: str, values: Any = (), /) -> Rows:
        """Run a statement; `values` for `?` in sequence, or for `:name` by name."""

    def executemany(self, sql: str, values: Iterable[Any], /) -> Any:
        """Run a statement once for each of these values."""

    def stream(self, sql: str, values: Any = (), /) -> Iterator[Any]:
        """The rows of a query, a few at a time, however many there are."""


class Database(Protocol):
    """Where the tables are."""

    @property
    def place(self) -> str:
        """The file or the address, without a password."""

    def connect(self, *, durable: bool = True) -> AbstractContextManager[Connection]:
        """A connection; creates or upgrades the tables if necessary.

        With `durable=False`, what is written survives the death of this process, but survives a
        power loss only after a later durable write. Transactions stay atomic.

        Raises:
            TransientError: the database cannot be used just now (disk full, locked, server away).
            ConfigurationError: a newer version made the tables, or a setting is wrong.
        """

    def transaction(self, *, durable: bool = True) -> AbstractContextManager[Connection]:
        """A connection inside a write transaction; it is rolled back on an exception.

        There is one at a time, so nothing that it reads is changed before it ends.

        Raises the same errors as `connect`.
        """

    def snapshot(self) -> AbstractContextManager[Connection]:
        """A connection for reading that sees all tables as they are when it begins.

        Raises the same errors as `connect`.
        """

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock between all processes that have these tables, on whichever machine.

        Waits for it. It is released if this process dies, or its machine. Do not nest it.

        Raises the same errors as `connect`.
        """

    def exists(self) -> bool:
        """Whether the tables were ever made; makes nothing."""

    def revision(self) -> object:
        """A value that differs once folders were indexed or removed, or ranked otherwise; cheap."""

    def note_change(self, db: Connection) -> None:
        """Have `revision` differ once the transaction of this connection is committed."""

    def continue_numbers(self, db: Connection) -> None:
        """Have new rows get higher numbers than rows that were written with theirs."""


NEW_REVISION = "UPDATE folders SET revision = revision + 1 WHERE folder_id"
"""Raise the revision of folders, so that they are indexed again in every collection.

Searches return the old rows until then.
"""

IS_CURRENT = (
    "coalesce(i.revision = f.revision AND f.digest IS NOT NULL"
    " AND (substr(i.version, 1, length(f.digest) + 1) = f.digest || '.' OR (i.version = 'empty'"
    " AND NOT EXISTS (SELECT 1 FROM tracks own WHERE own.folder_id = f.folder_id))), FALSE)"
)
"""Condition on folders f and indexed i: the folder is indexed with its current files and rows."""


def insert(table: str, columns: Sequence[str], *, keep: Sequence[str] = ()) -> str:
    """An INSERT of one row; if there is one with the same columns `keep`, nothing happens."""
    marks = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
    return f"{statement} ON CONFLICT ({', '.join(keep)}) DO NOTHING" if keep else statement


def replace_row(table: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """An INSERT of one row, or, if there is one with the same `key`, an UPDATE of it."""
    update = ", ".join(f"{c} = excluded.{c}" for c in columns if c not in key)
    return f"{insert(table, columns)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {update}"
