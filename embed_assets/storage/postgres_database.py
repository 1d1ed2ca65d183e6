"""The tables in a PostgreSQL database, for several machines: connections and transactions.

psycopg2 is the driver, as dagster-postgres brings it along. It is imported when a database is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from itertools import count
from typing import Any

from embed_assets.errors import ConfigurationError
from embed_assets.storage import schema
from embed_assets.storage.database import Connection
from embed_assets.storage.postgres_address import PostgresAddress
from embed_assets.storage.postgres_sessions import Session, error_of, open_session, pool_of

STATE = "embed_assets_state"
"""A table of one row: the version of the schema, and the revision that searches watch."""

_WRITE = (
    "BEGIN ISOLATION LEVEL READ COMMITTED;"
    f" SELECT pg_advisory_xact_lock(hashtext('{STATE} ' || current_schema()))"
)
"""One writer at a time, as in SQLite: writers of several folders that lock row by row wait for each
other for ever, and one that removes a folder misses the rows of one that is adding to it."""

_NOT_DURABLE = "SET LOCAL synchronous_commit = off"

ROWS_AT_ONCE = 2000
_STREAMS = count()


class _Connection:
    """A session that takes statements as `storage/database.py` describes them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._streams: list[Any] = []

    def execute(self, sql: str, values: Any = (), /) -> Any:
        cursor = self._session.cursor()
        cursor.execute(_statement(sql, isinstance(values, Mapping)), _clean(values))
        return cursor

    def executemany(self, sql: str, values: Iterable[Any], /) -> None:
        from psycopg2.extras import execute_batch

        with self._session.cursor() as cursor:
            execute_batch(cursor, _statement(sql, False), map(_clean, values), page_size=500)  # noqa: FBT003

    def stream(self, sql: str, values: Any = (), /) -> Iterator[Any]:
        # libpq would hold all rows in memory; a cursor of the server has them.
        cursor = self._session.cursor(f"stream_{next(_STREAMS)}", withhold=True)
        cursor.itersize = ROWS_AT_ONCE
        self._streams.append(cursor)
        cursor.execute(_statement(sql, isinstance(values, Mapping)), _clean(values))
        yield from cursor
        cursor.close()

    def close_streams(self) -> None:
        """End the streams that were left before their last row."""
        for cursor in self._streams:
            if not cursor.closed:
                cursor.close()


class PostgresDatabase:
    """A PostgreSQL database; connections are kept for the next use, and made anew if they broke."""

    def __init__(self, address: PostgresAddress) -> None:
        self.address = address

    @property
    def place(self) -> str:
        """See `Database.place`."""
        return self.address.url

    @contextmanager
    def connect(self, *, durable: bool = True) -> Iterator[Connection]:  # noqa: ARG002
        """See `Database.connect`; single statements are always durable."""
        with self._connection() as db:
            pool = pool_of(self.address)
            if not pool.has_tables:
                self._make_tables(db)
                pool.has_tables = True
            yield db

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Connection]:
        """See `Database.transaction`."""
        with self._transaction(_WRITE if durable else f"{_WRITE}; {_NOT_DURABLE}") as db:
            yield db

    def snapshot(self) -> AbstractContextManager[Connection]:
        """See `Database.snapshot`; others may write meanwhile."""
        return self._transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """See `Database.lock`: an advisory lock, held by a session of its own."""
        import psycopg2

        # Another schema of the same database may hold other tables.
        number = "hashtextextended(current_schema() || '/embed_assets/tables/' || %s, 0)"
        session = open_session(self.address)
        try:
            with session.cursor() as cursor:
                # Others may hold it for as long as a collection is measured.
                cursor.execute("SET lock_timeout = 0")
                cursor.execute(f"SELECT pg_advisory_lock({number})", (name,))
            yield
        except psycopg2.Error as e:
            raise error_of(e, self.address) from e
        finally:
            session.close()

    def exists(self) -> bool:
        """See `Database.exists`."""
        with self._connection() as db:
            return self._version_or_free(db) is not None

    def revision(self) -> object:
        """See `Database.revision`."""
        with self.connect() as db:
            return db.execute(f"SELECT revision FROM {STATE}").fetchone()[0]

    def note_change(self, db: Connection) -> None:
        """See `Database.note_change`."""
        db.execute(f"UPDATE {STATE} SET revision = revision + 1")

    def continue_numbers(self, db: Connection) -> None:
        """See `Database.continue_numbers`."""
        for table in ("served", "looks"):
            db.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), coalesce(max(id), 0) + 1,"
                f" FALSE) FROM {table}"
            )

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        with self.connect() as db:
            try:
                db.execute(begin)
                yield db
            except BaseException:
                # If the session broke, the server has rolled back by itself.
                with suppress(Exception):
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @contextmanager
    def _connection(self) -> Iterator[_Connection]:
        pool = pool_of(self.address)
        session = pool.take()
        import psycopg2

        db = _Connection(session)
        try:
            yield db
            db.close_streams()
        except psycopg2.Error as e:
            session.close()
            if isinstance(e, psycopg2.errors.UndefinedTable):
                pool.has_tables = False
            raise error_of(e, self.address) from e
        except BaseException:
            with suppress(psycopg2.Error):
                db.close_streams()
            raise
        finally:
            pool.give_back(session)

    def _version(self, db: _Connection) -> int | None:
        if db.execute("SELECT to_regclass(?)", (STATE,)).fetchone()[0] is None:
            return None
        row = db.execute(f"SELECT version FROM {STATE}").fetchone()
        return row and row[0]

    def _version_or_free(self, db: _Connection) -> int | None:
        """The version of the tables; None where they can be made.

        Raises ConfigurationError: tables of another program have their names, or the schema is
        missing.
        """
        # Read before the version: others may make the tables at this moment.
        schema_name, names = db.execute(
            "SELECT current_schema()::text, (SELECT string_agg(c.relname::text, ', ')"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = current_schema() AND c.relname = ANY(?))",
            (list(schema.TABLES),),
        ).fetchone()
        version = self._version(db)
        if version is None and schema_name is None:
            raise ConfigurationError(
                f"EMBED_TABLES: {self.address} lacks the schema in which tables are made: create it"
                " (CREATE SCHEMA ... AUTHORIZATION the user), or correct the options of the address"
            )
        if version is None and names:
            raise ConfigurationError(
                f"EMBED_TABLES: {self.address} has tables of another program with the same names"
                f" ({names}): use an empty database, or a schema of its own with"
                " ?options=-csearch_path%3DNAME"
            )
        return version

    def _make_tables(self, db: _Connection) -> None:
        version = self._version_or_free(db)
        if version is None or version < schema.VERSION:
            # Processes that make them at once would disturb each other. The transaction begins with
            # the lock held: it would not see what was made while it waited.
            db.execute("SELECT pg_advisory_lock(hashtext(?))", (STATE,))
            version = self._version(db)
            if version is None or version < schema.VERSION:
                db.execute("BEGIN")
                for statement in schema.postgres_tables():
                    db.execute(statement)
                if version is None:
                    db.execute(f"CREATE TABLE {STATE} (version BIGINT, revision BIGINT)")
                    db.execute(f"INSERT INTO {STATE} VALUES (?, 0)", (schema.VERSION,))
                else:
                    db.execute(f"UPDATE {STATE} SET version = ?", (schema.VERSION,))
                version = schema.VERSION
                db.execute("COMMIT")
            db.execute("SELECT pg_advisory_unlock(hashtext(?))", (STATE,))
        if version != schema.VERSION:
            raise ConfigurationError(
                f"{self.address} has schema {version}, but this version of embed_assets needs"
                f" {schema.VERSION}: use the version that wrote it, or another EMBED_TABLES"
            )


@lru_cache(maxsize=512)
def _statement(sql: str, named: bool) -> str:  # noqa: FBT001
    """A statement with the marks of psycopg2 for values."""
    sql = sql.replace("%", "%%")
    return re.sub(r":(\w+)", r"%(\1)s", sql) if named else sql.replace("?", "%s")


def _clean(values: Any) -> Any:
    """Values without NUL in texts, which PostgreSQL does not store."""
    if isinstance(values, Mapping):
        return {name: _clean_one(value) for name, value in values.items()}
    return [_clean_one(value) for value in values]


def _clean_one(value: Any) -> Any:
    return value.replace("\0", "") if isinstance(value, str) and "\0" in value else value
