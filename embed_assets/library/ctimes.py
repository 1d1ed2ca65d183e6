"""Whether the ctimes of a folder can be trusted: they reveal changes that keep size and mtime.

A tagger can restore a file's mtime, but not its ctime. However, the ctime also changes when a file
is renamed, linked or given other permissions, and some file systems invent it. So a changed ctime
only means that the file is read again. If that finds nothing `TRIES` times in a row, the ctimes of
its folder are ignored for a day, then for two days, four and so on.
"""

from __future__ import annotations

from embed_assets.identity import FolderId
from embed_assets.storage.tables import Tables

TRIES = 3
"""Useless readings in a row after which the ctimes of a folder are ignored for a while."""

REST_SECONDS = 86_400.0


def count(useless_reads: int, useless_read_at: float, now: float) -> bool:
    """Whether a changed ctime is a reason to read a file, after this many `useless_reads`."""
    if useless_reads < TRIES:
        return True
    return not 0 <= now - useless_read_at < REST_SECONDS * 2.0 ** (useless_reads - TRIES)


def of_folder(tables: Tables, folder: FolderId) -> tuple[int, float]:
    """`useless_reads` of a folder, and when the last one was, in seconds since 1970."""
    with tables.connect() as db:
        row = db.execute(
            "SELECT useless_reads, useless_read_at FROM folders WHERE folder_id = ?", (folder,)
        ).fetchone()
    return row or (0, 0.0)


def known(tables: Tables, now: float) -> dict[bytes, int]:
    """Path -> `ctimes` of the scanned folders whose ctimes are not ignored."""
    with tables.connect() as db:
        rows = db.execute(
            "SELECT path, ctimes, useless_reads, useless_read_at FROM folders"
            " WHERE digest IS NOT NULL AND ctimes IS NOT NULL"
        )
        return {
            path: ctimes
            for path, ctimes, useless_reads, at in rows
            if count(useless_reads, at, now)
        }


def resting(tables: Tables, now: float) -> int:
    """How many folders have ctimes that are ignored now."""
    with tables.connect() as db:
        rows = db.execute(
            "SELECT useless_reads, useless_read_at FROM folders WHERE useless_reads >= ?", (TRIES,)
        )
        return sum(not count(useless_reads, at, now) for useless_reads, at in rows)
