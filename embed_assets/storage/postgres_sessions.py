"""Sessions with PostgreSQL: opening them, keeping them for the next use, and what errors mean."""

from __future__ import annotations

import os
import re
import select
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

from embed_assets.errors import RETRIED, ConfigurationError, EmbedAssetsError, TransientError
from embed_assets.formats import to_install
from embed_assets.storage.postgres_address import PostgresAddress

if TYPE_CHECKING:
    import psycopg2

Session = Any
"""A connection of psycopg2."""

OLDEST_SERVER = 13
KEPT = 4
"""Idle sessions that a process keeps."""

_OPTIONS = {
    "application_name": "embed_assets",
    "connect_timeout": 10,
    # A host that vanished is noticed after half a minute, on both sides.
    "keepalives": 1,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_SETTINGS = (
    # As long as SQLite waits for a writer.
    "SET lock_timeout = '60s';"
    # A process that stands still amid a transaction holds up the other writers no longer than that.
    "SET idle_in_transaction_session_timeout = '30s';"
    "SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
)
_WRONG_LOGIN = re.compile(
    r"password authentication failed|no password supplied|no pg_hba.conf entry"
    r"|role \".*\" does not exist|database \".*\" does not exist|authentication failed"
    r"|permission denied for database|is not permitted to log in|invalid .*option|invalid URI"
)
"""FATAL messages that no retry cures. libpq gives no code for them: a server that speaks another
language is tried again."""


class Pool:
    """The idle sessions of this process with a database; safe for threads."""

    def __init__(self, address: PostgresAddress) -> None:
        self.address = address
        self.has_tables = False
        self._idle: list[Session] = []
        self._lock = threading.Lock()

    def take(self) -> Session:
        """A session that was not broken a moment ago, or a new one."""
        while True:
            with self._lock:
                session = self._idle.pop() if self._idle else None
            if session is None:
                return open_session(self.address)
            if _is_alive(session):
                return session
            session.close()

    def give_back(self, session: Session) -> None:
        """Keep a session for the next use, unless it broke, or was left amid a transaction."""
        from psycopg2.extensions import TRANSACTION_STATUS_IDLE

        with self._lock:
            usable = not session.closed and (
                session.get_transaction_status() == TRANSACTION_STATUS_IDLE
            )
            if usable and len(self._idle) < KEPT:
                self._idle.append(session)
                return
        session.close()


_POOLS: dict[tuple[int, str], Pool] = {}


def pool_of(address: PostgresAddress) -> Pool:
    """The pool of this process for a database."""
    # A process that was forked must not use, or end, the sessions of its parent.
    key = (os.getpid(), address.url)
    return _POOLS.get(key) or _POOLS.setdefault(key, Pool(address))


def open_session(address: PostgresAddress) -> Session:
    """A new session, in which each statement commits by itself.

    Raises:
        TransientError: the server is away.
        ConfigurationError: the login, the database or the server's version is wrong, or there is no
            driver.
    """
    psycopg2 = _driver(address)
    from psycopg2 import extensions

    password = address.read_password()
    try:
        options = _OPTIONS | extensions.parse_dsn(address.url)
        if password:
            options["password"] = password
        session = psycopg2.connect(**options, client_encoding="UTF8")
        session.autocommit = True
        with session.cursor() as cursor:
            cursor.execute(_SETTINGS)
    except psycopg2.Error as e:
        raise error_of(e, address) from None
    extensions.register_type(_bytes_type(), session)
    extensions.register_type(_sum_type(), session)
    encoding = session.get_parameter_status("server_encoding")
    if session.server_version < OLDEST_SERVER * 10_000 or encoding != "UTF8":
        version = session.server_version // 10_000
        session.close()
        raise ConfigurationError(
            f"EMBED_TABLES: {address} is of PostgreSQL {version} and has the encoding {encoding}:"
            f" PostgreSQL {OLDEST_SERVER} or newer and UTF8 are needed (CREATE DATABASE ..."
            " ENCODING 'UTF8' TEMPLATE template0)"
        )
    return session


def error_of(error: psycopg2.Error, address: PostgresAddress) -> EmbedAssetsError:
    """What an error means for the one who waits."""
    import psycopg2

    # A host may have several addresses: what a server said is more than that another was silent.
    # Other lines are hints, and details of statements.
    lines = str(error).splitlines() or ["the session was lost"]
    said = (line for line in lines if "FATAL:" in line or _WRONG_LOGIN.search(line))
    text = next(said, lines[0]).strip()
    code = error.pgcode or ""
    if _WRONG_LOGIN.search(text) and not code:
        return ConfigurationError(
            f"EMBED_TABLES: {address} cannot be opened: {text}. Check the address, the user and"
            " EMBED_TABLES_PASSWORD; docs/cluster.md says what to create"
        )
    if code == "42501":
        return ConfigurationError(
            f"EMBED_TABLES: the user may not use the tables in {address}: {text}. Make it the owner"
            " of the database"
        )
    if code == "3F000":
        return ConfigurationError(
            f"EMBED_TABLES: {address} has no schema that search_path names: create it (CREATE"
            " SCHEMA ...), or correct the address"
        )
    if code == "55P03":
        return TransientError(
            f"another process has been writing to the tables in {address} for more than a minute;"
            f" {RETRIED}"
        )
    # Transactions that were ended (25, 40, 57), resources (53), a table dropped a moment ago.
    passing = code[:2] in ("08", "25", "40", "53", "55", "57", "58", "XX") or code == "42P01"
    if passing or isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return TransientError(
            f"the tables in {address} cannot be used: {text}. Start PostgreSQL if it"
            f" does not run, and see its log; {RETRIED}"
        )
    raise error


def _driver(address: PostgresAddress) -> Any:
    try:
        import psycopg2
    except ImportError as e:
        raise ConfigurationError(
            f"EMBED_TABLES names {address}, and the driver is missing ({e}): {to_install('shared')}"
        ) from None
    return psycopg2


def _is_alive(session: Session) -> bool:
    """Whether an idle session is sound: a server that ended it, or was killed, has said so."""
    if session.closed:
        return False
    waiting = select.poll()
    waiting.register(session.fileno(), select.POLLIN)
    return not waiting.poll(0)


@cache
def _bytes_type() -> Any:
    from psycopg2 import BINARY, extensions

    def parse(text: str | None, cursor: Any) -> bytes | None:
        return None if text is None else bytes(BINARY(text, cursor))

    return extensions.new_type(BINARY.values, "BYTES", parse)


@cache
def _sum_type() -> Any:
    from psycopg2 import extensions

    def parse(text: str | None, cursor: Any) -> int | None:  # noqa: ARG001
        return None if text is None else int(text)

    # The sum of integers is a numeric, for which psycopg2 would give a Decimal.
    return extensions.new_type(extensions.DECIMAL.values, "SUM", parse)
