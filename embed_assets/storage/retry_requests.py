"""Requests of `retry`: folders to be read and embedded again; kept in the tables until done.

One transaction marks the tracks as to be read (`probed`) and to be embedded (`retry`), marks their
folders as not indexed, and deletes recorded failures, so that nothing waits for a retry interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from embed_assets.identity import FolderId
from embed_assets.storage.tables import Tables


def ask(
    tables: Tables, covers: Callable[[bytes], bool], folders: Iterable[tuple[FolderId, bytes]]
) -> tuple[list[bytes], int]:
    """Request that all tracks with a covered path are read and embedded again.

    `folders`: (id, path) of covered folders that the tables may not contain yet. Returns the paths
    of all affected folders, and the number of tracks.
    """
    now = time.time()
    with tables.transaction() as db:
        db.create_function("covers", 1, covers, deterministic=True)
        found = dict(folders)
        found |= dict(db.execute("SELECT folder_id, path FROM folders WHERE covers(path)"))
        found |= dict(db.execute("SELECT folder_id, path FROM failures WHERE covers(path)"))
        found |= dict(
            db.execute(
                "SELECT folder_id, path FROM folders WHERE folder_id IN"
                " (SELECT folder_id FROM tracks WHERE covers(path))"
            )
        )
        tracks = db.execute("UPDATE tracks SET probed = 0, retry = 1 WHERE covers(path)").rowcount
        for folder, path in found.items():
            # A scan in progress may have read the files before this request: without its `scan` it
            # cannot finish.
            db.execute(
                "UPDATE folders SET digest = NULL, scan = NULL, revision = revision + 1"
                " WHERE folder_id = ?",
                (folder,),
            )
            db.execute("DELETE FROM failures WHERE folder_id = ?", (folder,))
            db.execute(
                "INSERT OR REPLACE INTO retry_requests VALUES (?, ?, ?)", (folder, path, now)
            )
    return sorted(found.values()), tracks


def open_requests(tables: Tables) -> dict[bytes, float]:
    """Path of each folder with an unfinished request -> when it was made, in seconds since 1970."""
    with tables.connect() as db:
        return dict(db.execute("SELECT path, at FROM retry_requests"))
