"""What the runs of a `sync` did, and those of a running `up` that ended meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterRunStatus

from embed_assets.defs.dagster_compat.runs import PARTITION_TAG, RANGE_START_TAG, log_of

COUNTS = {
    "audio_embeddings": ("embedded", "reused", "words_embedded"),
    "track_manifest": ("removed",),
}
"""Metadata of each asset that are counts."""

ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


def counts_of(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> Counter[str]:
    """The sums of these counts over all folders of these runs."""
    totals: Counter[str] = Counter()
    for run_id in run_ids:
        for entry in log_of(instance, run_id, dg.DagsterEventType.ASSET_MATERIALIZATION):
            made = entry.asset_materialization
            if made is None:
                continue
            for name in COUNTS.get(made.asset_key.path[-1], ()):
                value = made.metadata.get(name)
                if isinstance(value, dg.IntMetadataValue):
                    totals[name] += value.value or 0
    return totals


def other_runs(
    instance: dg.DagsterInstance, began: float, own: Collection[str] = ()
) -> Iterator[str]:
    """Ids of runs over folders that ended since a moment, in seconds since 1970, except `own`."""
    since = datetime.fromtimestamp(began, UTC)
    for record in instance.get_run_records(dg.RunsFilter(statuses=ENDED, updated_after=since)):
        run = record.dagster_run
        over_folders = run.tags.keys() & {PARTITION_TAG, RANGE_START_TAG}
        if over_folders and run.run_id not in own and (record.end_time or 0.0) >= began:
            yield run.run_id
