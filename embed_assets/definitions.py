"""The whole project on one page: assets, sensor, checks, resources, executor.

    library folder -> library_sensor -> track_manifest -> audio_embeddings -> milvus_index

`dagster dev`, `dg dev`, `dg check defs` and `embed-assets up` load `defs` from here; tests call
`build_defs` with settings of their own. Importing this reads no settings and imports no torch, muq,
librosa or pymilvus.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from embed_assets.defs.audio_embeddings import audio_embeddings
from embed_assets.defs.canary import CANARY_SCHEDULE, canary_job, vectors_reproducible
from embed_assets.defs.checks import (
    RECONCILE_JOB,
    RECONCILE_SCHEDULE,
    index_in_step,
    wanted_collection_is_served,
)
from embed_assets.defs.execution import EXECUTOR
from embed_assets.defs.jobs import FOLDERS_JOB, folders_job, prune_history
from embed_assets.defs.library_map import MAP_JOB, MAP_SCHEDULE, library_map
from embed_assets.defs.milvus_index import milvus_index
from embed_assets.defs.neighbours import (
    EVALUATION_JOB,
    EVALUATION_SCHEDULE,
    neighbours_beat_chance,
)
from embed_assets.defs.resources import resources
from embed_assets.defs.sensor import library_sensor
from embed_assets.defs.track_manifest import track_manifest
from embed_assets.settings import Settings


def build_defs(
    settings: Settings, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """Assemble the project for these settings."""
    pruning = prune_history(settings.history_days)
    backfills = dg.BackfillPolicy.multi_run(max_partitions_per_run=settings.folders_per_run)
    return dg.Definitions(
        assets=[
            asset.with_attributes(backfill_policy=backfills)
            for asset in (track_manifest, audio_embeddings, milvus_index)
        ]
        + [library_map],
        asset_checks=[
            index_in_step,
            wanted_collection_is_served,
            neighbours_beat_chance,
            vectors_reproducible,
        ],
        jobs=[
            folders_job(settings.tags_of_runs),
            canary_job(settings.tags_of_runs),
            RECONCILE_JOB,
            MAP_JOB,
            EVALUATION_JOB,
            pruning.job,
        ],
        schedules=[
            RECONCILE_SCHEDULE,
            MAP_SCHEDULE,
            EVALUATION_SCHEDULE,
            CANARY_SCHEDULE,
            pruning,
        ],
        sensors=[library_sensor(settings.scan_seconds)],
        resources=resources(settings) | dict(resource_overrides or {}),
        executor=EXECUTOR,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The project for the settings of the environment, read when Dagster loads it."""
    return build_defs(Settings.load())


def library_job() -> dg.JobDefinition:
    """The job that `sync` runs by itself; a function, so that its steps can find it again."""
    return defs().resolve_job_def(FOLDERS_JOB)
