"""Requests to scan the library now: made by clients of `serve`, handled by the sensor or `sync`.

Requests that wait for the same scan are one request, as the scan begins after the last of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from embed_assets.storage.tables import Tables

KEPT = 100
"""Number of requests that are kept in the table."""

_COLUMNS = "id, requested_at, begun_at, done_at"


@dataclass(frozen=True)
class Look:
    """A request to scan the library. Times in seconds since 1970; None: not yet."""

    id: int
    requested_at: float
    begun_at: float | None
    done_at: float | None


def request(tables: Tables) -> Look:
    """Request a scan; returns the earlier request, if one is still waiting."""
    with tables.transaction() as db:
        waiting = f"SELECT {_COLUMNS} FROM looks WHERE begun_at IS NULL"
        row = db.execute(waiting).fetchone()
        if row is None:
            db.execute("INSERT INTO looks (requested_at) VALUES (?)", (time.time(),))
            row = db.execute(waiting).fetchone()
            db.execute("DELETE FROM looks WHERE id <= ?", (row[0] - KEPT,))
    return Look(*row)


def begin(tables: Tables) -> list[int]:
    """Record that a scan begins; returns the ids of the requests that it handles.

    They include requests of an earlier scan that was not finished.
    """
    with tables.connect() as db:
        if db.execute("SELECT 1 FROM looks WHERE done_at IS NULL").fetchone() is None:
            return []
    with tables.transaction() as db:
        db.execute("UPDATE looks SET begun_at = ? WHERE done_at IS NULL", (time.time(),))
        return [one for (one,) in db.execute("SELECT id FROM looks WHERE done_at IS NULL")]


def finish(tables: Tables, ids: list[int]) -> None:
    """Record that the scan of these requests is finished."""
    if ids:
        with tables.transaction() as db:
            at = time.time()
            db.executemany("UPDATE looks SET done_at = ? WHERE id = ?", ((at, i) for i in ids))


def find(tables: Tables, look: int) -> Look | None:
    """The request with an id, if it is still known."""
    with tables.connect() as db:
        row = db.execute(f"SELECT {_COLUMNS} FROM looks WHERE id = ?", (look,)).fetchone()
    return Look(*row) if row else None


def newest(tables: Tables) -> Look | None:
    """The last request."""
    with tables.connect() as db:
        row = db.execute(f"SELECT {_COLUMNS} FROM looks ORDER BY id DESC LIMIT 1").fetchone()
    return Look(*row) if row else None
