"""`status`: what is in step, what goes on, how fast; the same as in the UI."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg

from embed_assets.defs.evaluation import evaluate
from embed_assets.errors import ConfigurationError
from embed_assets.identity import RecipeDigest
from embed_assets.index.address import unreachable
from embed_assets.library.left_out import LeftOut
from embed_assets.operations.errors import failed_folders
from embed_assets.operations.read_only import address_of_up, open_existing, require_setting
from embed_assets.planning.values import Policy, SensorCursor
from embed_assets.project import for_reading
from embed_assets.settings import Settings
from embed_assets.storage import collection_registry, queries
from embed_assets.storage.tables import Tables

RATE_SECONDS = 60.0
"""The rate is that of the last minute, or of the part of it in which there was work."""


@dataclass(frozen=True)
class Status:
    """What `status --json` prints; rate in tracks/s over the last minute, eta in seconds.

    `engine` is what embedded the last track, empty before the first; `links_skipped`: symbolic
    links that are not followed, for they lead out of the library or nowhere. `milvus`: why the
    Milvus server cannot be reached, empty if it can, or for Milvus Lite.
    """

    library: str
    ui: str | None
    folders: int
    folders_in_step: int
    folders_to_do: int
    folders_in_runs: int
    folders_failed: int
    folders_unreadable: int
    links_skipped: int
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
    served: str | None
    served_by_hand: bool
    milvus: str
    problem: str

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return asdict(self)


def status(settings: Settings) -> Status:
    """Look at library, tables and Dagster; changes nothing.

    Raises:
        ConfigurationError: EMBED_LIBRARY is not set, no such encoder, or no weights.
    """
    from embed_assets import encoders

    require_setting(settings)
    project = for_reading(settings)
    spec = project.spec()
    info = encoders.describe(settings.encoder, settings.model, settings.model_cache)
    found = queries.counts(project.tables, spec.recipe.digest, spec.place(project.uri))
    problem, plan, live, left_out = "", None, 0, LeftOut()
    with open_existing(settings) as instance:
        try:
            policy = Policy(settle_seconds=0)
            seen = evaluate(instance, project.index(), SensorCursor(), policy, left_out=left_out)
            plan, live = seen.plan, seen.live_runs
        except ConfigurationError as e:
            problem = str(e)
        failed = len(failed_folders(instance, project))
        rate = _rate(instance, project.tables, spec.recipe.digest, goes_on=live > 0)
    left = max(plan.files - found.embedded - found.rejected, 0) if plan else found.pending
    return Status(
        library=str(settings.library or ""),
        ui=address_of_up(settings),
        folders=plan.folders if plan else found.folders,
        folders_in_step=plan.in_step if plan else found.folders_indexed,
        folders_to_do=plan.due if plan else 0,
        folders_in_runs=plan.running if plan else 0,
        folders_failed=failed,
        folders_unreadable=plan.unreadable if plan else 0,
        links_skipped=left_out.links,
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
        engine=queries.last_engine(project.tables, spec.recipe.digest),
        collection=spec.collection,
        served=collection_registry.last_served(project.tables, project.uri),
        served_by_hand=collection_registry.is_by_hand(project.tables, project.uri, spec.collection),
        milvus=unreachable(project.uri),
        problem=problem,
    )


def _rate(
    instance: dg.DagsterInstance, tables: Tables, recipe: RecipeDigest, *, goes_on: bool
) -> float:
    """Tracks/s of the last minute, or of what of it the runs that embedded them took."""
    now = time.time()
    since = now - RATE_SECONDS
    tracks, last, runs = queries.embedded_since(tables, recipe, since)
    if not tracks:
        return 0.0
    found = instance.get_run_records(dg.RunsFilter(run_ids=runs))
    begun = min((r.start_time for r in found if r.start_time), default=since)
    return tracks / max((now if goes_on else last) - max(begun, since), 1.0)
