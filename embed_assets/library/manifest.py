"""Scanning one folder into the manifest: its tracks, their tags, audio hashes and problems."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from embed_assets.errors import LibraryUnavailable, TrackRejected, TransientError
from embed_assets.identity import TrackId, display_path, folder_id, local_path, track_id
from embed_assets.library import ctimes
from embed_assets.library.unchanged import unchanged
from embed_assets.library.walk import (
    AudioFile,
    folder_ctimes,
    folder_digest,
    library_in_a_run,
    list_audio,
)
from embed_assets.storage.records import FileStat, Track
from embed_assets.storage.tables import Tables
from embed_assets.workers import Pool

BATCH = 200
"""Tracks per commit: a kill costs at most this many probes."""


@dataclass(frozen=True)
class MusicFolder:
    """A music folder and the name under which its tracks are known."""

    root: Path | None
    name: str = "music"


@dataclass(frozen=True)
class ScanResult:
    """What a scan of one folder found; `removed` counts tracks that are no longer there."""

    digest: str
    tracks: int = 0
    probed: int = 0
    unchanged: int = 0
    rejected: int = 0
    removed: int = 0
    audio_seconds: float = 0.0


def scan_folder(
    library: MusicFolder,
    path: bytes,
    tables: Tables,
    pool: Pool,
    *,
    may_remove: bool = False,
    run_id: str = "",
    on_track: Callable[[Track], None] = lambda _: None,
) -> ScanResult:
    """Bring the manifest of one folder up to date; only files that changed are read.

    `path` is relative to the library. `may_remove`: the run requests the removal of this folder,
    so it may be missing. Rejected files become rows with a reason.

    Raises:
        LibraryUnavailable: the library is missing, or the folder is and its removal was not
            requested.
        FolderChanged: a file changed while it was read.
        TransientError: the folder or a file could not be read.
    """
    root = library_in_a_run(library.root, may_be_empty=may_remove)
    folder = folder_id(library.name, path)
    try:
        files = list_audio(root, path)
    except OSError as e:
        raise TransientError(
            f"{display_path(path)}: the folder cannot be read: {e.strerror}; check its permissions"
            " and the disk; it will be retried"
        ) from e
    if not files and not may_remove:
        raise LibraryUnavailable(
            f"{display_path(path)}: no audio files there now. If the disk or share is not mounted,"
            " mount it; if the folder was really deleted, the sensor or `embed-assets sync` removes"
            " it from the index"
        )
    scan = uuid.uuid4().hex
    tables.begin_scan(folder, path, scan)
    known = tables.file_stats(folder)
    useless_reads, useless_read_at = ctimes.of_folder(tables, folder)
    ctimes_count = ctimes.count(useless_reads, useless_read_at, time.time())
    prefix = path + b"/" if path else b""
    ids = {f.name: track_id(library.name, prefix + f.name) for f in files}
    alike = [f for f in files if (k := known.get(ids[f.name])) and k[:2] == f.file_stat[:2]]
    touched = {ids[f.name] for f in alike if known[ids[f.name]] != f.file_stat}
    same = [f for f in alike if not ctimes_count or ids[f.name] not in touched]
    seen = {f.name for f in same}
    tables.keep_tracks(folder, (ids[f.name] for f in same), scan)
    fresh = (
        (f, Track(ids[f.name], folder, prefix + f.name, *f.file_stat, run_id=run_id))
        for f in files
        if f.name not in seen
    )
    changed: set[TrackId] = set()
    jumping: set[TrackId] = set()
    for rows in _in_batches(_probe_all(root, fresh, pool, jumping)):
        changed |= tables.put_tracks(rows, scan)
        for row in rows:
            on_track(row)
    digest = folder_digest(files)
    removed = tables.finish_scan(
        folder,
        scan,
        digest,
        len(files),
        folder_ctimes(files) if ctimes_count or not touched else None,
        _useless_reads(useless_reads, touched if ctimes_count else set(), changed, jumping),
    )
    totals = tables.folder_totals(folder)
    return ScanResult(
        digest=digest,
        tracks=len(files),
        probed=len(files) - len(same),
        unchanged=len(same),
        rejected=totals.unreadable,
        removed=removed,
        audio_seconds=totals.audio_seconds,
    )


def _useless_reads(
    before: int, touched: set[TrackId], changed: set[TrackId], jumping: set[TrackId]
) -> int | None:
    """The new number of `useless_reads`; None if this scan says nothing about it.

    `touched`: files that were read only because of their ctime. `jumping`: files whose ctime
    changed while they were read.
    """
    if touched & changed:
        return 0
    if jumping:
        return max(before + 1, ctimes.TRIES)
    return before + 1 if touched else None


def _probe_all(
    root: Path, files: Iterable[tuple[AudioFile, Track]], pool: Pool, jumping: set[TrackId]
) -> Iterator[Track]:
    jobs = ((row, local_path(root, row.path), f.file_stat) for f, row in files)
    for (row, _, _), result in pool.run(_probe_one, jobs):
        if isinstance(result, TrackRejected):
            yield replace(row, **_rejected(result))
        elif isinstance(result, OSError):
            raise TransientError(
                f"{display_path(row.path)}: cannot be read: {result.strerror or result}; check its"
                " permissions and the disk; it will be retried"
            ) from result
        elif type(result) is TransientError:
            raise TransientError(f"{display_path(row.path)}: {result}") from result
        elif isinstance(result, BaseException):
            raise result
        else:
            columns, jumped = result
            if jumped:
                jumping.add(row.track_id)
            yield replace(row, **columns)


def _probe_one(job: tuple[Track, bytes, FileStat]) -> tuple[dict[str, object], bool]:
    """The manifest's columns for one file, and whether its ctime jumps. Runs in a worker."""
    row, path, file_stat = job
    columns: dict[str, object] = {}
    with unchanged(path, file_stat, row.path, lambda: _columns(path) == columns) as reading:
        columns |= _columns(path)
    return columns, reading.jumped


def _columns(path: bytes) -> dict[str, object]:
    from embed_assets.library.probe import probe

    try:
        return {k: v for k, v in asdict(probe(path)).items() if v is not None}
    except TrackRejected as error:
        return _rejected(error)


def _rejected(error: TrackRejected) -> dict[str, object]:
    return {"reason": str(error.reason), "message": error.message}


def _in_batches(rows: Iterator[Track]) -> Iterator[list[Track]]:
    """Group rows for a commit; on an error, the rows before it are yielded first."""
    batch: list[Track] = []
    try:
        for row in rows:
            batch.append(row)
            if len(batch) >= BATCH:
                yield batch
                batch = []
    except BaseException:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
