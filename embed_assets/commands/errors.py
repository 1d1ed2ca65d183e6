"""`errors`: every rejected track and every folder that is not done, with the reason."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from embed_assets import asked, ctimes, reports
from embed_assets.commands.reading import open_existing, reading, require_setting
from embed_assets.defs import state
from embed_assets.defs.partitions import key_of, path_of
from embed_assets.errors import ConfigurationError
from embed_assets.identity import display_path
from embed_assets.index.folders import version_of
from embed_assets.library.walk import Folder, walk
from embed_assets.project import Project
from embed_assets.rows import Problem
from embed_assets.settings import Settings

PAGE = 200
"""Failed runs read at once; all of them are, as far as any folder is unexplained."""


def errors(settings: Settings) -> list[dict[str, Any]]:
    """Every rejected track and every folder that is not done, with what its last try died of.

    Raises:
        ConfigurationError: EMBED_LIBRARY is not set, no such encoder, or no weights.
    """
    require_setting(settings)
    project = reading(settings)
    return [_as_json(p) for p in problems(settings, project)]


def problems(settings: Settings, project: Project) -> list[Problem]:
    """The rows of `errors`.

    What failed before and is as the index has it now is no problem: the change that the run was for
    was taken back, or the run had others to do.
    """
    spec, tables = project.spec(), project.tables
    rows = list(reports.rejected_tracks(tables, spec.recipe.digest))
    failed = {p.path: p for p in reports.failed_folders(tables)}
    waiting = asked.open_requests(tables)
    with open_existing(settings) as instance:
        failed |= {p.path: p for p in _killed(instance, waiting) if p.path not in failed}
    there = tables.indexed(spec.place(project.uri)) if failed else {}
    read = ctimes.known(tables, time.time()) if failed else {}
    unreadable = []
    for folder in walk(project.library.root) if project.library.root else ():
        if folder.digest is None:
            unreadable.append(_unreadable(folder))
            failed.pop(folder.path, None)
        elif (
            there.get(folder.path) == version_of(folder.digest, spec)
            and read.get(folder.path, folder.ctimes) == folder.ctimes
            and folder.path not in waiting
        ):
            failed.pop(folder.path, None)
    return rows + list(failed.values()) + unreadable


def _unreadable(folder: Folder) -> Problem:
    """A folder of which nothing is known now; what was indexed of it and below stays."""
    message = f"{folder.error}: what is below it is left as it is; check its permissions"
    return Problem(folder.path, folder.path, "cannot be read", message, time.time(), "")


def _killed(instance: dg.DagsterInstance, waiting: Mapping[bytes, float]) -> list[Problem]:
    """Folders that a failed run left out of step without a word, e.g. because it was killed.

    `waiting`: when a person asked for another try, which is no failure until it has failed.
    """
    keys = state.known_keys(instance)
    since = {key_of(path): at for path, at in waiting.items()}
    decided = state.held_keys(state.live_runs(instance), keys)
    problems: list[Problem] = []
    for record in _failed_runs(instance):
        if len(decided) >= len(keys):
            break
        run = record.dagster_run
        at = record.end_time or record.create_timestamp.timestamp()
        # The newest failed run of a folder decides: whatever came before it is history.
        for key in sorted(state.held_keys([run], keys) - decided):
            decided.add(key)
            if since.get(key, 0.0) > at or _indexed_after(instance, key, at):
                continue
            try:
                path = path_of(key)
            except ConfigurationError:
                continue
            cause = _cause(instance, run.run_id)
            problems.append(Problem(path, path, "run failed", cause, at, run.run_id))
    return problems


def _failed_runs(instance: dg.DagsterInstance) -> Iterator[dg.RunRecord]:
    failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])
    cursor = None
    while page := instance.get_run_records(failed, limit=PAGE, cursor=cursor):
        yield from page
        cursor = page[-1].dagster_run.run_id


def _indexed_after(instance: dg.DagsterInstance, key: str, at: float) -> bool:
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=state.INDEX_KEY, asset_partitions=[key], after_timestamp=at - 1
        ),
        limit=1,
    )
    return bool(found.records)


def _cause(instance: dg.DagsterInstance, run_id: str) -> str:
    records = instance.get_records_for_run(
        run_id, of_type={dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.PIPELINE_FAILURE}
    ).records
    for record in records:
        event = record.event_log_entry.get_dagster_event()
        if event.message:
            return f"{event.message} It is tried again by itself"
    return "the run failed; its log in the Dagster UI says why. It is tried again by itself"


def _as_json(problem: Problem) -> dict[str, Any]:
    return {
        "path": display_path(problem.path),
        "folder": display_path(problem.folder),
        "reason": problem.reason,
        "message": problem.message,
        "at": problem.at,
        "run_id": problem.run_id,
    }
