"""The files of Dagster's instance: a log for each run, captured output, and the databases.

What Dagster 1.13 lacks: deleting a run's log and output, and the logs of ticks; giving disk space
back. Upstream: issues #33785 (logs) and #4498 (output), both open.

This module uses `path_for_shard` of the event log storage, which keeps each run's log in a SQLite
file, the connections of the storages, `compute_log_manager`, and the layout of `storage_directory`:
a folder for each run, and one for each sensor and schedule, with a file for each tick that logged.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import dagster as dg
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

EMPTY_LOG_BYTES = 8192
"""A run's log has at least 100 KB, most of them empty tables; what is smaller was emptied here."""

WORTHWHILE_BYTES = 1_000_000
"""A database is rewritten when so many of its bytes are free, and a quarter of it."""

_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def logged_runs(instance: dg.DagsterInstance) -> Iterator[tuple[str, float]]:
    """Ids of runs that have a log of their own or captured output, and when that last changed."""
    folders = [Path(instance.storage_directory())]
    if log := _log_file(instance, "any"):
        folders.append(log.parent)
    for folder in folders:
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name.removesuffix(".db")
                if _RUN_ID.fullmatch(name):
                    with suppress(FileNotFoundError):
                        yield name, entry.stat().st_mtime


def log_bytes(instance: dg.DagsterInstance, run_id: str) -> int:
    """Bytes of a run's log, 0 if it was emptied, and of what its steps printed."""
    log = _log_file(instance, run_id)
    size = sum(map(size_of, _with_journals(log))) if log else 0
    output = size_of(Path(instance.storage_directory()) / run_id)
    return output + (size if size > EMPTY_LOG_BYTES else 0)


def has_log(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether there is anything that `delete_log` would delete."""
    return log_bytes(instance, run_id) > 0 or (Path(instance.storage_directory()) / run_id).exists()


def delete_log(instance: dg.DagsterInstance, run_id: str, *, of_run_that_stays: bool) -> None:
    """Delete a run's log and captured output.

    A run that stays gets an empty log of one table: a webserver that had opened the old one would
    not make the tables again, and fail.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(f"{run_id!r} is no run's id")
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    log = _log_file(instance, run_id)
    if log is None:
        return
    for file in reversed(_with_journals(log)):
        # A journal goes first: SQLite would apply it to whatever lies beside it.
        if file != log or not of_run_that_stays:
            file.unlink(missing_ok=True)
    if of_run_that_stays:
        temporary = log.with_suffix(".empty")
        temporary.unlink(missing_ok=True)
        with closing(sqlite3.connect(temporary)) as connection:
            connection.execute("PRAGMA page_size = 512")
            table = CreateTable(SqlEventLogStorageTable).compile(dialect=sqlite.dialect())
            connection.execute(str(table))
        temporary.replace(log)


def _log_file(instance: dg.DagsterInstance, run_id: str) -> Path | None:
    storage = instance.event_log_storage
    if not isinstance(storage, SqliteEventLogStorage):
        return None
    return Path(storage.path_for_shard(run_id))


def _with_journals(log: Path) -> list[Path]:
    return [log, log.with_name(log.name + "-wal"), log.with_name(log.name + "-shm")]


def delete_tick_logs(instance: dg.DagsterInstance, before: float, until: float) -> None:
    """Delete what ticks logged before a time (seconds since 1970), until a monotonic time."""
    for folder in (Path(instance.storage_directory()) / "__repository__").glob("*/"):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if time.monotonic() > until:
                    return
                if entry.is_file() and entry.stat().st_mtime < before:
                    os.unlink(entry)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 for what is not there."""
    try:
        if path.is_dir():
            return sum(size_of(below) for below in path.iterdir())
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sizes(instance: dg.DagsterInstance) -> dict[str, int]:
    """Bytes of the instance: `databases` of all runs, `logs` of runs, captured `output`."""
    databases = sum(size_of(f) for db in _databases(instance) for f in _with_journals(db))
    log = _log_file(instance, "any")
    logs = size_of(log.parent) if log else 0
    index = sum(size_of(f) for f in _with_journals(log.with_name("index.db"))) if log else 0
    output = size_of(Path(instance.storage_directory()))
    return {"databases": databases, "logs": logs - index, "output": output}


def shrink(instance: dg.DagsterInstance, seconds: float) -> None:
    """Give free pages of the databases back to the disk, unless that takes longer, or one is used.

    Meanwhile others may read; Dagster waits 5 s for one that it wants to write to, or 30 s.
    """
    for file in _databases(instance):
        # In use, or interrupted: nothing has changed, and the free pages are used again.
        with suppress(sqlite3.OperationalError):
            _shrink(file, time.monotonic() + seconds)


def _databases(instance: dg.DagsterInstance) -> Iterator[Path]:
    for connect in (
        instance.event_log_storage.index_connection,
        instance.run_storage.connect,
        instance.schedule_storage.connect,
    ):
        with connect() as connection:
            url = connection.engine.url
        if url.get_backend_name() == "sqlite" and url.database:
            yield Path(url.database)


def _shrink(file: Path, until: float) -> None:
    with closing(sqlite3.connect(file, timeout=0.5, isolation_level=None)) as connection:
        page, pages, free = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "page_count", "freelist_count")
        )
        if free * page < WORTHWHILE_BYTES or free * 4 < pages:
            return
        connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
        connection.execute("VACUUM")
        connection.set_progress_handler(None, 0)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
