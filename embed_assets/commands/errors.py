"""`errors`: every rejected track and every failed folder, and `--clear`, another try of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from embed_assets import reports
from embed_assets.commands.reading import open_existing, reading, require_setting
from embed_assets.defs import state
from embed_assets.defs.instance import open_instance
from embed_assets.defs.partitions import key_of, path_of
from embed_assets.errors import ConfigurationError, EmbedAssetsError
from embed_assets.identity import display_path, folder_id
from embed_assets.index.folders import version_of
from embed_assets.library.walk import Folder, walk
from embed_assets.project import Project
from embed_assets.rows import Problem
from embed_assets.settings import Settings
from embed_assets.vectors.store import VectorsLost

PAGE = 200
"""Failed runs read at once; all of them are, as far as any folder is unexplained."""


def errors(settings: Settings) -> list[dict[str, Any]]:
    """Every rejected track and every folder whose last try failed, with what it died of.

    Raises:
        ConfigurationError: EMBED_LIBRARY is not set, no such encoder, or no weights.
    """
    require_setting(settings)
    project = reading(settings)
    return [_as_json(p) for p in _problems(settings, project)]


def clear(settings: Settings, name: str) -> list[str]:
    """Ask for another try of a track or a folder and all below it; returns the folders' names.

    What was rejected there is read and embedded again, stored vectors that are damaged as well,
    and a folder that rests after failures rests no longer. `up` does it at its next look, or
    `sync`.

    Raises:
        EmbedAssetsError: nothing of that name is known.
    """
    project = Project.of(settings)
    recipe = project.spec().recipe.digest
    wanted = _relative(settings, name)
    tables = project.tables
    tracks = [t for t in reports.all_tracks(tables) if _covers(wanted, display_path(t.path))]
    paths = {t.path.rpartition(b"/")[0] for t in tracks}
    paths |= {p for _, p, _ in tables.folders() if _covers(wanted, display_path(p))}
    paths |= {
        p.folder for p in _problems(settings, project) if _covers(wanted, display_path(p.path))
    }
    if not paths:
        raise EmbedAssetsError(
            f"{name!r}: no track and no folder of that name is known; `embed-assets errors` lists"
            " what can be cleared"
        )
    for track in tracks:
        tables.forget_track(track.track_id, recipe, track.audio_hash)
        _forget_damaged(project, recipe, track.audio_hash)
    with open_instance(settings) as instance:
        known = set(state.known_keys(instance))
        for path in paths:
            folder = folder_id(project.library.name, path)
            tables.mark_dirty(folder)
            tables.clear_failure(folder)
            if key_of(path) in known:
                version = f"{state.AGAIN}{time.time():.3f}"
                why = "another try was asked for with `embed-assets errors --clear`"
                state.report_version(instance, key_of(path), version, why)
    return sorted(map(display_path, paths))


def _relative(settings: Settings, name: str) -> str:
    """The name as `errors` prints it: relative to the library, `.` for its root."""
    root = str(settings.library or "")
    if root and os.path.isabs(name):
        name = os.path.relpath(name, root)
    return display_path(os.fsencode(name.rstrip("/")))


def _covers(wanted: str, shown: str) -> bool:
    return wanted in (".", shown) or shown.startswith(wanted + "/")


def _forget_damaged(project: Project, recipe: str, audio_hash: str | None) -> None:
    try:
        if audio_hash and project.store.has(recipe, audio_hash):
            project.store.read(recipe, audio_hash)
    except VectorsLost:
        project.store.delete(recipe, audio_hash or "")
        project.tables.forget_embedding(recipe, audio_hash or "")


def _problems(settings: Settings, project: Project) -> list[Problem]:
    spec = project.spec()
    rows = list(reports.rejected_tracks(project.tables, spec.recipe.digest))
    failed = reports.failed_folders(project.tables)
    known = {p.path for p in failed}
    with open_existing(settings) as instance:
        killed = {p.path: p for p in _killed(instance) if p.path not in known}
    there = project.tables.indexed(spec.place(project.uri)) if killed else {}
    unreadable = []
    for folder in walk(project.library.root) if project.library.root else ():
        if folder.digest is None:
            unreadable.append(_unreadable(folder))
        elif there.get(folder.path) == version_of(folder.digest, spec):
            # The run had others to do, or what it was for was taken back: nobody tries it again.
            killed.pop(folder.path, None)
    return rows + failed + list(killed.values()) + unreadable


def _unreadable(folder: Folder) -> Problem:
    """A folder of which nothing is known now; what was indexed of it and below stays."""
    message = f"{folder.error}: what is below it is left as it is; check its permissions"
    return Problem(folder.path, folder.path, "cannot be read", message, time.time(), "")


def _killed(instance: dg.DagsterInstance) -> list[Problem]:
    """Folders that a failed run left out of step without a word, e.g. because it was killed."""
    keys = state.known_keys(instance)
    versions = state.indexed_versions(instance)
    decided = state.held_keys(state.live_runs(instance), keys)
    decided |= {k for k, v in versions.items() if v.startswith(state.AGAIN)}
    problems: list[Problem] = []
    for record in _failed_runs(instance):
        if len(decided) >= len(keys):
            break
        run = record.dagster_run
        at = record.end_time or record.create_timestamp.timestamp()
        # The newest failed run of a folder decides: whatever came before it is history.
        for key in sorted(state.held_keys([run], keys) - decided):
            decided.add(key)
            if _indexed_after(instance, key, at):
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
