"""A run covers many folders; each has its own result.

A folder that fails does not stop the others: the step continues, and raises at the end. Finished
folders are logged before that, so they stay green and only the others turn red.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from embed_assets.defs.dagster_compat.batches import (
    add_partition_metadata,
    store_materializations,
)
from embed_assets.defs.execution import failure_of, is_in_process
from embed_assets.defs.partitions import key_of, path_of
from embed_assets.errors import ConfigurationError, LibraryUnavailable
from embed_assets.identity import PartitionKey, Recipe, display_path, folder_id
from embed_assets.library.manifest import MusicFolder
from embed_assets.storage.queries import folder_states
from embed_assets.storage.records import CHANGED
from embed_assets.storage.tables import Tables
from embed_assets.workers import end_with_parent

REMOVE_TAG = "embed_assets/remove"
"""Tag of a run that removes folders; only then may a folder be missing."""

FOLDERS_TAG = "embed_assets/folders"
"""Tag of a run: its folders, for people."""

PRIORITY_TAG = "embed_assets/priority"
"""Tag with `interactive` or `import`: a new album does not queue behind an import."""

PROGRESS_SECONDS = 10.0


@dataclass
class Progress:
    """Counts of a step's tracks, logged at most every 10 seconds, as a line costs Dagster 50 ms."""

    log: Callable[[str], None]
    total: int
    counts: dict[str, int] = field(default_factory=dict)
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)

    def known(self, **counts: int) -> None:
        """Tracks that need no work; they do not count for the rate."""
        self.counts.update(counts)
        self.total -= sum(counts.values())

    def add(self, what: str, n: int = 1) -> None:
        """Count a track, and log a line if one is due."""
        self.counts[what] = self.counts.get(what, 0) + n
        self.done += n
        if time.monotonic() - self.last >= PROGRESS_SECONDS:
            self.last = time.monotonic()
            self.log(self.line())

    def line(self) -> str:
        """Tracks done by kind, remaining tracks, rate and remaining time."""
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        left = max(self.total - self.done, 0)
        eta = f"{left / rate:.0f} s" if rate > 0 else "unknown"
        kinds = ", ".join(f"{n} {what}" for what, n in self.counts.items()) or "none"
        return f"{kinds}; {left} remaining; {rate:.1f} tracks/s; ETA {eta}"


def each_folder(
    context: dg.AssetExecutionContext,
    library: MusicFolder,
    tables: Tables,
    work: Callable[[list[bytes]], Iterable[tuple[bytes, Mapping[str, Any] | BaseException]]],
) -> None:
    """Process the folders of the run; `work` yields each path with its metadata or an error.

    Raises:
        dagster.Failure: a configuration is wrong; nothing is retried.
        Exception: the first error of a folder, after all folders.
    """
    if not is_in_process(context.run):
        # Otherwise a step outlives its killed run, and repeats the work of its retry.
        end_with_parent()
    stage = context.asset_key.path[-1]
    failed: list[tuple[str, BaseException]] = []
    finished: dict[PartitionKey, Mapping[str, Any]] = {}
    try:
        # While one connection is open, no other is the last: SQLite tidies up behind each last one.
        with tables.connect():
            for path, outcome in work([path_of(key) for key in context.partition_keys]):
                key = key_of(path)
                if not isinstance(outcome, BaseException):
                    finished[key] = outcome
                    continue
                mounted = not isinstance(outcome, LibraryUnavailable)
                if isinstance(outcome, ConfigurationError) and mounted:
                    raise outcome
                note_failure(context, library, tables, key, stage, outcome)
                failed.append((key, outcome))
    except Exception as e:  # noqa: BLE001
        # An error that stops all folders is not the fault of one.
        left = [key for key in context.partition_keys if key not in finished]
        note_shared_failure(context, library, tables, left, stage, e)
        failed = [(key, e) for key in left]
    if not failed:
        add_partition_metadata(context, finished.items())
        return
    store_materializations(
        context,
        [
            dg.AssetMaterialization(context.asset_key, partition=done, metadata=dict(metadata))
            for done, metadata in finished.items()
        ],
    )
    raise_for(failed, stage, len(context.partition_keys))


def one_by_one(
    work: Callable[[bytes], Mapping[str, Any]],
) -> Callable[[list[bytes]], Iterator[tuple[bytes, Mapping[str, Any] | BaseException]]]:
    """A `work` for `each_folder` that processes one folder at a time."""

    def outcome(path: bytes) -> tuple[bytes, Mapping[str, Any] | BaseException]:
        try:
            return path, work(path)
        except Exception as error:  # noqa: BLE001  # it is the folder's outcome
            return path, error

    return lambda paths: map(outcome, paths)


def note_failure(
    context: dg.AssetExecutionContext,
    library: MusicFolder,
    tables: Tables,
    key: str,
    stage: str,
    error: BaseException,
) -> None:
    """Record a folder's failure in the run's log and in the table of `errors`."""
    context.log.error(f"{key}: {error}")
    try:
        path = path_of(key)
    except ConfigurationError:
        return
    folder = folder_id(library.name, path)
    tables.put_failures([(folder, path)], stage, str(error), context.run_id)


def note_changed(
    context: dg.AssetExecutionContext, library: MusicFolder, tables: Tables, path: bytes, why: str
) -> dict[str, Any]:
    """Record that a folder is not done because it changed meanwhile; returns its metadata.

    That is normal during a copy: the folder stays out of date, and the sensor requests a run again.
    """
    context.log.warning(why)
    folder = folder_id(library.name, path)
    tables.put_failures([(folder, path)], CHANGED, why, context.run_id)
    return folder_metadata(library, path) | {"changed_meanwhile": why}


def note_not_ready(
    library: MusicFolder, tables: Tables, path: bytes, recipes: Iterable[Recipe], run_id: str
) -> None:
    """The same for a folder whose rows are incomplete, without a known reason, when it is indexed.

    Another run is scanning it, or a person just requested a retry.
    """
    folder = folder_id(library.name, path)
    states = [folder_states(tables, [folder], recipe.digest).get(folder) for recipe in recipes]
    if not all(state is not None and state.ready for state in states):
        why = "its files were being read anew when it was to be indexed; it is looked at again"
        tables.put_failures([(folder, path)], CHANGED, why, run_id, unless_known=True)


def note_shared_failure(
    context: dg.AssetExecutionContext,
    library: MusicFolder,
    tables: Tables,
    keys: Iterable[str],
    stage: str,
    error: BaseException,
) -> None:
    """The same for a failure that is not the fault of these folders, e.g. of Milvus."""
    context.log.error(str(error))
    folders = [(folder_id(library.name, p), p) for p in paths_of(keys)]
    tables.put_failures(folders, stage, str(error), context.run_id, shared=True)


def raise_for(failed: Sequence[tuple[str, BaseException]], stage: str, total: int) -> None:
    """Fail the step for its failed folders, with the kind of the first error."""
    key, error = failed[0]
    summary = f"{stage}: {len(failed)} of {total} folders failed; first {key!r}"
    failure = failure_of(error, summary)
    if failure is error:
        raise RuntimeError(f"{summary}: {error}") from error
    raise failure from error


def rejects_of(rows: list[tuple[Any, ...]]) -> dict[str, dg.TableMetadataValue]:
    """Metadata entry with rejected tracks and their reasons, if there are any."""
    if not rows:
        return {}
    columns = ("track", "reason", "message")
    table = dg.MetadataValue.table(
        records=[
            dg.TableRecord({"track": display_path(p), "reason": r, "message": m})
            for p, r, m in rows
        ],
        schema=dg.TableSchema([dg.TableColumn(c, "string") for c in columns]),
    )
    return {"rejects": table}


def folder_metadata(library: MusicFolder, path: bytes) -> dict[str, Any]:
    """The first metadata of each folder's materialization: its path."""
    full = f"{library.root}/{display_path(path)}" if path else str(library.root)
    return {"path": dg.MetadataValue.path(full), "folder": key_of(path)}


def paths_of(keys: Iterable[str]) -> list[bytes]:
    """Paths of folders; keys that match no folder are left out."""
    paths = []
    for key in keys:
        try:
            paths.append(path_of(key))
        except ConfigurationError:
            continue
    return paths
