"""Whether the ctimes of a folder's files say anything: they find what a file's size and mtime hide.

A tagger that puts a file's times back cannot put back its ctime. But a ctime also changes when a
file is renamed, linked or given other permissions, and some file systems make it up. So a file of
another ctime is only read again, and where that found nothing `TRIES` times in a row, the ctimes of
its folder count again only after a day, then after two, four and so on.
"""

from __future__ import annotations

from embed_assets.identity import FolderId
from embed_assets.storage.tables import Tables

TRIES = 3
"""So often in a row are files read again in vain before the ctimes of their folder count less."""

REST_SECONDS = 86_400.0


def count(useless_reads: int, useless_read_at: float, now: float) -> bool:
    """Whether a changed ctime is reason enough to read a file, after so many `useless_reads`."""
    if useless_reads < TRIES:
        return True
    return not 0 <= now - useless_read_at < REST_SECONDS * 2.0 ** (useless_reads - TRIES)


def of_folder(tables: Tables, folder: FolderId) -> tuple[int, float]:
    """How often in a row a ctime of a folder's files said nothing, and when it last did."""
    with tables.connect() as db:
        row = db.execute(
            "SELECT useless_reads, useless_read_at FROM folders WHERE folder_id = ?", (folder,)
        ).fetchone()
    return row or (0, 0.0)


def known(tables: Tables, now: float) -> dict[bytes, int]:
    """Path -> `ctimes` of the folders that are scanned and whose ctimes count."""
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
    """How many folders have ctimes that do not count now."""
    with tables.connect() as db:
        rows = db.execute(
            "SELECT useless_reads, useless_read_at FROM folders WHERE useless_reads >= ?", (TRIES,)
        )
        return sum(not count(useless_reads, at, now) for useless_reads, at in rows)
