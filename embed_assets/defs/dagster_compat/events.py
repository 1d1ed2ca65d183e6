"""The SQL tables of runs and events: read, and deleted from.

What Dagster 1.13 lacks: pruning runs, and deleting single events. It prunes ticks only.
`DagsterInstance.delete_run` deletes a run's materializations too, which turns partitions from green
to missing, and leaves its check evaluations, its log's file and captured output behind. Upstream:
issues #33785 and #4100 (pruning), #10663 (a single materialization), all open.

This module uses the SQLAlchemy tables of `event_log.schema` and `runs.schema`, `index_connection`
and `run_connection` of the event log storage, `connect` and `delete_run` of the run storage, and
`get_backfills` of the instance.

On SQLite each run's log is a file of its own; materializations, planned materializations and check
evaluations are copied to `index.db`, from which the UI reads the status and the metadata of
partitions. SQLite gives the highest id again once its row is deleted, while Dagster's caches take a
higher id for a later event: the newest row of a table is never deleted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import sqlalchemy as db
from dagster import DagsterEventType
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionStatus
from dagster._core.execution.backfill import BulkActionsFilter as BackfillsFilter
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable as Checks,
)
from dagster._core.storage.event_log.schema import (
    AssetEventTagsTable as EventTags,
)
from dagster._core.storage.event_log.schema import (
    AssetKeyTable as Assets,
)
from dagster._core.storage.event_log.schema import (
    DynamicPartitionsTable as Partitions,
)
from dagster._core.storage.event_log.schema import (
    SqlEventLogStorageTable as Events,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.runs.schema import (
    BackfillTagsTable,
    BulkActionsTable,
    RunsTable,
    SnapshotsTable,
)
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

from embed_assets.defs.partitions import MUSIC_FOLDERS

MATERIALIZED = DagsterEventType.ASSET_MATERIALIZATION.value
PLANNED = DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value


@dataclass(frozen=True)
class RunEvents:
    """A run's rows of the index: all, those that the UI and the sensor need, bytes of the rest."""

    rows: int = 0
    needed: int = 0
    bytes: int = 0
    partitioned: bool = False


def can_prune(instance: dg.DagsterInstance) -> bool:
    """Whether Dagster's storages are SQL databases with the tables that this module knows."""
    sql = isinstance(instance.event_log_storage, SqlEventLogStorage)
    return sql and isinstance(instance.run_storage, SqlRunStorage)


def events_of(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> dict[str, RunEvents]:
    """What the index holds of each of these runs."""
    needed = db.case((_needed(), 1), else_=0).label("needed")
    each = (
        db.select(Events.c.run_id, Events.c.partition, needed, db.func.length(Events.c.event))
        .where(Events.c.run_id.in_(run_ids))
        .subquery()
    )
    run_id, partition, flag, size = each.c
    query = db.select(
        run_id,
        db.func.count(),
        db.func.sum(flag),
        db.func.sum(db.case((flag == 0, size), else_=0)),
        db.func.count(partition),
    ).group_by(run_id)
    with instance.event_log_storage.index_connection() as connection:
        found = connection.execute(query).fetchall()
    return {r: RunEvents(rows, kept, size, keys > 0) for r, rows, kept, size, keys in found}


def _needed() -> db.ColumnElement[bool]:
    """Whether a row of the index says how things are now.

    That is the last materialization of each partition that still exists, and of each asset without
    partitions, and the last planned one if nothing was materialized since: it makes a partition
    red, or in progress.
    """
    later = Events.alias("later")

    def is_last(*kinds: str) -> db.ColumnElement[bool]:
        return ~db.exists().where(
            later.c.asset_key == Events.c.asset_key,
            later.c.dagster_event_type.in_(kinds),
            later.c.partition.is_not_distinct_from(Events.c.partition),
            later.c.id > Events.c.id,
        )

    kind = Events.c.dagster_event_type
    exists = db.or_(
        Events.c.partition.is_(None),
        db.exists().where(
            Partitions.c.partitions_def_name == MUSIC_FOLDERS.name,
            Partitions.c.partition == Events.c.partition,
        ),
    )
    last = db.or_(
        db.and_(kind == MATERIALIZED, is_last(MATERIALIZED)),
        db.and_(kind == PLANNED, is_last(MATERIALIZED, PLANNED)),
    )
    newest = db.select(db.func.max(later.c.id)).scalar_subquery()
    evaluated = db.select(Checks.c.evaluation_event_storage_id).where(
        Checks.c.id.in_(_last_checks()), Checks.c.evaluation_event_storage_id.is_not(None)
    )
    return db.or_(
        Events.c.id == newest,
        Events.c.id.in_(evaluated),
        db.and_(Events.c.asset_key.is_not(None), exists, last),
    )


def _last_checks() -> db.CompoundSelect[Any]:
    """Ids of the last evaluation of each asset check, and of the last that was completed."""
    by = (Checks.c.asset_key, Checks.c.check_name, Checks.c.partition)
    last = db.select(db.func.max(Checks.c.id)).group_by(*by)
    return db.union(last, last.where(Checks.c.execution_status.in_(["SUCCEEDED", "FAILED"])))


def current_runs(instance: dg.DagsterInstance) -> set[str]:
    """Runs that assets and checks refer to as their last one, and the newest run of all."""
    with instance.event_log_storage.index_connection() as connection:
        checks = db.select(Checks.c.run_id).where(Checks.c.id.in_(_last_checks()))
        found = set(connection.execute(checks).scalars())
        found |= set(connection.execute(db.select(Assets.c.last_run_id)).scalars())
    with instance.run_storage.connect() as connection:
        newest = db.select(RunsTable.c.run_id).order_by(RunsTable.c.id.desc()).limit(1)
        found |= set(connection.execute(newest).scalars())
    return found - {None}


def last_materialized(
    instance: dg.DagsterInstance, asset: dg.AssetKey
) -> dict[str, tuple[float, str]]:
    """When each partition was last materialized, in seconds since 1970, and by which run."""
    of_asset = db.and_(
        Events.c.asset_key == asset.to_string(), Events.c.dagster_event_type == MATERIALIZED
    )
    last = db.select(db.func.max(Events.c.id)).where(of_asset).group_by(Events.c.partition)
    columns = Events.c.partition, Events.c.timestamp, Events.c.run_id
    with instance.event_log_storage.index_connection() as connection:
        found = connection.execute(db.select(*columns).where(Events.c.id.in_(last)))
        return {key: (at.replace(tzinfo=UTC).timestamp(), run) for key, at, run in found}


def delete_events(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> None:
    """Delete what nothing needs of these runs' rows in the index, in one transaction."""
    of_runs = db.and_(Events.c.run_id.in_(run_ids), ~_needed())
    _delete_events(instance, of_runs)
    with instance.event_log_storage.index_connection() as connection:
        evaluations = Checks.c.run_id.in_(run_ids), Checks.c.id.not_in(_last_checks())
        connection.execute(Checks.delete().where(*evaluations))


def delete_runless_events(instance: dg.DagsterInstance, before: datetime) -> None:
    """Delete old events that no run logged, e.g. that a folder's rows were lost.

    Their copies in the index stay where they are the last word on a folder.
    """
    old = db.and_(
        Events.c.run_id == RUNLESS_RUN_ID, Events.c.timestamp < before.replace(tzinfo=None)
    )
    with instance.event_log_storage.index_connection() as connection:
        if connection.execute(db.select(Events.c.id).where(old).limit(1)).first() is None:
            return
    _delete_events(instance, db.and_(old, ~_needed()))
    with instance.event_log_storage.run_connection(RUNLESS_RUN_ID) as connection:
        connection.execute(Events.delete().where(db.and_(old, ~_needed())))


def _delete_events(instance: dg.DagsterInstance, which: db.ColumnElement[bool]) -> None:
    with instance.event_log_storage.index_connection() as connection:
        ids = db.select(Events.c.id).where(which)
        connection.execute(EventTags.delete().where(EventTags.c.event_id.in_(ids)))
        connection.execute(Events.delete().where(which))


def delete_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run's record only; what it logged is deleted before."""
    # `instance.delete_run` would make an empty log first, to delete the run's events there.
    instance.run_storage.delete_run(run_id)


def live_backfills(instance: dg.DagsterInstance) -> set[str]:
    """Ids of the backfills that have not ended."""
    live = [s for s in BulkActionStatus if s not in BULK_ACTION_TERMINAL_STATUSES]
    return {b.backfill_id for b in instance.get_backfills(filters=BackfillsFilter(statuses=live))}


def delete_backfills(instance: dg.DagsterInstance, before: datetime) -> None:
    """Delete the records of backfills that ended, and began before this time."""
    table = BulkActionsTable.c
    ended = [status.value for status in BULK_ACTION_TERMINAL_STATUSES]
    newest = db.select(db.func.max(BulkActionsTable.alias().c.id)).scalar_subquery()
    old = db.select(table.key).where(
        table.status.in_(ended), table.timestamp < before.replace(tzinfo=None), table.id < newest
    )
    with instance.run_storage.connect() as connection:
        keys = list(connection.execute(old).scalars())
        connection.execute(
            BackfillTagsTable.delete().where(BackfillTagsTable.c.backfill_id.in_(keys))
        )
        connection.execute(BulkActionsTable.delete().where(table.key.in_(keys)))


def delete_snapshots(instance: dg.DagsterInstance) -> None:
    """Delete snapshots of jobs and plans that no run refers to: each version of the code has some.

    A run's row names its job's snapshot in a column, and that of its plan in its body.
    """
    snapshot = SnapshotsTable.c.snapshot_id
    refers = db.or_(RunsTable.c.snapshot_id == snapshot, RunsTable.c.run_body.contains(snapshot))
    unused = ~db.exists().where(refers)
    with instance.run_storage.connect() as connection:
        ids = list(connection.execute(db.select(snapshot).where(unused)).scalars())
        # To look through all runs takes a while: the lock of a writer is held for these alone.
        connection.execute(SnapshotsTable.delete().where(snapshot.in_(ids), unused))
