"""Requests of `retry`: folders to be read and embedded again; kept in the tables until done.

One transaction marks the tracks as to be read (`probed`) and to be embedded (`retry`), marks their
folders as not indexed, and deletes recorded failures, so that nothing waits for a retry interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from embed_assets.identity import FolderId, TrackId
from embed_assets.storage.database import replace_row
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
        found = dict(folders)
        tracks: dict[TrackId, FolderId] = {
            track: folder
            for track, folder, path in db.stream("SELECT track_id, folder_id, path FROM tracks")
            if covers(path)
        }
        with_tracks = set(tracks.values())
        known = db.stream("SELECT folder_id, path FROM folders")
        found |= {f: path for f, path in known if f in with_tracks or covers(path)}
        failed = db.stream("SELECT folder_id, path FROM failures")
        found |= {f: path for f, path in failed if covers(path)}
        for folder, path in sorted(found.items()):
            # A scan in progress may have read the files before this request: without its `scan` it
            # cannot finish.
            db.execute(
                "UPDATE folders SET digest = NULL, scan = NULL, revision = revision + 1"
                " WHERE folder_id = ?",
                (folder,),
            )
            db.execute("DELETE FROM failures WHERE folder_id = ?", (folder,))
            db.execute(
                replace_row("retry_requests", ("folder_id", "path", "at"), key=("folder_id",)),
                (folder, path, now),
            )
        db.executemany(
            "UPDATE tracks SET probed = 0, retry = 1 WHERE track_id = ?", ((t,) for t in tracks)
        )
    return sorted(found.values()), len(tracks)


def open_requests(tables: Tables) -> dict[bytes, float]:
    """Path of each folder with an unfinished request -> when it was made, in seconds since 1970."""
    with tables.connect() as db:
        return dict(db.execute("SELECT path, at FROM retry_requests"))
