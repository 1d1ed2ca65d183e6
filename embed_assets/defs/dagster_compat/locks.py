"""Locks between all processes that have an instance, on whichever machine they run.

What Dagster 1.13 lacks: a lock. Its tables are read and written in AUTOCOMMIT, and its processes do
not exclude each other. Upstream: no issue found.

On SQLite, which only processes of one machine can have open, a lock is a file in the instance's
folder. On PostgreSQL it is an advisory lock of the instance's database, held by a connection: the
server releases it when that connection ends, also when the machine that held it is gone.

This module uses `index_connection` and the `_engine` of the event log storage.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import dagster as dg

from embed_assets.errors import AlreadyRunning

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

DEAD_PEER = ("tcp_keepalives_idle = 20", "tcp_keepalives_interval = 5", "tcp_keepalives_count = 4")
"""The server takes a machine that answers nothing for 40 s for gone, instead of for two hours."""

DEAD_SERVER = {
    "TCP_KEEPIDLE": 20,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 30_000,
}
"""The same on this side; the last one in milliseconds."""

RETAKE_SECONDS = 5.0
"""Somebody who only looks whether a lock is taken holds it for a moment."""

LOCK_NOT_AVAILABLE = "55P03"


class HeldLock(Protocol):
    """A lock that this process holds."""

    def is_held(self) -> bool:
        """Whether it still holds the lock; takes it again if only the connection was lost."""


def is_postgres(instance: dg.DagsterInstance) -> bool:
    """Whether the instance is in a PostgreSQL database, which several machines can share."""
    engine = getattr(instance.event_log_storage, "_engine", None)
    return engine is not None and engine.dialect.name == "postgresql"


@contextmanager
def lock(
    instance: dg.DagsterInstance, name: str, wait_seconds: float | None = None
) -> Iterator[HeldLock]:
    """Hold a lock of the instance; the kernel or the server releases it if we are killed.

    `wait_seconds`: how long to wait for it; None: for ever.

    Raises:
        AlreadyRunning: another process held it for all that time.
    """
    if is_postgres(instance):
        held = _AdvisoryLock(instance, name)
        held.take(wait_seconds)
        try:
            yield held
        finally:
            held.release()
        return
    with file_lock(Path(instance.root_directory) / f"{name}.lock", wait_seconds) as of_file:
        yield of_file


@contextmanager
def file_lock(file: Path, wait_seconds: float | None = None) -> Iterator[HeldLock]:
    """Hold a lock between processes of this machine; raises what `lock` does, and OSError."""
    from filelock import FileLock, Timeout

    held = FileLock(file)
    try:
        held.acquire(timeout=-1 if wait_seconds is None else wait_seconds)
    except Timeout:
        raise _taken(file.stem) from None
    try:
        yield _OfFile()
    finally:
        held.release()


class _OfFile:
    def is_held(self) -> bool:
        return True


class _AdvisoryLock:
    def __init__(self, instance: dg.DagsterInstance, name: str) -> None:
        self.storage = instance.event_log_storage
        self.name = name
        self.connection: Connection | None = None

    def take(self, wait_seconds: float | None) -> None:
        import sqlalchemy as db
        from sqlalchemy.exc import OperationalError

        # Another schema of the same database may hold another instance.
        number = "hashtextextended(current_schema() || '/embed_assets/' || :name, 0)"
        connection = self.storage._engine.connect()
        try:
            _notice_dead_server(connection)
            for setting in DEAD_PEER:
                connection.execute(db.text(f"SET {setting}"))
            if wait_seconds == 0:
                query = db.text(f"SELECT pg_try_advisory_lock({number})")
                if not connection.execute(query, {"name": self.name}).scalar():
                    raise _taken(self.name)
            else:
                milliseconds = 0 if wait_seconds is None else max(1, int(wait_seconds * 1000))
                connection.execute(db.text(f"SET lock_timeout = {milliseconds}"))
                query = db.text(f"SELECT pg_advisory_lock({number})")
                connection.execute(query, {"name": self.name})
        except OperationalError as e:
            _end(connection)
            if getattr(e.orig, "pgcode", None) == LOCK_NOT_AVAILABLE:
                raise _taken(self.name) from None
            raise
        except BaseException:
            _end(connection)
            raise
        self.connection = connection

    def is_held(self) -> bool:
        import sqlalchemy as db
        from sqlalchemy.exc import SQLAlchemyError

        if self.connection is not None:
            try:
                self.connection.execute(db.text("SELECT 1"))
            except SQLAlchemyError:
                self.release()
            else:
                return True
        try:
            self.take(RETAKE_SECONDS)
        except AlreadyRunning:
            return False
        except SQLAlchemyError:
            # The server is away, for everybody else as well.
            return True
        return True

    def release(self) -> None:
        if self.connection is not None:
            _end(self.connection)
            self.connection = None


def _notice_dead_server(connection: Connection) -> None:
    """Have a server that answers nothing for half a minute count as gone, not for a quarter hour.

    Otherwise `up` would hang for that long, and not stop on SIGTERM either.
    """
    number = os.dup(connection.connection.dbapi_connection.fileno())
    with socket.socket(fileno=number) as its:
        if its.family not in (socket.AF_INET, socket.AF_INET6):
            return
        its.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in DEAD_SERVER.items():
            if option := getattr(socket, name, None):
                its.setsockopt(socket.IPPROTO_TCP, option, value)


def _end(connection: Connection) -> None:
    """Close the connection itself, also if it came from a pool: the lock ends with it."""
    from sqlalchemy.exc import SQLAlchemyError

    with suppress(SQLAlchemyError):
        connection.invalidate()
    with suppress(SQLAlchemyError):
        connection.close()


def _taken(name: str) -> AlreadyRunning:
    return AlreadyRunning(f"another process holds the lock {name!r}")
