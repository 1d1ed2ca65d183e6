"""The state of Dagster: the partitions, and which of them are covered by live runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

import dagster as dg
from dagster import DagsterRun, DagsterRunStatus

from embed_assets.defs.dagster_compat.pools import pool_limit, set_pool_limit
from embed_assets.defs.dagster_compat.runs import (
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    WILL_BE_RETRIED,
    is_to_be_retried,
    read_note,
    watches_workers,
    write_note,
)
from embed_assets.defs.execution import GPU_POOL, MILVUS_POOL
from embed_assets.defs.partitions import FOLDERS_NAME
from embed_assets.defs.ranged_run import PRIORITY_TAG
from embed_assets.identity import PartitionKey
from embed_assets.index.backend import Backend

INDEX_KEY = dg.AssetKey("milvus_index")

FITTED = {GPU_POOL: "embed_assets/gpu_pool", MILVUS_POOL: "embed_assets/milvus_pool"}
"""Pool -> key in Dagster's cursor storage: the slots that were set by `fit_pools`."""

LIVE = (
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)

RETRY_SECONDS = 60
"""How long a failed run that Dagster will retry holds its folders, if the retry never comes."""

RUNS_PER_PAGE = 100

KEYS_PER_CALL = 5000
"""SQLite limits the variables of a statement to a few ten thousand."""


def known_keys(instance: dg.DagsterInstance) -> list[PartitionKey]:
    """All partitions in the order in which they were added, which ranges follow."""
    return cast(list[PartitionKey], list(instance.get_dynamic_partitions(FOLDERS_NAME)))


def embedding_at_once(instance: dg.DagsterInstance) -> int:
    """How many runs may embed at the same time: the slots of the pool `gpu`."""
    return max(1, _slots(instance, GPU_POOL)[0])


def fit_pools(instance: dg.DagsterInstance, devices: int, backend: Backend) -> None:
    """Set the slots of the pools, unless a person chose other numbers.

    `gpu`: one per device. `milvus`: as many writers as the index may have at once. Where runs go to
    other machines, this one's devices say nothing, and only a person can choose.
    """
    if watches_workers(instance):
        return
    _fit(instance, GPU_POOL, devices)
    _fit(instance, MILVUS_POOL, backend.writers)


def _fit(instance: dg.DagsterInstance, pool: str, wanted: int) -> None:
    slots, by_hand = _slots(instance, pool)
    if slots != wanted and not by_hand:
        # Recorded first, with the old number: any other number counts as chosen by a person.
        write_note(instance, FITTED[pool], f"{slots} {wanted}")
        set_pool_limit(instance, pool, wanted)


def _slots(instance: dg.DagsterInstance, pool: str) -> tuple[int, bool]:
    """Number of slots, and whether a person chose it."""
    limit = pool_limit(instance, pool)
    if limit is None:
        return 1, False
    return limit, str(limit) not in read_note(instance, FITTED[pool]).split()


def live_runs(instance: dg.DagsterInstance) -> list[DagsterRun]:
    """Runs that hold their folders: queued to canceling, and failed ones that will be retried."""
    records = list(instance.get_run_records(dg.RunsFilter(statuses=list(LIVE))))
    retried = dg.RunsFilter(
        statuses=[DagsterRunStatus.FAILURE],
        tags=WILL_BE_RETRIED,
        updated_after=datetime.now(UTC) - timedelta(seconds=RETRY_SECONDS),
    )
    records += [r for r in instance.get_run_records(retried) if is_to_be_retried(r.dagster_run)]
    return [record.dagster_run for record in records]


def failed_runs(instance: dg.DagsterInstance) -> Iterator[dg.RunRecord]:
    """Stream the records of failed runs, newest first."""
    failed = dg.RunsFilter(statuses=[DagsterRunStatus.FAILURE])
    cursor = None
    while page := instance.get_run_records(failed, limit=RUNS_PER_PAGE, cursor=cursor):
        yield from page
        cursor = page[-1].dagster_run.run_id


def newest_run(instance: dg.DagsterInstance) -> int:
    """Number of the newest run; later runs have higher numbers."""
    return max((r.storage_id for r in instance.get_run_records(limit=1)), default=0)


def held_keys(runs: Iterable[DagsterRun], known: Sequence[PartitionKey]) -> set[PartitionKey]:
    """Folders that these runs cover."""
    held: set[PartitionKey] = set()
    position: Mapping[str, int] | None = None
    for run in runs:
        if key := run.tags.get(PARTITION_TAG):
            held.add(PartitionKey(key))
        start, end = run.tags.get(RANGE_START_TAG), run.tags.get(RANGE_END_TAG)
        if start is not None and end is not None:
            position = position or {k: i for i, k in enumerate(known)}
            if start in position and end in position:
                held.update(known[position[start] : position[end] + 1])
    return held


def count_runs(runs: Iterable[DagsterRun]) -> tuple[int, int]:
    """How many of these runs the sensor or `sync` requested: (all, imports)."""
    ours = [r.tags[PRIORITY_TAG] for r in runs if PRIORITY_TAG in r.tags]
    return len(ours), ours.count("import")


def add_keys(instance: dg.DagsterInstance, keys: Sequence[PartitionKey]) -> None:
    """Add partitions in this order; existing ones keep their positions."""
    for i in range(0, len(keys), KEYS_PER_CALL):
        instance.add_dynamic_partitions(FOLDERS_NAME, list(keys[i : i + KEYS_PER_CALL]))


def range_tags(keys: Sequence[PartitionKey]) -> dict[str, str]:
    """Tags that make a run cover these neighbouring partitions."""
    return {RANGE_START_TAG: keys[0], RANGE_END_TAG: keys[-1]}
