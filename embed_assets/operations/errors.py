"""`errors`: every rejected track and every folder that is not done, with the reason."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import TypedDict

import dagster as dg

from embed_assets.defs import state
from embed_assets.defs.activity import cause_of
from embed_assets.defs.partitions import key_of, path_of
from embed_assets.errors import ConfigurationError, LibraryUnavailable
from embed_assets.formats import iso
from embed_assets.identity import IndexSpec, display_path
from embed_assets.index.folders import version_of, written_versions
from embed_assets.library import ctimes
from embed_assets.library.walk import (
    Folder,
    folder_ctimes,
    folder_digest,
    list_audio,
    require_library,
    walk,
)
from embed_assets.operations.read_only import open_existing, require_setting
from embed_assets.project import Project, for_reading
from embed_assets.search.served import spec_to_show
from embed_assets.settings import Settings
from embed_assets.storage import queries, retry_requests
from embed_assets.storage.records import Problem


class ErrorRow(TypedDict):
    """One row of `errors --json`: a rejected track, or a folder that is not done."""

    path: str
    """The track or the folder, relative to the library."""
    folder: str
    """The folder; the same as `path` if the row is about the folder."""
    reason: str
    """Why, in a few words, e.g. `corrupt`, `too short`, `run failed`, `cannot be read`."""
    message: str
    """What happened and what to do."""
    at: float
    """When it happened, in seconds since 1970; the same moment as `time`."""
    time: str
    """When it happened, in ISO 8601, UTC."""
    run_id: str
    """The Dagster run in which it happened; empty if it was none."""


def errors(settings: Settings) -> list[ErrorRow]:
    """Every rejected track and every folder that is not done, with the reason.

    While the weights of the settings are missing, they are those of what is served.

    Raises:
        ConfigurationError: EMBED_LIBRARY is not set, no such encoder, or no weights and nothing is
            served.
    """
    require_setting(settings)
    project = for_reading(settings)
    return [_as_json(p) for p in problems(settings, project)]


def problems(settings: Settings, project: Project) -> list[Problem]:
    """The rows of `errors`."""
    spec, _ = spec_to_show(project)
    rows = list(queries.rejects(project.tables, spec))
    with open_existing(settings) as instance:
        failed = failed_folders(instance, project, spec)
    there = walk(project.library.root) if project.library.root else ()
    return rows + failed + [_unreadable(folder) for folder in there if folder.digest is None]


def failed_folders(
    instance: dg.DagsterInstance, project: Project, spec: IndexSpec
) -> list[Problem]:
    """Every folder that is not done: `errors` lists them, `status` and `doctor` count them.

    Left out are folders that failed earlier but are up to date, because their change was undone or
    only other folders of their run failed, and unreadable folders. While the library is away, the
    last scan of it counts.
    """
    tables, root = project.tables, project.library.root
    keys = [one.collection_key(project.uri) for one in spec.every_collection]
    waiting = retry_requests.open_requests(tables)
    failed = {p.path: p for p in queries.failed_folders(tables)}
    killed = _killed(instance, failed.keys(), waiting, queries.indexed_at(tables, *keys))
    failed |= {p.path: p for p in killed}
    if not failed or root is None:
        return list(failed.values())
    try:
        require_library(root)
    except LibraryUnavailable:
        done = set.intersection(*(queries.current_folders(tables, key) for key in keys))
        return [p for path, p in failed.items() if path in waiting or path not in done]
    there = written_versions(tables, spec, project.uri)
    read = ctimes.known(tables, time.time())
    open_ones = []
    for path, problem in failed.items():
        try:
            files = list_audio(root, path)
        except OSError:
            continue
        now = folder_ctimes(files)
        in_step = (
            bool(files)
            and there.get(path) == version_of(folder_digest(files), spec)
            and read.get(path, now) == now
            and path not in waiting
        )
        if not in_step:
            open_ones.append(problem)
    return open_ones


def _unreadable(folder: Folder) -> Problem:
    message = f"{folder.error}: check its permissions. What is indexed below it stays until then"
    return Problem(folder.path, folder.path, "cannot be read", message, time.time(), "")


def _killed(
    instance: dg.DagsterInstance,
    explained: Collection[bytes],
    waiting: Mapping[bytes, float],
    indexed_at: Mapping[bytes, float],
) -> list[Problem]:
    """Folders that a failed run left out of date without a reason, e.g. because it was killed.

    `explained`: folders with a recorded reason. `waiting`: when `retry` was requested for a folder;
    earlier failures of it do not count. `indexed_at`: when each folder was indexed last, from the
    tables; for the others Dagster's events are read.
    """
    keys = state.known_keys(instance)
    decided = state.held_keys(state.live_runs(instance), keys) | set(map(key_of, explained))
    problems: list[Problem] = []
    for record in state.failed_runs(instance):
        if len(decided) >= len(keys):
            break
        run = record.dagster_run
        at = record.end_time or record.create_timestamp.timestamp()
        cause = ""
        # Only the newest failed run of a folder counts.
        for key in sorted(state.held_keys([run], keys) - decided):
            decided.add(key)
            try:
                path = path_of(key)
            except ConfigurationError:
                continue
            done_at = max(waiting.get(path, 0.0), indexed_at.get(path, 0.0))
            if done_at > at or _indexed_after(instance, key, at):
                continue
            cause = cause or cause_of(instance, run.run_id)
            problems.append(Problem(path, path, "run failed", cause, at, run.run_id))
    return problems


def _indexed_after(instance: dg.DagsterInstance, key: str, at: float) -> bool:
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=state.INDEX_KEY, asset_partitions=[key], after_timestamp=at
        ),
        limit=1,
    )
    return bool(found.records)


def _as_json(problem: Problem) -> ErrorRow:
    return {
        "path": display_path(problem.path),
        "folder": display_path(problem.folder),
        "reason": problem.reason,
        "message": problem.message,
        "at": problem.at,
        "time": iso(problem.at),
        "run_id": problem.run_id,
    }
