"""`status` and `errors`: what is in step, what goes on, what is wrong; the same as in the UI."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg

from embed_assets import reports
from embed_assets.commands.up import running_address
from embed_assets.defs import state
from embed_assets.defs.instance import open_instance
from embed_assets.defs.look import look
from embed_assets.defs.partitions import path_of
from embed_assets.errors import ConfigurationError
from embed_assets.identity import display_path
from embed_assets.library.plan import Memory, Policy
from embed_assets.project import Project
from embed_assets.rows import Problem
from embed_assets.settings import Settings

RATE_SECONDS = 60.0
"""The rate is that of the last minute."""

FAILED_RUNS = 200
"""So many of the last failed runs are searched for what a folder died of."""


@dataclass(frozen=True)
class Status:
    """What `status --json` prints; rate in tracks/s over the last minute, eta in seconds.

    `engine` is what embedded the last track, empty before the first.
    """

    library: str
    ui: str | None
    folders: int
    folders_in_step: int
    folders_to_do: int
    folders_in_runs: int
    folders_failed: int
    folders_unreadable: int
    tracks: int
    tracks_embedded: int
    tracks_rejected: int
    tracks_pending: int
    audio_hours: float
    live_runs: int
    rate: float
    eta: float | None
    encoder: str
    note: str
    device: str
    engine: str
    collection: str
    problem: str

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return asdict(self)


def status(settings: Settings) -> Status:
    """Look at library, tables and Dagster; changes nothing.

    Raises:
        ConfigurationError: no such encoder, or no weights.
    """
    from embed_assets import encoders

    project = Project.of(settings)
    spec = project.spec()
    info = encoders.describe(settings.encoder, settings.model, settings.model_cache)
    found = reports.counts(project.tables, spec.recipe.digest, spec.place(project.uri))
    recent = reports.embedded_since(project.tables, spec.recipe.digest, time.time() - RATE_SECONDS)
    problem, plan, live = "", None, 0
    with open_instance(settings) as instance:
        try:
            seen = look(
                instance,
                project.library,
                project.tables,
                spec,
                project.uri,
                Memory(),
                Policy(settle_seconds=0),
            )
            plan, live = seen.plan, seen.live_runs
        except ConfigurationError as e:
            problem = str(e)
    rate = recent / RATE_SECONDS
    left = max(plan.files - found.embedded - found.rejected, 0) if plan else found.pending
    return Status(
        library=str(settings.library or ""),
        ui=running_address(settings),
        folders=plan.folders if plan else found.folders,
        folders_in_step=plan.in_step if plan else found.folders_indexed,
        folders_to_do=plan.due if plan else 0,
        folders_in_runs=plan.held if plan else 0,
        folders_failed=found.folders_failed,
        folders_unreadable=plan.unreadable if plan else 0,
        tracks=plan.files if plan else found.tracks,
        tracks_embedded=found.embedded,
        tracks_rejected=found.rejected,
        tracks_pending=left,
        audio_hours=found.audio_seconds / 3600,
        live_runs=live,
        rate=rate,
        eta=left / rate if rate and left else None,
        encoder=settings.encoder,
        note=info.note,
        device=settings.device,
        engine=reports.last_engine(project.tables, spec.recipe.digest),
        collection=spec.collection,
        problem=problem,
    )


def errors(settings: Settings) -> list[dict[str, Any]]:
    """Every rejected track and every folder whose last try failed, with what it died of."""
    project = Project.of(settings)
    recipe = project.spec().recipe.digest
    rows = [*reports.rejected_tracks(project.tables, recipe)]
    failed = reports.failed_folders(project.tables)
    known = {p.path for p in failed}
    with open_instance(settings) as instance:
        failed += [p for p in _killed(instance, project) if p.path not in known]
    return [_as_json(p) for p in (*rows, *failed)]


def _killed(instance: dg.DagsterInstance, project: Project) -> list[Problem]:
    """Folders that a failed run left out of step without a word, e.g. because it was killed."""
    keys = state.known_keys(instance)
    held = state.held_keys(state.live_runs(instance), keys)
    failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])
    problems: dict[str, Problem] = {}
    for record in instance.get_run_records(failed, limit=FAILED_RUNS):
        run = record.dagster_run
        at = record.end_time or record.create_timestamp.timestamp()
        for key in state.held_keys([run], keys) - held - problems.keys():
            if _indexed_after(instance, key, at):
                continue
            try:
                path = path_of(key)
            except ConfigurationError:
                continue
            problems[key] = Problem(
                path, path, "run failed", _cause(instance, run.run_id), at, run.run_id
            )
    return list(problems.values())


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
            return event.message
    return "the run failed; its log in the Dagster UI says why"


def _as_json(problem: Problem) -> dict[str, Any]:
    return {
        "path": display_path(problem.path),
        "folder": display_path(problem.folder),
        "reason": problem.reason,
        "message": problem.message,
        "at": problem.at,
        "run_id": problem.run_id,
    }
